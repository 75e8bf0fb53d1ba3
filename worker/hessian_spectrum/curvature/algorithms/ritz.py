"""Ritz pairs of a subspace: values, residuals, and the order in which they are requested."""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Which: TypeAlias = Literal["largest", "smallest", "both-ends", "magnitude"]


class RitzPairs(NamedTuple):
    """Eigenpairs of the projected matrix; float64, on the CPU."""

    values: Tensor  # (n,) ascending, in units of A
    vectors: Tensor  # (n, n) in columns, in terms of the basis
    residuals: Tensor  # (n,) in units of A, without the rounding of products
    defects: Tensor  # (n,) the part of the residuals that comes from locked rows
    couplings: Tensor  # (n, pending) of the residuals to pending rows, in units of A


def ritz_pairs(projection: Tensor, num_processed: int, num_rows: int, defects: Tensor, scale: float) -> RitzPairs:
    """Rayleigh-Ritz on the first n = num_processed rows of a basis.

    The residual of a Ritz vector s is the norm of two parts: ||C s||, with C the couplings to pending rows, and the
    root of the sum of (s_j defect_j)^2, because the remainders of the products of different locked rows have different
    directions.

    Args:
        projection: Projected matrix of shape (rows, rows), of which the upper triangle and the pending rows below it
            are read.
        num_processed: Number n of rows whose products are known.
        num_rows: Number of rows of the basis.
        defects: Norms of the remainders of the products, of shape (rows,), in units of A.
        scale: Largest norm of a product.

    Returns:
        The Ritz pairs.
    """
    unit = scale if scale > 0 else 1.0  # squares of the numbers themselves may overflow
    n = num_processed
    # an entry of the upper triangle was measured when its later row was multiplied: against all rows before
    upper = projection[:n, :n].triu() / unit
    values, vectors = torch.linalg.eigh(upper, UPLO="U")
    coupling = projection[n:num_rows, :n] / unit @ vectors
    inherited = ((defects[:n] / unit).square() @ vectors.square()).sqrt()
    residuals = torch.hypot(torch.linalg.vector_norm(coupling, dim=0), inherited)
    return RitzPairs(values * unit, vectors, residuals * unit, inherited * unit, coupling.T * unit)


def order(values: Tensor, which: Which) -> Tensor:
    """Indices (n,) of ascending values (n,), in order of preference; for "both-ends" alternately from both ends."""
    ascending = torch.arange(len(values))
    if which == "smallest":
        return ascending
    if which == "largest":
        return ascending.flip(0)
    if which == "magnitude":
        return values.abs().argsort(descending=True, stable=True)
    return torch.stack([ascending.flip(0), ascending], dim=1).flatten()[: len(values)]
