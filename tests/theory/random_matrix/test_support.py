"""Oracle: the real zeros of the discriminant of the polynomial for u = 1/G, in 60 digits."""

from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import pytest

from hessian_spectrum.theory.random_matrix.boundary import Boundary
from hessian_spectrum.theory.random_matrix.hessian import hessian_law
from hessian_spectrum.theory.random_matrix.law import FreeLaw
from hessian_spectrum.theory.random_matrix.support import edges

DIGITS = 60


def product(first: list[Any], second: list[Any]) -> list[Any]:
    found = [mp.mpf(0)] * (len(first) + len(second) - 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            found[i + j] += a * b
    return found


def total(*polynomials: list[Any]) -> list[Any]:
    size = max(map(len, polynomials))
    return [sum(column) for column in zip(*([mp.mpf(0)] * (size - len(p)) + p for p in polynomials), strict=True)]


def polynomial(law: FreeLaw, eigenvalue: Any) -> list[Any]:
    """Coefficients, highest first, of (z(u) - eigenvalue) times its denominators."""
    poles = [[mp.mpf(1), -mp.mpf(jump)] for jump in law.jumps]
    denominator, parts = [mp.mpf(1)], []
    for pole in poles:
        denominator = product(denominator, pole)
    for k, (rate, jump) in enumerate(zip(law.rates, law.jumps, strict=True)):
        part = [mp.mpf(rate) * mp.mpf(jump), mp.mpf(0)]
        for j, pole in enumerate(poles):
            part = product(part, pole) if j != k else part
        parts.append(part)
    whole = total(product([mp.mpf(1), -eigenvalue], denominator), *parts)
    if not law.semicircle_variance:
        return whole
    return total(product(whole, [mp.mpf(1), mp.mpf(0)]), [mp.mpf(law.semicircle_variance) * c for c in denominator])


def discriminant(law: FreeLaw, eigenvalue: Any) -> Any:
    roots = mp.polyroots(polynomial(law, eigenvalue), maxsteps=500, extraprec=400)
    return mp.fprod((a - b) ** 2 for i, a in enumerate(roots) for b in roots[:i])


def real_zeros(law: FreeLaw) -> list[float]:
    """Real zeros of the discriminant, a polynomial in the eigenvalue of degree 2 (degree of u) - 2 at most."""
    degree = 2 * (len(law.jumps) + (law.semicircle_variance > 0) + 1)
    spread = mp.mpf(law.support[-1].high - law.support[0].low)
    nodes = [spread * mp.cos(mp.pi * (k + mp.mpf("0.5")) / (degree + 1)) for k in range(degree + 1)]
    matrix = mp.matrix(degree + 1, degree + 1)
    for i, node in enumerate(nodes):
        for j in range(degree + 1):
            matrix[i, j] = node ** (degree - j)
    values = mp.matrix([mp.re(discriminant(law, node)) for node in nodes])
    coefficients = list(mp.lu_solve(matrix, values))
    largest = max(abs(c) for c in coefficients)
    while abs(coefficients[0]) < mp.mpf(10) ** -30 * largest:
        coefficients.pop(0)
    zeros = mp.polyroots(coefficients, maxsteps=1000, extraprec=400, error=False)
    return sorted(float(mp.re(zero)) for zero in zeros if abs(mp.im(zero)) < mp.mpf(10) ** -12 * spread)


def test_edges_are_the_zeros_at_which_the_density_ends(law: FreeLaw) -> None:
    with mp.workdps(DIGITS):
        zeros = real_zeros(law)
    spread = law.support[-1].high - law.support[0].low
    found = [edge for interval in law.support for edge in (interval.low, interval.high)]
    for edge in found:
        assert min(abs(edge - zero) for zero in zeros) <= 1e-10 * spread
    between = [2 * zeros[0] - zeros[-1], *((a + b) / 2 for a, b in pairwise(zeros)), 2 * zeros[-1] - zeros[0]]
    positive = law.density(between) > 0
    ends = [zero for zero, left, right in zip(zeros, positive, positive[1:], strict=False) if left != right]
    np.testing.assert_allclose(ends, found, rtol=0, atol=1e-10 * spread)


@pytest.mark.parametrize(("activation", "high"), [("linear", 1e3), ("relu", 0.5)])
def test_a_gap_closes_where_two_edges_meet(activation: Any, high: float) -> None:
    """The atom of H0 at 0 spreads with the energy until it reaches the rest of the law."""

    def num_intervals(energy: float) -> int:
        return len(hessian_law(activation, energy, 1.5).support)

    low = 1e-4
    assert num_intervals(low) > num_intervals(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if num_intervals(middle) == num_intervals(1e-4) else (low, middle)
    before, after = hessian_law(activation, low, 1.5).support, hessian_law(activation, high, 1.5).support
    gaps = [second.low - first.high for first, second in pairwise(before)]
    assert min(gaps) <= 1e-10 * (after[-1].high - after[0].low)
    assert (after[0].low, after[-1].high) == pytest.approx((before[0].low, before[-1].high), rel=1e-12)


def test_edges_of_a_semicircle() -> None:
    one = np.array([1.0])
    np.testing.assert_allclose(edges(Boundary(4 * one, np.empty((0, 1)), np.empty((0, 1)))), [-2, 2], rtol=1e-15)
