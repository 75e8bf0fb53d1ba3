"""Oracles: the printed formulas in many digits, the lowest edge, and the index itself beside its power law."""

import math
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_spectrum.theory.exceptions import TheoryError
from hessian_spectrum.theory.random_matrix.hessian import (
    alpha_0,
    critical_energy,
    empirical_critical_energies,
    hessian_law,
    index_at_small_energy,
    index_curve,
)
from tests.fixtures.longer import examples

ACTIVATIONS = st.sampled_from(["linear", "relu"])


def printed_critical_energy(activation: str, ratio: float) -> Any:
    phi = mp.mpf(ratio)
    if activation == "linear":
        return (1 - 20 * phi - 8 * phi**2 + (1 + 8 * phi) ** mp.mpf("1.5")) / 16
    xi = 1 + 16 * phi - 8 * phi**2
    return (27 - 18 * xi - xi**2 + 8 * xi ** mp.mpf("1.5")) / (32 * phi * (1 - phi) ** 3)


@settings(deadline=None)
@given(ACTIVATIONS, st.one_of(st.floats(1e-9, 1, exclude_max=True), st.floats(-15, -1).map(lambda x: 1 - 10**x)))
def test_critical_energy_is_the_printed_one_in_every_digit(activation: Any, ratio: float) -> None:
    with mp.workdps(150):
        expected = float(printed_critical_energy(activation, ratio))
    assert critical_energy(activation, ratio) == pytest.approx(expected, rel=2e-15)


@settings(deadline=None)
@given(ACTIVATIONS, st.floats(1e-3, 0.999))
def test_at_the_critical_energy_the_lowest_edge_passes_zero(activation: Any, ratio: float) -> None:
    energy = critical_energy(activation, ratio)
    assert energy is not None
    below, at, above = (hessian_law(activation, energy * factor, ratio) for factor in (1 - 1e-6, 1.0, 1 + 1e-6))
    assert abs(at.support[0].low) <= 1e-13 * at.support[-1].high
    assert below.support[0].low > 0 > above.support[0].low
    assert below.index == 0 < above.index


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("ratio", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_alpha_0_is_the_factor_of_the_power_law(activation: Any, ratio: float) -> None:
    energy, factor = critical_energy(activation, ratio), alpha_0(activation, ratio)
    assert energy is not None
    assert factor is not None
    excess = np.array([1e-3, 1e-4, 1e-5])
    relative = index_curve(activation, energy * (1 + excess), ratio) / (factor * excess**1.5)
    np.testing.assert_allclose(relative, 1, rtol=0, atol=2e-3)
    # The next term is linear in the excess: without it the limit is the factor to five more digits.
    assert (10 * relative[1] - relative[0]) / 9 == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("ratio", [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 100.0])
def test_many_parameters_leave_no_critical_energy(activation: Any, ratio: float) -> None:
    assert critical_energy(activation, ratio) is None
    assert alpha_0(activation, ratio) is None
    assert empirical_critical_energies(ratio) is None
    limit = index_at_small_energy(activation, ratio)
    energies = np.array([1e-30, 1e-18, 1e-9, 1e-3])
    index = index_curve(activation, energies, ratio)
    assert (index > 0).all()
    np.testing.assert_allclose(index[:2], limit, rtol=0, atol=1e-5)
    assert (np.diff(index) >= -1e-12).all()


@pytest.mark.parametrize("ratio", [2.0, 2.5, 40.0])
def test_relu_with_two_parameters_per_datum_has_one_index(ratio: float) -> None:
    index = index_curve("relu", [1e-12, 1.0, 1e12], ratio)
    np.testing.assert_allclose(index, 1 / (2 * ratio), rtol=1e-15)


@settings(deadline=None, max_examples=examples(60))
@given(
    ACTIVATIONS, st.floats(0.01, 5.0), st.lists(st.floats(0.0, 10.0).filter(lambda e: not 0 < e < 1e-40), min_size=2)
)
def test_index_curve_is_the_index_of_each_law_and_grows(activation: Any, ratio: float, energies: list[float]) -> None:
    energies.sort()
    curve = index_curve(activation, energies, ratio)
    expected = [hessian_law(activation, energy, ratio).index for energy in energies]
    np.testing.assert_allclose(curve, expected, rtol=0, atol=1e-13)
    assert (np.diff(curve) >= -1e-13).all()


def test_energy_zero_leaves_the_wishart_part() -> None:
    law = hessian_law("relu", 0.0, 2.5)
    assert law == hessian_law("linear", 0.0, 2.5)
    assert (law.index, law.atom_at_zero) == (0, pytest.approx(0.6))
    np.testing.assert_array_equal(index_curve("linear", [0.0], 0.5), [0])


def test_empirical_fits() -> None:
    assert empirical_critical_energies(0.5) == {"tanh": 0.125, "linear": 0.25}


@pytest.mark.parametrize(
    ("energies", "ratio", "field"), [([-1.0], 0.5, "energy"), ([math.nan], 0.5, "energy"), ([1.0], 0.0, "ratio")]
)
def test_bad_arguments_are_named(energies: list[float], ratio: float, field: str) -> None:
    with pytest.raises(TheoryError) as caught:
        index_curve("linear", energies, ratio)
    assert caught.value.field == field
