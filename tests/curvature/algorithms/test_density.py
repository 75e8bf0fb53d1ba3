"""Smoothed densities and cumulative spectrum: formulas, mass, spectra of zero width, and what loads them."""

import math
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from hessian_spectrum.quadrature.curves import cumulative_spectrum, log_spectral_density, spectral_density
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.quadrature.results import FloatArray, Quadrature


def quadrature(nodes: Sequence[float] | FloatArray, weights: Sequence[float] | None = None) -> Quadrature:
    nodes = np.asarray(nodes, dtype=np.float64)
    weights = np.full(len(nodes), 1 / len(nodes)) if weights is None else np.asarray(weights, dtype=np.float64)
    return Quadrature(nodes, weights)


def test_formula_of_curvlinops() -> None:
    """One number at a time, from papyan2020traces algorithm 2 as curvlinops 3.0.1 writes it."""
    nodes, weights, kappa, num_steps = [-1.0, 0.5, 3.0], [0.2, 0.5, 0.3], 2.5, 7
    density = spectral_density([quadrature(nodes, weights)], dim=9, num_steps=num_steps, num_points=11, kappa=kappa)
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
    density = spectral_density(
        [quadrature(np.sort(rng.normal(size=60))) for _ in range(3)], dim=99, num_steps=60, num_points=512, kappa=3.0
    )
    assert np.trapezoid(density.values, density.grid) == pytest.approx(1, abs=1e-6)
    assert (density.values >= 0).all()


def test_larger_kappa_is_sharper() -> None:
    peaks = [
        spectral_density([quadrature([-1, 0, 1])], dim=9, num_steps=20, num_points=512, kappa=kappa).values.max()
        for kappa in (1.1, 3.0, 30.0)
    ]
    assert peaks == sorted(peaks)
    assert peaks[0] < 0.5 * peaks[2]


@pytest.mark.parametrize("value", [0.0, 2.5, -3.0, 1e-30, -1e30])
@pytest.mark.parametrize("jitter", [0.0, 4e-16])
def test_spectrum_of_one_point(value: float, jitter: float) -> None:
    density = spectral_density(
        [quadrature([value]), quadrature([value * (1 + jitter)])], dim=9, num_steps=10, num_points=401, kappa=3.0
    )
    assert np.isfinite(density.grid).all()
    assert np.isfinite(density.values).all()
    assert (np.diff(density.grid) > 0).all()
    assert np.trapezoid(density.values, density.grid) == pytest.approx(1, abs=1e-6)
    peak = density.grid[density.values.argmax()]
    assert peak == pytest.approx(value, abs=1e-12 + abs(value) * 1e-12)
    assert density.grid[-1] - density.grid[0] == pytest.approx(1.1 * (abs(value) or 1))


def test_one_step_has_the_width_of_two() -> None:
    one, two = (
        spectral_density([quadrature([0.0, 1.0])], dim=9, num_steps=num_steps, num_points=50, kappa=3.0)
        for num_steps in (1, 2)
    )
    np.testing.assert_array_equal(one.values, two.values)


@pytest.mark.parametrize(("kappa", "num_points"), [(1.0, 10), (0.5, 10), (math.nan, 10), (math.inf, 10), (3.0, 1)])
def test_bad_options_are_errors(kappa: float, num_points: int) -> None:
    with pytest.raises(InvalidProblemError):
        spectral_density([quadrature([0.0, 1.0])], dim=9, num_steps=5, num_points=num_points, kappa=kappa)


def test_no_quadrature_is_an_error() -> None:
    with pytest.raises(InvalidProblemError):
        spectral_density([], dim=9, num_steps=5, num_points=10, kappa=3.0)
    with pytest.raises(InvalidProblemError):
        cumulative_spectrum([], dim=9, num_points=10)


def test_log_density_of_curvlinops() -> None:
    """One number at a time, from papyan2020traces section C.7 as curvlinops 3.0.1 writes it."""
    nodes, weights, kappa, num_steps, epsilon = [-2.0, 0.0, 0.01, 3.0], [0.2, 0.4, 0.1, 0.3], 1.04, 7, 1e-5
    density = log_spectral_density(
        [quadrature(nodes, weights)], dim=9, num_steps=num_steps, num_points=11, kappa=kappa, epsilon=epsilon
    )
    lower, upper = math.log(epsilon), math.log(3 + epsilon)
    padding = 0.05 * (upper - lower)
    lower, upper = lower - padding, upper + padding
    c, d = (lower + upper) / 2, (upper - lower) / 2
    sigma = 2 / (num_steps - 1) / math.sqrt(8 * math.log(kappa))
    for k in range(11):
        t = -1 + 2 * k / 10
        total = sum(
            w * math.exp(-((t - (math.log(abs(x) + epsilon) - c) / d) ** 2) / (2 * sigma**2))
            for x, w in zip(nodes, weights, strict=True)
        )
        point = math.exp(t * d + c)
        assert density.grid[k] == pytest.approx(point, rel=1e-12)
        assert density.values[k] == pytest.approx(total / (sigma * math.sqrt(2 * math.pi)) / (d * point), rel=1e-11)


def test_mass_of_the_log_density_is_one() -> None:
    rng = np.random.default_rng(0)
    probes = [quadrature(np.sort(rng.normal(size=60))) for _ in range(3)]
    density = log_spectral_density(probes, dim=99, num_steps=60, num_points=2048, kappa=3.0)
    logarithm = np.log(density.grid)
    assert np.trapezoid(density.values * density.grid, logarithm) == pytest.approx(1, abs=1e-4)
    assert (np.diff(density.grid) > 0).all()


@pytest.mark.parametrize("value", [0.0, 2.5, -1e-30, 1e200])
def test_log_density_of_one_point(value: float) -> None:
    density = log_spectral_density([quadrature([value])], dim=9, num_steps=10, num_points=401, kappa=3.0)
    assert np.isfinite(density.values).all()
    assert density.grid[density.values.argmax()] == pytest.approx(abs(value) + 1e-5, rel=0.1)


def test_cumulative_spectrum_counts_weights() -> None:
    probes = [quadrature([-1, 0, 1], [0.2, 0.5, 0.3]), quadrature([-1, 0.1, 1], [0.1, 0.7, 0.2])]
    found = cumulative_spectrum(probes, dim=50, num_points=12, margin=0.05)
    np.testing.assert_allclose(found.grid, np.linspace(-1.1, 1.1, 12))
    expected = [
        0.0,
        *[0.15] * 4,
        *[0.15 + 0.25 * (x >= 0.0) + 0.35 * (x >= 0.1) for x in (-0.1, 0.1)],
        *[0.75] * 4,
        1.0,
    ]
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert (found.band.lower <= found.values).all()
    assert (found.values <= found.band.upper).all()
    assert (found.band.lower[-1], found.band.upper[0]) == (1, 0)


def test_smoothing_loads_no_torch() -> None:
    """Stored quadratures can be smoothed anew by a process without it."""
    modules = ", ".join(f"hessian_spectrum.quadrature.{name}" for name in ("curves", "estimates"))
    program = f"import sys, {modules}; sys.exit(bool({{'torch', 'scipy'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
