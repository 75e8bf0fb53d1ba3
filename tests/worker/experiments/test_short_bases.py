"""Top eigenpairs in less memory: a shorter basis, restarted more often, and the same eigenvalues."""

from typing import Any

import pytest
import torch

from hessian_spectrum.api_schemas.methods import TopKResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.jobs.plans import estimate, plan_job
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

REQUEST: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 128, 10]},
    "data": {"kind": "digits", "num_samples": 100},
    "loss": "cross-entropy",
    "method": {"kind": "top-k", "k": 2, "tolerance": 1e-6},
    "precision": "float64",
}
AMPLE = 2**33


def test_a_short_basis_finds_the_same_eigenvalues() -> None:
    request = SpectrumRequest.model_validate(REQUEST)
    whole, vector = estimate(request, AMPLE), 8 * request.dim
    assert whole.vector_bytes is None
    tight = whole.peak_bytes - 50 * vector
    short = estimate(request, tight)
    assert short.peak_bytes <= tight
    assert short.vector_bytes is not None
    assert 7 * vector <= short.vector_bytes < 34 * vector
    values = []
    for size in (AMPLE, tight):
        result = run_spectrum_job(request, Hardware(torch.device("cpu"), 1, size), ignore_progress).result
        assert isinstance(result, TopKResult)
        assert all(pair.converged for pair in result.eigenpairs)
        values.append([pair.value for pair in result.eigenpairs])
    assert values[1] == pytest.approx(values[0], rel=1e-6)


@pytest.mark.slow
def test_what_no_basis_makes_fit_is_refused_and_the_least_is_taken() -> None:
    request = SpectrumRequest.model_validate(REQUEST)
    sizes = range(12 * 2**20, estimate(request, AMPLE).peak_bytes, 2**18)
    least = next(size for size in sizes if plan_job(request, size).fits)
    assert not plan_job(request, least - 2**18).fits
    plan = estimate(request, least)
    assert plan.vector_bytes is not None
    assert plan.vector_bytes < 20 * 8 * request.dim
    result = run_spectrum_job(request, Hardware(torch.device("cpu"), 1, least), ignore_progress).result
    assert isinstance(result, TopKResult)


def test_the_paper_measures_124_million_parameters_within_24_gib() -> None:
    """Eight sequences of 1,024 tokens; a basis of 81 vectors alone would take 40 GB."""
    sizes = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
    data = {"kind": "text", "name": "pydoc-topics", "tokenizer": "gpt2", "num_sequences": 8, "sequence_length": 1024}
    method = {"kind": "top-k", "k": 1, "eigenvectors": False}
    fields = {"model": {"kind": "gpt2"} | sizes, "data": data, "method": method, "precision": "float32"}
    request = SpectrumRequest.model_validate(REQUEST | fields)
    assert plan_job(request, 24 * 2**30).fits
    density = SpectrumRequest.model_validate(
        REQUEST | fields | {"method": {"kind": "lanczos", "preset": "paper-figure-6"}}
    )
    assert plan_job(density, 24 * 10**9).fits
