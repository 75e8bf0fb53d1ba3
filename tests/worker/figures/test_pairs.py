"""Figures of paired eigenvalues: against dense Hessians and every pair, killed anywhere, and from request to result."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hessian_spectrum.api_schemas.experiments.figure import FigureRequest, FigureResult
from hessian_spectrum.api_schemas.figures.pairs import EigenvaluePairs
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.regression_losses import Mse
from hessian_spectrum.storage.job_files import JobCheckpoints
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.worker.experiments.experiment import run_experiment
from hessian_spectrum.worker.figures.measurement import Context, Measured, content_of
from hessian_spectrum.worker.figures.pairs import data_set, initial_weights, measure_pairs
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer

HARDWARE = Hardware(torch.device("cpu"), 1, 2**33)
NETWORKS: dict[str, Any] = {
    "activation": "linear",
    "num_layers": 2,
    "width": 5,
    "input_dim": 3,
    "num_samples": 7,
    "initialization": "standard",
    "data": "standardised",
    "teacher": "linear",
    "shares_data": False,
    "num_networks": 4,
    "control_factors": [0.9, 1.1],
    "seed": 3,
}
SMALL = {"widths": [5], "input_dims": [1, 3], "num_networks": 8}


def networks(**fields: Any) -> EigenvaluePairs:
    return EigenvaluePairs(**NETWORKS | fields)


def dense_hessian(measurement: EigenvaluePairs, index: int) -> np.ndarray:
    """Automatic differentiation of the loss of one network, on the data of its index."""
    data = data_set(measurement, 0 if measurement.shares_data else index)
    weights = initial_weights(measurement, index)
    shapes, sizes = [weight.shape for weight in weights], [weight.numel() for weight in weights]

    def risk(point: torch.Tensor) -> torch.Tensor:
        hidden = data.inputs
        parts = [part.view(shape) for part, shape in zip(point.split(sizes), shapes, strict=True)]
        for weight in parts[:-1]:
            hidden = hidden @ weight.T
            hidden = hidden.relu() if measurement.activation == "relu" else hidden
        return ((hidden @ parts[-1].T - data.targets) ** 2).sum() / (2 * len(data))

    point = torch.cat([weight.flatten() for weight in weights])
    return torch.autograd.functional.hessian(risk, point).numpy()


@pytest.mark.parametrize(("activation", "num_layers"), [("linear", 2), ("linear", 4), ("relu", 2), ("relu", 4)])
@pytest.mark.parametrize("shares_data", [False, True])
def test_best_pairs_are_those_among_all_pairs_of_dense_spectra(
    activation: str, num_layers: int, shares_data: bool
) -> None:
    measurement = networks(activation=activation, num_layers=num_layers, shares_data=shares_data)
    arrays = measure_pairs(measurement, Context(hardware=HARDWARE)).arrays
    for index in range(measurement.num_networks):
        hessian = dense_hessian(measurement, index)
        values = np.linalg.eigvalsh(hessian)
        fraction, tolerance = np.trace(hessian) / 3, 1e-12 * np.abs(values).max()
        sums = np.array([a + b for a, b in combinations(values, 2)])
        gaps = np.sort(np.abs(sums - fraction))
        assert arrays["fraction"][index] == pytest.approx(fraction)
        assert arrays["mean_eigenvalue"][index] == pytest.approx(np.trace(hessian) / len(values))
        assert arrays["gap"][index] == pytest.approx(gaps[0], abs=tolerance)
        assert arrays["second_gap"][index] == pytest.approx(gaps[gaps > gaps[0] + 10 * tolerance][0], abs=tolerance)
        for column, factor in enumerate(measurement.control_factors):
            expected = np.abs(sums - factor * fraction).min()
            assert arrays["control_gap"][index, column] == pytest.approx(expected, abs=tolerance)
        low, high = (values[int(arrays[f"{end}_index"][index])] for end in ("low", "high"))
        assert low == pytest.approx(arrays["low"][index], abs=tolerance)
        assert high == pytest.approx(arrays["high"][index], abs=tolerance)


def test_first_layers_are_orthonormal_and_others_keep_the_default() -> None:
    standard, orthonormal = networks(), networks(initialization="orthonormal")
    first, last = initial_weights(orthonormal, 1)
    torch.testing.assert_close(first.T @ first, torch.eye(3, dtype=torch.float64))
    assert torch.equal(last, initial_weights(standard, 1)[1])
    many = initial_weights(networks(width=400, num_samples=402), 0)
    assert float(many[1].var()) == pytest.approx(1 / (3 * 400), rel=0.1)
    assert float(many[1].abs().max()) <= 400**-0.5


@pytest.mark.parametrize("dim", [1, 2, 4, 5])
def test_pair_is_exact_for_orthonormal_first_layers_on_decorrelated_data(dim: int) -> None:
    measurement = networks(initialization="orthonormal", data="decorrelated", input_dim=dim)
    arrays = measure_pairs(measurement, Context(hardware=HARDWARE)).arrays
    assert (arrays["gap"] < 1e-13).all()
    assert (arrays["second_gap"] > 1e-6).all()
    np.testing.assert_allclose(arrays["low"], arrays["predicted_low"], atol=1e-13)
    np.testing.assert_allclose(arrays["high"], arrays["predicted_high"], atol=1e-13)


def test_decorrelated_data_have_exact_moments() -> None:
    data = data_set(networks(data="decorrelated"), 0)
    torch.testing.assert_close(data.inputs.T @ data.inputs / 7, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(data.inputs.T @ data.targets, torch.zeros(3, 1, dtype=torch.float64), atol=1e-13, rtol=0)
    assert float(data.targets.square().mean()) == pytest.approx(1)


@pytest.mark.parametrize("other", [{"input_dim": 4}, {"width": 6}, {"num_layers": 3}])
def test_points_of_a_figure_are_independent(other: dict[str, Any]) -> None:
    def squared_norms(measurement: EigenvaluePairs) -> list[float]:
        return [float(initial_weights(measurement, index)[0].square().sum()) for index in range(300)]

    point = networks()
    assert abs(np.corrcoef(squared_norms(point), squared_norms(networks(**other)))[0, 1]) < 0.25
    assert not torch.equal(data_set(point, 0).inputs[0, :3], data_set(networks(**other), 0).inputs[0, :3])
    shared = networks(shares_data=True, initialization="orthonormal")
    assert torch.equal(initial_weights(shared, 1)[1], initial_weights(point, 1)[1])


class Killed(Exception):
    pass


def after(num_reports: int) -> Callable[..., None]:
    def report(phase: str, done: int, total: int) -> None:
        if done >= num_reports:
            raise Killed

    return report


def test_a_kill_changes_no_number(tmp_path: Path) -> None:
    measurement = networks(activation="relu")
    undisturbed = measure_pairs(measurement, Context(hardware=HARDWARE)).arrays
    for attempt in (1, 2):
        job = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", attempt), 0.0)
        with pytest.raises(Killed):
            measure_pairs(
                measurement, Context(hardware=HARDWARE, progress=after(attempt + 1), stage=job.stage("measurement"))
            )
        job.save()
    job = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 3), 0.0)
    stage = job.stage("measurement")
    assert len(stage.restore().rows) >= 1
    found = measure_pairs(measurement, Context(hardware=HARDWARE, stage=stage)).arrays
    for name, array in undisturbed.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("number", [3, 10, 11, 12, 13])
def test_figures_from_request_to_result(number: int) -> None:
    request = FigureRequest(kind="figure", figure=f"cracking-{number}", overrides=SMALL)
    output = run_experiment(request, HARDWARE, ignore_progress)
    result = FigureResult.model_validate_json(output.result.model_dump_json())
    assert {row["input_dim"] for row in result.points} == {1, 3}
    assert len(result.panels) == (2 if number == 3 else 3)
    controls = [verdict for verdict in result.verdicts if "wrong targets" in verdict.quantity]
    assert len(controls) == len(result.panels)
    if number in (3, 10):
        exact = [verdict for verdict in result.verdicts if "orthonormal" in verdict.claim]
        assert [verdict.holds for verdict in exact] == [True] * 4
    assert any(verdict.variants for verdict in result.verdicts)


def test_samples_at_width_10_are_also_those_that_are_printed() -> None:
    request = FigureRequest(kind="figure", figure="cracking-10", overrides={"widths": [10, 20], "input_dims": [2]})
    samples: dict[tuple[int, str], set[int]] = {}
    for each in request.computations:
        samples.setdefault((each.width, each.data), set()).add(each.num_samples)
    # spectra of linear networks on decorrelated data do not depend on the samples
    assert samples == {
        (10, "standardised"): {12, 102},
        (20, "standardised"): {22},
        (10, "decorrelated"): {12},
        (20, "decorrelated"): {22},
    }
    overrides = {"widths": [10], "input_dims": [2, 3], "num_networks": 8}
    result = run_experiment(
        FigureRequest(kind="figure", figure="cracking-12", overrides=overrides), HARDWARE, ignore_progress
    ).result
    assert isinstance(result, FigureResult)
    assert all("102 samples, as printed" in {each.choice for each in verdict.variants} for verdict in result.verdicts)
    assert {row["option"] for row in result.points} >= {"", "102 samples, as printed"}


def made_up(message: EigenvaluePairs, second_gap: float, num_copies: float) -> Measured:
    """Networks with a second pair at a given distance, and so many copies of the best one."""
    ones = np.ones(20)
    arrays = dict.fromkeys(("fraction", "mean_eigenvalue", "largest", "predicted_low", "predicted_high"), ones)
    arrays |= {"gap": 1e-3 * ones, "second_gap": second_gap * ones, "num_copies": num_copies * ones}
    arrays |= {"low": ones, "high": ones, "high_index": ones, "smallest": 0 * ones}
    return Measured({}, arrays | {"control_gap": np.ones((20, len(message.control_factors)))})


@pytest.mark.parametrize("which", ["second best is also close", "second closest pair"])
def test_copies_of_the_best_pair_are_one_side_of_the_verdicts_on_the_second_best(which: str) -> None:
    """Without copies the second pair is 1000 times farther away; with them it is as close."""
    overrides = {"widths": [10], "input_dims": [2, 3], "varies": False}
    request = FigureRequest(kind="figure", figure="cracking-10", overrides=overrides)
    measured = [made_up(message, second_gap=1.0, num_copies=4.0) for message in request.computations]
    verdicts = content_of("cracking-10", request.chosen, measured).verdicts
    found = [verdict for verdict in verdicts if which in verdict.claim]
    assert found
    for verdict in found:
        (other,) = verdict.variants
        assert other.choice == "copies of the best sum count as second best"
        assert (verdict.value, other.value) == pytest.approx((1000, 1))
        assert other.holds is not verdict.holds


def test_networks_without_a_second_pair_have_none() -> None:
    """Two eigenvalues of which one is repeated may form one sum alone."""
    overrides = {"widths": [2], "input_dims": [1], "num_networks": 8}
    request = FigureRequest(kind="figure", figure="cracking-13", overrides=overrides)
    measured = [made_up(message, second_gap=np.inf, num_copies=1.0) for message in request.computations]
    content = content_of("cracking-13", request.chosen, measured)
    assert {row["median_second_gap"] for row in content.points} == {None}
    result = run_experiment(request, HARDWARE, ignore_progress).result
    assert isinstance(result, FigureResult)


def test_the_axis_of_input_sizes_is_logarithmic() -> None:
    request = FigureRequest(kind="figure", figure="cracking-10", overrides={"widths": [10], "input_dims": [1, 3]})
    measured = [made_up(message, second_gap=1.0, num_copies=1.0) for message in request.computations]
    panels = content_of("cracking-10", request.chosen, measured).panels
    assert {panel.x_scale for panel in panels} == {"log"}


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"widths": [1]}, "widths"),
        ({"input_dims": [20], "widths": [10]}, "input_dims"),
        ({"num_networks": 2}, "num_networks"),
        ({"control_factors": []}, "control_factors"),
        ({"widths": [150]}, "widths"),
        ({"width": 3}, "width"),
    ],
)
def test_overrides_that_are_refused(overrides: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FigureRequest(kind="figure", figure="cracking-13", overrides=overrides)
    assert caught.value.errors()[0]["loc"][:2] == ("overrides", field)


def test_loss_and_model_are_those_of_other_jobs() -> None:
    """The closest pairs belong to the Hessian that a spectrum job computes."""
    measurement = networks(activation="relu")
    data, weights = data_set(measurement, 0), initial_weights(measurement, 0)
    model = Mlp((3, 5, 1), "relu", False)
    parameters = {f"layers.{index}.weight": weight for index, weight in enumerate(weights)}
    loss = Mse().total(model(parameters, data.inputs), data.targets) / len(data)
    hidden = (data.inputs @ weights[0].T).relu()
    assert float(loss) == pytest.approx(float(((hidden @ weights[1].T - data.targets) ** 2).mean() / 2))
