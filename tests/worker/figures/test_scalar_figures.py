"""Figures 1, 7 and 8 of Cracking the Hessian, and the Poster's: networks of one variable."""

from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.figures.scalar_descent import NeuronDescent, ReluEvolutionParameters
from hessian_spectrum.api_schemas.figures.scalar_networks import (
    CellParameters,
    CellSpectrum,
    VarianceParameters,
    VarianceSpectra,
)
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.measurement import Measured, content_of
from hessian_spectrum.worker.figures.scalar_descent import measure_descent
from hessian_spectrum.worker.figures.scalar_networks import (
    DATA,
    WEIGHTS,
    dense_hessian,
    initial_neurons,
    measure_cells,
    measure_variances,
    paired_spectrum,
    wedge,
)
from tests.worker.figures.context import CONTEXT


def cells(**fields: Any) -> Any:
    defaults: dict[str, Any] = {
        "width": 8,
        "num_samples": 40,
        "data": "normal",
        "slopes": [2.0, -1.0],
        "initialization": "unit",
        "seed": 5,
    }
    return measure_cells(CellSpectrum(**(defaults | fields)), CONTEXT)


@pytest.mark.parametrize("data", ["normal", "wedge"])
def test_the_cells_of_a_relu_spectrum_are_those_of_its_dense_eigenvectors(data: str) -> None:
    found = cells(data=data)
    assert found.values["dense_difference"] < 1e-13
    x = torch.randn(40, generator=generator_of(5, DATA), dtype=torch.float64).numpy()
    noise = torch.randn(40, generator=generator_of(5, DATA, 1), dtype=torch.float64).numpy()
    neurons = initial_neurons(8, "unit", generator_of(5, WEIGHTS))
    y = wedge(x, [2.0, -1.0]) if data == "wedge" else noise
    of_positive = np.tile(neurons["v"] > 0, 2)
    hessian = dense_hessian("relu", **neurons, x=x, y=y).numpy()
    for is_positive in (True, False):
        mask = of_positive == is_positive
        expected = np.linalg.eigvalsh(hessian[np.ix_(mask, mask)])
        shown = np.sort(found.arrays["eigenvalues"][found.arrays["is_positive_cell"] == is_positive])
        np.testing.assert_allclose(shown, expected, atol=1e-13 * np.abs(hessian).max())
    assert found.values["positive_num_bulk"] == 2 * (found.values["num_positive"] - 1)
    for cell in ("positive", "negative"):
        for name in ("large", "small", "bulk"):
            assert found.values[f"dense_{cell}_{name}"] == pytest.approx(found.values[f"{cell}_{name}"], rel=1e-10)
        assert found.values[f"dense_{cell}_departure"] < 1e-13 * found.values["dense_largest"]
    assert found.values["largest"] == max(found.values["positive_large"], found.values["negative_large"])


def test_pairs_are_found_in_eigenvalues_without_a_closed_form() -> None:
    values = np.sort([5.0, -0.5, *[2.0] * 3, *[-2.0] * 3])
    assert paired_spectrum(values) == (5.0, -0.5, 2.0, 0.0)
    assert paired_spectrum(values).is_outside(1e-9)
    assert paired_spectrum(np.array([1.0, 4.0]))[:2] == (4.0, 1.0)
    for moved in range(1, 7):
        others = values.copy()
        others[moved] += 0.1
        found = paired_spectrum(np.sort(others))
        assert (found.small == pytest.approx(-0.4)) if moved == 3 else (found.departure > 0.01)
    assert not paired_spectrum(np.sort([2.0, -2.0, *[2.0] * 3, *[-2.0] * 3])).is_outside(1e-9)


CLAIMS_OF_CELLS = {
    "signed pairs": "dense_positive_departure",
    "larger one of the outliers": "dense_largest",
}


@pytest.mark.parametrize("claim", CLAIMS_OF_CELLS)
def test_verdicts_on_cells_follow_dense_eigenvalues(claim: str) -> None:
    """Dense eigenvalues that are not those of the closed form turn the verdicts, though the closed form agrees."""
    parameters = CellParameters(num_samples=40, width=6, num_seeds=30, slopes=[2.0, -1.0])
    measured = [measure_cells(point, CONTEXT) for point in parameters.points()]
    wrong = [Measured(each.values | {CLAIMS_OF_CELLS[claim]: 1e3}, each.arrays) for each in measured]
    for runs, expected in ((measured, True), (wrong, False)):
        (found,) = [each for each in content_of("cracking-1", parameters, runs).verdicts if claim in each.claim]
        assert found.holds is expected


def test_the_dense_hessian_is_that_of_the_loss_as_printed() -> None:
    generator = np.random.default_rng(0)
    w, v, x, y = (generator.standard_normal(size) for size in (3, 3, 7, 7))

    def loss(flat: torch.Tensor) -> torch.Tensor:
        hidden = torch.from_numpy(x)[:, None] * flat[3:]
        return ((hidden.relu() @ flat[:3] - torch.from_numpy(y)) ** 2).sum() / (2 * 7)

    flat = torch.from_numpy(np.concatenate([w, v]))
    expected = torch.autograd.functional.hessian(loss, flat)
    torch.testing.assert_close(dense_hessian("relu", w, v, x=x, y=y), expected, rtol=0, atol=1e-14)


def test_the_posters_outlier_is_wrong_unless_the_inputs_of_a_cell_have_variance_one() -> None:
    """Normal inputs have a mean square near 1, the more of them the nearer, and so is the Poster's outlier."""
    errors = []
    for num_samples in (10, 50_000):
        found = cells(num_samples=num_samples, data="wedge")
        errors.append(abs(found.values["positive_poster"] / found.values["positive_large"] - 1))
    assert 1e-12 < errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize(("initialization", "bound"), [("uniform", True), ("normal", False), ("unit", False)])
def test_initial_weights_have_the_variance_of_their_fan_in(initialization: str, bound: bool) -> None:
    neurons = initial_neurons(20_000, initialization, generator_of(0, 1))
    expected = {"w": 1.0, "v": 1.0} if initialization == "unit" else {"w": 1 / 60_000, "v": 1 / 3}
    for name, variance in expected.items():
        assert neurons[name].var() == pytest.approx(variance, rel=0.03)
    assert (np.abs(neurons["v"]).max() <= 1) is np.bool_(bound)


def variances(**fields: Any) -> Any:
    defaults: dict[str, Any] = {
        "width": 4,
        "num_samples": 5000,
        "variances": [1.0, 4.0, 16.0],
        "initialization": "normal",
        "shares_weights": True,
        "seed": 2,
    }
    return measure_variances(VarianceSpectra(**(defaults | fields)), CONTEXT)


def test_eigenvalues_grow_with_the_variance_of_the_inputs() -> None:
    found = variances()
    assert found.values["dense_difference"] < 1e-13
    np.testing.assert_allclose(found.arrays["s2"], [1, 4, 16], rtol=0.1)
    np.testing.assert_allclose(found.arrays["large"] / found.arrays["s2"], found.arrays["large"][0], rtol=0.1)
    other = variances(shares_weights=False)
    assert np.ptp(other.arrays["large"] / other.arrays["s2"]) > 0.1 * other.arrays["large"][0]


def test_the_verdict_on_two_outliers_follows_the_dense_spectrum() -> None:
    parameters = VarianceParameters(width=4, num_samples=200, variances=[1.0, 2.0, 4.0], num_seeds=5)
    measured = [measure_variances(point, CONTEXT) for point in parameters.points()]
    wrong = [Measured(each.values | {"is_paired": False}, each.arrays) for each in measured]
    unchecked = [Measured(each.values | {"is_paired": None}, each.arrays) for each in measured]
    for runs, expected in ((measured, True), (wrong, False), (unchecked, None)):
        verdicts = content_of("cracking-7", parameters, runs).verdicts
        (found,) = [each for each in verdicts if "distinguished from the bulk" in each.claim]
        assert found.holds is expected


def descent(**fields: Any) -> Any:
    defaults: dict[str, Any] = {
        "activation": "relu",
        "width": 10,
        "num_samples": 50,
        "slopes": [2.0, -1.0],
        "initialization": "uniform",
        "learning_rate": 0.18,
        "momentum": 0.9,
        "num_steps": 300,
        "seed": 0,
    }
    return measure_descent(NeuronDescent(**(defaults | fields)), CONTEXT)


def test_outlier_pairs_of_both_cells_are_followed_with_neurons_that_change_cells() -> None:
    found = descent()
    assert found.values["dense_difference"] < 1e-12
    assert found.arrays["changed"].any()
    assert found.values["frozen_difference"] > 1e-3  # the cells of the start are not those of the end
    assert found.arrays["large"].shape == (301, 2)
    pairs = found.arrays["large"] + found.arrays["small"]
    np.testing.assert_allclose(pairs, found.arrays["trace"], rtol=1e-12)
    assert found.values["pair_departure"] < 1e-12
    assert found.values["pair_gap"] < 1e-12
    assert (found.arrays["num_neurons"].sum(axis=1) == 10).all()
    assert (np.abs(found.arrays["small"][-1]) < 1e-4 * found.arrays["trace"][-1]).all()  # one remains


@pytest.mark.parametrize(("name", "claim"), [("pair_departure", "exist as pairs"), ("pair_gap", "sum to the trace")])
def test_verdicts_on_pairs_follow_dense_eigenvalues(name: str, claim: str) -> None:
    parameters = ReluEvolutionParameters(num_steps=20, num_seeds=3, num_samples=20, varies=False)
    measured = [descent(num_steps=20, num_samples=20, seed=seed) for seed in range(3)]
    wrong = [*measured[:2], Measured(measured[2].values | {name: 1e-3}, measured[2].arrays)]
    for runs, expected in ((measured, True), (wrong, False)):
        (found,) = [each for each in content_of("poster-evolution", parameters, runs).verdicts if claim in each.claim]
        assert found.holds is expected


def test_the_symmetric_wedge_teaches_a_linear_network_nothing() -> None:
    found = descent(activation="linear", slopes=[1.0, -1.0])
    assert found.arrays["loss"][-1] == pytest.approx((np.linspace(-1, 1, 50) ** 2).mean() / 2, rel=1e-6)
    assert "is_late" in found.arrays


def test_a_descent_that_diverges_is_reported() -> None:
    found = descent(activation="linear", learning_rate=100.0, num_steps=50)
    assert 0 < found.values["diverged_at"] < 50
    assert len(found.arrays["loss"]) == found.values["diverged_at"]


def claim_on(figure: str, parameters: Any, measured: list[Measured], part: str) -> Any:
    (found,) = [each for each in content_of(figure, parameters, measured).verdicts if part in each.claim]
    return found


def evolution(ends: Any, *, swing: float = 0.0) -> tuple[Any, list[Measured]]:
    """Three runs of both cells with these smaller outliers and bulks at the end, over traces of 1."""
    parameters = ReluEvolutionParameters(num_steps=20, num_seeds=3, varies=False)
    names = ("small", "bulk")
    loss = 1 + swing * np.arange(21) / 20
    common = {"large": np.ones((21, 2)), "trace": np.ones((21, 2)), "num_neurons": np.ones((21, 2)), "loss": loss}
    return parameters, [
        Measured(
            {"diverged_at": None}, common | {name: np.full((21, 2), end) for name, end in zip(names, each, strict=True)}
        )
        for each in ends
    ]


GONE = ([0.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (GONE, True),
        (([0.0, np.nan], [0.0, np.nan]), True),
        (([0.0, 0.0], [np.nan, 0.0]), True),
        (([0.0, 0.0], [np.nan, 0.1]), False),
        (([0.1, 0.0], [np.nan, 0.0]), False),
    ],
    ids=["gone", "a cell without neurons", "one neuron", "one neuron beside a bulk", "one neuron that is left"],
)
def test_each_cell_counts_by_the_eigenvalues_that_it_has(end: Any, expected: bool) -> None:
    found = claim_on("poster-evolution", *evolution([GONE, GONE, end]), "Only one of the outliers")
    assert found.holds is expected
    assert found.value == pytest.approx(1.0 if expected else 2 / 3)  # runs, not cells


def test_a_run_that_has_not_converged_refutes_nothing() -> None:
    left = ([0.1, 0.1], [0.1, 0.1])
    found = claim_on("poster-evolution", *evolution([left] * 3, swing=0.01), "Only one of the outliers")
    assert (found.holds, found.value) == (None, None)


def test_networks_of_two_neurons_have_a_figure() -> None:
    parameters = ReluEvolutionParameters(num_steps=20, num_seeds=3, num_samples=20, varies=False, width=2)
    measured = [descent(num_steps=20, num_samples=20, width=2, seed=seed) for seed in range(3)]
    assert content_of("poster-evolution", parameters, measured).verdicts


@pytest.mark.parametrize(
    ("figure", "part"), [("cracking-1", "signed pairs"), ("cracking-1", "larger one of the outliers")]
)
def test_one_network_refutes_a_theorem_on_cells(figure: str, part: str) -> None:
    parameters = CellParameters(num_samples=40, width=6, num_seeds=100, slopes=[2.0, -1.0])
    measured = [measure_cells(point, CONTEXT) for point in parameters.points()]
    wrong = [Measured(measured[0].values | {CLAIMS_OF_CELLS[part]: 1e3}, measured[0].arrays), *measured[1:]]
    assert [claim_on(figure, parameters, runs, part).holds for runs in (measured, wrong)] == [True, False]


def test_both_cells_of_a_network_are_one_case() -> None:
    parameters = CellParameters(num_samples=40, width=6, num_seeds=6, slopes=[2.0, -1.0])
    measured = [measure_cells(point, CONTEXT) for point in parameters.points()]
    two = {f"dense_{cell}_{name}": value for cell in ("positive", "negative") for name, value in PAIR.items()}
    outside = [Measured(each.values | two, each.arrays) for each in measured]
    found = claim_on("poster-bulk", parameters, outside, "outside the bulk")
    assert (found.value, found.lower) == (1.0, pytest.approx(6 / (6 + 1.96**2), rel=1e-3))
    one_inside = Measured(outside[0].values | {"dense_negative_small": 0.5}, measured[0].arrays)
    assert claim_on("poster-bulk", parameters, [one_inside, *outside[1:]], "outside").value == pytest.approx(5 / 6)


PAIR = {"large": 3.0, "small": -2.0, "bulk": 1.0, "departure": 0.0}


def test_one_network_refutes_two_outliers() -> None:
    parameters = VarianceParameters(width=4, num_samples=200, variances=[1.0, 2.0, 4.0], num_seeds=5)
    measured = [measure_variances(point, CONTEXT) for point in parameters.points()]
    wrong = [Measured(measured[0].values | {"is_paired": False}, measured[0].arrays), *measured[1:]]
    assert claim_on("cracking-7", parameters, wrong, "distinguished from the bulk").holds is False
