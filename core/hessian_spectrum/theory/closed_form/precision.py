"""Inner products and small symmetric eigenproblems with far more digits than float64 has.

Formulas subtract nearly equal moments. Inner products are therefore computed to at least twice the precision of
float64, and the algebra that follows uses decimal arithmetic, so that the error of an eigenvalue is relative to itself
rather than to the largest.
"""

import math
from collections.abc import Sequence
from decimal import Context, Decimal, getcontext, localcontext
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ZERO = Decimal(0)

Number = Any  # Decimal or np.longdouble: the field operations, comparison, and int beside them

Pair = tuple[Array, Array]
Matrix = list[list[Decimal]]

DIGITS = 80
"""Decimal digits of the algebra: an eigenvalue 10^-60 times the largest still keeps 16 of its own."""

HAS_EXTENDED_PRECISION = np.finfo(np.longdouble).nmant >= 63
"""Whether this machine has floating point with 64 bits of mantissa."""

CHUNK = 2**16
"""Number of products that are formed at once, which bounds the memory of `inner_products`."""

_FEW = 512
_LONG = 600
_SPLITTER = 2.0**27 + 1
_MAX_SWEEPS = 40

many_digits = Context(prec=DIGITS)
"""Context of the algebra: `with localcontext(many_digits):`."""


@lru_cache(maxsize=4096)
def _power_of_two(exponent: int) -> Decimal:
    return Decimal(2) ** exponent


def _halves(a: Array) -> tuple[Array, Array]:
    high = _SPLITTER * a
    high -= high - a
    return high, a - high


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Product of a and b, rounded, with its exact error (Veltkamp and Dekker)."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Sum of a and b, rounded, with its exact error (Knuth)."""
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def _few(terms: Array, errors: Array) -> tuple[Array, Array]:
    """Terms and errors of the same sum, reduced pairwise without loss to few enough to add one by one."""
    while terms.size > _FEW:
        half = terms.size // 2
        odd = terms[2 * half :], errors[2 * half :]
        terms, rounding = two_sum(terms[:half], terms[half : 2 * half])
        errors = errors[:half] + errors[half : 2 * half] + rounding
        terms, errors = np.concatenate((terms, odd[0])), np.concatenate((errors, odd[1]))
    return terms, errors


def _sum(terms: Array, errors: Array) -> Decimal:
    """Sum of terms and errors to twice the precision of float64."""
    terms, errors = _few(terms, errors)
    parts = terms.tolist() + errors.tolist()
    high = math.fsum(parts)
    parts.append(-high)
    return Decimal(high) + Decimal(math.fsum(parts))


def _compensated_product(a: Array, b: Array) -> Decimal:
    """<a, b> to about 2^-100 of sum |a_j b_j|."""
    total = ZERO
    (a, a_exponent), (b, b_exponent) = _scaled(a), _scaled(b)
    for start in range(0, a.size, CHUNK):
        chunk = slice(start, start + CHUNK)
        total += _sum(*_two_product(a[chunk], b[chunk]))
    return total * _power_of_two(a_exponent + b_exponent)


def _scaled(vector: Array) -> tuple[Array, int]:
    """The vector times a power of two that makes its largest entry about 1, and the exponent of the inverse factor."""
    exponent = int(np.frexp(np.abs(vector).max())[1])
    return np.ldexp(vector, -exponent), exponent


def _integers(vectors: Sequence[Array]) -> tuple[list[list[int]], int] | None:
    """The vectors as integers times a power of two, with its exponent; None if the integers would be too long."""
    joined = np.concatenate(vectors)
    if joined.size > _FEW:
        return None
    mantissas, exponents = np.frexp(joined)
    lowest = int(exponents.min())
    if int(exponents.max()) - lowest > _LONG:
        return None
    whole = np.ldexp(mantissas, 53).astype(np.int64).tolist()
    numbers = [number << shift for number, shift in zip(whole, (exponents - lowest).tolist(), strict=True)]
    ends = list(accumulate(vector.size for vector in vectors))
    return [numbers[start:end] for start, end in zip([0, *ends], ends, strict=False)], lowest - 53


def inner_products(*pairs: Pair) -> list[Decimal]:
    """<a, b> of each pair of vectors at any scale; to be called under `localcontext(many_digits)`.

    The result is exact for few numbers of similar magnitude, and otherwise accurate to about 2^-100 of sum |a_j b_j|.

    Args:
        *pairs: Pairs of vectors of equal length.

    Returns:
        One inner product for each pair.

    References:
        Ogita, Rump and Oishi, Accurate sum and dot product (2005).
    """
    vectors = {id(vector): vector for pair in pairs for vector in pair}
    exact = _integers(list(vectors.values()))
    if exact is None:
        return [_compensated_product(a, b) for a, b in pairs]
    numbers, unit = dict(zip(vectors, exact[0], strict=True)), _power_of_two(2 * exact[1])
    return [sum(map(mul, numbers[id(a)], numbers[id(b)])) * unit for a, b in pairs]


def exact_decimal(value: Number) -> Decimal:
    """The number converted exactly, also beyond the range of float64."""
    if isinstance(value, Decimal):
        return value
    mantissa, exponent = np.frexp(value)
    high = float(mantissa)
    return (Decimal(high) + Decimal(float(mantissa - np.longdouble(high)))) * _power_of_two(int(exponent))


def extended_float(value: Decimal) -> np.longdouble:
    """The nearest extended-precision number."""
    return np.longdouble(str(value))


def symmetric_eigenpairs(matrix: Matrix) -> tuple[list[Decimal], Matrix]:
    """Eigenvalues and orthonormal eigenvectors of a small symmetric matrix, to about 10^-DIGITS of its scale.

    Cyclic Jacobi rotations, intended for sizes up to about 6; repeated eigenvalues are as accurate as others.

    Args:
        matrix: Symmetric matrix, as n rows of n decimals.

    Returns:
        Eigenvalues (n,), unordered, and n rows, where row i is the eigenvector of value i.
    """
    with localcontext(many_digits):
        size = len(matrix)
        a = [list(row) for row in matrix]
        vectors = [[Decimal(int(i == j)) for j in range(size)] for i in range(size)]
        tolerance = max(abs(entry) for row in a for entry in row).scaleb(4 - getcontext().prec)
        pairs = [(p, q) for p in range(size) for q in range(p + 1, size)]
        for _ in range(_MAX_SWEEPS):
            large = [(p, q) for p, q in pairs if abs(a[p][q]) > tolerance]
            if not large:
                break
            for p, q in large:
                _rotate(a, vectors, p=p, q=q)
        resolution = 1000 * tolerance  # a smaller eigenvalue is rounding alone
        return [a[i][i] if abs(a[i][i]) > resolution else Decimal(0) for i in range(size)], vectors


def _rotate(a: Matrix, vectors: Matrix, *, p: int, q: int) -> None:
    """The rotation of rows and columns p, q that makes a[p][q] vanish."""
    if not a[p][q]:
        return
    cotangent = (a[q][q] - a[p][p]) / (2 * a[p][q])  # of twice the angle
    tangent = 1 / (abs(cotangent) + (cotangent * cotangent + 1).sqrt())
    tangent = tangent.copy_sign(cotangent)
    cosine = 1 / (tangent * tangent + 1).sqrt()
    sine = tangent * cosine
    shift = tangent * a[p][q]
    a[p][p] -= shift
    a[q][q] += shift
    a[p][q] = a[q][p] = Decimal(0)
    for k in range(len(a)):
        if k not in (p, q):
            a[p][k], a[q][k] = cosine * a[p][k] - sine * a[q][k], sine * a[p][k] + cosine * a[q][k]
            a[k][p], a[k][q] = a[p][k], a[q][k]
        vectors[p][k], vectors[q][k] = (
            cosine * vectors[p][k] - sine * vectors[q][k],
            sine * vectors[p][k] + cosine * vectors[q][k],
        )
