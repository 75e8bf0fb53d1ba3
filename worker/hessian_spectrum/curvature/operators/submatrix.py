"""Principal submatrices of an operator, which share its recordings."""

import torch
from torch import Tensor

from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.curvature.models.base import ParameterLayout, select
from hessian_spectrum.curvature.operators.reduced_precision import compared_vectors, deviation
from hessian_spectrum.curvature.operators.risk_operator import DEVIATION_MARGIN, RiskOperator
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


class Submatrix(SymmetricOperator):
    """Submatrix S^T A S for some of the parameters of A, by products with A: one linearisation serves all blocks.

    Args:
        whole: The matrix A.
        block: Glob pattern on parameter names; None selects all parameters.
        products: Operator that computes A v; None means A itself.

    Attributes:
        layout: Layout of the block's flat vector.
        precision_deviation: That of A, for random vectors; None if nothing is reduced, or before it was measured.

    Raises:
        InvalidProblemError: If no parameter of A matches the glob.
    """

    def __init__(self, whole: RiskOperator, block: str | None, products: SymmetricOperator | None = None) -> None:
        names = select(whole.layout.names, block)
        shapes = dict(zip(whole.layout.names, whole.layout.shapes, strict=True))
        self.layout = ParameterLayout.of({name: shapes[name] for name in names})
        self.precision_deviation: float | None = None
        self._whole, self._block = whole, block
        self._products: SymmetricOperator = whole if products is None else products
        self._ranges = [columns for name, columns in _ranges(whole.layout).items() if name in names]
        if self.layout.dim == 0:
            raise InvalidProblemError(f"the parameters that match {block!r} are empty")

    @property
    def dim(self) -> int:
        """Number of parameters of the block."""
        return self.layout.dim

    @property
    def dtype(self) -> torch.dtype:
        """Precision of A."""
        return self._whole.dtype

    @property
    def device(self) -> torch.device:
        """Device of A."""
        return self._whole.device

    @property
    def product_error(self) -> float:
        """Error of the products with A, relative to the norm of the block; blocks deviate more or less than A."""
        if self._products is not self._whole or self._whole.unreduced is self._whole:
            return self._products.product_error
        if self.precision_deviation is None:
            vectors = compared_vectors(torch.zeros(1, self.dim, dtype=self.dtype, device=self.device)).T
            value = self.unreduced.matmat(vectors)
            self.precision_deviation = deviation(value, self.matmat(vectors) - value)
        return self._whole.rounding_error + DEVIATION_MARGIN * self.precision_deviation

    @property
    def unreduced(self) -> SymmetricOperator:
        """This block as an operator, by unreduced products with A."""
        exact = self._whole.unreduced
        return self if exact is self._whole else Submatrix(self._whole, self._block, exact)

    def loss_at(self, displacement: Tensor) -> float:
        """Return the risk at a displacement (P,) of the block."""
        return self._whole.loss_at(self._padded(displacement.unsqueeze(1))[:, 0])

    def loss_and_slopes(self, directions: Tensor) -> tuple[float, list[float]]:
        """Return the risk, and its derivatives along directions (d, P) of the block."""
        return self._whole.loss_and_slopes(self._padded(directions.T).T)

    def matvec(self, vector: Tensor) -> Tensor:
        """S^T A S v (P,)."""
        return self.matmat(vector.unsqueeze(1))[:, 0]

    def matmat(self, matrix: Tensor) -> Tensor:
        """S^T A S V (P, k)."""
        product = self._products.matmat(self._padded(matrix))
        return torch.cat([product[columns] for columns in self._ranges])

    def _padded(self, matrix: Tensor) -> Tensor:
        padded = matrix.new_zeros(self._whole.dim, matrix.shape[1])
        for columns, part in zip(self._ranges, self._split(matrix), strict=True):
            padded[columns] = part
        return padded

    def _split(self, matrix: Tensor) -> tuple[Tensor, ...]:
        return torch.split(matrix, self.layout.sizes)


def _ranges(layout: ParameterLayout) -> dict[str, slice]:
    """Return the range of each parameter in the flat vector."""
    ranges, start = {}, 0
    for name, size in zip(layout.names, layout.sizes, strict=True):
        ranges[name] = slice(start, start + size)
        start += size
    return ranges
