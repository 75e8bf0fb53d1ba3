"""Smoothed density: its formula, its mass, its error bars, and spectra of zero width."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from curvature.algorithms.density import spectral_density
from curvature.errors import InvalidProblemError
from curvature.results import FloatArray, Quadrature


def quadrature(nodes: Sequence[float] | FloatArray, weights: Sequence[float] | None = None) -> Quadrature:
    nodes = np.asarray(nodes, dtype=np.float64)
    weights = np.full(len(nodes), 1 / len(nodes)) if weights is None else np.asarray(weights, dtype=np.float64)
    return Quadrature(nodes, weights)


def test_formula_of_curvlinops() -> None:
    """One number at a time, from papyan2020traces algorithm 2 as curvlinops 3.0.1 writes it."""
    nodes, weights, kappa, num_steps = [-1.0, 0.5, 3.0], [0.2, 0.5, 0.3], 2.5, 7
    density = spectral_density([quadrature(nodes, weights)], num_steps, 11, kappa)
    lower, upper = -1.0 - 0.05 * 4, 3.0 + 0.05 * 4
    c, d = (lower + upper) / 2, (upper - lower) / 2
    sigma = 2 / (num_steps - 1) / math.sqrt(8 * math.log(kappa))
    for k in range(11):
        t = -1 + 2 * k / 10
        expected = sum(
            w / d * math.exp(-((t - (x - c) / d) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
            for x, w in zip(nodes, weights, strict=True)
        )
        assert density.grid[k] == pytest.approx(lower + (upper - lower) * k / 10, abs=1e-14)
        assert density.values[k] == pytest.approx(expected, rel=1e-12)


def test_mass_is_one() -> None:
    rng = np.random.default_rng(0)
    density = spectral_density([quadrature(np.sort(rng.normal(size=60))) for _ in range(3)], 60, 512, 3.0)
    assert np.trapezoid(density.values, density.grid) == pytest.approx(1, abs=1e-6)
    assert (density.values >= 0).all()


def test_larger_kappa_is_sharper() -> None:
    peaks = [spectral_density([quadrature([-1, 0, 1])], 20, 512, kappa).values.max() for kappa in (1.1, 3.0, 30.0)]
    assert peaks == sorted(peaks)
    assert peaks[0] < 0.5 * peaks[2]


def test_standard_error_is_that_of_the_mean_over_probes() -> None:
    probes = [quadrature([-1, 0, 1], weights) for weights in ([0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.4, 0.4, 0.2])]
    density = spectral_density(probes, 9, 33, 3.0)
    single = np.stack([spectral_density([probe], 9, 33, 3.0).values for probe in probes])
    np.testing.assert_allclose(density.values, single.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(density.standard_error, single.std(axis=0, ddof=1) / math.sqrt(3), rtol=1e-10)
    assert spectral_density(probes[:1], 9, 33, 3.0).standard_error is None


@pytest.mark.parametrize("value", [0.0, 2.5, -3.0, 1e-30, -1e30])
@pytest.mark.parametrize("jitter", [0.0, 4e-16])
def test_spectrum_of_one_point(value: float, jitter: float) -> None:
    density = spectral_density([quadrature([value]), quadrature([value * (1 + jitter)])], 10, 401, 3.0)
    assert np.isfinite(density.grid).all()
    assert np.isfinite(density.values).all()
    assert (np.diff(density.grid) > 0).all()
    assert np.trapezoid(density.values, density.grid) == pytest.approx(1, abs=1e-6)
    peak = density.grid[density.values.argmax()]
    assert peak == pytest.approx(value, abs=1e-12 + abs(value) * 1e-12)
    assert density.grid[-1] - density.grid[0] == pytest.approx(1.1 * (abs(value) or 1))


def test_one_step_has_the_width_of_two() -> None:
    one, two = (spectral_density([quadrature([0.0, 1.0])], num_steps, 50, 3.0) for num_steps in (1, 2))
    np.testing.assert_array_equal(one.values, two.values)


@pytest.mark.parametrize(("kappa", "num_points"), [(1.0, 10), (0.5, 10), (math.nan, 10), (math.inf, 10), (3.0, 1)])
def test_bad_options_are_errors(kappa: float, num_points: int) -> None:
    with pytest.raises(InvalidProblemError):
        spectral_density([quadrature([0.0, 1.0])], 5, num_points, kappa)


def test_no_quadrature_is_an_error() -> None:
    with pytest.raises(InvalidProblemError):
        spectral_density([], 5, 10, 3.0)
