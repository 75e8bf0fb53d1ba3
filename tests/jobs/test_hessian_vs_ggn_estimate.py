"""What a comparison takes: the most of its points, with AdamW's moments beside them."""

from typing import Any

import pytest

from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.jobs.estimate import estimate
from hessian_spectrum.jobs.hessian_vs_ggn_estimate import comparison_estimate, comparison_memory_error
from hessian_spectrum.jobs.job_estimate import job_estimate
from hessian_spectrum.jobs.spectrum_variants import eigenvalue_request

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
    found = job_estimate(request)
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
    assert comparison_estimate(request).peak_bytes == max(point.peak_bytes for point in points)
    assert comparison_estimate(request).num_training_passes == 0


def test_what_is_too_large_is_named() -> None:
    request = request_of()
    least = next(m for m in range(2**20, 2**33, 2**20) if comparison_memory_error(request, m) is None)
    assert comparison_estimate(request, least).micro_batch_size < 8
    error = comparison_memory_error(request, least // 2)
    assert error is not None
    assert error.loc == ["body", "models", 1]
    assert comparison_memory_error(request_of(models=[GPT2]), least // 2) is None
    long = request_of(data=TEXT | {"num_sequences": 1_000_000}, models=[GPT2])
    error = comparison_memory_error(long, least)
    assert error is not None
    assert error.loc == ["body", "data"]
