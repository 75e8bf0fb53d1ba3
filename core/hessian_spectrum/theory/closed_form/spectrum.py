"""A whole Hessian spectrum as few eigenvalues with multiplicities and roles, and the checked arrays it is made from."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, inf, isfinite, log10, prod
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.errors import TheoryError

Role = Literal["outlier", "bulk", "zero"]
Method = Literal["closed-form", "exact-reduction"]
CriticalPoint = Literal["minimum", "maximum", "saddle", "degenerate"]
Statistic = float | str | list[float] | None
Which = Literal["outliers", "all"]
Array = NDArray[np.float64]

FLOAT64_RESOLUTION = 1e-13
"""Bound on the error of eigenvalues whose moments or reduced problem are float64, relative to the largest."""

ZERO_MULTIPLE = 64
"""An eigenvalue is zero to rounding when |value| <= ZERO_MULTIPLE * eps * scale, scale = the largest |eigenvalue|."""

ZERO_NOTE = (
    f"condition_number is null: an eigenvalue is at most {ZERO_MULTIPLE} float64 epsilons of the largest magnitude and "
    "counts as zero, since rounding the inputs alone could make it"
)

_LARGEST_DOUBT = 0.5
"""A condition number whose relative error may be larger than this is not given."""


def finite_array(name: str, values: ArrayLike, num_dimensions: int) -> NDArray[np.float64]:
    """Float64 copy or view of `values` with the wanted number of dimensions, not empty, every entry finite.

    Raises:
        TheoryError: Naming `name` if the values are ragged, not real, empty, of another dimension, NaN or infinite.
    """
    if getattr(values, "dtype", None) is not None and np.iscomplexobj(values):
        raise TheoryError(f"{name} must be real")
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TheoryError(f"{name} must be a rectangular array of real numbers") from error
    if array.ndim != num_dimensions:
        raise TheoryError(f"{name} must have {num_dimensions} dimension(s), not {array.ndim}")
    if array.size == 0:
        raise TheoryError(f"{name} must not be empty")
    if not isfinite(np.vdot(array, array)) and not np.isfinite(array).all():  # the squares alone may overflow
        raise TheoryError(f"{name} must be finite")
    return array


def matching_arrays(
    names: tuple[str, str], values: tuple[ArrayLike, ArrayLike], num_dimensions: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two checked arrays of one shape.

    Raises:
        TheoryError: If either fails `finite_array` or their shapes differ.
    """
    first = finite_array(names[0], values[0], num_dimensions)
    second = finite_array(names[1], values[1], num_dimensions)
    if first.shape != second.shape:
        raise TheoryError(f"{names[0]} and {names[1]} must have one shape, not {first.shape} and {second.shape}")
    return first, second


def zero_tolerance(scale: float) -> float:
    """Largest magnitude that counts as zero in a spectrum of this scale: ZERO_MULTIPLE * eps * scale, in its unit."""
    return ZERO_MULTIPLE * sys.float_info.epsilon * scale


class ConditionNumber(NamedTuple):
    """max |l| / min |l|, rounded to the digits that are known, and bounds between which it lies.

    value is None where too little is known, which `note` then says; a bound is None where there is none.
    """

    value: float | None
    lower: float | None
    upper: float | None
    note: str | None


def condition_number(scale: float, flattest: float, resolution: float | None) -> ConditionNumber:
    """The condition number of eigenvalues whose largest and smallest magnitudes are scale and flattest.

    Args:
        resolution: error of both over the scale, at most; None: each is right to one unit in its last place.
    """
    rounding = sys.float_info.epsilon
    if flattest <= zero_tolerance(scale):
        beyond = (1 - rounding) / (ZERO_MULTIPLE * rounding + (resolution or rounding))
        return ConditionNumber(None, beyond if scale else None, None, ZERO_NOTE)
    flattest_error = rounding * flattest if resolution is None else resolution * scale
    largest_error = rounding * scale if resolution is None else resolution * scale
    lower = max(1.0, (scale - largest_error) / (flattest + flattest_error) * (1 - rounding))
    least = flattest - flattest_error
    upper = (scale + largest_error) / least * (1 + rounding) if least > 0 else inf
    value = scale / flattest
    doubt = max(upper - value, value - lower)
    known_upper = upper if upper < inf else None
    if not doubt <= _LARGEST_DOUBT * value:
        note = (
            f"condition_number is null: the smallest magnitude, {flattest:.1e}, is known to ±{flattest_error:.1e} alone"
        )
        return ConditionNumber(None, lower, known_upper, note)
    return ConditionNumber(_rounded(value, doubt), lower, known_upper, None)


def _rounded(value: float, doubt: float) -> float:
    """The value without the decimal places that lie below the doubt."""
    return value if doubt <= 4 * sys.float_info.epsilon * value else round(value, -ceil(log10(doubt)))


class Eigenvalue(NamedTuple):
    """One distinct eigenvalue, in loss per squared parameter.

    role: "zero" marks a structural zero, there whatever the values of weights and data; a bulk that happens to vanish
    stays "bulk". group: sign of a group of neurons ("+", "-", "0"), or index of a coordinate or singular value, else
    None. pair: number of the outlier pair it belongs to, else None. basis: gives its orthonormal eigenvectors, rows
    (multiplicity, num_parameters).
    """

    value: float
    multiplicity: int
    role: Role
    group: str | None = None
    pair: int | None = None
    basis: Callable[[], Array] | None = None


class Parameter(NamedTuple):
    """One parameter array of the network: its name and shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of scalars."""
        return prod(self.shape)


@dataclass(frozen=True)
class Eigenvectors:
    """Orthonormal eigenvectors: eigenvalues (k,), descending, repeated by multiplicity; vectors (k, num_parameters)."""

    eigenvalues: Array
    vectors: Array


class Inertia(NamedTuple):
    """Numbers of negative, zero (to rounding) and positive eigenvalues, with multiplicity."""

    negative: int
    zero: int
    positive: int

    @property
    def critical_point(self) -> CriticalPoint:
        """What it says where the gradient vanishes: a saddle with flat directions is still a saddle.

        References:
            Day 27, section 3, which leaves open what both signs and a zero together are.
        """
        if self.negative and self.positive:
            return "saddle"
        if self.zero:
            return "degenerate"
        return "minimum" if self.positive else "maximum"


@dataclass(frozen=True)
class Spectrum:
    """Every eigenvalue of a Hessian over these parameters; always finite and complete.

    An eigenvector lists the parameters in their order, each array row by row.

    Construction sorts the eigenvalues descending, drops those of multiplicity 0, turns -0.0 into 0.0, and adds a note
    whenever condition_number is None.

    A statistic that float64 cannot hold becomes None, and a note says so.

    Raises:
        TheoryError: If the multiplicities do not sum to num_parameters, or an eigenvalue or the trace is NaN or
            infinite.
    """

    kind: str
    parameters: tuple[Parameter, ...]
    method: Method
    source: str
    eigenvalues: tuple[Eigenvalue, ...]
    trace: float
    statistics: Mapping[str, Statistic]
    notes: tuple[str, ...] = ()
    resolution: float | None = None  # error of each eigenvalue over the largest; None: one unit in its own last place

    def __post_init__(self) -> None:
        entries = [e if e.value else e._replace(value=0.0) for e in self.eigenvalues if e.multiplicity]
        self._refuse_overflow([entry.value for entry in entries])
        multiplicities = [entry.multiplicity for entry in entries]
        if sum(multiplicities) != self.num_parameters or not entries:
            raise TheoryError(f"{sum(multiplicities)} eigenvalues for {self.num_parameters} parameters")
        if min(multiplicities) < 0:
            raise TheoryError("an eigenvalue has a negative multiplicity")
        entries.sort(key=attrgetter("value"), reverse=True)
        object.__setattr__(self, "eigenvalues", tuple(entries))
        object.__setattr__(self, "trace", float(self.trace) + 0.0)
        statistics, notes = self._finite_statistics()
        object.__setattr__(self, "statistics", statistics)
        if (note := self.conditioning.note) and note not in self.notes:
            notes = (*notes, note)
        object.__setattr__(self, "notes", (*self.notes, *notes))

    @property
    def num_parameters(self) -> int:
        """Rows of the Hessian."""
        return sum([prod(parameter.shape) for parameter in self.parameters])

    def _refuse_overflow(self, values: list[float]) -> None:
        for name, numbers in (("eigenvalue", values), ("trace", [self.trace])):
            if not isfinite(sum(numbers)) and not all(map(isfinite, numbers)):
                raise TheoryError(f"{name} overflows float64: rescale the weights or the data")

    def _finite_statistics(self) -> tuple[dict[str, Statistic], tuple[str, ...]]:
        """The statistics, None instead of what float64 cannot hold, and the notes that say so."""
        statistics = dict(self.statistics)
        numbers = [value for value in statistics.values() if type(value) is float]
        lists = [sum(value) for value in statistics.values() if type(value) is list]
        if isfinite(sum(numbers) + sum(lists)):
            return statistics, ()
        beyond = [
            name
            for name, value in statistics.items()
            if not all(map(isfinite, value if isinstance(value, list) else [value] if type(value) is float else []))
        ]
        note = f"{', '.join(beyond)}: null, as float64 does not hold it" if beyond else ""
        return statistics | dict.fromkeys(beyond), (note,) if note else ()

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
    def conditioning(self) -> ConditionNumber:
        """The condition number with its bounds."""
        return condition_number(self.scale, min([abs(entry.value) for entry in self.eigenvalues]), self.resolution)

    @property
    def condition_number(self) -> float | None:
        """max|l| / min|l| to the digits that are known; None when too few are, which the notes then say."""
        return self.conditioning.value

    @property
    def inertia(self) -> Inertia:
        """Counts with multiplicity; zero means |value| <= zero_tolerance(scale)."""
        tolerance = zero_tolerance(self.scale)
        counts = [0, 0, 0]
        for entry in self.eigenvalues:
            counts[(entry.value >= -tolerance) + (entry.value > tolerance)] += entry.multiplicity
        return Inertia(*counts)

    @property
    def critical_point(self) -> CriticalPoint:
        """What the inertia says where the gradient vanishes."""
        return self.inertia.critical_point

    def num_eigenvectors(self, which: Which) -> int:
        """Vectors that `eigenvectors(which)` has."""
        return sum(entry.multiplicity for entry in self._chosen(which))

    def eigenvectors(self, which: Which) -> Eigenvectors:
        """Orthonormal eigenvectors of the outliers, or of every eigenvalue: then a complete basis."""
        chosen = self._chosen(which)
        rows = [entry.basis() for entry in chosen if entry.basis is not None]
        return Eigenvectors(
            eigenvalues=np.repeat([entry.value for entry in chosen], [entry.multiplicity for entry in chosen]),
            vectors=np.vstack(rows) if rows else np.empty((0, self.num_parameters)),
        )

    def _chosen(self, which: Which) -> list[Eigenvalue]:
        return [entry for entry in self.eigenvalues if which == "all" or entry.role == "outlier"]

    def dense(self) -> Array:
        """All eigenvalues, ascending, repeated by multiplicity: (num_parameters,)."""
        ascending = self.eigenvalues[::-1]
        return np.repeat([entry.value for entry in ascending], [entry.multiplicity for entry in ascending])
