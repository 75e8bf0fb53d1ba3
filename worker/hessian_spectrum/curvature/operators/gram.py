"""Gram matrices of Gauss-Newton matrices: A = B^T B has the eigenvalues of B B^T, and zeros if B has fewer rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from hessian_spectrum.curvature.data.base import Dataset, SampleInputs
from hessian_spectrum.curvature.linear_algebra import GramForm, Triangle
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.products import OF_GRADIENTS, Matrix, is_memory_error, output_product
from hessian_spectrum.curvature.process_memory import release_freed_memory
from hessian_spectrum.planning.work import BLOCK_BYTES, HELD_ROWS_BYTES, TANGENT_COPIES
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

CHECK_TOLERANCE = 1e4
"""Machine epsilons by which rows of single samples may differ, relative to their size, from those of the samples
together."""


def has_gram_form(matrix: Matrix, risk: EmpiricalRisk) -> bool:
    """Return whether the matrix is B^T B with a real B: Gauss-Newton with a loss that is convex in the outputs."""
    if matrix == "ggn":
        return risk.loss.is_convex
    return matrix == "fisher" or matrix in OF_GRADIENTS


def output_roots(matrix: Matrix, risk: EmpiricalRisk, *, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return S (*samples, K, R) with A = sum_i J_i^T S_i S_i^T J_i over all targets i, where J_i are their Jacobians.

    For second derivatives S_i is the root from the symmetric eigendecomposition, with R = K; for gradients it is the
    scaled gradient itself, and R = 1.

    Args:
        matrix: Which matrix.
        risk: Risk to which the outputs belong, whose weight W divides the sum.
        outputs: Outputs (*samples, K).
        targets: Their targets.

    Returns:
        The roots, in the precision of the outputs.
    """
    if matrix in OF_GRADIENTS:
        factor = sqrt(risk.num_terms) / risk.weight
        return factor * risk.loss.gradient(outputs, targets).unsqueeze(-1)
    num_outputs = outputs.shape[-1]
    units = torch.eye(num_outputs, dtype=outputs.dtype, device=outputs.device)
    columns = [
        output_product(matrix, risk, outputs=outputs, targets=targets, direction=unit.expand_as(outputs))
        for unit in units
    ]
    values, vectors = torch.linalg.eigh(torch.stack(columns, dim=-1).double())
    roots: Tensor = vectors * (values.clamp(min=0) / risk.weight).sqrt().unsqueeze(-2)
    return roots.to(outputs.dtype)


@dataclass(frozen=True)
class _Piece:
    """Rows of B that are computed together: some rows of each of some samples of a micro-batch."""

    batch: int
    samples: range
    rows: range  # of the rows of each sample


@dataclass(frozen=True, kw_only=True, eq=False)
class GramAssembly(GramForm):
    """The Gram matrix B B^T (m, m) of the rows B (m, P) of a Gauss-Newton matrix B^T B; m = n K, or n for gradients.

    The rows of B are S_i^T J_i of `output_roots`. For an `Mlp`, J_W = delta h^T and J_b = delta for each layer, so that
    B B^T is the sum over layers of the entrywise products of the Gram matrices of the deltas and of (h, 1): no row of
    length P exists. For other models, rows are computed by vector-Jacobian products, sample by sample under vmap, and
    compared with one product of the samples together; where vmap fails or differs, they are computed row by row. If
    the outputs of a sample depend on the other samples, each row is a product of the whole micro-batch.

    Attributes:
        matrix: Which matrix.
        risk: Risk whose Gauss-Newton matrix it is.
        point: Parameters of the model, by name.
        layout: Layout of the parameters of the block.
        scale: Factors of rows and columns, by parameter name; None if there are none.
        offset: Multiple of the identity that is added to B^T B.
    """

    matrix: Matrix
    risk: EmpiricalRisk
    point: Mapping[str, Tensor]
    layout: ParameterLayout
    scale: Parameters | None
    offset: float

    @cached_property
    def order(self) -> int:
        """Number m of rows of B."""
        return sum(len(batch) * self._rows_of_sample(index) for index, batch in enumerate(self.risk.batches))

    @property
    def _is_layered(self) -> bool:
        return isinstance(self.risk.model, Mlp) and self.scale is None

    @cached_property
    def _like(self) -> Tensor:
        return next(iter(self.point.values()))

    @cached_property
    def _row_bytes(self) -> int:
        return self._like.itemsize * self.layout.dim

    def _rank(self) -> int:
        return 1 if self.matrix in OF_GRADIENTS else self.risk.model.num_outputs

    def _rows_of_sample(self, index: int) -> int:
        batch = self.risk.batches[index]
        return prod(self.risk.model.sample_shape(batch.inputs)) // len(batch) * self._rank()

    def start(self) -> Triangle:
        """Return the matrix before its first entry."""
        zeros = torch.zeros(self.order, self.order, dtype=torch.float64, device=self._like.device)
        return Triangle(zeros, is_upper=False)

    def fill(self, triangle: Triangle) -> Iterator[None]:
        """Compute the rest of the lower triangle, in place, yielding after each step."""
        steps = self._layered_steps(triangle) if self._is_layered else self._row_steps(triangle)
        for share in steps:
            triangle.num_steps, triangle.num_columns = triangle.num_steps + 1, int(share * self.order)
            yield
        release_freed_memory()

    def centre(self, matrix: Tensor) -> float:
        """Replace B B^T by the Gram matrix of the covariance, in place, and return the largest eigenvalue removed.

        With N terms, the mean of the gradients is g = B^T u, where u is 1 / sqrt(N) for each row that is not zero. Then
        B^T B - g g^T = (C B)^T (C B) with C = I - b u u^T and b = (1 - sqrt(1 - |u|^2)) / |u|^2.

        Args:
            matrix: B B^T (m, m).

        Returns:
            |g|^2; 0 if the matrix is not a covariance.
        """
        if self.matrix != "gradient-covariance":
            return 0.0
        vector = (matrix.diagonal() > 0).to(matrix.dtype) / sqrt(self.risk.num_terms)
        square = float(vector.square().sum())
        if square == 0:
            return 0.0
        factor = (1 - sqrt(max(0.0, 1 - square))) / square
        product = matrix @ vector
        removed = float(product @ vector)
        matrix.addr_(vector, product, alpha=-factor).addr_(product, vector, alpha=-factor)
        matrix.addr_(vector, vector, alpha=factor**2 * removed)
        return removed

    # by layers

    def _layered_steps(self, triangle: Triangle) -> Iterator[float]:
        """Add the layers one after the other, a bounded number of rows at a time; yield the share that is done."""
        model = self.risk.model
        assert isinstance(model, Mlp)
        rank, num_samples = self._rank(), self.order // self._rank()
        width = max(1, BLOCK_BYTES // (8 * rank * self.order))
        layers = [index for index in range(len(model.layers)) if self._has(index, 0) or self._has(index, 1)]
        steps = [(layer, first) for layer in layers for first in range(0, num_samples, width)]
        hidden, deltas = self._signals(layers)
        for number, (layer, first) in enumerate(steps[triangle.num_steps :], triangle.num_steps + 1):
            last = min(first + width, num_samples)
            inputs, delta = hidden[layer], deltas[layer].flatten(0, 1)
            kernel = torch.full(
                (last - first, last), float(self._has(layer, 1)), dtype=torch.float64, device=self._like.device
            )
            if self._has(layer, 0):
                kernel.addmm_(inputs[first:last], inputs[:last].T)
            rows, columns = slice(first * rank, last * rank), slice(0, last * rank)
            part = (delta[rows] @ delta[columns].T).view(last - first, rank, last, rank)
            part *= kernel[:, None, :, None]
            triangle.rows[rows, columns] += part.view(rows.stop - rows.start, columns.stop)
            yield number / len(steps)

    def _has(self, layer: int, which: int) -> bool:
        """Return whether the weight (0) or the bias (1) of a layer is in the block."""
        assert isinstance(self.risk.model, Mlp)
        return self.risk.model.layer_names(layer)[which] in self.layout.names

    def _signals(self, layers: Sequence[int]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return h (n, fan_in) and the changes of the rows by pre-activations (n, R, fan_out), by layer, in float64."""
        model = self.risk.model
        assert isinstance(model, Mlp)
        hidden: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        deltas: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for index in range(len(self.risk.batches)):
            batch = self.risk.batches[index].in_memory()
            offsets = [self._like.new_zeros(len(batch), layer.fan_out) for layer in model.layers]

            def outputs_of(moved: list[Tensor], inputs: SampleInputs = batch.inputs) -> tuple[Tensor, list[Tensor]]:
                return model.forward(self.point, inputs, moved)

            outputs, pull, multiplied = vjp(outputs_of, offsets, has_aux=True)  # type: ignore[misc]
            roots = output_roots(self.matrix, self.risk, outputs=outputs, targets=batch.targets)
            pulled = [pull(root.contiguous())[0] for root in roots.unbind(dim=-1)]
            for layer in layers:
                hidden[layer].append(multiplied[layer].double())
                deltas[layer].append(torch.stack([each[layer].double() for each in pulled], dim=1))
        return (
            {layer: torch.cat(each) for layer, each in hidden.items()},
            {layer: torch.cat(each) for layer, each in deltas.items()},
        )

    # by rows

    def _row_steps(self, triangle: Triangle) -> Iterator[float]:
        """Multiply the rows in memory by themselves and by all later ones; yield the share that is done."""
        rows = _Rows(self)
        pieces = [piece for index in range(len(self.risk.batches)) for piece in self._pieces(index)]
        starts = [0]
        for piece in pieces:
            starts.append(starts[-1] + len(piece.samples) * len(piece.rows))
        held_rows = max(1, HELD_ROWS_BYTES // self._row_bytes)
        groups: list[range] = []
        first = 0
        for index in range(1, len(pieces) + 1):
            if index == len(pieces) or starts[index + 1] - starts[first] > held_rows:
                groups.append(range(first, index))
                first = index
        steps = [(group, later) for group in groups for later in range(group.stop - 1, len(pieces))]
        present, held = range(0), torch.empty(0)
        for number, (group, later) in enumerate(steps[triangle.num_steps :], triangle.num_steps + 1):
            if group != present:
                del held
                held = torch.cat([rows.of(pieces[index]) for index in group])
                present = group
            columns = slice(starts[group.start], starts[group.stop])
            if later == group.stop - 1:
                triangle.rows[columns, columns] = _product(held, held)
            else:
                target = slice(starts[later], starts[later + 1])
                triangle.rows[target, columns] = _product(rows.of(pieces[later]), held)
            yield number / len(steps)

    def _pieces(self, index: int) -> Iterator[_Piece]:
        """Yield the rows of a micro-batch, those of a few samples or of a part of one sample at a time."""
        batch, num_rows = self.risk.batches[index], self._rows_of_sample(index)
        numbers = self.risk.model.size_on(batch.in_memory().inputs).part(1).num_activations
        row_bytes = 2 * self._row_bytes + TANGENT_COPIES * self._like.itemsize * numbers
        at_once = max(1, BLOCK_BYTES // row_bytes)
        width = max(1, at_once // num_rows)
        for first in range(0, len(batch), width):
            samples = range(first, min(first + width, len(batch)))
            for start in range(0, num_rows, at_once):
                yield _Piece(index, samples, range(start, min(start + at_once, num_rows)))


class _Rows:
    """Rows of B, by vmap over samples as long as the result agrees with products of the samples together."""

    def __init__(self, assembly: GramAssembly) -> None:
        self._assembly = assembly
        self._risk = assembly.risk
        self._layout = assembly.layout
        self._is_vmapped = True
        self._roots: tuple[int, Dataset, Tensor] | None = None  # of the last micro-batch
        self._separable: dict[int, bool] = {}  # by micro-batch

    def of(self, piece: _Piece) -> Tensor:
        """Return the rows (number of samples times rows of each sample, P)."""
        batch, roots = self._micro_batch(piece.batch)
        cotangents = _cotangents(roots[piece.samples.start : piece.samples.stop], piece.rows)
        if not self._is_separable(piece.batch, batch, roots):
            return self._one_by_one(batch, piece, cotangents, is_together=True)
        samples = batch.take(torch.arange(piece.samples.start, piece.samples.stop))
        if self._is_vmapped:
            try:
                rows = self._vmapped(samples.inputs, cotangents)
            except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
                if is_memory_error(error):
                    raise
                self._is_vmapped = False
            else:
                if self._agrees(rows, samples.inputs, cotangents):
                    return rows
                self._is_vmapped = False
        return self._one_by_one(batch, piece, cotangents, is_together=False)

    def _is_separable(self, index: int, batch: Dataset, roots: Tensor) -> bool:
        """Return whether samples of a micro-batch may be evaluated one by one, as measured for uploaded networks."""
        model = self._risk.model
        # a program for a fixed number of samples cannot be applied to fewer
        if model.fixed_size is not None or model.is_built_in or len(batch) == 1:
            return model.fixed_size in (None, 1)
        if index not in self._separable:
            try:
                self._separable[index] = self._is_sum_of_halves(batch, roots)
            except (RuntimeError, NotImplementedError, ValueError, TypeError, InvalidProblemError) as error:
                if is_memory_error(error):
                    raise
                self._separable[index] = False  # the network may not accept fewer samples
        return self._separable[index]

    def _is_sum_of_halves(self, batch: Dataset, roots: Tensor) -> bool:
        """Return whether a random product of all samples is the sum of those of two random halves.

        It is not, for example, in a network with a mean over samples.
        """
        generator = torch.Generator().manual_seed(0)
        num_samples, num_targets, _, rank = roots.shape
        weights = torch.randn(num_samples, num_targets, rank, 1, generator=generator, dtype=torch.float64)
        cotangents = (roots @ weights.to(roots)).squeeze(-1)
        order = torch.randperm(num_samples, generator=generator)
        one, other = (self._pulled(batch.take(half).inputs, cotangents[half]) for half in order.tensor_split(2))
        deviation = self._pulled(batch.inputs, cotangents) - one - other
        return _is_rounding(deviation, float(one.norm() + other.norm()))

    def _micro_batch(self, index: int) -> tuple[Dataset, Tensor]:
        """Return a micro-batch with its roots (n, *axes, K, R)."""
        if self._roots is None or self._roots[0] != index:
            batch = self._risk.batches[index].in_memory()
            outputs = self._risk.model(self._assembly.point, batch.inputs)
            roots = output_roots(self._assembly.matrix, self._risk, outputs=outputs, targets=batch.targets)
            self._roots = index, batch, roots.flatten(1, -3) if roots.ndim > 3 else roots.unsqueeze(1)
        return self._roots[1], self._roots[2]

    def _flat(self, parts: Mapping[str, Tensor]) -> Tensor:
        scale = self._assembly.scale
        return self._layout.flatten({n: p if scale is None else scale[n] * p for n, p in parts.items()})

    def _vmapped(self, inputs: SampleInputs, cotangents: Tensor) -> Tensor:
        """Return the rows, each by a reverse pass for its own sample."""
        model, point = self._risk.model, self._assembly.point
        leaves = {name: point[name] for name in self._layout.names}

        def single(sample: SampleInputs, directions: Tensor) -> Tensor:
            one: Any = {n: e[None] for n, e in sample.items()} if isinstance(sample, Mapping) else sample[None]
            outputs, pull = vjp(lambda moved: model({**point, **moved}, one), leaves)  # type: ignore[misc]
            shaped = directions.reshape(len(directions), *outputs.shape)
            return vmap(lambda direction: self._flat(pull(direction)[0]))(shaped)

        with torch.enable_grad():
            rows = vmap(single)(inputs, cotangents)
        return rows.detach().flatten(0, 1)

    def _agrees(self, rows: Tensor, inputs: SampleInputs, cotangents: Tensor) -> bool:
        """Return whether a random combination of the rows is the product of all samples together."""
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(len(rows), generator=generator, dtype=torch.float64).to(rows)
        combined = (weights.view(cotangents.shape[:2])[..., None, None] * cotangents).sum(dim=1)
        size = torch.linalg.vector_norm(torch.linalg.vector_norm(rows, dim=1) * weights)
        return _is_rounding(self._pulled(inputs, combined) - weights @ rows, float(size))

    def _one_by_one(self, batch: Dataset, piece: _Piece, cotangents: Tensor, *, is_together: bool) -> Tensor:
        """Return the rows by reverse passes of one sample, or of all samples together."""
        rows = []
        for position, sample in enumerate(piece.samples):
            inputs, shape = batch.inputs, (len(batch), *cotangents.shape[2:])
            place = sample
            if not is_together:
                inputs, shape, place = batch.take(torch.tensor([sample])).inputs, (1, *cotangents.shape[2:]), 0
            for cotangent in cotangents[position]:
                padded = cotangent.new_zeros(shape)
                padded[place] = cotangent
                rows.append(self._pulled(inputs, padded))
        return torch.stack(rows)

    def _pulled(self, inputs: SampleInputs, cotangent: Tensor) -> Tensor:
        """Return J^T u (P,) for u = `cotangent` (n, number of targets, K) of these samples."""
        leaves = {name: self._assembly.point[name].detach().requires_grad_() for name in self._layout.names}
        with torch.enable_grad():
            outputs = self._risk.model({**self._assembly.point, **leaves}, inputs)
            if not outputs.requires_grad:
                return self._flat({name: torch.zeros_like(leaf) for name, leaf in leaves.items()})
            parts = torch.autograd.grad(
                outputs, list(leaves.values()), cotangent.reshape(outputs.shape), materialize_grads=True
            )
        return self._flat(dict(zip(leaves, parts, strict=True)))


def _is_rounding(deviation: Tensor, size: float) -> bool:
    """Return whether a deviation (P,) may be due to rounding of terms of this size."""
    return float(torch.linalg.vector_norm(deviation)) <= CHECK_TOLERANCE * torch.finfo(deviation.dtype).eps * size


def _cotangents(roots: Tensor, rows: range) -> Tensor:
    """Return cotangents (n, number of rows, T, K) of some rows (t, r) of each sample, from roots (n, T, K, R)."""
    num_targets, rank = roots.shape[1], roots.shape[3]
    indices = torch.arange(rows.start, rows.stop, device=roots.device)
    targets, ranks = indices // rank, indices % rank
    cotangents = roots.new_zeros(len(roots), len(rows), num_targets, roots.shape[2])
    cotangents[:, torch.arange(len(rows), device=roots.device), targets] = roots[:, targets, :, ranks].movedim(0, 1)
    return cotangents


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return L R^T (a, b) for rows L (a, P) and R (b, P), accumulated in float64."""
    if left.dtype == torch.float64:
        return left @ right.T
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    width = max(1, BLOCK_BYTES // (8 * (len(left) + len(right))))
    for start in range(0, left.shape[1], width):
        part = slice(start, start + width)
        total.addmm_(left[:, part].double(), right[:, part].double().T)
    return total
