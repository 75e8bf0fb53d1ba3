"""Inner products and small symmetric eigenproblems to far more digits than float64 holds.

Formulas subtract nearly equal moments. Inner products are therefore formed to at least twice the precision of float64
and the algebra that follows runs in decimal arithmetic, so that an eigenvalue is right relative to itself, not to the
largest.
"""

import math
from collections.abc import Sequence
from decimal import Context, Decimal, getcontext, localcontext
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[Array, Array]
Matrix = list[list[Decimal]]

DIGITS = 80
"""Decimal digits of the algebra: an eigenvalue 10^-60 times the largest still keeps 16 of its own."""

CHUNK = 2**16
"""Products that are formed at once: bounds the memory of `inner_products`."""

_FEW = 512
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
    """a b as rounded product and its exact error (Veltkamp and Dekker)."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b as rounded sum and its exact error (Knuth)."""
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def _few(terms: Array, errors: Array) -> tuple[Array, Array]:
    """As many terms and errors of the same sum as are quickly added one by one: pairwise, nothing is lost."""
    while terms.size > _FEW:
        half = terms.size // 2
        odd = terms[2 * half :], errors[2 * half :]
        terms, rounding = two_sum(terms[:half], terms[half : 2 * half])
        errors = errors[:half] + errors[half : 2 * half] + rounding
        terms, errors = np.concatenate((terms, odd[0])), np.concatenate((errors, odd[1]))
    return terms, errors


def _sum(parts: list[float]) -> Decimal:
    """Sum to three times the precision of float64."""
    high = math.fsum(parts)
    parts.append(-high)
    middle = math.fsum(parts)
    parts.append(-middle)
    return Decimal(high) + Decimal(middle) + Decimal(math.fsum(parts))


def _sums(terms: Array, errors: Array, ends: list[int]) -> list[Decimal]:
    if terms.size > _FEW:
        pieces = zip(np.split(terms, ends[:-1]), np.split(errors, ends[:-1]), strict=True)
        few = [_few(*piece) for piece in pieces]
        return [_sum(left.tolist() + right.tolist()) for left, right in few]
    left, right = terms.tolist(), errors.tolist()
    return [_sum(left[start:end] + right[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _scaled(vectors: Sequence[Array], starts: Sequence[int]) -> tuple[Array, list[int]]:
    """The vectors one after the other, each times a power of two that makes its largest entry about 1."""
    joined = np.concatenate(vectors)
    exponents = np.frexp(np.maximum.reduceat(np.abs(joined), starts))[1]
    return np.ldexp(joined, np.repeat(-exponents, [vector.size for vector in vectors])), exponents.tolist()


def _chunks(a: Array, b: Array) -> list[Pair]:
    return [(a[start : start + CHUNK], b[start : start + CHUNK]) for start in range(0, a.size, CHUNK)]


def inner_products(*pairs: Pair) -> list[Decimal]:
    """sum_j a_j b_j of each pair of vectors, whatever their scale; to be called under `localcontext(many_digits)`.

    The error is about 2^-155 sum_j |a_j b_j| up to a length of 512, 2^-100 beyond.

    Source:  Ogita, Rump and Oishi, Accurate sum and dot product (2005).
    """
    sizes = [a.size for a, _ in pairs]
    if sum(sizes) > CHUNK:
        return [sum((inner_products(chunk)[0] for chunk in _chunks(a, b)), Decimal(0)) for a, b in pairs]
    ends = list(accumulate(sizes))
    starts = [0, *ends[:-1]]
    a, a_exponents = _scaled([pair[0] for pair in pairs], starts)
    b, b_exponents = _scaled([pair[1] for pair in pairs], starts)
    sums = _sums(*_two_product(a, b), ends)
    return [
        total * _power_of_two(exponent + other)
        for total, exponent, other in zip(sums, a_exponents, b_exponents, strict=True)
    ]


def extended_decimal(value: np.longdouble) -> Decimal:
    """An extended-precision number without loss, beyond the range of float64 too."""
    mantissa, exponent = np.frexp(value)
    high = float(mantissa)
    return (Decimal(high) + Decimal(float(mantissa - np.longdouble(high)))) * _power_of_two(int(exponent))


def extended_float(value: Decimal) -> np.longdouble:
    """The nearest extended-precision number."""
    return np.longdouble(str(value))


def symmetric_eigenpairs(matrix: Matrix) -> tuple[list[Decimal], Matrix]:
    """Eigenvalues and orthonormal eigenvectors of a small symmetric matrix, to about 10^-DIGITS of its scale.

    Cyclic Jacobi rotations, meant for sizes up to about 6. Repeated eigenvalues lose nothing.

    Returns:  values (n,), unordered, and rows (n, n), row i the vector of value i.
    """
    with localcontext(many_digits):
        size = len(matrix)
        a = [list(row) for row in matrix]
        vectors = [[Decimal(int(i == j)) for j in range(size)] for i in range(size)]
        tolerance = max(abs(entry) for row in a for entry in row).scaleb(4 - getcontext().prec)
        pairs = [(p, q) for p in range(size) for q in range(p + 1, size)]
        for _ in range(_MAX_SWEEPS):
            wanted = [(p, q) for p, q in pairs if abs(a[p][q]) > tolerance]
            if not wanted:
                break
            for p, q in wanted:
                _rotate(a, vectors, p, q)
        resolution = 1000 * tolerance  # below it an eigenvalue is rounding alone
        return [a[i][i] if abs(a[i][i]) > resolution else Decimal(0) for i in range(size)], vectors


def _rotate(a: Matrix, vectors: Matrix, p: int, q: int) -> None:
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
