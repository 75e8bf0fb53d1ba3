"""Second-derivative matrices of the empirical risk: one linearisation per micro-batch, reused by every product."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import jvp

from hessian_spectrum.curvature.iteration import Progress, ignore_progress
from hessian_spectrum.curvature.linear_algebra import GramForm, SymmetricOperator, Triangle
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ColumnGroup, ParameterLayout, column_groups, select
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators import rounding
from hessian_spectrum.curvature.operators.correction import Correction, inverse_roots
from hessian_spectrum.curvature.operators.gram import GramAssembly, has_gram_form
from hessian_spectrum.curvature.operators.layered import LayeredAssembly
from hessian_spectrum.curvature.operators.products import Fallback, Matrix
from hessian_spectrum.curvature.operators.programs import Execution, Map, MatmulPrecision, matmuls_in
from hessian_spectrum.curvature.operators.recordings import Recordings
from hessian_spectrum.curvature.operators.reduced_precision import UnreducedOperator
from hessian_spectrum.curvature.process_memory import release_freed_memory
from hessian_spectrum.planning.work import columns_at_once
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError

# PyTorch 2.13 compiles its own decompositions with a function it deprecates, on the first dual tensor of a process
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


DEVIATION_MARGIN = 2
"""Factor by which the deviation of reduced products may be larger for vectors other than the measured ones."""

DECAYED: frozenset[Matrix] = frozenset({"hessian", "ggn"})
"""Matrices to which weight decay adds a multiple of the identity."""


class RiskOperator(SymmetricOperator):
    """A (P, P) at fixed parameters, in loss per squared parameter; the subclass defines which matrix.

    The first product records what it does to its vector, micro-batch by micro-batch. Later products repeat the
    recording without the primal pass. Each recording is compared with forward over reverse. If a model cannot be
    recorded, each product is computed by forward over reverse again, or by double backward if its code has no forward
    mode; `fallback_reason` then says why, and is None otherwise.

    Args:
        risk: Empirical risk whose second derivatives are computed.
        parameters: Parameters by name at which the matrix is evaluated, in the order of the flat vector.
        block: Glob pattern on parameter names, or several; A is then the submatrix of the parameters that match any.
        memory_bytes: Largest memory of recordings; micro-batches beyond it are recorded again in every sweep, through
            which all columns of a `matmat` pass together. None keeps all recordings.
        execution: How kept recordings are executed; None interprets them.
        matmul_precision: Precision of the matrix products inside a product, for parameters in float32; None keeps
            float32.
        progress: Called with phase "linearisation" after each micro-batch is recorded for the first time.
        num_columns: Number of columns of most blocks of vectors; None takes that of the first block. Smaller blocks are
            padded with zeros to this number, its half, its quarter and so on, so that a product does not depend on
            those before it.
        fallback: How products are computed if it is already known that they cannot be recorded.
        preconditioner: Positive D by parameter name; the matrix is then D^-1/2 A D^-1/2.
        shift: s; the matrix is then the preconditioned one plus s I.

    Attributes:
        layout: Layout of the flat vector.

    Raises:
        InvalidProblemError: If no parameter matches, or reduced products are requested of parameters that are not
            float32.
    """

    matrix: ClassVar[Matrix]

    def __init__(
        self,
        risk: EmpiricalRisk,
        parameters: Mapping[str, Tensor],
        *,
        block: str | Sequence[str] | None = None,
        memory_bytes: int | None = None,
        execution: Execution | None = None,
        matmul_precision: MatmulPrecision | None = None,
        progress: Progress = ignore_progress,
        num_columns: int | None = None,
        fallback: Fallback | None = None,
        preconditioner: Mapping[str, Tensor] | None = None,
        shift: float = 0.0,
    ) -> None:
        shapes = risk.model.parameter_shapes
        ParameterLayout.of(shapes).check(parameters)
        self.layout = ParameterLayout.of({name: shapes[name] for name in select(shapes, block)})
        self._risk = risk
        self._point = {name: parameters[name].detach() for name in shapes}
        if matmul_precision is not None and self.dtype != torch.float32:
            raise InvalidProblemError(f"{matmul_precision} products need parameters in float32, not {self.dtype}")
        scale = None
        if preconditioner is not None:
            scale = inverse_roots(preconditioner, self.layout, like=self._any_parameter)
        self._scale, self._shift = scale, shift
        self._matmul_precision = matmul_precision
        self._num_columns = num_columns
        self._recordings = Recordings(
            matrix=self.matrix,
            risk=risk,
            point=self._point,
            layout=self.layout,
            scale=scale,
            memory_bytes=memory_bytes,
            execution=execution,
            matmul_precision=matmul_precision,
            progress=progress,
            fallback=fallback,
        )

    @property
    def dim(self) -> int:
        """Number P of parameters, of the block if there is one."""
        return self.layout.dim

    @property
    def held_bytes(self) -> int:
        """Memory of the kept recordings."""
        return self._recordings.held_bytes

    @property
    def fallback(self) -> Fallback | None:
        """How products are computed if they are not recorded, and why; None if they are, or before the first one."""
        return self._recordings.fallback

    @property
    def precision_deviation(self) -> float | None:
        """||(A' - A) V|| / ||A V|| of reduced products A' V from those in float32, for the first and random vectors.

        It is None if products are not reduced, or before the first one.
        """
        return self._recordings.precision_deviation

    @precision_deviation.setter
    def precision_deviation(self, value: float | None) -> None:
        self._recordings.precision_deviation = value

    @property
    def fallback_reason(self) -> str | None:
        """Reason why products are not recorded; None if they are, or before the first product."""
        return self.fallback.reason if self.fallback is not None else None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self._any_parameter.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self._any_parameter.device

    @property
    def product_error(self) -> float:
        """Bound on ||A' v - A v|| / ||A||, including the deviation of reduced products, as far as it was measured."""
        return self.rounding_error + self._cancellation * DEVIATION_MARGIN * (self.precision_deviation or 0.0)

    @property
    def rounding_error(self) -> float:
        """Bound on ||A' v - A v|| / ||A|| for products that are not reduced.

        It is measured by an equally small change of the parameters, see `rounding`.

        Returns:
            The bound, dimensionless.
        """
        return self._cancellation * self.term_error

    @property
    def term_error(self) -> float:
        """Bound on the error of the sum over micro-batches, relative to its norm, for products that are not reduced."""
        eps = torch.finfo(self.dtype).eps
        error = super().term_error + rounding.SENSITIVITY_MARGIN * self.sensitivity * eps
        return max(error, rounding.ASYMMETRY_MARGIN * self.asymmetry * eps)

    @cached_property
    def gram_form(self) -> GramForm | None:
        """The factors of a Gauss-Newton matrix of a convex loss, unless products are reduced.

        With a preconditioner, weight decay does not add a multiple of the identity, and there is no such form.
        """
        decay = self._risk.weight_decay if self.matrix in DECAYED else 0.0
        is_scaled = decay and self._scale is not None
        if self._matmul_precision is not None or is_scaled or not has_gram_form(self.matrix, self._risk):
            return None
        return GramAssembly(
            matrix=self.matrix,
            risk=self._risk,
            point=self._point,
            layout=self.layout,
            scale=self._scale,
            offset=decay + self._shift,
        )

    @cached_property
    def _cancellation(self) -> float:
        """Bound on (||B|| + ||C||) / ||A|| for A = B + C with the correction C; products have the errors of both.

        ||B|| is at most ||A|| + ||C||, and a few steps of the power method bound ||A|| from below.

        Returns:
            The factor by which errors that are relative to B and C are larger relative to A.
        """
        if self._correction is None:
            return 1.0
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(self.dim, generator=generator, dtype=self.dtype).to(self.device)
        size = 0.0
        for _ in range(rounding.POWER_STEPS):
            vector = self.matvec(vector / torch.linalg.vector_norm(vector))
            size = max(size, float(torch.linalg.vector_norm(vector)))
            if not 0 < size < math.inf:
                return 1.0  # products that are NaN are reported by the algorithms
        return 1 + 2 * self._correction.norm / size

    @cached_property
    def _correction(self) -> Correction | None:
        """What is added to the sum over micro-batches; None if nothing is."""
        decay = self._risk.weight_decay if self.matrix in DECAYED else 0.0
        if not decay and not self._shift and self._removed is None:
            return None
        if not decay or self._scale is None:
            diagonal = torch.tensor(decay + self._shift, dtype=self.dtype, device=self.device)
        else:
            diagonal = decay * self.layout.flatten(self._scale).square() + self._shift
        return Correction(diagonal, self._removed)

    @cached_property
    def _removed(self) -> Tensor | None:
        """The vector g (P,) if g g^T is subtracted from the matrix; None if nothing is."""
        return None

    def _rescaled(self, name: str, values: Tensor) -> Tensor:
        """Return values of a parameter, multiplied by D^-1/2."""
        return values if self._scale is None else self._scale[name] * values

    def _corrected(self, rows: Tensor, products: Tensor) -> Tensor:
        return products if self._correction is None else self._correction.add_products(rows, products)

    @cached_property
    def sensitivity(self) -> float:
        """||(B' - B) v|| / ||B v|| / eps for a random v, where in B' every parameter is one eps larger or smaller.

        B is the matrix of at most 16 samples of the first micro-batch, and of at most an eighth of a large micro-batch,
        because more may not fit in memory beside the recordings. If a micro-batch is so large that it has fewer than
        eight samples, the result is 0, without a measurement.

        Returns:
            The sensitivity, dimensionless.
        """
        sample = self._sample
        if sample is None:
            return 0.0
        return rounding.sensitivity(
            lambda point: self._recordings.elsewhere(sample, point).direct(0), self._point, self.dim
        )

    @cached_property
    def asymmetry(self) -> float:
        """||B - B^T||_F / ||B|| / eps, estimated from random vectors, of the samples that give the sensitivity.

        It is measured only for networks that users have uploaded.

        Returns:
            The asymmetry, dimensionless.
        """
        sample = self._sample if not self._risk.model.is_built_in else None
        if sample is None:
            return 0.0
        product = self._recordings.elsewhere(sample, self._point).direct(0)
        return rounding.asymmetry(product, self.dim, like=self._any_parameter)

    @cached_property
    def _sample(self) -> EmpiricalRisk | None:
        """The risk of the samples at which rounding is measured; None if there is nothing to measure."""
        return rounding.few_samples(self._risk, is_crowded=self._largest_block == 1)

    @property
    def unreduced(self) -> SymmetricOperator:
        """This matrix by products in float32, each by forward over reverse; itself if nothing is reduced."""
        return self if self._matmul_precision is None else UnreducedOperator(self)

    @property
    def _any_parameter(self) -> Tensor:
        return next(iter(self._point.values()))

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v (P,)."""
        return self._sweep(vector.contiguous().unsqueeze(0))[0]

    def matmat(self, matrix: Tensor) -> Tensor:
        """Return A V (P, k), a bounded number of columns at once."""
        return self._sweep(matrix.T.contiguous()).T

    def loss_at(self, displacement: Tensor) -> float:
        """Return the risk at the parameters plus D^-1/2 times the displacement (P,)."""
        moved = {
            name: self._point[name] + self._rescaled(name, part)
            for name, part in self.layout.unflatten(displacement).items()
        }
        return float(self._risk.value({**self._point, **moved}))

    def loss_and_slopes(self, directions: Tensor) -> tuple[float, list[float]]:
        """Return the risk, and its derivatives along D^-1/2 times the directions (d, P)."""
        with torch.enable_grad():
            value, gradient = self._risk.value_and_gradient(self._point)
        flat = self.layout.flatten({name: self._rescaled(name, gradient[name]) for name in self.layout.names})
        return float(value), (directions @ flat).double().tolist()

    def start_triangle(self) -> Triangle:
        """Return the dense matrix before its first product."""
        rows = super().start_triangle().rows
        if self._correction is not None:
            self._correction.add_to(rows)
        return Triangle(rows, is_upper=self._is_layered)

    @torch.no_grad()
    def fill_triangle(self, triangle: Triangle) -> Iterator[None]:
        """Compute the rest of the triangle, in place, yielding after each step.

        For fully connected networks it is assembled from derivatives of their pre-activations. For other models each
        group of columns is recorded alone, with tangents of its own parameters only, and pulled back to the parameters
        up to its last one: entries that are zero or known by symmetry are not computed.

        Args:
            triangle: The dense matrix with the steps already done.

        Yields:
            None, after each step.
        """
        if self._is_layered:
            yield from LayeredAssembly(matrix=self.matrix, risk=self._risk, point=self._point, layout=self.layout).fill(
                triangle
            )
            return
        num_batches = len(self._risk.batches)
        steps = [(index, group) for index in range(num_batches) for group in column_groups(self.layout)]
        for index, group in steps[triangle.num_steps :]:
            self._add_columns(triangle.rows, index, group)
            triangle.num_steps += 1
            triangle.num_columns = (index * self.dim + group.stop) // num_batches
            yield
        release_freed_memory()

    @property
    def _is_layered(self) -> bool:
        return isinstance(self._risk.model, Mlp) and self._matmul_precision is None and self._scale is None

    def _add_columns(self, matrix: Tensor, index: int, group: ColumnGroup) -> None:
        """Add the columns of A_b in `group` to the rows of `matrix` (P, P), up to the group's last parameter."""
        width = min(self._largest_block, group.num_columns)
        run: Map | None = None
        for start in range(0, group.num_columns, width):
            stop = min(start + width, group.num_columns)
            block = torch.zeros(width, group.num_columns, dtype=self.dtype, device=self.device)
            block[: stop - start, start:stop].fill_diagonal_(1)
            if run is None:
                run = self._recordings.columns_of(index, columns=group.columns, rows=group.rows, vectors=block)
            with matmuls_in(self._matmul_precision):
                matrix[group.start + start : group.start + stop, : group.stop] += run(block)[: stop - start]

    @torch.no_grad()
    def direct_products(self, rows: Tensor) -> Tensor:
        """Return A v for each row (k, P), without a recording and in the precision of the vectors."""
        total = torch.zeros_like(rows)
        with matmuls_in(None):
            for index in range(len(self._risk.batches)):
                run = self._recordings.direct(index)
                for row in range(len(rows)):
                    total[row] += run(rows[row : row + 1])[0]
        return self._corrected(rows, total)

    @torch.no_grad()
    def _sweep(self, rows: Tensor) -> Tensor:
        """Pass every row (k, P) through one micro-batch before the next."""
        width = self._width(len(rows))
        starts = range(0, len(rows), width)
        blocks = [_padded(rows[start : start + width], width) for start in starts]
        totals: list[Tensor] = []
        for index in range(len(self._risk.batches)):
            self._add_products(index, blocks, totals)
        products = totals[0][: len(rows)] if len(totals) == 1 else torch.cat(totals)[: len(rows)]
        return self._corrected(rows, products)

    def _add_products(self, index: int, blocks: list[Tensor], totals: list[Tensor]) -> None:
        """Products A_b V of micro-batch `index`; a recording that is not kept is freed before the next one is made."""
        run = self._recordings.product_of(index, blocks[0])
        with matmuls_in(self._matmul_precision):
            if not totals:
                totals.extend(run(block) for block in blocks)
                return
            for total, block in zip(totals, blocks, strict=True):
                total.add_(run(block))

    def _width(self, num_columns: int) -> int:
        """Return the number of columns that pass together; few numbers occur, since each needs its own recording."""
        self._num_columns = self._num_columns or num_columns
        required, width = min(num_columns, self._largest_block), min(self._num_columns, self._largest_block)
        while width > 1 and (half := -(-width // 2)) >= required:
            width = half
        return max(width, required)

    def checked_gradient_norm(self) -> float:
        """Return the norm of the risk's gradient with respect to the layout's parameters.

        Call it before the first product: it takes as much memory as a gradient, which is then free for recordings.

        Raises:
            NonFiniteError: If the gradient contains NaN or infinity; products would, too.
        """
        _, gradient = self._risk.value_and_gradient(self._point)
        parts = [gradient[name] for name in self.layout.names]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise NonFiniteError("the gradient holds NaN or infinity at these parameters")
        norms = torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts])
        del gradient, parts
        release_freed_memory()  # the following computation may use all available memory
        return float(torch.linalg.vector_norm(norms))

    @cached_property
    def _largest_block(self) -> int:
        """Largest number of columns that pass through a micro-batch at once."""
        shapes = [tuple(each.shape for each in batch.numbers) for batch in self._risk.batches]
        different = dict(zip(shapes, self._risk.batches, strict=True)).values()
        sizes = (self._risk.model.size_on(batch.inputs) for batch in different)
        itemsize = self.dtype.itemsize
        return min(columns_at_once(replace(size, num_parameters=self.dim), itemsize) for size in sizes)


def _padded(rows: Tensor, width: int) -> Tensor:
    """Return the rows (k, P), padded with rows of zeros to `width` rows."""
    missing = width - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]) if missing else rows
