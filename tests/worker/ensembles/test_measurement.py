"""Requests that are computed together have the numbers of single jobs."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.ensembles.training import EnsembleTraining
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.serialization import deserialize, serialize
from hessian_spectrum.quadrature.exceptions import CurvatureError
from hessian_spectrum.worker.builders import build_plan, generator_of
from hessian_spectrum.worker.ensembles import measure, measurement, prepare_ensemble, shape_key
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

CPU = torch.device("cpu")
HARDWARE = Hardware(CPU, 1, 2**32)
SIZE = 4

LANCZOS = {"kind": "lanczos", "num_steps": 8, "num_probes": 2, "num_points": 32}
PLATEAU = {"kind": "plateau", "patience": 1, "min_learning_rate": 2e-3}
DIGITS = {
    "model": {"widths": [64, 3, 10]},
    "data": {"kind": "digits", "num_samples": 24},
    "loss": "cross-entropy",
}

ROUNDING_MEASURES = ("node_error", "residual", "standard_error", "zero_threshold")
"""Fields that measure errors of products, or consist of them where nothing else is left."""


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


def request(seed: int, changes: Mapping[str, Any], *, precision: str = "float64") -> SpectrumRequest:
    """A request whose seeds and learning rate depend on the member; dictionaries of `changes` add to the fields."""
    fields: dict[str, Any] = {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [3, 5, 2], "activation": "tanh", "seed": seed},
        "data": {"kind": "gaussian", "num_samples": 24, "input_dim": 3, "output_dim": 2, "seed": seed},
        "loss": "mse",
        "method": LANCZOS,
        "train": {"num_steps": 40, "learning_rate": 0.05 * (1 + seed), "batch_size": 10, "seed": 7 * seed},
        "precision": precision,
        "seed": seed,
    }
    for name, value in changes.items():
        is_part = name in ("model", "train") and isinstance(value, dict)
        fields[name] = fields[name] | value if is_part else value
    if fields["data"]["kind"] == "digits":
        fields["data"] = {**fields["data"], "seed": seed}
    return SpectrumRequest.model_validate(fields)


def single(own: SpectrumRequest) -> JobOutput | CurvatureError:
    try:
        return run_spectrum_job(own, HARDWARE, ignore_progress)
    except CurvatureError as error:
        return error


def assert_close(one: Any, other: Any, *, scale: float, tolerance: float, path: str = "") -> None:
    """Check that two documents agree up to the tolerance, relative to the scale of their spectrum or to themselves."""
    if isinstance(one, dict):
        # nodes of one eigenvalue share its weight as rounding decides, if a run goes on to the end of the space
        for name in one.keys() - {"provenance", "quadrature"}:
            assert_close(one[name], other[name], scale=scale, tolerance=tolerance, path=f"{path}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for left, right in zip(one, other, strict=True):
            assert_close(left, right, scale=scale, tolerance=tolerance, path=path)
    elif isinstance(one, float) and isinstance(other, float):
        is_rounding = path.endswith(ROUNDING_MEASURES)
        size = max(abs(one), abs(other), scale if is_rounding else 0.01 * scale)
        # logarithms of small eigenvalues magnify roundings of large ones
        factor = 1e3 if ".log_density" in path else 1.0
        assert abs(one - other) <= factor * tolerance * size, f"{path}: {one} and {other}"
    else:
        assert one == other, path


CASES: dict[str, dict[str, Any]] = {
    "lanczos, tanh, plateau": {"train": {"num_steps": 80, "schedule": PLATEAU}},
    "lanczos to the end of the space, relu, ntk": {
        "model": {"activation": "relu", "parametrization": "ntk"},
        "method": {**LANCZOS, "num_steps": 60},
        "train": {"num_steps": 10},
    },
    "lanczos of a block, linear, mup, momentum": {
        "model": {"activation": "linear", "bias": False, "parametrization": "mup"},
        "train": {"momentum": 0.9, "nesterov": True, "learning_rate": 0.01},
        "block": "*.1.weight",
        "method": {**LANCZOS, "num_steps": 4},  # as many as there are eigenvalues: later steps multiply roundings
    },
    "lanczos, linear, full batches of one data set": {
        "model": {"activation": "linear", "bias": False},
        "train": {"batch_size": None, "schedule": PLATEAU},
        "data": {"kind": "gaussian", "num_samples": 24, "input_dim": 3, "output_dim": 2},
    },
    "lanczos without training, ggn, cross-entropy": {**DIGITS, "train": None, "matrix": "ggn"},
    "exact, cross-entropy, adam, cosine, clipping": {
        **DIGITS,
        "train": {
            "optimizer": {"kind": "adamw"},
            "learning_rate": 0.01,
            "schedule": {"kind": "warmup-cosine", "warmup_steps": 5},
            "gradient_clip": 0.5,
        },
        "method": {"kind": "exact"},
    },
    "exact, gelu, given weights": {
        "model": {
            "widths": None,
            "activation": "gelu",
            "weights": [
                {"weight": [[0.5, -1.0, 0.25], [1.0, 0.75, -0.5]], "bias": [0.1, 0.2]},
                {"weight": [[1.0, -0.5], [0.3, 0.7]], "bias": [0.0, 0.4]},
            ],
        },
        "method": {"kind": "exact"},
    },
    "exact, ggn, huber, inline data": {
        "data": {"kind": "inline", "x": [[1.0, 2.0, 0.5], [0.0, -1.0, 1.5]], "y": [[1.0, 0.0], [0.5, -2.0]]},
        "loss": "huber",
        "matrix": "ggn",
        "method": {"kind": "exact"},
    },
    "largest, weight decay": {"weight_decay": 0.1, "method": {"kind": "top-k", "k": 2}},
    "trace, functional": {"matrix": "functional", "method": {"kind": "trace", "num_probes": 8}},
}


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_single_jobs(case: str) -> None:
    requests = [request(seed, CASES[case]) for seed in range(SIZE)]
    (key,) = {shape_key(each) for each in requests}
    assert key is not None
    for own, outcome in zip(requests, measure(requests, HARDWARE, ignore_progress), strict=True):
        alone = single(own)
        assert isinstance(alone, JobOutput), alone
        assert isinstance(outcome, JobOutput), outcome
        assert_close(
            alone.result.model_dump(mode="json"),
            outcome.result.model_dump(mode="json"),
            scale=_scale(alone.result),
            tolerance=1e-10,
        )


def _scale(result: Any) -> float:
    """Size of the largest eigenvalue, as far as the result tells."""
    document = result.model_dump(mode="json")
    values = document.get("eigenvalues") or [each["value"] for each in document.get("eigenpairs", [])]
    named = [document[name]["value"] for name in ("largest", "smallest", "frobenius") if document.get(name)]
    return max(map(abs, [*values, *named]))


def test_float32_agrees_up_to_its_rounding() -> None:
    changes = {"method": {**LANCZOS, "num_steps": 5}}
    requests = [request(seed, changes, precision="float32") for seed in range(SIZE)]
    for own, outcome in zip(requests, measure(requests, HARDWARE, ignore_progress), strict=True):
        alone = single(own)
        assert isinstance(alone, JobOutput)
        assert isinstance(outcome, JobOutput)
        ours, theirs = alone.result.model_dump(mode="json"), outcome.result.model_dump(mode="json")
        for name in ("largest", "smallest", "trace", "frobenius"):
            assert theirs[name]["value"] == pytest.approx(
                ours[name]["value"], rel=1e-4, abs=1e-5 * _scale(alone.result)
            )


def test_networks_that_diverge_fail_alone_with_the_message_of_a_single_job() -> None:
    rates = [0.05, 60.0, 0.1, 1e30]
    for activation, bias in (("relu", True), ("linear", False)):
        changes = {"model": {"activation": activation, "bias": bias}, "method": {"kind": "exact"}}
        requests = [request(seed, {**changes, "train": {"learning_rate": rate}}) for seed, rate in enumerate(rates)]
        outcomes = measure(requests, HARDWARE, ignore_progress)
        for own, outcome in zip(requests, outcomes, strict=True):
            alone = single(own)
            if isinstance(alone, CurvatureError):
                # whether sums of infinities are infinite or NaN depends on their order
                assert (type(outcome), _infinity(outcome)) == (type(alone), _infinity(alone))
            else:
                assert isinstance(outcome, JobOutput)
                assert outcome.result.model_dump()["eigenvalues"] == pytest.approx(
                    alone.result.model_dump()["eigenvalues"], abs=1e-10 * _scale(alone.result)
                )
        assert [isinstance(each, CurvatureError) for each in outcomes] == [False, True, False, True]


def _infinity(error: object) -> str:
    return str(error).replace(" nan ", " inf ").replace(" -inf ", " inf ")


def test_chunks_do_not_change_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request(seed, {"method": {"kind": "exact"}}) for seed in range(5)]
    whole = measure(requests, HARDWARE, ignore_progress)
    monkeypatch.setattr(measurement, "MAX_MEMBERS", 2)  # the last chunk is a single job
    phases: list[tuple[str, int, int]] = []
    parts = measure(requests, HARDWARE, lambda *each: phases.append(each))
    assert len({total for phase, _, total in phases if phase == "training"}) == 1
    for one, other in zip(whole, parts, strict=True):
        assert isinstance(one, JobOutput)
        assert isinstance(other, JobOutput)
        expected = one.result.model_dump()["eigenvalues"]
        assert other.result.model_dump()["eigenvalues"] == pytest.approx(expected, abs=1e-10 * _scale(one.result))


def test_training_continues_from_a_saved_state_with_the_same_bits() -> None:
    changes = {"train": {"num_steps": 120, "momentum": 0.5, "schedule": PLATEAU}}
    requests = [request(seed, changes) for seed in range(8)]
    start = prepare_ensemble(requests, device=CPU)
    trainings = [each.train for each in requests if each.train is not None]

    def training() -> EnsembleTraining:
        return EnsembleTraining(
            start.ensemble,
            build_plan(trainings[0]),
            learning_rates=[each.learning_rate for each in trainings],
            seeds=[each.seed for each in trainings],
            generators=[generator_of(each.seed) for each in trainings],
        )

    def finished(stop: int) -> Any:
        iteration = training()
        state = iteration.init(start.parameters, generator=torch.Generator())
        while not iteration.is_finished(state):
            iteration.step(start.parameters, state)
            if state.num_steps == stop:
                saved = serialize(iteration.save(state))
                document, tensors = json.loads(json.dumps(saved.document)), [each.clone() for each in saved.tensors]
                iteration = training()
                state = iteration.load(start.parameters, deserialize(document, tensors, CPU))
        dropped = len(state.members) < len(requests)
        return iteration.result(start.parameters, state), dropped

    whole, dropped = finished(0)
    assert dropped, "some members are to be dropped before the end"
    assert bool(whole.has_plateaued.any())
    for stop in (1, 35, 90):
        again, _ = finished(stop)
        for name, values in whole.parameters.items():
            assert torch.equal(again.parameters[name], values), name
        assert torch.equal(again.losses, whole.losses)
        assert torch.equal(again.num_steps, whole.num_steps)


def test_results_are_kept_by_the_checkpoints_of_a_job() -> None:
    requests = [request(seed, {"train": None}) for seed in range(SIZE)]
    job = measurement.JobCheckpointer()
    first = measure(requests, HARDWARE, ignore_progress, job=job, name="point 3")
    assert list(job.finished) == ["point 3 0"]
    again = measure(requests, HARDWARE, ignore_progress, job=job, name="point 3")
    assert [each.result for each in again if isinstance(each, JobOutput)] == [
        each.result for each in first if isinstance(each, JobOutput)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"widths": [3, 6, 2]}},
        {"model": {"activation": "relu"}},
        {"train": None},
        {"train": {"batch_size": 11}},
        {"loss": "huber"},
        {"method": {**LANCZOS, "num_steps": 9}},
        {"matrix": "ggn"},
        {"data": {"kind": "gaussian", "num_samples": 25, "input_dim": 3, "output_dim": 2}},
    ],
)
def test_requests_of_another_shape_have_another_key(changes: dict[str, Any]) -> None:
    assert shape_key(request(0, changes)) != shape_key(request(0, {}))


def test_requests_that_cannot_be_stacked_have_no_key() -> None:
    assert shape_key(request(0, {"blocks": ["*.0.*", "*.1.*"]})) is None
    form = {"kind": "spectrum", "model": {"kind": "quadratic", "matrix": [[2.0, 1.0], [1.0, 3.0]]}, "method": LANCZOS}
    assert shape_key(SpectrumRequest.model_validate(form)) is None


def test_labels_that_are_ignored_are_computed_one_after_the_other() -> None:
    labels = [0, 1, -100]
    data = {"kind": "inline", "x": [[1.0, 2.0, 0.5], [0.0, -1.0, 1.5], [1.0, 1.0, 1.0]], "y": labels}
    changes = {"data": data, "loss": "cross-entropy", "train": None, "method": {"kind": "exact"}}
    requests = [request(seed, changes) for seed in range(2)]
    for own, outcome in zip(requests, measure(requests, HARDWARE, ignore_progress), strict=True):
        alone = single(own)
        assert isinstance(outcome, JobOutput)
        assert isinstance(alone, JobOutput)
        assert outcome.result.model_dump()["eigenvalues"] == alone.result.model_dump()["eigenvalues"]
