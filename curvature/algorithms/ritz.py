"""Ritz pairs of a subspace: values, residuals, which of them are wanted, and what may have been missed."""

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Which: TypeAlias = Literal["largest", "smallest", "both-ends", "magnitude"]

# Chance that a copy of an eigenvalue is missed because the random vector that would show it has too little of it.
MISS_PROBABILITY = 1e-9


class RitzPairs(NamedTuple):
    """Eigenpairs of the projected matrix; float64, on the CPU."""

    values: Tensor  # (n,) ascending, in units of A
    vectors: Tensor  # (n, n) in columns, in terms of the basis
    residuals: Tensor  # (n,) in units of A, without the rounding of products
    defects: Tensor  # (n,) the part of the residuals that comes from locked rows


def ritz_pairs(projection: Tensor, num_processed: int, num_rows: int, defects: Tensor, scale: float) -> RitzPairs:
    """Rayleigh-Ritz on the first n = num_processed rows of a basis.

    The residual of a Ritz vector s is ||C s||, C the couplings to pending rows, and the root of the sum of
    (s_j defect_j)^2: what is left of the products of different locked rows has different directions.

    Args:  projection (rows, rows), of which the upper triangle and the rows below it that are pending are read.
    """
    unit = scale if scale > 0 else 1.0  # squares of the numbers themselves may overflow
    n = num_processed
    # an entry of the upper triangle was measured when its later row was multiplied: against all rows before
    upper = projection[:n, :n].triu() / unit
    values, vectors = torch.linalg.eigh(upper, UPLO="U")
    coupling = projection[n:num_rows, :n] / unit @ vectors
    inherited = ((defects[:n] / unit).square() @ vectors.square()).sqrt()
    residuals = torch.hypot(torch.linalg.vector_norm(coupling, dim=0), inherited)
    return RitzPairs(values * unit, vectors, residuals * unit, inherited * unit)


def order(values: Tensor, which: Which) -> Tensor:
    """Indices (n,) of ascending values (n,), the most wanted first; for "both-ends" from both ends in turn."""
    ascending = torch.arange(len(values))
    if which == "smallest":
        return ascending
    if which == "largest":
        return ascending.flip(0)
    if which == "magnitude":
        return values.abs().argsort(descending=True, stable=True)
    return torch.stack([ascending.flip(0), ascending], dim=1).flatten()[: len(values)]


def steps_to_exclude(values: Tensor, num_wanted: int, which: Which, distance: float, dim: int) -> float:
    """Steps from a random vector after which further copies of the wanted eigenvalues would have shown.

    What can be missing is a copy of a wanted eigenvalue l* that is better than the worst one. If it existed, the best
    Ritz value t from a random vector would be within epsilon (l* - l_min) of it after m steps but for a chance of
    1.648 sqrt(P) exp(-(2 m - 1) sqrt(epsilon)), and as long as t stays further away, this bounds the chance.

    Args:
        values (n,), Ritz values: the wanted, converged ones, and those of the search in their complement.
        distance: what differs by less is one eigenvalue.
        dim: P.
    Returns:  0 if no wanted eigenvalue is better than the worst; infinity as long as t cannot be told from l*.
    Source:  Kuczynski & Wozniakowski, SIAM J. Matrix Anal. Appl. 13 (1992) 1094-1122, theorem 4.1.
    """
    ends = {
        "largest": [(values, num_wanted)],
        "smallest": [(-values, num_wanted)],
        "magnitude": [(values.abs(), num_wanted)],
        "both-ends": [(values, (num_wanted + 1) // 2), (-values, num_wanted // 2)],
    }[which]
    width = float(values.max() - values.min())
    steps = 0.0
    for scores, count in ends:
        ranked = scores.sort(descending=True).values
        better = ranked[:count][ranked[:count] > ranked[count - 1 : count] + distance] if count > 0 else ranked[:0]
        if len(better) == 0:
            continue
        gap = float(better[-1] - ranked[count]) if len(ranked) > count else 0.0
        if gap <= 0 or width <= 0:
            return math.inf
        rate = math.sqrt(min(gap / max(width, gap), 1.0))
        steps = max(steps, (1 + math.log(1.648 * math.sqrt(dim) / MISS_PROBABILITY) / rate) / 2)
    return steps
