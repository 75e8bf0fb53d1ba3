"""Lengths of axes, which may depend on the number of samples, and arithmetic that is exact for every number of them."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Self

from hessian_spectrum.programs.program import ProgramError

MAX_DEGREE = 4
"""Highest power of the number of samples in a length."""

_LIMIT = 2**63


class UnknownLengthError(ProgramError):
    """A length or a comparison that cannot be written for every number of samples."""


@dataclass(frozen=True)
class Length:
    """A whole number that depends on the number of samples n >= 1: c0 + c1 n + c2 n^2 + ...

    Attributes:
        coefficients: c0, c1, ..., of which the last one is not 0; there are at least two.
    """

    coefficients: tuple[int, ...]

    def at(self, num_samples: int) -> int:
        """Return the number for this many samples."""
        return sum(each * num_samples**power for power, each in enumerate(self.coefficients))

    def __add__(self, other: "Dimension") -> "Dimension":
        pairs = zip_longest(self.coefficients, _coefficients(other), fillvalue=0)
        return _dimension([one + another for one, another in pairs])

    def __neg__(self) -> "Dimension":
        return _dimension([-each for each in self.coefficients])

    def __sub__(self, other: "Dimension") -> "Dimension":
        return self + (-other)

    def __rsub__(self, other: int) -> "Dimension":
        return -self + other

    def __mul__(self, other: "Dimension") -> "Dimension":
        factors = _coefficients(other)
        product = [0] * (len(self.coefficients) + len(factors) - 1)
        for power, one in enumerate(self.coefficients):
            for further, another in enumerate(factors):
                product[power + further] += one * another
        return _dimension(product)

    def __floordiv__(self, other: "Dimension") -> "Dimension":
        """Divide; raise `UnknownLengthError` if there is a remainder for some number of samples."""
        return _quotient(list(self.coefficients), list(_coefficients(other)))

    def __rfloordiv__(self, other: int) -> "Dimension":
        if other == 0:
            return 0
        raise UnknownLengthError("it divides a length by the number of samples")

    __radd__ = __add__
    __rmul__ = __mul__

    def __hash__(self) -> int:
        return hash(self.coefficients)

    def __bool__(self) -> bool:
        raise UnknownLengthError("what it computes depends on the number of samples")

    @classmethod
    def of_samples(cls) -> Self:
        """Return the number of samples itself."""
        return cls((0, 1))


Dimension = int | Length
Shape = tuple[Dimension, ...]


def _coefficients(value: Dimension) -> tuple[int, ...]:
    return value.coefficients if isinstance(value, Length) else (int(value),)


def _dimension(coefficients: list[int]) -> Dimension:
    while coefficients and coefficients[-1] == 0:
        coefficients.pop()
    if len(coefficients) > MAX_DEGREE + 1 or any(abs(each) >= _LIMIT for each in coefficients):
        raise ProgramError("it computes with lengths that are too large")
    if len(coefficients) <= 1:
        return coefficients[0] if coefficients else 0
    return Length(tuple(coefficients))


def _quotient(dividend: list[int], divisor: list[int]) -> Dimension:
    if not any(divisor):
        raise ProgramError("it divides a length by 0")
    quotient = [0] * max(1, len(dividend) - len(divisor) + 1)
    for power in range(len(dividend) - len(divisor), -1, -1):
        factor, remainder = divmod(dividend[power + len(divisor) - 1], divisor[-1])
        if remainder:
            break
        quotient[power] = factor
        for index, each in enumerate(divisor):
            dividend[power + index] -= factor * each
    if any(dividend):
        raise UnknownLengthError("it divides a length that depends on the number of samples, with a remainder")
    return _dimension(quotient)


def sign(value: Any) -> int:
    """Return 1, 0 or -1 if the value is positive, 0 or negative for every number of samples.

    Raises:
        UnknownLengthError: If the sign depends on the number of samples, or cannot be determined.
    """
    if not isinstance(value, Length):
        return int(value > 0) - int(value < 0)
    shifted = _at_one_more(value.coefficients)  # n = m + 1, where m >= 0
    if shifted[0] > 0 and all(each >= 0 for each in shifted):
        return 1
    if shifted[0] < 0 and all(each <= 0 for each in shifted):
        return -1
    raise UnknownLengthError("what it computes depends on the number of samples")


def is_at_most(value: Any, bound: Any) -> bool:
    """Return whether a value is known to be at most the bound for every number of samples."""
    difference = bound - value
    if isinstance(difference, Length):
        return all(each >= 0 for each in _at_one_more(difference.coefficients))
    return bool(difference >= 0)


def _at_one_more(coefficients: tuple[int, ...]) -> list[int]:
    """Coefficients in m of the polynomial at n = m + 1, by Horner's scheme."""
    shifted = [0]
    for each in reversed(coefficients):
        times = [0, *shifted]
        shifted = [one + another for one, another in zip(times, [*shifted, 0], strict=True)]
        shifted[0] += each
    return shifted


def product(shape: Shape) -> Dimension:
    """Return the number of entries of an array."""
    total: Dimension = 1
    for length in shape:
        total = total * length
    if not isinstance(total, Length) and total >= _LIMIT:
        raise ProgramError("it has an array of an impossible shape")
    return total


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape of the result when arrays of these shapes are combined entry by entry.

    Raises:
        ProgramError: If the shapes cannot be combined.
    """
    rank = max(map(len, shapes), default=0)
    result: list[Dimension] = [1] * rank
    for shape in shapes:
        for axis, length in enumerate(shape, start=rank - len(shape)):
            if result[axis] == 1:
                result[axis] = length
            elif length not in (1, result[axis]):
                raise ProgramError(f"arrays of shapes {described(shapes[0])} and {described(shape)} cannot be combined")
    return tuple(result)


def described(shape: Shape) -> str:
    """Return a shape as text, with `n` for an axis that depends on the number of samples."""
    return "(" + ", ".join("n" if isinstance(length, Length) else str(length) for length in shape[:16]) + ")"
