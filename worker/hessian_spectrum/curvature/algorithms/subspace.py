"""The subspace of a search for extreme eigenpairs, and the bounds on missed eigenvalues that follow from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.ritz import (
    RitzPairs,
    Stages,
    Which,
    overlap_of_block,
    ritz_pairs,
    stage,
)
from hessian_spectrum.curvature.serialization import UsedPart, serializable
from hessian_spectrum.quadrature.estimates import end_of_spectrum, excludes

Phase: TypeAlias = Literal["search", "finished"]

MISS_PROBABILITY = 1e-3
"""Probability that a bound on missed eigenvalues is wrong because random vectors had too little of an eigenvector."""

LIMIT_SHARE = 0.5
"""Share of the slack by which a missed eigenvalue must be better than a requested one to be searched for."""

MAX_STAGES = 256  # restarts of one run from random vectors that are followed; its bound does not improve after them


class End(NamedTuple):
    """An end of the spectrum, with the number of requested eigenvalues that may lie there."""

    side: int  # 1 for the upper one, -1 for the lower one
    num_requested: int


@serializable(basis=UsedPart(0, "num_rows"))
@dataclass(kw_only=True)
class SubspaceState:
    """A search between two products, with everything that a step needs and a checkpoint must store.

    Rows of the basis are orthonormal. The first num_locked are Ritz vectors that stay unchanged; the matrix on their
    complement is searched from random rows. The first num_processed have been multiplied: A b_j is the sum of
    projection[i, j] b_i, up to defects[j]; the rest are pending.
    """

    which: Which
    num_requested: int  # k
    tolerance: float  # relative to the largest requested |eigenvalue| of an end
    absolute_tolerance: float  # in units of A
    block_size: int
    max_products: int
    is_reduced: bool  # products are those of a reduced precision
    generator: torch.Generator  # on the CPU, of the start vectors
    basis: Tensor  # (rows, P), in the operator's precision; rows from num_rows on undefined
    projection: Tensor  # (rows, rows) float64, on the CPU; 0 beyond num_rows and num_processed
    defects: Tensor  # (rows,) float64, on the CPU: what is left of the products of locked rows, in units of A
    stages: Tensor  # (num_stages, rows, 1 + 2 block_size) float64, on the CPU: of the run from the last random rows
    num_locked: int = 0
    num_rows: int = 0
    num_processed: int = 0
    num_products: int = 0
    num_runs: int = 0  # number of runs, each of which begins with random rows
    run_width: int = 0  # random rows that the run under way began with
    start_row: int = 0  # first row of the block that the stage under way began with
    num_starts: int = 0  # rows of it; 0: the stage is not followed
    dropped: float = 0.0  # root of the sum of squares of what this run took for rounding, in units of A
    scale: float = 0.0  # largest ||A b|| so far
    far_ends: list[float] = field(default_factory=list)  # points beyond which A has no eigenvalue, by end; [] at first
    phase: Phase = "search"

    @property
    def budget(self) -> int:
        """Largest number of products before the pairs are multiplied once more."""
        return max(self.num_requested, self.max_products - self.num_requested)

    @property
    def complete(self) -> bool:
        """Whether the subspace is the whole space."""
        return self.num_processed == self.basis.shape[1]

    @property
    def is_closed(self) -> bool:
        """Whether nothing is pending, because the subspace is invariant, locked or empty."""
        return self.num_rows == self.num_processed

    @property
    def ends(self) -> list[End]:
        """Ends at which eigenvalues are requested."""
        k = self.num_requested
        both = [End(1, (k + 1) // 2), End(-1, k // 2)]
        ends = {
            "largest": [End(1, k)],
            "smallest": [End(-1, k)],
            "both-ends": both,
            "magnitude": [End(1, k), End(-1, k)],
        }
        return [end for end in ends[self.which] if end.num_requested > 0]

    @property
    def needs_locking(self) -> bool:
        """Whether one run is not sufficient.

        One run shows few copies of an eigenvalue. If products are reduced, the errors of its pairs can only be bounded
        through the gap to the rest.

        Returns:
            Whether pairs have to be locked and searched for again.
        """
        return self.is_reduced or any(end.num_requested > 1 for end in self.ends)

    def pairs(self) -> RitzPairs:
        """Return the Ritz pairs of all processed rows."""
        return ritz_pairs(
            self.projection,
            num_processed=self.num_processed,
            num_rows=self.num_rows,
            defects=self.defects,
            scale=self.scale,
        )

    def active_pairs(self) -> RitzPairs:
        """Return the Ritz pairs of the matrix on the complement of the locked rows."""
        first = self.num_locked
        return ritz_pairs(
            self.projection[first:, first:],
            num_processed=self.num_processed - first,
            num_rows=self.num_rows - first,
            defects=torch.zeros_like(self.defects[first:]),
            scale=self.scale,
        )

    def locked_values(self) -> Tensor:
        """Return the Ritz values of the locked rows (num_locked,), the requested ones first, in order of preference."""
        return self.projection.diagonal()[: self.num_locked].clone()

    def norm(self, values: Tensor) -> float:
        """Return the norm ||A||, as far as it is known."""
        return max(self.scale, float(values.abs().max()))

    def tolerances(self, values: Tensor) -> Tensor:
        """Tolerances of requested values (k,), in order of preference, relative to the largest of their end."""
        tolerances = torch.empty_like(values)
        for members in self.groups():
            tolerances[members] = self.tolerance * float(values[members].abs().max())
        return tolerances.clamp(min=self.absolute_tolerance)

    def slack(self, values: Tensor, product_error: float) -> Tensor:
        """Accepted errors of requested values (k,) besides the error of the products, and at least as large as it."""
        error = product_error * self.norm(values)
        return (self.tolerances(values) - error).clamp(min=error)

    def relevant_residuals(self, values: Tensor, residuals: Tensor) -> Tensor:
        """Return the residuals (k,) of requested values (k,) that decide whether they have converged."""
        return residuals

    def is_improved(self, values: Tensor, slack: Tensor) -> bool:
        """Return whether these requested values (k,) are better than those that are locked."""
        if self.num_locked == 0:
            return False
        gain = self.scores(values) - self.scores(self.locked_values()[: len(values)])
        return bool((gain > LIMIT_SHARE * slack).any())

    def side_of(self, index: int) -> int:
        """Side of a requested pair, by its rank, if preference is not by magnitude."""
        return self.ends[index % len(self.ends)].side

    def scores(self, values: Tensor) -> Tensor:
        """Scores of requested values (k,), in order of preference; larger is better."""
        match self.which:
            case "largest":
                return values
            case "smallest":
                return -values
            case "magnitude":
                return values.abs()
            case _:
                return torch.where(torch.arange(len(values)) % 2 == 0, values, -values)

    def groups(self) -> list[slice]:
        """Ranks of the requested pairs that belong to each end; for "magnitude" all belong to both."""
        if self.which != "both-ends":
            return [slice(None)]
        return [slice(0, None, 2), slice(1, None, 2)][: len(self.ends)]

    def stages_so_far(self, active: RitzPairs) -> Tensor:
        """Stages of the current run; the last one is included only if all rows that it began with were multiplied."""
        first, last = self.start_row - self.num_locked, self.start_row + self.num_starts
        if self.num_starts == 0 or last > self.num_processed:
            return self.stages
        starts = active.vectors[first : first + self.num_starts].T
        rows, block = self.stages.shape[1], self.block_size
        return torch.cat(
            [self.stages, stage(active.values, starts, active.couplings, rows=rows, block=block).unsqueeze(0)]
        )

    def excludes(self, active: RitzPairs, point: float, side: int) -> bool:
        """Return whether the complement of the locked rows has no eigenvalue at or beyond a point, on that side."""
        return excludes(self._presence(active, side), self._overlap(), point=point, end=_last(active, side), side=side)

    def end_of_rest(self, active: RitzPairs, side: int) -> float:
        """Return a point beyond which the complement has no eigenvalue, on that side; infinite if nothing is known."""
        sizes = (active.values[-1] - active.values[0], active.values.abs().max(), active.couplings.abs().sum())
        unit = max(float(size) for size in (*sizes, self.dropped))
        return end_of_spectrum(
            self._presence(active, side), self._overlap(), end=_last(active, side), unit=unit, side=side
        )

    def ends_of_rest(self) -> list[float]:
        """Return `end_of_rest` for each end, or the bound of an earlier run on the whole matrix if that is tighter."""
        active = self.active_pairs()
        limits = [self.end_of_rest(active, end.side) for end in self.ends]
        if not self.far_ends:
            return limits
        both = zip(self.ends, limits, self.far_ends, strict=True)
        return [end.side * min(end.side * one, end.side * other) for end, one, other in both]

    def _presence(self, active: RitzPairs, side: int) -> Callable[[float], float]:
        """Bound an eigenvector's part in the run's random vectors, given its eigenvalue beyond all Ritz values."""
        parts, end = self.stages_so_far(active), _last(active, side)
        stages = Stages(parts) if len(parts) else None

        def bound(point: float) -> float:
            if stages is None:
                return 1.0
            return stages(point) + (self.dropped / abs(point - end) if self.dropped > 0 else 0.0)

        return bound

    def _overlap(self) -> float:
        """Return a lower bound on an eigenvector's part in the run; ends and runs share the probability of an error."""
        chance = MISS_PROBABILITY / 2 ** min(self.num_runs - 1, 30) / len(self.ends)
        return overlap_of_block(self.basis.shape[1] - self.num_locked, self.run_width, chance)


def _last(active: RitzPairs, side: int) -> float:
    return float(active.values[-1 if side > 0 else 0])
