"""A complete Hessian spectrum as distinct eigenvalues with multiplicities, and the checked arrays it is made from."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite, log10, prod
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.exceptions import TheoryError

Role = Literal["outlier", "bulk", "zero"]
Method = Literal["closed-form", "exact-reduction"]
CriticalPoint = Literal["minimum", "maximum", "saddle", "degenerate"]
Statistic = float | str | list[float] | None
Which = Literal["outliers", "all"]
Array = NDArray[np.float64]

FLOAT64_RESOLUTION = 1e-13
"""Error bound, relative to the largest, of eigenvalues whose moments or reduced problem are in float64."""

ZERO_MULTIPLE = 64
"""An eigenvalue is zero up to rounding if |value| <= ZERO_MULTIPLE * eps * scale, scale the largest magnitude."""

ZERO_NOTE = (
    f"condition_number is null: an eigenvalue is at most {ZERO_MULTIPLE} float64 epsilons of the largest magnitude and "
    "counts as zero, since rounding the inputs alone could make it"
)

_LARGEST_DOUBT = 0.5
"""Largest relative error with which a condition number is reported."""


def finite_array(name: str, values: ArrayLike, num_dimensions: int) -> NDArray[np.float64]:
    """Float64 copy or view of `values` with the given number of dimensions, nonempty and finite.

    Args:
        name: Name of the argument, for the error.
        values: Array or nested lists of real numbers.
        num_dimensions: Required number of dimensions.

    Returns:
        The array, which shares memory with `values` if that is a float64 array.

    Raises:
        TheoryError: If the values are ragged, not real, empty, of another dimension, NaN or infinite; it names `name`.
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
    """Two checked arrays of equal shape.

    Args:
        names: Names of the two arguments, for the error.
        values: The two arrays.
        num_dimensions: Required number of dimensions.

    Returns:
        Both as float64 arrays.

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
    """Condition number max |l| / min |l|, rounded to the digits that are known, with bounds.

    Attributes:
        value: The condition number; None if too little is known, for the reason in `note`.
        lower: Lower bound; None if there is none.
        upper: Upper bound; None if there is none.
        note: Why the value is None; None if it is not.
    """

    value: float | None
    lower: float | None
    upper: float | None
    note: str | None


def condition_number(scale: float, flattest: float, resolution: float | None) -> ConditionNumber:
    """Condition number of eigenvalues with the given largest and smallest magnitudes.

    Args:
        scale: Largest magnitude of an eigenvalue.
        flattest: Smallest magnitude of an eigenvalue.
        resolution: Bound on the error of both, relative to the scale; None if each is correct to its last place.

    Returns:
        The condition number with its bounds.
    """
    rounding = sys.float_info.epsilon
    if flattest <= zero_tolerance(scale):
        known_to = rounding if resolution is None else resolution
        beyond = (1 - known_to) / (ZERO_MULTIPLE * rounding + known_to) * (1 - rounding)
        return ConditionNumber(None, max(1.0, beyond) if scale else None, None, ZERO_NOTE)
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
    """The value without decimal places that are smaller than the doubt."""
    return value if doubt <= 4 * sys.float_info.epsilon * value else round(value, -ceil(log10(doubt)))


class Eigenvalue(NamedTuple):
    """A distinct eigenvalue, in loss per squared parameter.

    Attributes:
        value: The eigenvalue.
        multiplicity: How often it is repeated.
        role: "zero" marks a structural zero, which does not depend on the values of weights and data; a bulk that
            happens to vanish stays "bulk".
        group: Sign of a group of neurons ("+", "-", "0"), or index of a coordinate or singular value; None if it
            belongs to none.
        pair: Number of the pair of outliers that it belongs to; None if it belongs to none.
        basis: Returns its orthonormal eigenvectors as rows (multiplicity, num_parameters).
    """

    value: float
    multiplicity: int
    role: Role
    group: str | None = None
    pair: int | None = None
    basis: Callable[[], Array] | None = None


class Parameter(NamedTuple):
    """Name and shape of one parameter array of the network."""

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
    """Numbers of negative, zero (up to rounding) and positive eigenvalues, with multiplicity."""

    negative: int
    zero: int
    positive: int

    @property
    def critical_point(self) -> CriticalPoint:
        """Type of critical point that the inertia implies where the gradient vanishes.

        A saddle with flat directions is still a saddle.

        References:
            Day 27, section 3, which does not name the case of both signs together with a zero.
        """
        if self.negative and self.positive:
            return "saddle"
        if self.zero:
            return "degenerate"
        return "minimum" if self.positive else "maximum"


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Every eigenvalue of a Hessian with respect to the given parameters, finite and complete; `of` makes it.

    An eigenvector lists the parameters in their order, each array row by row.
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

    @classmethod
    def of(
        cls,
        *,
        kind: str,
        parameters: tuple[Parameter, ...],
        method: Method,
        source: str,
        eigenvalues: tuple[Eigenvalue, ...],
        trace: float,
        statistics: Mapping[str, Statistic],
        notes: tuple[str, ...] = (),
        resolution: float | None = None,
    ) -> "Spectrum":
        """Make a spectrum; arguments are the attributes of the class.

        Eigenvalues are sorted in descending order, those of multiplicity 0 are dropped, and -0.0 becomes 0.0. A note is
        added whenever condition_number is None. A statistic that float64 cannot represent becomes None, with a note.

        Returns:
            The spectrum.

        Raises:
            TheoryError: If the multiplicities do not sum to num_parameters, or an eigenvalue or the trace is NaN or
                infinite.
        """
        entries = [e if e.value else e._replace(value=0.0) for e in eigenvalues if e.multiplicity]
        _refuse_overflow([entry.value for entry in entries], trace)
        multiplicities, num_parameters = [entry.multiplicity for entry in entries], _num_parameters(parameters)
        if sum(multiplicities) != num_parameters or not entries:
            raise TheoryError(f"{sum(multiplicities)} eigenvalues for {num_parameters} parameters")
        if min(multiplicities) < 0:
            raise TheoryError("an eigenvalue has a negative multiplicity")
        entries.sort(key=attrgetter("value"), reverse=True)
        finite, added = _finite_statistics(statistics)
        if (note := _conditioning(entries, resolution).note) and note not in notes:
            added = (*added, note)
        return cls(
            kind=kind,
            parameters=parameters,
            method=method,
            source=source,
            eigenvalues=tuple(entries),
            trace=float(trace) + 0.0,
            statistics=finite,
            notes=(*notes, *added),
            resolution=resolution,
        )

    @property
    def num_parameters(self) -> int:
        """Number of rows of the Hessian."""
        return _num_parameters(self.parameters)

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
        """Condition number with its bounds."""
        return _conditioning(self.eigenvalues, self.resolution)

    @property
    def condition_number(self) -> float | None:
        """max|l| / min|l| to the digits that are known; None if these are too few, with a note."""
        return self.conditioning.value

    @property
    def inertia(self) -> Inertia:
        """Number of eigenvalues of each sign, with multiplicity; zero means |value| <= zero_tolerance(scale)."""
        tolerance = zero_tolerance(self.scale)
        counts = [0, 0, 0]
        for entry in self.eigenvalues:
            counts[(entry.value >= -tolerance) + (entry.value > tolerance)] += entry.multiplicity
        return Inertia(*counts)

    @property
    def critical_point(self) -> CriticalPoint:
        """Type of critical point that the inertia implies where the gradient vanishes."""
        return self.inertia.critical_point

    def num_eigenvectors(self, which: Which) -> int:
        """Number of vectors that `eigenvectors(which)` returns."""
        return sum(entry.multiplicity for entry in self._chosen(which))

    def eigenvectors(self, which: Which) -> Eigenvectors:
        """Orthonormal eigenvectors of the outliers, or of every eigenvalue, which form a complete basis."""
        chosen = self._chosen(which)
        rows = [entry.basis() for entry in chosen if entry.basis is not None]
        return Eigenvectors(
            eigenvalues=np.repeat([entry.value for entry in chosen], [entry.multiplicity for entry in chosen]),
            vectors=np.vstack(rows) if rows else np.empty((0, self.num_parameters)),
        )

    def _chosen(self, which: Which) -> list[Eigenvalue]:
        return [entry for entry in self.eigenvalues if which == "all" or entry.role == "outlier"]

    def dense(self) -> Array:
        """Return all eigenvalues, ascending, repeated by multiplicity: (num_parameters,)."""
        ascending = self.eigenvalues[::-1]
        return np.repeat([entry.value for entry in ascending], [entry.multiplicity for entry in ascending])


def _num_parameters(parameters: tuple[Parameter, ...]) -> int:
    return sum([prod(parameter.shape) for parameter in parameters])


def _conditioning(descending: Sequence[Eigenvalue], resolution: float | None) -> ConditionNumber:
    """The condition number of eigenvalues in descending order."""
    scale = max(abs(descending[0].value), abs(descending[-1].value))
    return condition_number(scale, min([abs(entry.value) for entry in descending]), resolution)


def _refuse_overflow(values: list[float], trace: float) -> None:
    for name, numbers in (("eigenvalue", values), ("trace", [trace])):
        if not isfinite(sum(numbers)) and not all(map(isfinite, numbers)):
            raise TheoryError(f"{name} overflows float64: rescale the weights or the data")


def _finite_statistics(given: Mapping[str, Statistic]) -> tuple[dict[str, Statistic], tuple[str, ...]]:
    """The statistics, with None for what float64 cannot represent, and notes that say so."""
    statistics = dict(given)
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
