"""Oracles: the equation R(G) + 1/G = z, closed forms, quadrature of the density, and the algebra of free sums."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hessian_spectrum.theory.exceptions import TheoryError
from hessian_spectrum.theory.random_matrix.ensembles import RATIOS, SCALES, wigner_law, wishart_law
from hessian_spectrum.theory.random_matrix.hessian import hessian_law
from hessian_spectrum.theory.random_matrix.law import FreeLaw, Interval
from tests.fixtures.longer import examples


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log10(low), math.log10(high)).map(lambda x: min(max(10**x, low), high))


VARIANCES, WIDE_RATIOS = powers(1e-12, 1e12), powers(*RATIOS)
SINGLE_LAWS = st.one_of(
    st.builds(wigner_law, VARIANCES),
    st.builds(wishart_law, VARIANCES, WIDE_RATIOS),
    st.builds(hessian_law, st.sampled_from(["linear", "relu"]), st.one_of(st.just(0.0), VARIANCES), WIDE_RATIOS),
)
ANY_LAW = st.one_of(SINGLE_LAWS, st.builds(lambda first, second: first + second, SINGLE_LAWS, SINGLE_LAWS))


def scale_of(law: FreeLaw) -> float:
    return math.sqrt(law.moments[1])


Nodes = tuple[NDArray[np.float64], NDArray[np.float64]]
LEGENDRE = np.polynomial.legendre.leggauss(200)


def from_edge_to_edge(interval: Interval, num_nodes: int = 4000) -> Nodes:
    """Points and weights for a density with a root, or an inverse root, at both ends: midpoints of the angle."""
    half, angles = (interval.high - interval.low) / 2, (np.arange(num_nodes) + 0.5) * math.pi / num_nodes
    return interval.low + 2 * half * np.sin(angles / 2) ** 2, half * np.sin(angles) * math.pi / num_nodes


def from_edge_to_point(low: float, high: float) -> Nodes:
    """Points and weights for a density with a root, or an inverse root, at the lower end."""
    roots = (LEGENDRE[0] + 1) / 2
    return low + (high - low) * roots**2, LEGENDRE[1] * (high - low) * roots


@settings(deadline=None, max_examples=examples(150))
@given(ANY_LAW)
def test_masses_add_up_and_edges_are_in_order(law: FreeLaw) -> None:
    assert math.fsum(interval.mass for interval in law.support) + law.atom_at_zero == pytest.approx(1, abs=1e-10)
    edges = [edge for interval in law.support for edge in (interval.low, interval.high)]
    assert edges == sorted(edges)
    below = math.fsum(interval.mass for interval in law.support if interval.high <= 0)
    above = math.fsum(interval.mass for interval in law.support if interval.low >= 0) + law.atom_at_zero
    assert below - 1e-10 <= law.index <= 1 - above + 1e-10


@settings(deadline=None, max_examples=examples(100))
@given(ANY_LAW, st.integers(2, 400))
def test_density_and_mass_on_the_grid(law: FreeLaw, num_points: int) -> None:
    grid = law.grid(num_points)
    density, mass = law.density_and_mass(grid)
    assert len(grid) == num_points
    assert (np.diff(grid) >= 0).all()
    assert (grid[0], grid[-1]) == pytest.approx((law.support[0].low, law.support[-1].high))
    assert (density >= 0).all()
    assert (np.isfinite(density) | (grid == 0)).all()
    assert (np.diff(mass) >= -1e-12).all()
    assert mass[-1] == pytest.approx(1, abs=1e-10)
    outside = [2 * law.support[0].low - law.support[-1].high, 2 * law.support[-1].high - law.support[0].low]
    np.testing.assert_array_equal(law.density(outside), [0, 0])


@settings(deadline=None, max_examples=examples(100))
@given(ANY_LAW, st.lists(st.tuples(st.floats(-6, 3), st.floats(-math.pi, math.pi)), min_size=1, max_size=20))
def test_the_stieltjes_transform_solves_the_equation(law: FreeLaw, polar: list[tuple[float, float]]) -> None:
    z = np.array([scale_of(law) * 10**size * np.exp(1j * angle) for size, angle in polar])
    g = law.stieltjes(z)
    terms = [law.semicircle_variance * abs(g)]
    terms += [rate * abs(jump / (1 - jump * g)) for rate, jump in zip(law.rates, law.jumps, strict=True)]
    assert (np.abs(law.r_transform(g) + 1 / g - z) <= 1e-13 * (abs(z) + abs(1 / g) + sum(terms))).all()
    assert (np.sign(g.imag) == -np.sign(z.imag))[(z.imag != 0) & (g.imag != 0)].all()


def test_density_integrates_to_masses_and_moments(law: FreeLaw) -> None:
    moments = np.zeros(5)
    for interval in law.support:
        points, weights = from_edge_to_edge(interval)
        weighted = weights * law.density(points)
        assert weighted.sum() == pytest.approx(interval.mass, abs=1e-9)
        moments += [np.sum(weighted * points**power) for power in range(5)]
    moments[0] += law.atom_at_zero
    np.testing.assert_allclose(moments, [1, *law.moments], rtol=1e-9, atol=1e-9 * scale_of(law))


def test_mass_is_the_integral_of_the_density(law: FreeLaw) -> None:
    for interval in law.support:
        below = law.cumulative([interval.low])[0]
        for fraction in (0.1, 0.5, 0.95):
            place = interval.low + fraction * (interval.high - interval.low)
            points, weights = from_edge_to_point(interval.low, place)
            expected = below + np.sum(weights * law.density(points))
            assert law.cumulative([place])[0] == pytest.approx(expected, abs=1e-6)


def test_index_is_the_mass_below_zero(law: FreeLaw) -> None:
    assert law.index == pytest.approx(law.cumulative([0.0])[0] - law.atom_at_zero, abs=1e-13)


@settings(deadline=None)
@given(VARIANCES)
def test_semicircle(variance: float) -> None:
    law, edge = wigner_law(variance), 2 * math.sqrt(variance)
    points = edge * np.linspace(-1, 1, 101)
    expected = np.sqrt(np.maximum(edge**2 - points**2, 0)) / (2 * math.pi * variance)
    np.testing.assert_allclose(law.density(points), expected, rtol=0, atol=1e-7 * expected.max())
    np.testing.assert_allclose(law.density(points[1:-1]), expected[1:-1], rtol=1e-12)
    z = edge * np.array([2.0, -1.5, 0.3 + 0.2j, 1 - 2j])
    root = np.sqrt(z - edge) * np.sqrt(z + edge)
    np.testing.assert_allclose(law.stieltjes(z), (z - root) / (2 * variance), rtol=1e-13)
    assert law.index == pytest.approx(0.5, abs=1e-15)
    np.testing.assert_allclose(law.moments, [0, variance, 0, 2 * variance**2], rtol=1e-14)


@settings(deadline=None)
@given(VARIANCES, powers(1e-3, 1e3))
def test_marchenko_pastur(variance: float, ratio: float) -> None:
    law, root = wishart_law(variance, ratio), math.sqrt(ratio)
    low, high = variance * (1 - root) ** 2, variance * (1 + root) ** 2
    (interval,) = law.support
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-12, abs=1e-15 * high)
    assert law.atom_at_zero == pytest.approx(max(0.0, 1 - 1 / ratio), abs=1e-15)
    points = low + (high - low) * np.linspace(0.02, 0.98, 49)
    expected = np.sqrt((high - points) * (points - low)) / (2 * math.pi * points * variance * ratio)
    np.testing.assert_allclose(law.density(points), expected, rtol=1e-10)
    assert law.index == 0


@pytest.mark.parametrize("distance", [1e-3, 1e-9, 1e-18])
def test_the_hard_edge_keeps_its_digits(distance: float) -> None:
    expected = math.sqrt(4 - distance) / (2 * math.pi * math.sqrt(distance))
    law = wishart_law(1.0, 1.0)
    assert law.support[0].low == 0
    assert law.diverges_at_zero
    assert law.density([distance])[0] == pytest.approx(expected, rel=1e-12)
    assert law.density([0.0])[0] == math.inf


@settings(deadline=None)
@given(SINGLE_LAWS, SINGLE_LAWS)
def test_free_sums_commute_and_transforms_add(first: FreeLaw, second: FreeLaw) -> None:
    total = first + second
    assert total == second + first
    z = np.array([0.3 + 0.4j, -2 + 1j]) / scale_of(total)
    expected = first.r_transform(z) + second.r_transform(z)
    size = np.abs(first.r_transform(z)) + np.abs(second.r_transform(z))
    assert (np.abs(total.r_transform(z) - expected) <= 1e-10 * size).all()


def test_sums_that_are_known_by_another_name() -> None:
    assert wigner_law(0.25) + wigner_law(0.5) == wigner_law(0.75)
    assert wishart_law(1.0, 0.5) + wigner_law(0.6) == hessian_law("linear", 0.3, 0.5)
    doubled = wishart_law(1.0, 0.5) + wishart_law(1.0, 0.5)
    np.testing.assert_allclose(doubled.density([1.0, 2.0]), wishart_law(2.0, 0.25).density([1.0, 2.0]), rtol=1e-12)


def test_relu_is_the_printed_r_transform() -> None:
    energy, ratio = 0.34, 0.379
    z = np.array([0.3 + 0.4j, -2 + 1j, 0.1 - 3j])
    printed = 1 / (1 - ratio * z) + energy * ratio * z / (2 - energy * ratio**2 * z**2)
    np.testing.assert_allclose(hessian_law("relu", energy, ratio).r_transform(z), printed, rtol=1e-13)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: wigner_law(-1.0), "variance"),
        (lambda: wigner_law(0.0), "variance"),
        (lambda: wigner_law(SCALES[1] * 2), "variance"),
        (lambda: wigner_law(math.nan), "variance"),
        (lambda: wishart_law(1.0, 0.0), "ratio"),
        (lambda: hessian_law("linear", -0.1, 0.5), "energy"),
        (lambda: hessian_law("relu", math.inf, 0.5), "energy"),
        (lambda: hessian_law("relu", 0.1, -0.5), "ratio"),
        (lambda: FreeLaw.of(0.0, (1.0,), ()), "rates"),
        (lambda: FreeLaw.of(0.0), None),
        (lambda: FreeLaw.of(1.0, (-1.0,), (1.0,)), None),
        (lambda: FreeLaw.of(math.nan), None),
    ],
)
def test_what_is_no_law_is_refused(build: object, field: str | None) -> None:
    with pytest.raises(TheoryError) as caught:
        build()  # type: ignore[operator]
    assert caught.value.field == field
