"""Extreme eigenvalues of jobs against every eigenvalue: far below the norm, and from reduced products."""

from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.methods import ExactResult, TopKResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
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
        assert pair.upper - pair.lower < (1.0 if k == 1 else 0.2) * pair.residual  # one value alone has no known gap
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


USUAL: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [5, 8, 3]},
    "data": {"kind": "gaussian", "num_samples": 60, "input_dim": 5, "output_dim": 3},
    "loss": "mse",
}


@pytest.mark.parametrize("which", ["largest", "smallest", "both-ends", "magnitude"])
def test_reduced_products_of_a_small_matrix_are_no_exact_ones(which: str) -> None:
    """The basis is the whole space there, and its Ritz vectors are those of another matrix all the same."""
    for name in ("layers.0.bias", "layers.1.weight"):
        problem = USUAL | {"block": name}
        ascending = sorted(run(problem, {"kind": "exact"}, "float64").eigenvalues)
        for k in (1, 2, 3):
            method = {"kind": "top-k", "k": k, "which": which, "eigenvectors": False, "max_products": 60}
            wanted = {
                "largest": ascending[::-1][:k],
                "smallest": ascending[:k],
                "both-ends": sorted([*ascending[::-1][: (k + 1) // 2], *ascending[: k // 2]], reverse=True),
                "magnitude": sorted(ascending, key=abs, reverse=True)[:k],
            }[which]
            for pair, value in zip(run(problem, method, "bfloat16").eigenpairs, wanted, strict=True):
                assert pair.lower <= value <= pair.upper


def test_eigenvalues_of_every_block_lie_within_the_deviation_that_it_states() -> None:
    """Blocks deviate more and less than the whole matrix, and the first of them."""
    deep = {"kind": "mlp", "widths": [5, *[4] * 6, 3], "activation": "linear", "parametrization": "ntk"}
    problem = USUAL | {"model": deep, "blocks": ["*", "layers.0.bias", "layers.2.weight", "layers.2.bias"]}
    exact = run(problem, {"kind": "exact"}, "float64")
    reduced = run(problem, {"kind": "exact"}, "bfloat16")
    lanczos = run(problem, {"kind": "lanczos", "num_steps": 4, "num_probes": 1, "num_points": 8}, "bfloat16")
    deviations = set()
    for every, rounded, found in zip(exact.spectra, reduced.spectra, lanczos.spectra, strict=True):
        off = np.abs(np.array(every.eigenvalues) - np.array(rounded.eigenvalues))
        assert off.max() <= rounded.zero_threshold
        assert found.largest.lower <= every.eigenvalues[-1]
        deviations.add(found.provenance.precision_deviation)
    assert len(deviations) == len(lanczos.spectra)
