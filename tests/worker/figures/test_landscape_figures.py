"""Figures 1 and 6 of the Lecture: densities, and critical points with their fits."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, kstest

from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.api_schemas.figures.critical_points import CriticalPointsAt, LandscapeParameters
from hessian_spectrum.api_schemas.figures.random_matrices import DensityParameters, HessianDensity
from hessian_spectrum.api_schemas.figures.results import Verdict
from hessian_spectrum.statistics.estimates import Estimate, unknown
from hessian_spectrum.theory.random_matrix.ensembles import wigner_law
from hessian_spectrum.theory.random_matrix.hessian import hessian_law
from hessian_spectrum.theory.random_matrix.sampling import draw_sample
from hessian_spectrum.worker.figures.critical_points import (
    deviation,
    fitted_energy,
    fitted_exponent,
    measure_critical_points,
)
from hessian_spectrum.worker.figures.measurement import Measured, content_of, measure
from hessian_spectrum.worker.figures.random_matrices import (
    distance_to_semicircle,
    kolmogorov_distance,
    measure_density,
)
from tests.worker.figures.context import CONTEXT


def test_the_distance_to_a_law_is_that_of_scipy() -> None:
    law = hessian_law("linear", 0.3, 0.5)
    eigenvalues = draw_sample(law, 200, 0).eigenvalues
    assert kolmogorov_distance(eigenvalues, law) == pytest.approx(
        kstest(eigenvalues, law.cumulative).statistic, rel=1e-12
    )


def test_a_semicircle_has_no_distance_to_itself_and_a_wishart_law_has() -> None:
    assert distance_to_semicircle(wigner_law(2.0)) < 1e-9
    assert distance_to_semicircle(hessian_law("linear", 0.0, 0.5)) > 0.05


def density(**fields: Any) -> Any:
    defaults: dict[str, Any] = {"ratio": 0.5, "energy": 0.5, "size": 200, "num_matrices": 3, "seed": 0}
    return measure_density(HessianDensity(**(defaults | fields)), CONTEXT)


def test_samples_are_close_to_their_law_and_apart_from_others() -> None:
    found = density()
    assert found.arrays["distance"].max() * 200 < 5
    assert found.arrays["wrong_ratio"].min() > 1.5 * found.arrays["distance"].max()
    assert found.arrays["wrong_energy"].min() > 1.5 * found.arrays["distance"].max()
    assert np.trapezoid(found.arrays["density"], found.arrays["points"]) == pytest.approx(1, abs=1e-3)
    assert found.arrays["negative"].mean() == pytest.approx(found.values["index"], abs=0.02)


def test_no_matrix_is_drawn_at_two_points() -> None:
    points = DensityParameters(num_matrices=4, seed=7).points()
    seeds = [point.seed + index for point in points for index in range(point.num_matrices)]
    assert len(set(seeds)) == len(seeds) == 4 * 12


def test_a_claim_on_all_ratios_is_not_decided_without_one_of_them() -> None:
    entry = FIGURES["lecture-6"]
    small = {"width": 2, "ratios": [0.3, 0.5], "num_searches": 60, "num_minimizers": 8, "max_descent_steps": 50}
    parameters = entry.parameters.model_validate(entry.defaults("quick") | small)
    measured = [measure(point, CONTEXT) for point in entry.points(parameters)]

    def decided(claim: str) -> Verdict:
        verdicts = content_of("lecture-6", parameters, measured).verdicts
        return next(verdict for verdict in verdicts if claim in verdict.claim)

    assert decided("larger index").value is not None
    gradients = measured[0].arrays["gradient_norm"]
    measured[0] = Measured(measured[0].values, {**measured[0].arrays, "gradient_norm": np.ones_like(gradients)})
    undecided = decided("larger index")
    assert (undecided.holds, undecided.value) == (None, None)
    assert "1 of 2 numbers are not determined" in undecided.note


def test_the_spectrum_is_positive_below_the_critical_energy() -> None:
    low = density(energy=0.01)
    assert low.values["critical_energy"] > 0.01
    assert low.values["lowest"] > 0
    assert low.values["index"] == 0
    assert (low.arrays["negative"] == 0).all()


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_an_exponent_and_a_critical_energy_are_found_again(exponent: float) -> None:
    generator = np.random.default_rng(0)
    index = generator.uniform(0.01, 0.15, 300)
    energy = 0.2 + 0.7 * index ** (1 / exponent) + 0.002 * generator.standard_normal(300)
    known, found = fitted_exponent(energy, index, critical=0.2), fitted_exponent(energy, index)
    assert known.value == pytest.approx(exponent, abs=0.1)
    assert found.value == pytest.approx(exponent, abs=0.3)
    for each in (known, found):
        assert each.lower is not None
        assert each.upper is not None
        assert each.lower <= exponent <= each.upper


def test_too_few_critical_points_give_no_fit() -> None:
    for energy, index in ((np.ones(4), np.ones(4)), (np.ones(40), np.full(40, 0.1))):
        for found in (*fitted_energy(energy, index), fitted_exponent(energy, index)):
            assert found.value is None
            assert "fewer than" in (found.why or "")


@pytest.mark.parametrize("size", [8, 15, 30])
def test_fits_to_few_critical_points_are_as_uncertain_as_they_say(size: int) -> None:
    """Indices are multiples of 1/50, some of them 0."""
    generator, count = np.random.default_rng(size), 400
    covered = {"critical": 0, "slope": 0, "exponent": 0, "exponent of a fitted energy": 0}
    for _ in range(count):
        index = np.append(generator.integers(0, 8, size - 3), [0, 3, 7]) / 50
        energy = 0.2 + 0.7 * index ** (1 / 1.5) + 0.02 * generator.standard_normal(size)
        critical, slope = fitted_energy(energy, index)
        found = (critical, slope, fitted_exponent(energy, index, critical=0.2), fitted_exponent(energy, index))
        for name, each, truth in zip(covered, found, (0.2, 0.7, 1.5, 1.5), strict=True):
            assert each.lower is not None
            assert each.upper is not None
            covered[name] += each.lower <= truth <= each.upper
    least, most = binom.ppf([5e-4, 1 - 5e-4], count, 0.95)
    assert least <= covered["critical"] <= most
    assert least <= covered["slope"] <= most
    # profiles of a nonlinear fit are approximate, and exponents beyond those that are tried are never excluded
    assert covered["exponent"] >= least
    assert covered["exponent of a fitted energy"] >= least


def notes_for(gradient_norm: float) -> dict[str, str]:
    """Notes of made-up critical points, all with this norm of the gradient."""
    parameters = LandscapeParameters(ratios=[0.25, 0.5], num_searches=20, num_minimizers=20)
    generator = np.random.default_rng(0)
    measured = []
    for point in FIGURES["lecture-6"].points(parameters):
        assert isinstance(point, CriticalPointsAt)
        index = generator.uniform(0, 0.3, point.num_searches)
        energy = 0.1 + index + 0.01 * generator.standard_normal(point.num_searches)
        arrays = {"index": index, "energy": energy, "gradient_norm": np.full(point.num_searches, gradient_norm)}
        measured.append(Measured({"ratio": point.ratio}, arrays))
    found = content_of("lecture-6", parameters, measured)
    return {each.claim: each.note or "" for each in found.verdicts}


def test_notes_have_numbers_that_a_reader_can_take_in() -> None:
    claim = "Searches that minimise the norm of the gradient end at critical points."
    assert notes_for(1.23456789e-10)[claim].endswith("the largest norm of those kept is 1.2e-10")
    assert notes_for(1.0)[claim].endswith("none is kept")


def test_energies_that_are_not_known_at_every_ratio_decide_nothing() -> None:
    law = np.array([0.1, 0.2])
    known = estimate_of(0.1)
    assert deviation([known, estimate_of(0.2)], law).value == pytest.approx(0.0)
    assert deviation([known, unknown("no minimizers")], law) == unknown(
        "the energy at 1 of 2 ratios is not known: no minimizers"
    )


def estimate_of(value: float) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.01)


def test_a_message_is_measured_with_m_rounded() -> None:
    message = CriticalPointsAt(
        activation="linear",
        objective="loss",
        width=3,
        ratio=0.7,
        num_searches=10,
        initial_scale=1.0,
        max_descent_steps=0,
        seed=0,
    )
    found = measure_critical_points(message, CONTEXT)
    assert message.num_samples == 9
    assert found.values["ratio"] == pytest.approx(2 / 3)
    assert found.arrays["energy"].shape == (10,)
    assert (found.arrays["gradient_norm"] < 1e-8).all()
