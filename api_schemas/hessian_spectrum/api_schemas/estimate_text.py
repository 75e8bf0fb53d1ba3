"""Numbers with their errors, as text for pictures and command-line programs."""

import math

from hessian_spectrum.api_schemas.spectrum_results import Estimate, RitzValue

_SYMMETRIC = 0.1
"""Largest offset of an interval from its number, as a share of its half width, that is still written with ±."""

_MOST_DIGITS = 5
"""Significant digits of a number whose error is smaller than its last shown digit."""


def with_error(value: float, error: float | None) -> str:
    """The number up to the last digit of its error, with at most five digits: `9.6 ± 1.2`, `29.149 ± 3e-05`."""
    if not error or not math.isfinite(error):
        return _digits(value, _MOST_DIGITS)
    num_error_digits = 2 if f"{error:.1e}"[0] in "12" else 1  # one digit would be off by a fifth or more
    shown = _digits(error, num_error_digits)
    last = _exponent(error, num_error_digits) - num_error_digits + 1
    if value == 0:
        return f"{value:.{min(_MOST_DIGITS, max(0, -last))}f} ± {shown}"
    num_digits = min(_MOST_DIGITS, max(1, _exponent(value, _MOST_DIGITS) - last + 1))
    num_digits += _exponent(value, num_digits) - _exponent(value, _MOST_DIGITS)  # as in 9.99 ± 0.1: 10.0
    return f"{_digits(value, num_digits)} ± {shown}"


def estimated(number: Estimate | RitzValue) -> str:
    """The number with its 95 % interval; if it has none, with its standard error or residual."""
    lower, upper = number.lower, number.upper
    if lower is None or upper is None:
        return with_error(number.value, _known_error(number))
    half = (upper - lower) / 2
    if abs((upper + lower) / 2 - number.value) <= _SYMMETRIC * half:
        return with_error(number.value, half)
    digits = [with_error(each, half).partition(" ")[0] for each in (number.value, lower, upper)]
    return "{} ({} to {})".format(*digits)


def error_bar(number: Estimate | RitzValue) -> tuple[float, float]:
    """Lengths of the error bar below and above the number.

    Args:
        number: Value with its interval, standard error or residual.

    Returns:
        Lengths down and up, in the unit of the number; 0 if nothing is known of the error.
    """
    if number.lower is None or number.upper is None:
        error = _known_error(number) or 0.0
        return error, error
    return max(0.0, number.value - number.lower), max(0.0, number.upper - number.value)


def meaning_of_error(number: Estimate | RitzValue) -> str:
    """Name of the kind of error that `estimated` and `error_bar` show."""
    if number.lower is not None and number.upper is not None:
        return "95 % interval" if number.lower < number.upper else "exact but for rounding"
    error = _known_error(number)
    if error is None:
        return "error not known"
    return "exact but for rounding" if not error else "standard error" if isinstance(number, Estimate) else "residual"


def _known_error(number: Estimate | RitzValue) -> float | None:
    return number.standard_error if isinstance(number, Estimate) else number.residual


def _exponent(number: float, num_digits: int) -> int:
    """Power of ten of the first digit, after rounding to num_digits significant digits."""
    return int(f"{number:.{num_digits - 1}e}".partition("e")[2])


def _digits(number: float, num_digits: int) -> str:
    """The number with num_digits significant digits, including trailing zeros."""
    exponent = _exponent(number, num_digits)
    if -5 < exponent < 6:
        num_decimals = num_digits - 1 - exponent
        return f"{round(number, num_decimals):.{max(0, num_decimals)}f}"
    return f"{number:.{num_digits - 1}e}"
