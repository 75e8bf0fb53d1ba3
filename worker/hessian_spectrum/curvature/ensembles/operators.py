"""Products of the matrices of all members of an ensemble with vectors of each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.ensembles.stack import Ensemble, selected
from hessian_spectrum.curvature.linear_algebra import PRODUCT_ROUNDINGS, SymmetricOperator
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters, select
from hessian_spectrum.curvature.operators import rounding
from hessian_spectrum.curvature.operators.matrices import OPERATORS
from hessian_spectrum.curvature.operators.products import Matrix
from hessian_spectrum.curvature.operators.programs import Execution
from hessian_spectrum.curvature.operators.risk_operator import DECAYED, RiskOperator
from hessian_spectrum.planning.work import columns_at_once
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

PART_BYTES, VECTORS = 2**23, 3
"""Largest size of the activations of members that are multiplied together, with so many vectors as long as the
parameters: more do not stay in a processor's cache."""


class EnsembleOperator:
    """A_i (P, P) of each member i of an ensemble, at given parameters.

    The mean of the losses of some members has the matrix diag(A_1, A_2, ...) divided by their number, whose products
    are recorded once: they are those of `RiskOperator`.

    Args:
        ensemble: Networks and data.
        parameters: Parameters of all members, by name with the axis of members first.
        matrix: Name of the matrix, other than the covariance of gradients.
        block: Glob pattern on the names of parameters; None for all.
        micro_batch_size: Samples of each member whose activations are in memory at once; None for all.
        execution: How recorded products are executed.

    Attributes:
        layout: Layout of the vector (P,) of one member.

    Raises:
        InvalidProblemError: If no parameter matches, or the matrix is the covariance of gradients.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        parameters: Mapping[str, Tensor],
        *,
        matrix: Matrix = "hessian",
        block: str | None = None,
        micro_batch_size: int | None = None,
        execution: Execution | None = None,
    ) -> None:
        if matrix == "gradient-covariance":
            raise InvalidProblemError("the mean gradient of each member is not taken from the matrix of all of them")
        shapes = ensemble.model.parameter_shapes
        self.layout = ParameterLayout.of({name: shapes[name] for name in select(shapes, block)})
        self.ensemble, self.parameters, self.matrix = ensemble, dict(parameters), matrix
        self._block, self._micro_batch_size, self._execution = block, micro_batch_size, execution
        self._shift = ensemble.weight_decay if matrix in DECAYED else 0.0

    @cached_property
    def _parts(self) -> list["_Part"]:
        """The members in parts that are multiplied one after the other."""
        ensemble, size = self.ensemble, self.size
        samples = min(self._micro_batch_size or ensemble.num_samples, ensemble.num_samples)
        numbers = samples * sum(ensemble.model.widths) + VECTORS * self.dim
        width = max(1, PART_BYTES // (numbers * self.dtype.itemsize))
        count = -(-size // width)
        bounds = [size * index // count for index in range(count + 1)]  # parts of nearly one size
        return [self._part(slice(*ends)) for ends in pairwise(bounds)]

    def _part(self, members: slice) -> "_Part":
        ensemble = self.ensemble
        own = replace(ensemble, inputs=ensemble.inputs[members], targets=ensemble.targets[members])
        operator = OPERATORS[self.matrix](
            own.risk(self._micro_batch_size),
            {name: values[members] for name, values in self.parameters.items()},
            block=self._block,
            execution=self._execution,
        )
        return _Part(members, own.size, operator, self.layout.sizes)

    @property
    def size(self) -> int:
        """Number N of members."""
        return self.ensemble.size

    @property
    def dim(self) -> int:
        """Number P of rows of each matrix."""
        return self.layout.dim

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(iter(self.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(iter(self.parameters.values())).device

    def products(self, vectors: Tensor) -> Tensor:
        """Return A_i v for k vectors of each member, (k, N, P)."""
        parts = [part.products(vectors[:, part.members]) for part in self._parts]
        result = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return result.add_(vectors, alpha=self._shift) if self._shift else result

    @cached_property
    def product_errors(self) -> Tensor:
        """The `product_error` of each member's own operator (N,), in float64, on the CPU; without weight decay.

        The rounding of products is measured by an equally small change of the parameters, at a few samples.
        """
        sample = self._sample
        eps = torch.finfo(self.dtype).eps
        if sample is None:
            return torch.full((self.size,), PRODUCT_ROUNDINGS * eps, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(1, self.dim, generator=generator, dtype=self.dtype).to(self.device)
        vectors = vector.expand(self.size, self.dim).unsqueeze(0)
        moved = {
            name: values * (1 + eps * rounding.random_signs(values[0], generator))
            for name, values in self.parameters.items()
        }
        value, other = (
            self._elsewhere(sample, point).direct_products(vectors)[0] for point in (self.parameters, moved)
        )
        sizes = torch.linalg.vector_norm(value, dim=1)
        ratios = torch.where(sizes > 0, torch.linalg.vector_norm(other - value, dim=1) / sizes, 0.0).double().cpu()
        sensitivities = torch.where(ratios.isfinite(), ratios / eps, 0.0)
        return PRODUCT_ROUNDINGS * eps + rounding.SENSITIVITY_MARGIN * sensitivities * eps

    @property
    def _sample(self) -> Ensemble | None:
        """The samples at which rounding is measured; None if there is nothing to measure."""
        ensemble = self.ensemble
        size = replace(ensemble.model.size_on(ensemble.inputs[0]), num_parameters=self.dim)
        first = Dataset(ensemble.inputs[0], ensemble.targets[0])
        own = EmpiricalRisk(ensemble.model, ensemble.loss, [first])
        few = rounding.few_samples(own, is_crowded=columns_at_once(size, self.dtype.itemsize) == 1)
        if few is None:
            return None
        count = len(few.batches[0])
        chosen = torch.linspace(0, len(first) - 1, count).long().to(self.device)
        inputs, targets = ensemble.inputs[:, chosen], ensemble.targets[:, chosen]
        return replace(ensemble, inputs=inputs, targets=targets, weight_decay=0.0)

    def _elsewhere(self, ensemble: Ensemble, parameters: Parameters) -> "EnsembleOperator":
        return EnsembleOperator(ensemble, parameters, matrix=self.matrix, block=self._block)

    def direct_products(self, vectors: Tensor) -> Tensor:
        """Return A_i v without a recording, for k vectors of each member, (k, N, P)."""
        parts = [part.products(vectors[:, part.members], is_direct=True) for part in self._parts]
        result = torch.cat(parts, dim=1)
        return result.add_(vectors, alpha=self._shift) if self._shift else result

    def take(self, members: Tensor) -> "EnsembleOperator":
        """Return the operator of some members, which is recorded anew."""
        return EnsembleOperator(
            self.ensemble.take(members),
            selected(self.parameters, members),
            matrix=self.matrix,
            block=self._block,
            micro_batch_size=self._micro_batch_size,
            execution=self._execution,
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """Members that are multiplied together.

    Attributes:
        members: Which.
        size: How many.
        operator: The matrix of the mean of their losses.
        sizes: Number of entries of each parameter of one member.
    """

    members: slice
    size: int
    operator: RiskOperator
    sizes: list[int]

    def products(self, vectors: Tensor, *, is_direct: bool = False) -> Tensor:
        """Return A_i v for vectors (k, members, P), without a recording if `is_direct`."""
        # in the order of the stacked parameters, name by name
        pieces = torch.split(vectors, self.sizes, dim=2)
        rows = torch.cat([piece.reshape(len(vectors), -1) for piece in pieces], dim=1).mul_(self.size)
        products = self.operator.direct_products(rows) if is_direct else self.operator.matmat(rows.T).T
        own = torch.split(products, [self.size * size for size in self.sizes], dim=1)
        return torch.cat([piece.reshape(len(vectors), self.size, -1) for piece in own], dim=2)


@dataclass(frozen=True, eq=False)
class MemberOperator(SymmetricOperator):
    """The matrix of one member, as the summaries of spectra need it; products are those of all members.

    Args:
        whole: The matrices of all members.
        member: Index of the member.
    """

    whole: EnsembleOperator
    member: int

    @property
    def dim(self) -> int:
        """Number P of rows."""
        return self.whole.dim

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self.whole.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.whole.device

    @property
    def product_error(self) -> float:
        """Bound on the relative error of products."""
        return float(self.whole.product_errors[self.member])

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v (P,)."""
        return self.matmat(vector.unsqueeze(1))[:, 0]

    def matmat(self, matrix: Tensor) -> Tensor:
        """Return A V (P, k)."""
        vectors = matrix.new_zeros(matrix.shape[1], self.whole.size, self.dim)
        vectors[:, self.member] = matrix.T
        return self.whole.products(vectors)[:, self.member].T
