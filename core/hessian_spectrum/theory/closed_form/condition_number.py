"""The condition number of a spectrum, to as many digits as the errors of its eigenvalues allow."""

import sys
from math import ceil, inf, log10
from typing import NamedTuple

ZERO_MULTIPLE = 64
"""An eigenvalue is zero up to rounding if |value| <= ZERO_MULTIPLE * eps * scale, scale the largest magnitude."""

ZERO_NOTE = (
    f"condition_number is null: an eigenvalue is at most {ZERO_MULTIPLE} float64 epsilons of the largest magnitude and "
    "counts as zero, since rounding the inputs alone could make it"
)

_LARGEST_DOUBT = 0.5
"""Largest relative error with which a condition number is reported."""


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
