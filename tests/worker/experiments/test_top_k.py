"""Extreme eigenvalues of jobs against every eigenvalue: far below the norm, and from reduced products."""

from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import ExactResult, TopKResult
from hessian_spectrum.curvature.progress import ignore_progress
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

DIGITS: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 10]},
    "data": {"kind": "digits", "num_samples": 100},
    "loss": "cross-entropy",
}


def run(problem: dict[str, Any], method: dict[str, Any], precision: str) -> Any:
    request = SpectrumRequest.model_validate(problem | {"method": method, "precision": precision})
    return run_spectrum_job(request, Hardware(torch.device("cpu"), 1, 2**33), ignore_progress).result


def test_the_smallest_eigenvalue_of_a_network_on_pixels() -> None:
    """Near a minimum; the largest eigenvalue is more than 10,000 times as large."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 5)).astype(float)
    data = {"kind": "inline", "x": pixels.tolist(), "y": (pixels @ rng.normal(size=(5, 1)) / 100).tolist()}
    problem = {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [5, 24, 1], "activation": "relu"},
        "data": data,
        "loss": "mse",
        "train": {"num_steps": 2000, "learning_rate": 1e-5},
    }
    exact = run(problem, {"kind": "exact"}, "float64")
    assert isinstance(exact, ExactResult)
    assert exact.eigenvalues[-1] > 1e4 * abs(exact.eigenvalues[0])
    for which, k in (("smallest", 2), ("largest", 2), ("both-ends", 3)):
        found = run(problem, {"kind": "top-k", "k": k, "which": which, "eigenvectors": False}, "float64")
        wanted = exact.eigenvalues[:k]
        if which != "smallest":
            upper = k if which == "largest" else (k + 1) // 2
            wanted = [*exact.eigenvalues[::-1][:upper], *exact.eigenvalues[: k - upper]]
        for pair, value in zip(found.eigenpairs, wanted, strict=True):
            assert pair.converged
            assert abs(pair.value - value) <= 1e-5 * abs(value) + 1e-14 * exact.eigenvalues[-1]


@pytest.mark.parametrize("k", [1, 3])
def test_bfloat16_says_how_far_it_is_off_and_is_corrected(k: int) -> None:
    exact = run(DIGITS, {"kind": "exact"}, "float64")
    found = run(DIGITS, {"kind": "top-k", "k": k, "eigenvectors": False}, "bfloat16")
    assert isinstance(found, TopKResult)
    assert found.provenance.precision_deviation is not None
    assert found.provenance.precision_deviation > 1e-4
    for pair, value in zip(found.eigenpairs, exact.eigenvalues[::-1], strict=False):
        assert pair.lower is not None
        assert pair.upper is not None
        assert pair.lower <= value <= pair.upper
        assert pair.upper - pair.lower < 1e-3
        assert abs(pair.value - value) <= min(pair.residual, 1e-4)
        assert not pair.converged
        assert pair.why is not None
        assert pair.why.startswith("The error of the products")


def test_a_block_of_reduced_products_is_corrected_too() -> None:
    problem = DIGITS | {"blocks": ["layers.0.weight", "layers.0.bias"]}
    exact = run(problem, {"kind": "exact"}, "float64")
    found = run(problem, {"kind": "top-k", "k": 1, "eigenvectors": False}, "bfloat16")
    for block, every in zip(found.spectra, exact.spectra, strict=True):
        (pair,) = block.eigenpairs
        assert abs(pair.value - every.eigenvalues[-1]) <= min(pair.residual, 1e-4 * pair.value)
