"""Plans of jobs: what a comparison takes, and what is stored with a job."""

import json
from dataclasses import replace
from typing import Any

import pytest

from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.api_schemas.models import kind
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.plans import (
    eigenvalue_request,
    estimate,
    memory_error,
    plan_for_worker,
    plan_job,
    stored_plan,
)
from hessian_spectrum.planning.job_plan import JobPlan

GPT2: dict[str, Any] = {"kind": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 32, "vocab_size": 256}
WIDE = GPT2 | {"n_embd": 256}
TEXT = {"kind": "text", "name": "pydoc-topics", "num_sequences": 8, "sequence_length": 32}
PRETRAIN = {"num_steps": 100, "batch_size": 16, "measure_every": [{"every": 50}]}


def request_of(**fields: Any) -> HessianVsGgnRequest:
    body = {"kind": "hessian-vs-ggn", "models": [GPT2, WIDE], "data": TEXT, "pretrain": PRETRAIN, "seeds": [0, 1, 2]}
    return HessianVsGgnRequest.model_validate(body | fields)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_job_takes_its_largest_point_and_two_moments(precision: str) -> None:
    request = request_of(precision=precision, max_products=50)
    found = plan_job(request).whole
    alone = max(
        (estimate(eigenvalue_request(request, request.models[1], matrix)) for matrix in ("hessian", "ggn")),
        key=lambda part: part.peak_bytes,
    )
    moments = 2 * (4 if precision == "float32" else 8) * alone.num_parameters
    assert moments < found.peak_bytes - alone.peak_bytes < 1.01 * moments
    assert found.num_parameters == alone.num_parameters
    assert found.num_products == 2 * 2 * 3 * 3 * 50  # matrices, models, seeds, steps 0, 50 and 100
    assert found.num_training_passes == 2 * 3 * 100 * 16 / 8


def test_without_training_there_are_no_moments() -> None:
    request = request_of(pretrain=None)
    points = [estimate(eigenvalue_request(request, m, matrix)) for m in request.models for matrix in ("hessian", "ggn")]
    assert plan_job(request).whole.peak_bytes == max(point.peak_bytes for point in points)
    assert plan_job(request).whole.num_training_passes == 0


def test_what_is_too_large_is_named() -> None:
    request = request_of()
    least = next(m for m in range(2**20, 2**33, 2**20) if plan_job(request, m).fits)
    assert plan_job(request, least).whole.micro_batch_size < 8
    error = memory_error(request, plan_job(request, least // 2))
    assert error is not None
    assert error.loc == ["body", "models", 1]
    single = request_of(models=[GPT2])
    assert memory_error(single, plan_job(single, least // 2)) is None
    long = request_of(data=TEXT | {"num_sequences": 1_000_000}, models=[GPT2])
    error = memory_error(long, plan_job(long, least))
    assert error is not None
    assert error.loc == ["body", "data"]


MLP = {"kind": "mlp", "widths": [8, 64, 32, 4]}
GAUSSIAN = {"kind": "gaussian", "input_dim": 8, "output_dim": 4, "num_samples": 2000}
SPECTRUM: dict[str, Any] = {"kind": "spectrum", "model": MLP, "data": GAUSSIAN, "loss": "mse"}
LANCZOS = {"kind": "lanczos", "num_steps": 100, "num_probes": 64}
GPT2_SPECTRUM = {"kind": "spectrum", "model": GPT2, "data": TEXT, "loss": "cross-entropy"}
SINKS = GPT2 | {"attention_sink": {"bias": [0.0, 1.0, 2.0]}}
REQUESTS: dict[str, dict[str, Any]] = {
    "exact": SPECTRUM | {"method": {"kind": "exact"}},
    "lanczos": SPECTRUM | {"method": LANCZOS},
    "lanczos of blocks": SPECTRUM | {"method": LANCZOS, "blocks": ["layers.0.*", "layers.1.*"]},
    "top-k": GPT2_SPECTRUM | {"method": {"kind": "top-k", "k": 3}},
    "nearest": GPT2_SPECTRUM | {"method": {"kind": "top-k", "k": 3, "which": "nearest"}},
    "trace of sinks": GPT2_SPECTRUM | {"model": SINKS, "method": {"kind": "trace", "estimator": "hutch++"}},
    "comparison": {"kind": "hessian-vs-ggn", "models": [GPT2], "data": TEXT, "pretrain": PRETRAIN, "seeds": [0, 1]},
}


def test_only_a_job_of_one_spectrum_is_split_into_shards() -> None:
    data = TEXT | {"num_sequences": 4096}

    def num_shards(model: dict[str, Any], **fields: Any) -> int:
        request = GPT2_SPECTRUM | {"model": model, "data": data, "method": LANCZOS} | fields
        return plan_job(JobRequest.model_validate(request).root.canonical(), 2**36).whole.num_shards

    assert num_shards(GPT2) > 1
    assert num_shards(SINKS) == 1
    assert num_shards(GPT2, blocks=["blocks.0.*", "blocks.1.*"]) == 1


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("memory", [2**26, 2**28, 2**34])
def test_a_stored_plan_is_the_one_that_a_worker_with_this_memory_would_make(name: str, memory: int) -> None:
    request = JobRequest.model_validate(REQUESTS[name]).root.canonical()
    plan = plan_job(request, memory)
    text = stored_plan(plan)
    assert plan_for_worker(request, memory, text) == plan
    doubled = replace(plan, whole=replace(plan.whole, num_products=2 * plan.whole.num_products))
    assert plan_for_worker(request, memory, stored_plan(doubled)) == doubled  # it is used, not made again
    assert plan_for_worker(request, memory, None) == plan
    assert len(text) < 2000 or name == "comparison"


def test_a_worker_with_other_memory_or_software_plans_again() -> None:
    request = JobRequest.model_validate(REQUESTS["lanczos"]).root.canonical()
    plan = plan_job(request, 2**28)
    doubled = replace(plan, whole=replace(plan.whole, num_products=0))
    assert plan_for_worker(request, 2**27, stored_plan(doubled)) == plan_job(request, 2**27)
    older = json.dumps(json.loads(stored_plan(doubled)) | {"planner_version": "older", "whole": "of other fields"})
    assert plan_for_worker(request, 2**28, older) == plan
    assert JobPlan.from_json(older, "another") is None


@pytest.mark.parametrize("name", REQUESTS)
def test_the_canonical_form_of_a_request_has_the_same_plan(name: str) -> None:
    request = JobRequest.model_validate(REQUESTS[name]).root
    for memory in (None, 2**27, 2**34):
        assert plan_job(request, memory) == plan_job(request.canonical(), memory)


@pytest.mark.parametrize(("name", "num_calls"), [("exact", 1), ("lanczos", 1), ("lanczos of blocks", 1), ("top-k", 1)])
def test_the_parameters_of_a_model_are_listed_once_for_a_plan(
    name: str, num_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = JobRequest.model_validate(REQUESTS[name]).root.canonical()
    calls: list[Any] = []
    shapes = kind.parameter_shapes
    monkeypatch.setattr(kind, "parameter_shapes", lambda model: (calls.append(model), shapes(model))[1])
    plan_job(request, 2**28)
    assert len(calls) == num_calls


def wide_request(matrix: str, *, num_samples: int = 12, **fields: Any) -> SpectrumRequest:
    document = {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [400, 600, 10], "activation": "tanh"},
        "data": {"kind": "gaussian", "num_samples": num_samples, "input_dim": 400, "output_dim": 10},
        "loss": "mse",
        "matrix": matrix,
        "method": {"kind": "exact"},
        **fields,
    }
    return SpectrumRequest.model_validate(document)


def test_a_gauss_newton_matrix_of_few_outputs_does_not_need_the_square_of_all_parameters() -> None:
    memory = 2**30
    for matrix, order in (("ggn", 120), ("fisher", 120), ("empirical-fisher", 12), ("gradient-covariance", 12)):
        plan = plan_job(wide_request(matrix), memory)
        assert plan.fits
        assert plan.whole.num_products == plan.whole.work.dense_order == order
    dense = plan_job(wide_request("hessian"), memory)
    assert not dense.fits
    assert dense.whole.num_products == 246_610
    assert not plan_job(wide_request("ggn", precision="tf32"), memory).fits


def test_a_matrix_with_more_outputs_than_parameters_is_assembled() -> None:
    model = {"kind": "mlp", "widths": [2, 3, 2], "activation": "tanh"}
    data = {"kind": "gaussian", "num_samples": 40, "input_dim": 2, "output_dim": 2}
    assert plan_job(wide_request("ggn", model=model, data=data)).whole.num_products == 17
    assert (
        plan_job(wide_request("empirical-fisher", model=model, data=data | {"num_samples": 16})).whole.num_products
        == 16
    )
