"""The three curves of a Lanczos result are those of their own functions, with every setting of the smoothing."""

from dataclasses import fields

import numpy as np
import pytest

from hessian_spectrum.quadrature.curves import (
    Smoothing,
    cumulative_spectrum,
    log_spectral_density,
    spectral_curves,
    spectral_density,
)
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.quadrature.results import Cumulative, Density, Quadrature

DIM, NUM_STEPS, ROUNDING = 40, 6, float(np.finfo(np.float32).eps)
QUADRATURES = [
    Quadrature(np.array([-1.0, 0.1, 2.0, 5.0]), np.array([0.2, 0.3, 0.4, 0.1]), node_error=1e-4),
    Quadrature(np.array([-0.9, 0.2, 1.5, 4.8]), np.array([0.1, 0.5, 0.3, 0.1])),
]
SMOOTHING = Smoothing(num_points=50, kappa=2.5, margin=0.1, log_kappa=1.3, log_epsilon=1e-3)


def same(first: Density | Cumulative, second: Density | Cumulative) -> bool:
    names = ("grid", "values", "standard_error")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    pairs += [(first.band.lower, second.band.lower), (first.band.upper, second.band.upper)]
    return all(np.array_equal(one, other) for one, other in pairs)


def test_each_curve_is_that_of_its_own_function() -> None:
    curves = spectral_curves(QUADRATURES, SMOOTHING, dim=DIM, num_steps=NUM_STEPS, rounding=ROUNDING)
    density = spectral_density(
        QUADRATURES, dim=DIM, num_steps=NUM_STEPS, num_points=50, kappa=2.5, margin=0.1, rounding=ROUNDING
    )
    log_density = log_spectral_density(
        QUADRATURES, dim=DIM, num_steps=NUM_STEPS, num_points=50, kappa=1.3, margin=0.1, epsilon=1e-3, rounding=ROUNDING
    )
    assert same(curves.density, density)
    assert same(curves.log_density, log_density)
    assert same(
        curves.cumulative, cumulative_spectrum(QUADRATURES, dim=DIM, num_points=50, margin=0.1, rounding=ROUNDING)
    )


@pytest.mark.parametrize(
    ("changed", "name"), [("kappa", "density"), ("log_kappa", "log_density"), ("log_epsilon", "log_density")]
)
def test_a_setting_changes_its_own_curve_alone(changed: str, name: str) -> None:
    settings = {field.name: getattr(SMOOTHING, field.name) for field in fields(SMOOTHING)}
    other = Smoothing(**settings | {changed: 1.2 * settings[changed]})
    before, after = (
        spectral_curves(QUADRATURES, each, dim=DIM, num_steps=NUM_STEPS, rounding=ROUNDING)
        for each in (SMOOTHING, other)
    )
    for curve in ("density", "log_density", "cumulative"):
        assert same(getattr(before, curve), getattr(after, curve)) is (curve != name)


def test_nothing_to_smooth_is_refused() -> None:
    with pytest.raises(InvalidProblemError):
        spectral_curves([], SMOOTHING, dim=DIM, num_steps=NUM_STEPS, rounding=ROUNDING)
