"""Products of the matrices of all members of an ensemble with vectors of each."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hessian_spectrum.curvature.ensembles.stack import Ensemble, selected
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters, select
from hessian_spectrum.curvature.operators.matrices import OPERATORS
from hessian_spectrum.curvature.operators.products import Matrix
from hessian_spectrum.curvature.operators.programs import Execution


class EnsembleOperator:
    """A_i (P, P) of each member i of an ensemble, at given parameters.

    The mean of the members' losses has the matrix diag(A_1, ..., A_N) / N, whose products are recorded once: they are
    those of `RiskOperator`.

    Args:
        ensemble: Networks and data.
        parameters: Parameters of all members, by name with the axis of members first.
        matrix: Name of the matrix.
        block: Glob pattern on the names of parameters; None for all.
        micro_batch_size: Samples of each member whose activations are in memory at once; None for all.
        recording_bytes: Largest memory of recordings; None for no limit.
        execution: How recorded products are executed.

    Attributes:
        layout: Layout of the vector (P,) of one member.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        parameters: Mapping[str, Tensor],
        *,
        matrix: Matrix = "hessian",
        block: str | None = None,
        micro_batch_size: int | None = None,
        recording_bytes: int | None = None,
        execution: Execution | None = None,
    ) -> None:
        shapes = ensemble.model.parameter_shapes
        self.layout = ParameterLayout.of({name: shapes[name] for name in select(shapes, block)})
        self.ensemble, self.parameters, self.matrix = ensemble, dict(parameters), matrix
        self._block, self._micro_batch_size = block, micro_batch_size
        self._stacked = OPERATORS[matrix](
            ensemble.risk(micro_batch_size),
            parameters,
            block=block,
            memory_bytes=recording_bytes,
            execution=execution,
        )
        self._shift = ensemble.weight_decay if matrix in ("hessian", "ggn") else 0.0

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
        return self._stacked.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self._stacked.device

    def products(self, vectors: Tensor) -> Tensor:
        """Return A_i v for k vectors of each member, (k, N, P)."""
        # rounded like the products of one member: N is a factor of the vector, not of small numbers
        products = self._stacked.matmat(self._by_name(self.size * vectors).T).T
        result = self._by_member(products, len(vectors))
        return result.add_(vectors, alpha=self._shift) if self._shift else result

    def take(self, members: Tensor) -> "EnsembleOperator":
        """Return the operator of some members, which is recorded anew."""
        return EnsembleOperator(
            self.ensemble.take(members),
            selected(self.parameters, members),
            matrix=self.matrix,
            block=self._block,
            micro_batch_size=self._micro_batch_size,
        )

    def gradients(self) -> Tensor:
        """Return the gradient of each member's loss (N, P)."""
        _, gradient = self._stacked._risk.value_and_gradient(self.parameters)
        flat = torch.cat([gradient[name].flatten(1) for name in self.layout.names], dim=1).mul_(self.size)
        if self.ensemble.weight_decay:
            own: Parameters = self.parameters
            flat += self.ensemble.weight_decay * torch.cat([own[name].flatten(1) for name in self.layout.names], dim=1)
        return flat

    def _by_name(self, vectors: Tensor) -> Tensor:
        """Return vectors (k, N P) in the order of the stacked parameters, name by name."""
        if self.size == 1:
            return vectors[:, 0]
        pieces = torch.split(vectors, self.layout.sizes, dim=2)
        return torch.cat([piece.reshape(len(vectors), -1) for piece in pieces], dim=1)

    def _by_member(self, rows: Tensor, count: int) -> Tensor:
        sizes = [self.size * size for size in self.layout.sizes]
        pieces = torch.split(rows, sizes, dim=1)
        return torch.cat([piece.reshape(count, self.size, -1) for piece in pieces], dim=2)
