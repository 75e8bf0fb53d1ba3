"""What is added to the sum over micro-batches: weight decay and damping, minus the square g g^T of a mean gradient."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True, eq=False)
class Correction:
    """The symmetric matrix diag(d) - g g^T.

    Attributes:
        diagonal: d, of shape (P,), or () where all entries are equal.
        removed: g, of shape (P,); None if there is no such term.
    """

    diagonal: Tensor
    removed: Tensor | None = None

    @property
    def norm(self) -> float:
        """Bound on the spectral norm: max |d| + ||g||^2."""
        largest = float(self.diagonal.abs().max())
        return largest if self.removed is None else largest + float(self.removed.double().square().sum())

    def add_products(self, rows: Tensor, products: Tensor) -> Tensor:
        """Return `products` (k, P) with the products of the rows (k, P) added."""
        total = products + self.diagonal * rows
        return total if self.removed is None else total - (rows @ self.removed).unsqueeze(1) * self.removed

    def add_to(self, matrix: Tensor) -> None:
        """Add the dense matrix to `matrix` (P, P), in place."""
        matrix.diagonal().add_(self.diagonal.to(matrix.dtype))
        if self.removed is not None:
            removed = self.removed.to(matrix.dtype)
            matrix.addr_(removed, removed, alpha=-1)


def inverse_roots(diagonal: Mapping[str, Tensor], layout: ParameterLayout, *, like: Tensor) -> Parameters:
    """Return D^-1/2 by parameter name.

    Args:
        diagonal: D, by name.
        layout: Parameters that are needed.
        like: Tensor of the precision and on the device of the result.

    Returns:
        The factors, of the shapes of the parameters.

    Raises:
        InvalidProblemError: If a parameter is missing, or an entry of D is not positive and finite.
    """
    factors = {}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        if name not in diagonal or tuple(diagonal[name].shape) != shape:
            raise InvalidProblemError(f"the preconditioner has no {name} of shape {shape}")
        values = diagonal[name].to(torch.float64)
        roots = values.rsqrt().to(like)
        if not bool((values > 0).all()) or not bool((roots.isfinite() & (roots > 0)).all()):
            message = (
                f"the preconditioner must be positive and finite, but {name} is not: "
                "add a small number to it, as Adam does"
            )
            raise InvalidProblemError(message)
        factors[name] = roots
    return factors
