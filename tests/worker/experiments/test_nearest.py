"""Eigenvalues of networks nearest to a value against every eigenvalue of the dense matrix."""

from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.methods import TopKMethod, TopKResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

RNG = np.random.default_rng(0)
INLINE = {"kind": "inline", "x": RNG.normal(size=(20, 4)).tolist(), "y": RNG.normal(size=(20, 2)).tolist()}
DIGITS = {"kind": "digits", "num_samples": 60}
TEXT = {"kind": "text", "text": "to be or not to be " * 9, "num_sequences": 3, "sequence_length": 8}
TRAIN = {"num_steps": 200, "learning_rate": 0.1}
PROBLEMS: dict[str, dict[str, Any]] = {
    "tanh": {
        "model": {"kind": "mlp", "widths": [4, 8, 2], "activation": "tanh"},
        "data": INLINE,
        "loss": "mse",
        "train": TRAIN,
    },
    "relu": {"model": {"kind": "mlp", "widths": [4, 16, 2], "activation": "relu"}, "data": INLINE, "loss": "mse"},
    "digits": {
        "model": {"kind": "mlp", "widths": [64, 4, 10]},
        "data": DIGITS,
        "loss": "cross-entropy",
        "train": TRAIN,
    },
    "ggn": {
        "model": {"kind": "mlp", "widths": [64, 4, 10]},
        "data": DIGITS,
        "loss": "cross-entropy",
        "matrix": "ggn",
    },
    "gpt2": {
        "model": {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256},
        "data": TEXT,
        "loss": "cross-entropy",
        "block": "blocks.*",
    },
}


def run(problem: dict[str, Any], method: dict[str, Any], **fields: Any) -> Any:
    request = SpectrumRequest.model_validate({"kind": "spectrum"} | problem | {"method": method} | fields)
    return run_spectrum_job(request, Hardware(torch.device("cpu"), 1, 2**33), ignore_progress).result


@pytest.mark.parametrize("name", PROBLEMS)
def test_networks_against_dense_matrices(name: str) -> None:
    every = np.array(run(PROBLEMS[name], {"kind": "exact"}).eigenvalues)
    top = every[-1]
    targets = [2 * top, top, (every[-1] + every[-2]) / 2 + 0.01 * top, every[-3], every[0] - 0.1 * top]
    for target in map(float, targets):
        found = run(PROBLEMS[name], {"kind": "top-k", "k": 2, "which": "nearest", "target": target})
        assert isinstance(found, TopKResult)
        assert found.target == target
        assert found.absolute_tolerance is not None
        wanted = np.sort(np.abs(every - target))[:2]
        for pair, distance in zip(found.eigenpairs, wanted, strict=True):
            assert pair.residual <= 2e-5 * (top - every[0] + abs(target))
            assert np.abs(every - pair.value).min() <= pair.residual
            if pair.converged:
                assert abs(abs(pair.value - target) - distance) <= found.absolute_tolerance
        assert found.eigenpairs[0].converged


@pytest.mark.parametrize("name", ["relu", "digits"])
def test_zeros_of_networks_are_found_to_an_absolute_tolerance(name: str) -> None:
    """The target is 0 unless the request names one, and the Hessian has many eigenvalues there."""
    every = np.array(run(PROBLEMS[name], {"kind": "exact"}).eigenvalues)
    tolerance = 1e-2 * float(every[-1])
    found = run(PROBLEMS[name], {"kind": "top-k", "k": 3, "which": "nearest", "absolute_tolerance": tolerance})
    assert found.target == 0.0
    for pair in found.eigenpairs:
        assert pair.converged
        assert abs(pair.value) <= tolerance
        assert pair.lower <= pair.value <= pair.upper


def test_products_are_in_float64_unless_the_request_says_otherwise() -> None:
    method = {"kind": "top-k", "k": 1, "which": "nearest", "eigenvectors": False}
    request = SpectrumRequest.model_validate({"kind": "spectrum"} | PROBLEMS["relu"] | {"method": method})
    assert request.product_precision == "float64"
    assert request.model_copy(update={"precision": "float32"}).product_precision == "float32"
    assert (
        request.canonical()
        == request.model_copy(
            update={"method": TopKMethod.model_validate(method | {"target": 0.0}), "precision": "float64"}
        ).canonical()
    )


def test_reduced_products_are_corrected_and_say_so() -> None:
    problem = PROBLEMS["digits"]
    every = np.array(run(problem, {"kind": "exact"}).eigenvalues)
    target = float((every[-1] + every[-2]) / 2 + 0.1 * (every[-1] - every[-2]))
    found = run(problem, {"kind": "top-k", "k": 2, "which": "nearest", "target": target}, precision="bfloat16")
    for pair in found.eigenpairs:
        assert np.abs(every - pair.value).min() <= pair.residual
        assert not pair.converged
        assert pair.why
