"""Figures of correlations: against networks that are trained and measured one at a time, and from request to result."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hessian_spectrum.api_schemas.experiments.figure import FigureRequest, FigureResult
from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.api_schemas.figures.correlations import (
    FigurePoint,
    OpenChoice,
    TrainedNetworks,
    Training,
    deep_points,
    two_layer_points,
)
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.statistics.estimates import proportion
from hessian_spectrum.storage.job_files import JobCheckpoints
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.theory.closed_form.two_layer_linear import two_layer_linear_spectrum
from hessian_spectrum.worker.experiments.experiment import run_experiment
from hessian_spectrum.worker.figures.measurement import Context, FigureContent, Measured, content_of
from hessian_spectrum.worker.figures.trained_networks import (
    ORDER,
    data_set,
    initial_ensemble,
    measure_networks,
    model_of,
    point_generator,
)
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer

HARDWARE = Hardware(torch.device("cpu"), 1, 2**33)
TRAINING = {"num_samples": 24, "batch_size": 8, "patience": 1, "max_epochs": 30}
NETWORKS: dict[str, Any] = {
    "activation": "linear",
    "parametrization": "standard",
    "depth": 2,
    "width": 5,
    "dim": 2,
    "learning_rate": 0.1,
    "num_networks": 3,
    "seed": 2,  # with it, no decision at a plateau is so close that rounding in float32 changes it
}
SMALL = TRAINING | {"width": 5, "num_networks": 7, "max_epochs": 4}


def networks(*, training: dict[str, Any] | None = None, **fields: Any) -> TrainedNetworks:
    return TrainedNetworks(**NETWORKS | {"training": Training(**TRAINING | (training or {}))} | fields)


def own_parametrization(measurement: TrainedNetworks) -> tuple[list[float], list[float], list[float]]:
    """Standard deviations of the weights, factors of the layers and of their learning rates, by the formulas."""
    name, rates = measurement.parametrization, measurement.training.mup_rates
    widths = [measurement.dim, *[measurement.width] * (measurement.depth - 1), measurement.dim]
    stds, scales, factors = [], [], []
    for fan_in, fan_out in pairwise(widths):
        mup = min(1, fan_out / fan_in) ** 0.5 / fan_in**0.5
        stds.append({"standard": (3 * fan_in) ** -0.5, "ntk": 1.0, "mup": mup}[name])
        scales.append(fan_in**-0.5 if name == "ntk" else 1.0)
        factors.append(1.0 if name != "mup" else 1 / fan_in if rates == "fan-in" else fan_out / fan_in)
    return stds, scales, factors


def trained_alone(measurement: TrainedNetworks, index: int) -> tuple[list[Tensor], list[Tensor], Any]:
    """Weights of one network before and after a plain training loop in float64, and its risk."""
    shares = measurement.training.shared_data == "all"
    data = data_set(measurement, 0 if shares else index).to(torch.float64, torch.device("cpu"))
    first = [values[index].double() for values in initial_ensemble(measurement)[1].values()]
    _, scales, factors = own_parametrization(measurement)

    def risk(weights: list[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        hidden = inputs
        for layer, (weight, scale) in enumerate(zip(weights, scales, strict=True)):
            hidden = scale * hidden @ weight.T
            if measurement.activation == "relu" and layer < len(weights) - 1:
                hidden = hidden.relu()
        squares = ((hidden - targets) ** 2).sum(dim=1)
        return squares.mean() / 2

    weights = [weight.clone().requires_grad_() for weight in first]
    training = measurement.training
    step = 1.0 if training.reduction == "half-sum" else 2 / measurement.dim
    groups = [
        {"params": [weight], "lr": step * factor * measurement.learning_rate}
        for weight, factor in zip(weights, factors, strict=True)
    ]
    optimizer = torch.optim.SGD(groups)
    least = [step * factor * training.min_learning_rate for factor in factors]
    scheduler = ReduceLROnPlateau(
        optimizer, patience=training.patience, threshold=training.threshold, min_lr=least, eps=0
    )
    generator = point_generator(measurement, ORDER, 0 if shares else index)
    for _ in range(training.max_epochs):
        total = 0.0
        for chosen in torch.randperm(training.num_samples, generator=generator).split(training.batch_size):
            optimizer.zero_grad()
            value = risk(weights, data.inputs[chosen], data.targets[chosen])
            value.backward()
            optimizer.step()
            total += value.item() * len(chosen) / training.num_samples
        before = [group["lr"] for group in optimizer.param_groups]
        is_least = np.allclose(before, least, rtol=1e-6)
        bad = scheduler.num_bad_epochs
        scheduler.step(total)
        if is_least and scheduler.num_bad_epochs == 0 and bad == training.patience and total > scheduler.best:
            break
    return first, [weight.detach() for weight in weights], lambda point: risk(point, data.inputs, data.targets)


def dense(weights: list[Tensor], risk: Any) -> np.ndarray:
    shapes, sizes = [weight.shape for weight in weights], [weight.numel() for weight in weights]

    def at(point: Tensor) -> Tensor:
        return risk([part.view(shape) for part, shape in zip(point.split(sizes), shapes, strict=True)])

    return torch.autograd.functional.hessian(at, torch.cat([weight.flatten() for weight in weights])).numpy()


CASES: dict[str, dict[str, Any]] = {
    "standard": {},
    "fresh": {"training": {"shared_data": "none"}},
    "ntk": {"parametrization": "ntk", "learning_rate": 0.2},
    "mup": {"parametrization": "mup", "learning_rate": 0.5, "dim": 3},
    "mup-spectral": {"parametrization": "mup", "training": {"mup_rates": "spectral", "reduction": "mean"}},
    "teacher": {"training": {"shared_data": "teacher", "teacher_scale": 2.0}},
    "relu": {"activation": "relu", "training": {"shared_data": "none"}},
    "deep": {"depth": 4, "dim": 1},
    "deep-relu": {"activation": "relu", "depth": 3, "dim": 1, "parametrization": "ntk"},
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_networks_one_at_a_time(name: str) -> None:
    measurement = networks(**CASES[name])
    arrays = measure_networks(measurement, Context(hardware=HARDWARE)).arrays
    assert not arrays["diverged"].any()
    for index in range(measurement.num_networks):
        first, last, risk = trained_alone(measurement, index)
        for stage, weights in (("initial", first), ("trained", last)):

            def found(key: str, stage: str = stage, index: int = index) -> float:
                return float(arrays[f"{stage}_{key}"][index])

            hessian = dense(weights, risk)
            scale = np.linalg.eigvalsh(hessian)[-1]
            assert found("sharpness") == pytest.approx(scale, rel=1e-4)
            assert found("loss") == pytest.approx(float(risk(weights)), rel=1e-4)
            if measurement.has_trace:
                assert found("trace") == pytest.approx(np.trace(hessian), rel=1e-4)
            for layer, weight in enumerate(weights, 1):
                others = [each for other, each in enumerate(weights, 1) if other != layer]
                product = others[0] if len(others) == 1 else torch.linalg.multi_dot(others[::-1])
                assert found(f"spectral_{layer}") == pytest.approx(float(np.linalg.norm(weight, 2)), rel=1e-4)
                assert found(f"nuclear_{layer}") == pytest.approx(float(np.linalg.norm(weight, "nuc")), rel=1e-4)
                assert found(f"frobenius_without_{layer}") == pytest.approx(float(np.linalg.norm(product)), rel=1e-4)
            if measurement.depth == 2:
                inner = abs(float(np.trace(weights[1] @ weights[0])))
                assert found("frobenius_alignment") == pytest.approx(inner, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["standard", "mup", "ntk"])
def test_weights_have_the_standard_deviations_of_their_parametrization(name: str) -> None:
    measurement = networks(parametrization=name, width=60, dim=30, num_networks=4)
    stds, scales, factors = own_parametrization(measurement)
    parameters = initial_ensemble(measurement)[1]
    model = model_of(measurement)
    for index, values in enumerate(parameters.values()):
        assert float(values.std()) == pytest.approx(stds[index], rel=0.05)
    assert list(model.learning_rate_multipliers().values()) == pytest.approx(factors)
    if name == "standard":
        assert float(parameters["layers.0.weight"].abs().max()) <= 30**-0.5
    rescaled = model({n: torch.ones_like(v[0]) for n, v in parameters.items()}, torch.ones(1, 30))
    assert float(rescaled[0, 0]) == pytest.approx(30 * scales[0] * 60 * scales[1])


def test_linear_networks_of_two_layers_have_the_sharpness_of_theory() -> None:
    measurement = networks(width=20, dim=3, training={"max_epochs": 2})
    arrays = measure_networks(measurement, Context(hardware=HARDWARE)).arrays
    ensemble, parameters = initial_ensemble(measurement)
    for index in range(measurement.num_networks):
        first, last = (values[index].double().numpy() for values in parameters.values())
        data = (ensemble.inputs[index].double().numpy(), ensemble.targets[index].double().numpy())
        spectrum = two_layer_linear_spectrum(W1=first, W2=last, x=data[0], y=data[1])
        assert arrays["initial_sharpness"][index] == pytest.approx(spectrum.sharpness, rel=1e-4)
        assert arrays["initial_trace"][index] == pytest.approx(spectrum.trace, rel=1e-4)


def test_what_networks_share() -> None:
    def drawn(sharing: str) -> list[tuple[Tensor, Tensor]]:
        measurement = networks(training={"shared_data": sharing, "noise": 0.0})
        sets = [data_set(measurement, index) for index in (0, 1)]
        return [(each.inputs, torch.linalg.lstsq(each.inputs, each.targets).solution) for each in sets]

    for sharing, same_teacher in (("teacher", True), ("none", False)):
        (inputs, teacher), (others, other) = drawn(sharing)
        assert not torch.equal(inputs, others)
        assert torch.allclose(teacher, other, atol=1e-4) == same_teacher
    ensemble, _ = initial_ensemble(networks())
    assert ensemble.has_shared_data
    assert not initial_ensemble(networks(training={"shared_data": "teacher"}))[0].has_shared_data


def squared_norms(measurement: TrainedNetworks) -> np.ndarray:
    """Squared Frobenius norms of the first matrices."""
    first = initial_ensemble(measurement)[1]["layers.0.weight"]
    return (first**2).sum(dim=(1, 2)).numpy()


@pytest.mark.parametrize("other", [{"dim": 9}, {"depth": 3}, {"parametrization": "ntk"}, {"width": 6}])
def test_points_of_a_figure_are_independent(other: dict[str, Any]) -> None:
    """Without generators of their own, these correlations would be between 0.7 and 1."""
    point = networks(num_networks=300, width=5, dim=8, training={"num_samples": 8})
    found = [squared_norms(each) for each in (point, point.model_copy(update=other))]
    assert abs(np.corrcoef(*found)[0, 1]) < 0.25
    data = [data_set(each, 0).inputs[0, :8] for each in (point, point.model_copy(update=other))]
    assert not torch.equal(*data)


def test_a_point_has_the_same_networks_under_every_choice() -> None:
    point = networks()
    for update in ({"shared_data": "none"}, {"patience": 4}, {"teacher_scale": 3.0}):
        other = point.model_copy(update={"training": point.training.model_copy(update=update)})
        assert np.array_equal(squared_norms(point), squared_norms(other))
    faster = point.model_copy(update={"learning_rate": 1.0})
    assert torch.equal(data_set(point, 0).inputs, data_set(faster, 0).inputs)


def test_networks_that_diverge_are_left_out_after_training_alone() -> None:
    measurement = networks(learning_rate=50.0, num_networks=4)
    measured = measure_networks(measurement, Context(hardware=HARDWARE))
    assert measured.values["num_diverged"] == 4
    assert measured.arrays["diverged"].all()
    overrides = SMALL | {"dims": [1, 2], "learning_rate": 9.0, "varied": []}
    request = FigureRequest(kind="figure", figure="cracking-14", overrides=overrides)
    result = run_experiment(request, HARDWARE, ignore_progress).result
    assert isinstance(result, FigureResult)
    diverged = [row for row in result.points if row["stage"] == "trained" and row["num_networks"] < 3]
    assert diverged
    assert all(row["correlation"] is None for row in diverged)
    initial = [row for row in result.points if row["stage"] == "initial"]
    assert all(row["num_networks"] == 7 and row["correlation"] is not None for row in initial)


@pytest.mark.parametrize("number", [4, 17, 26])
def test_divergence_of_all_networks_is_a_result(number: int) -> None:
    large = {"large_mup_learning_rate": 10.0} if number != 17 else {"deep_learning_rate": 10.0}
    points = {"dims": [1, 2]} if number != 17 else {"depths": [2, 3]}
    overrides = SMALL | large | points | {"learning_rate": 10.0, "teacher_scale": 100.0, "varied": []}
    request = FigureRequest(kind="figure", figure=f"cracking-{number}", overrides=overrides)
    result = run_experiment(request, HARDWARE, ignore_progress).result
    assert isinstance(result, FigureResult)
    undecided = [verdict for verdict in result.verdicts if "diverged" in (verdict.note or "")]
    assert undecided
    assert all(verdict.holds is verdict.value is None for verdict in undecided)
    assert any(row["num_diverged"] == 7 for row in result.points)


class Killed(Exception):
    pass


def test_a_kill_changes_no_number(tmp_path: Path) -> None:
    measurement = networks(activation="relu", training={"shared_data": "none"})
    undisturbed = measure_networks(measurement, Context(hardware=HARDWARE)).arrays
    for attempt, last in enumerate(("training", "largest eigenvalues"), 1):
        reports = {"training": 0, "largest eigenvalues": 0}

        def report(phase: str, done: int, total: int, last: str = last, reports: dict[str, int] = reports) -> None:
            reports[phase] += 1
            if phase == last and reports[phase] == (5 if phase == "training" else 1):
                raise Killed

        job = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", attempt), 0.0)
        with pytest.raises(Killed):
            measure_networks(measurement, Context(hardware=HARDWARE, progress=report, job=job))
        job.save()
    job = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 3), 0.0)
    assert set(job.finished) == {"initial", "training"}
    found = measure_networks(measurement, Context(hardware=HARDWARE, job=job)).arrays
    for name, array in undisturbed.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("number", [4, 14, 15, 16, 26])
def test_two_layer_figures_from_request_to_result(number: int) -> None:
    varied = ["shared_data"] if number == 14 else []
    overrides = SMALL | {"dims": [1, 5], "varied": varied}
    request = FigureRequest(kind="figure", figure=f"cracking-{number}", overrides=overrides)
    output = run_experiment(request, HARDWARE, ignore_progress)
    result = FigureResult.model_validate_json(output.result.model_dump_json())
    num_parametrizations = {4: 2, 14: 1}.get(number, 3)
    assert len(result.panels) == 2 * num_parametrizations
    assert all(len(panel.curves) == (3 if number == 15 else 6) for panel in result.panels)
    assert result.verdicts
    options = [{variant.choice for variant in verdict.variants} for verdict in result.verdicts]
    assert all(("shared_data = none" in choices) == bool(varied) for choices in options)
    target = "trace" if number == 26 else "sharpness"
    for row in result.points:
        place = row["option"], row["parametrization"], row["dim"]
        networks = next(
            point.networks
            for point in two_layer_points(request.chosen, activation="relu" if number == 16 else "linear")
            if (point.option, point.networks.parametrization, point.networks.dim) == place
        )
        point = request.computations.index(networks)
        first = output.arrays[f"point_{point}_{row['stage']}_{row['quantity']}"]
        second = output.arrays[f"point_{point}_{row['stage']}_{target}"]
        squares = first if "alignment" in row["quantity"] else first**2
        assert row["correlation"] == pytest.approx(np.corrcoef(squares, second)[0, 1], abs=1e-9)


@pytest.mark.parametrize("number", [17, 18, 19, 20, 21, 22])
def test_deep_figures_from_request_to_result(number: int) -> None:
    overrides = SMALL | {"depths": [2, 3], "varied": [], "num_networks": 5}
    request = FigureRequest(kind="figure", figure=f"cracking-{number}", overrides=overrides)
    output = run_experiment(request, HARDWARE, ignore_progress)
    result = FigureResult.model_validate_json(output.result.model_dump_json())
    assert len(result.panels) == 6
    assert [[curve.x for curve in panel.curves] for panel in result.panels] == [[[1, 2], [1, 2, 3]]] * 6
    assert {row["dim"] for row in result.points} == {18: {1, 10}, 20: {10}}.get(number, {1})
    assert result.verdicts


def test_figures_of_the_same_networks_share_their_measurements() -> None:
    def messages(figure: str) -> set[str]:
        request = FigureRequest(kind="figure", figure=figure, scale="paper")
        return {each.model_dump_json() for each in request.computations}

    assert messages("cracking-4") | messages("cracking-14") == messages("cracking-15") == messages("cracking-26")
    for first, second in ((17, 19), (21, 22)):
        assert messages(f"cracking-{first}") == messages(f"cracking-{second}")
    assert messages("cracking-18") == messages("cracking-17") | messages("cracking-20")


def test_first_rates_are_those_of_the_source() -> None:
    def rates(points: list[FigurePoint]) -> dict[tuple[str, int, int], float]:
        chosen = [point.networks for point in points if not point.option]
        return {(each.parametrization, each.depth, each.dim): each.learning_rate for each in chosen}

    def parameters(figure: str) -> Any:
        return FigureRequest(kind="figure", figure=figure, scale="paper").chosen

    two = rates(two_layer_points(parameters("cracking-15"), activation="linear"))
    assert {key for key, rate in two.items() if rate == 1} == {("mup", 2, dim) for dim in (30, 50, 75, 100)}
    assert set(two.values()) == {0.01, 1.0}
    deep = rates(deep_points(parameters("cracking-17"), activation="linear", dims=[1]))
    expected = {(name, depth, 1) for name in ("standard", "mup") for depth in (3, 4, 5, 6)}
    assert {key for key, rate in deep.items() if rate == 0.001} == expected
    assert set(rates(deep_points(parameters("cracking-20"), activation="linear", dims=[10])).values()) == {0.01}


def test_what_is_varied_of_the_choices_that_the_source_leaves_open() -> None:
    request = FigureRequest(kind="figure", figure="cracking-4")
    points = two_layer_points(request.chosen, activation="linear")
    assert len(request.computations) == len(set(request.computations)) < len(points)
    choices: dict[str, set[str]] = {"standard": set(), "mup": set()}
    for point in points:
        choices[point.networks.parametrization].add(point.option.split(" ")[0])
    assert choices["mup"] == {"", *request.chosen.varied} == {"", *get_args(OpenChoice)}
    assert choices["mup"] - choices["standard"] == {"mup_rates", "large_mup_dim"}
    shorter = next(each for each in points if each.option.startswith("patience"))
    assert shorter.networks.training.patience == request.chosen.patience // 2
    other = [each.networks for each in points if each.option.startswith("large_mup_dim")]
    known = [each.networks for each in points if not each.option]
    differing = [each for each in other if each not in known]
    assert [(each.dim, each.learning_rate) for each in differing] == [(3, 1.0)]


def made_up(measurement: TrainedNetworks, weights_of_norms: dict[str, float]) -> Measured:
    """Networks whose sharpness is a known sum of squared norms, with a little noise."""
    rng = np.random.default_rng(len(measurement.model_dump_json()) + measurement.dim)
    size, arrays = 60, {"diverged": np.zeros(60), "num_steps": np.ones(60), "has_plateaued": np.ones(60)}
    for stage in ("initial", "trained"):
        for norm in ("spectral", "frobenius", "nuclear"):
            for layer in ("1", "2", "alignment"):
                arrays[f"{stage}_{norm}_{layer}"] = 1 + rng.random(size)
        sharpness = sum(factor * arrays[f"{stage}_{name}"] ** 2 for name, factor in weights_of_norms.items())
        arrays |= {f"{stage}_sharpness": sharpness, f"{stage}_trace": sharpness, f"{stage}_loss": np.ones(size)}
        arrays[f"{stage}_ggn"] = sharpness * 1.001
    return Measured({}, arrays)


@pytest.mark.parametrize(("name", "holds"), [("spectral_1", True), ("nuclear_2", False)])
def test_verdicts_follow_the_numbers(name: str, holds: bool) -> None:
    overrides = {"dims": [1, 2, 8], "width": 16, "varied": []}
    request = FigureRequest(kind="figure", figure="cracking-4", overrides=overrides)
    measured = [made_up(message, {name: 1.0, "spectral_2": 0.1}) for message in request.computations]
    content = content_of("cracking-4", request.chosen, measured)
    verdicts = {verdict.claim: verdict for verdict in content.verdicts}
    claim = "Sharpness correlates most with the squared spectral norm of a weight matrix after training (SP)"
    assert verdicts[claim].holds is holds
    drives = verdicts["After training, it is the first matrix that drives the correlation (muP)"]
    assert drives.holds is (True if holds else False if name.endswith("2") and drives.upper < 0 else drives.holds)


def content(figure: str, measured: Callable[[TrainedNetworks], Measured], **overrides: Any) -> FigureContent:
    fields = {"width": 16, "varied": [], "parametrizations": ["mup"]} | overrides
    request = FigureRequest(kind="figure", figure=figure, overrides=fields)
    return content_of(figure, request.chosen, [measured(each) for each in request.computations])


def test_points_that_contradict_the_claim_on_their_mean_are_listed() -> None:
    def measured(message: TrainedNetworks) -> Measured:
        return made_up(message, {"nuclear_2" if message.dim == 8 else "spectral_1": 1.0})

    found = content("cracking-4", measured, dims=[1, 2, 4, 8])
    claim = "Sharpness correlates most with the squared spectral norm of a weight matrix after training (muP)"
    (note,) = [each.note for each in found.verdicts if each.claim == claim]
    assert note is not None
    assert note.startswith("points that contradict the claim: 2 layers, D = 8 (-")
    assert "D = 2" not in note


def test_a_claim_on_spectral_norms_says_so_and_others_are_a_variant() -> None:
    found = content("cracking-4", lambda message: made_up(message, {"nuclear_2": 1.0}), dims=[1, 8])
    (each,) = [each for each in found.verdicts if "the spectral norm of neither" in each.claim]
    assert each.value is not None
    assert each.value < 0.5
    (variant,) = each.variants
    assert (variant.choice, variant.holds) == ("all norms of both matrices", False)


def with_divergence(measured: Measured, count: int) -> Measured:
    """As if training of so many networks had failed."""
    diverged = (np.arange(60) < count).astype(float)
    arrays = {
        name: np.where(diverged, np.nan, each) if name.startswith("trained") else each
        for name, each in measured.arrays.items()
    }
    return Measured({}, arrays | {"diverged": diverged})


def test_statistics_at_initialization_do_not_depend_on_what_training_does() -> None:
    def networks(count: int) -> Callable[[TrainedNetworks], Measured]:
        return lambda message: with_divergence(made_up(message, {"spectral_1": 1.0}), count)

    undisturbed, disturbed = (content("cracking-4", networks(count), dims=[1, 2]) for count in (0, 20))

    def rows(content: FigureContent, stage: str) -> list[Any]:
        return [(row["correlation"], row["num_networks"]) for row in content.points if row["stage"] == stage]

    assert rows(undisturbed, "initial") == rows(disturbed, "initial")
    assert {count for _, count in rows(disturbed, "trained")} == {40}
    grows = next(verdict for verdict in disturbed.verdicts if "most prominent in trained" in verdict.claim)
    assert grows.value is not None


def test_a_claim_on_all_points_is_not_decided_without_one_of_them() -> None:
    def networks(message: TrainedNetworks) -> Measured:
        measured = made_up(message, {"spectral_1": 1.0})
        return with_divergence(measured, 60) if message.dim == 2 else measured

    verdicts = content("cracking-4", networks, dims=[1, 2]).verdicts
    close = next(verdict for verdict in verdicts if "well approximated" in verdict.claim)
    assert (close.holds, close.value) == (None, None)
    assert "1 of 2 numbers are not determined" in close.note
    early = next(
        verdict for verdict in verdicts if "At initialization and for small D, the spectral norm" in verdict.claim
    )
    assert early.holds


def test_a_network_is_one_case_of_the_bound() -> None:
    """The bound fails for both matrices of the first 15 networks at initialization, and holds otherwise."""

    def networks(message: TrainedNetworks) -> Measured:
        measured = made_up(message, {"spectral_1": 1.0, "spectral_2": 1.0})
        sharpness = np.where(np.arange(60) < 15, 0.1, 1.0) * measured.arrays["initial_sharpness"]
        return Measured({}, {**measured.arrays, "initial_sharpness": sharpness})

    verdicts = content("cracking-4", networks, dims=[1, 2]).verdicts
    bound = next(verdict for verdict in verdicts if "at least the squared spectral norm" in verdict.claim)
    expected = proportion(90, 120)
    assert (bound.value, bound.lower, bound.upper) == (expected.value, expected.lower, expected.upper)


def test_the_best_matrix_is_chosen_anew_at_both_ends_of_training() -> None:
    def networks(message: TrainedNetworks) -> Measured:
        first = made_up(message, {"spectral_1": 1.0, "nuclear_1": 0.5})
        last = made_up(message, {"spectral_2": 1.0, "nuclear_1": 0.5})
        return Measured({}, {name: (first if "initial" in name else last).arrays[name] for name in first.arrays})

    found = content("cracking-4", networks, dims=[1])
    grows = next(verdict for verdict in found.verdicts if "most prominent in trained" in verdict.claim)
    largest = {
        stage: max(r["correlation"] for r in found.points if r["stage"] == stage and r["quantity"].startswith("spec"))
        for stage in ("initial", "trained")
    }
    assert min(largest.values()) > 0.8
    assert grows.value == pytest.approx(largest["trained"] - largest["initial"])
    assert grows.holds is None


@pytest.mark.parametrize(("noise", "holds"), [(3.0, True), (0.0, None)])
def test_few_inputs_are_compared_with_many(noise: float, holds: bool | None) -> None:
    def networks(message: TrainedNetworks) -> Measured:
        rng = np.random.default_rng((message.depth, message.dim))
        arrays = {"diverged": np.zeros(60), "num_steps": np.ones(60), "has_plateaued": np.ones(60)}
        for stage in ("initial", "trained"):
            for layer in range(1, message.depth + 1):
                arrays |= {f"{stage}_spectral_{kind}{layer}": 1 + rng.random(60) for kind in ("", "without_")}
            own = arrays[f"{stage}_spectral_without_{message.depth}"] ** 2 + rng.random(60)
            arrays[f"{stage}_sharpness"] = own + (noise * rng.random(60) if message.dim > 1 else 0)
            arrays[f"{stage}_loss"] = np.ones(60)
        return Measured({}, arrays)

    found = content("cracking-18", networks, depths=[2, 3, 4])
    verdicts = [verdict for verdict in found.verdicts if "low-dimensional" in verdict.claim]
    assert [verdict.holds for verdict in verdicts] == [holds, holds]
    assert {row["dim"] for row in found.points} == {1, 10}
    assert all(len(panel.curves) == 3 for panel in found.panels)
    assert next(verdict for verdict in found.verdicts if "partially persists" in verdict.claim).holds


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"dims": [0]}, "dims"),
        ({"num_networks": 4}, "num_networks"),
        ({"batch_size": 2000}, "batch_size"),
        ({"patience": -1}, "patience"),
        ({"varied": ["weather"]}, "varied"),
        ({"parametrizations": []}, "parametrizations"),
        ({"depths": [2]}, "depths"),
    ],
)
def test_overrides_that_are_refused(overrides: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FigureRequest(kind="figure", figure="cracking-4", overrides=overrides)
    assert caught.value.errors()[0]["loc"][:2] == ("overrides", field)


def test_every_figure_of_the_family_is_listed() -> None:
    assert {f"cracking-{number}" for number in (4, *range(14, 23), 26)} <= set(FIGURES)
