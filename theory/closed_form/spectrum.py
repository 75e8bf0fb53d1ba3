"""A whole Hessian spectrum as few eigenvalues with multiplicities and roles."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from theory.errors import TheoryError

Role = Literal["outlier", "bulk", "zero"]
Method = Literal["closed-form", "exact-reduction"]
CriticalPoint = Literal["minimum", "maximum", "saddle", "degenerate"]
Statistic = float | str | None

ZERO_MULTIPLE = 64
"""An eigenvalue is zero to rounding when |value| <= ZERO_MULTIPLE * eps * scale, scale = the largest |eigenvalue|."""

ZERO_NOTE = (
    "condition_number is null: an eigenvalue is zero to rounding "
    f"(at most {ZERO_MULTIPLE} float64 epsilons of the largest magnitude)"
)


def zero_tolerance(scale: float) -> float:
    """Largest magnitude that counts as zero in a spectrum of this scale: ZERO_MULTIPLE * eps * scale, in its unit."""
    return ZERO_MULTIPLE * float(np.finfo(np.float64).eps) * scale


@dataclass(frozen=True)
class Eigenvalue:
    """One distinct eigenvalue, in loss per squared parameter.

    role: "zero" marks a structural zero, there whatever the values of weights and data; a bulk that happens to vanish
    stays "bulk". group: ReLU cell "+" or "-", else None. pair: number of the outlier pair it belongs to, else None.
    """

    value: float
    multiplicity: int
    role: Role
    group: str | None = None
    pair: int | None = None


@dataclass(frozen=True)
class Inertia:
    """Numbers of negative, zero (to rounding) and positive eigenvalues, with multiplicity."""

    negative: int
    zero: int
    positive: int


@dataclass(frozen=True)
class Spectrum:
    """Every eigenvalue of a Hessian with num_parameters rows; always finite and complete.

    Construction sorts the eigenvalues descending, drops those of multiplicity 0, turns -0.0 into 0.0, and adds
    ZERO_NOTE to the notes whenever condition_number is None.

    Raises:  TheoryError if the multiplicities do not sum to num_parameters, or anything is NaN or infinite.
    """

    kind: str
    num_parameters: int
    method: Method
    source: str
    eigenvalues: tuple[Eigenvalue, ...]
    trace: float
    statistics: Mapping[str, Statistic]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        entries = [replace(entry, value=float(entry.value) + 0.0) for entry in self.eigenvalues if entry.multiplicity]
        self._refuse_overflow([entry.value for entry in entries])
        if any(entry.multiplicity < 0 for entry in entries):
            raise TheoryError("an eigenvalue has a negative multiplicity")
        num_eigenvalues = sum(entry.multiplicity for entry in entries)
        if num_eigenvalues != self.num_parameters or not entries:
            raise TheoryError(f"{num_eigenvalues} eigenvalues for {self.num_parameters} parameters")
        entries.sort(key=lambda entry: entry.value, reverse=True)
        object.__setattr__(self, "eigenvalues", tuple(entries))
        object.__setattr__(self, "trace", float(self.trace) + 0.0)
        object.__setattr__(self, "statistics", dict(self.statistics))
        if self.condition_number is None and ZERO_NOTE not in self.notes:
            object.__setattr__(self, "notes", (*self.notes, ZERO_NOTE))

    def _refuse_overflow(self, values: list[float]) -> None:
        numbers = {"eigenvalue": values, "trace": [self.trace]}
        numbers |= {name: [value] for name, value in self.statistics.items() if isinstance(value, (int, float))}
        for name, entries in numbers.items():
            if not all(math.isfinite(value) for value in entries):
                raise TheoryError(f"{name} overflows float64: rescale the weights or the data")

    @property
    def scale(self) -> float:
        """Largest magnitude of an eigenvalue."""
        return max(abs(self.sharpness), abs(self.smallest))

    @property
    def sharpness(self) -> float:
        """Largest eigenvalue."""
        return self.eigenvalues[0].value

    @property
    def smallest(self) -> float:
        """Smallest (most negative) eigenvalue."""
        return self.eigenvalues[-1].value

    @property
    def condition_number(self) -> float | None:
        """max|l| / min|l|; None when an eigenvalue is zero to rounding, which the notes then say."""
        flattest = min(abs(entry.value) for entry in self.eigenvalues)
        return None if flattest <= zero_tolerance(self.scale) else self.scale / flattest

    @property
    def inertia(self) -> Inertia:
        """Counts with multiplicity; zero means |value| <= ZERO_MULTIPLE * eps * scale."""
        tolerance = zero_tolerance(self.scale)
        negative = sum(entry.multiplicity for entry in self.eigenvalues if entry.value < -tolerance)
        positive = sum(entry.multiplicity for entry in self.eigenvalues if entry.value > tolerance)
        return Inertia(negative, self.num_parameters - negative - positive, positive)

    @property
    def critical_point(self) -> CriticalPoint:
        """What the inertia says where the gradient vanishes: a saddle with flat directions is still a saddle.

        Source:  Day 27, section 3, which leaves open what both signs and a zero together are.
        """
        inertia = self.inertia
        if inertia.negative and inertia.positive:
            return "saddle"
        if inertia.zero:
            return "degenerate"
        return "minimum" if inertia.positive else "maximum"

    def dense(self) -> NDArray[np.float64]:
        """All eigenvalues, ascending, repeated by multiplicity: (num_parameters,)."""
        ascending = self.eigenvalues[::-1]
        return np.repeat([entry.value for entry in ascending], [entry.multiplicity for entry in ascending])
