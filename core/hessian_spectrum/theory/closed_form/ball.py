"""Ball arithmetic: numbers together with bounds on their errors."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from math import factorial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.precision import DIGITS, Number, exact_decimal, extended_float, many_digits

Numbers = NDArray[Any]  # of np.longdouble, or of Decimal as objects

_GUARD_DIGITS = 4
"""Additional decimal digits that absorb the roundings inside the exponential function."""


@dataclass(frozen=True)
class Ball:
    """Numbers that are known to within a radius; operations propagate errors and add their own."""

    value: Any
    radius: Any
    unit: Number

    def __add__(self, other: "Ball") -> "Ball":
        total = self.value + other.value
        return Ball(total, self.radius + other.radius + self.unit * abs(total), self.unit)

    def __sub__(self, other: "Ball") -> "Ball":
        return self + Ball(-other.value, other.radius, self.unit)

    def __mul__(self, other: "Ball") -> "Ball":
        product = self.value * other.value
        radius = abs(self.value) * other.radius + (abs(other.value) + other.radius) * self.radius
        return Ball(product, radius + self.unit * abs(product), self.unit)

    def mean(self) -> "Ball":
        """The mean over all entries."""
        values, count = self.value.ravel(), self.value.size
        rounding = self.unit * _roundings_of_a_sum(count) * np.sum(np.abs(values))
        return Ball(np.sum(values) / count, (np.sum(self.radius) + rounding) / count, self.unit)

    def decimals(self) -> tuple[Decimal, Decimal]:
        """A single number and its radius, converted exactly."""
        return exact_decimal(self.value), exact_decimal(self.radius)


def _roundings_of_a_sum(count: int) -> int:
    """Error of a sum of so many terms, in units of the sum of their magnitudes, for independent rounding errors."""
    return 4 + int(count**0.5)


class Arithmetic(NamedTuple):
    """Floating-point arithmetic of one kind on arrays."""

    unit: Number  # relative error of one operation, at most
    array: Callable[[NDArray[np.float64]], Numbers]  # float64 numbers without loss
    number: Callable[[Decimal | float], Number]  # the nearest one
    exp: Callable[[Numbers], Numbers]  # of numbers that are at most 0

    def exact(self, values: Numbers | Number) -> "Ball":
        """A ball of radius 0."""
        return Ball(values, 0 * values, self.unit)

    def ball(self, values: Numbers, radius: Numbers) -> "Ball":
        """A ball of the given radius."""
        return Ball(values, radius, self.unit)


_LARGEST_EXPONENT = 100_000  # below exp(-100,000) there is nothing that a spectrum in float64 could show
_HALVINGS = 8
_LN_10 = Decimal(
    "2.302585092994045684017991454684364207601101488628772976033327900967572609677352480235997205089598298342"
)
_NUM_TERMS = 28  # (ln(10) / 2 / 2^8)^28 / 28! is below 10^-90


def _exponential(value: Decimal) -> Decimal:
    """exp(value), value <= 0: ten times faster than the correctly rounded method of Decimal."""
    if value < -_LARGEST_EXPONENT:
        return Decimal(0)
    power = (value / _LN_10).to_integral_value()
    rest = (value - power * _LN_10) / 2**_HALVINGS
    result = Decimal(0)
    for coefficient in _inverse_factorials():
        result = result * rest + coefficient
    for _ in range(_HALVINGS):
        result *= result
    return result.scaleb(int(power))


@cache
def _inverse_factorials() -> list[Decimal]:
    """1 / k! for k < _NUM_TERMS, descending."""
    with localcontext(many_digits):
        return [1 / Decimal(factorial(k)) for k in reversed(range(_NUM_TERMS))]


def _decimal_array(values: NDArray[np.float64]) -> Numbers:
    return _objects(values.shape, map(Decimal, values.ravel().tolist()))


def _decimal_exponentials(values: Numbers) -> Numbers:
    return _objects(values.shape, map(_exponential, values.ravel()))


def _objects(shape: tuple[int, ...], entries: Iterable[Decimal]) -> Numbers:
    return np.array(list(entries), dtype=object).reshape(shape)


EXTENDED = Arithmetic(
    unit=np.finfo(np.longdouble).eps / 2,
    array=lambda values: values.astype(np.longdouble),
    number=lambda value: extended_float(value) if isinstance(value, Decimal) else np.longdouble(value),
    exp=np.exp,
)
"""The widest floating-point numbers of the processor."""

DECIMAL = Arithmetic(
    unit=Decimal(10) ** (_GUARD_DIGITS - DIGITS),
    array=_decimal_array,
    number=Decimal,
    exp=_decimal_exponentials,
)
"""Decimal numbers, to be used under `localcontext(many_digits)`."""
