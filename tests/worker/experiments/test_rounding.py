"""What rounding does to a matrix lies within the error that its operator states, however sensitive the point is."""

from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.operators.programs import Execution
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.worker.builders import build_dataset, build_loss, build_model, build_parameters
from hessian_spectrum.worker.experiments.points import build_operator

CPU = torch.device("cpu")


def pixels(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    inputs, targets = random.integers(0, 256, (60, 20)), random.normal(size=(60, 4))
    return {"kind": "inline", "x": inputs.astype(float).tolist(), "y": targets.tolist()}


GAUSSIAN = {"kind": "gaussian", "num_samples": 60, "input_dim": 5, "output_dim": 3}
SEQUENCES = {"kind": "gaussian-sequences", "num_sequences": 20, "sequence_length": 6, "embedding_dim": 3}
ATTENTION = {"kind": "attention-layer", "key_dim": 4, "embedding_dim": 3}
DEEP = [5, *[4] * 6, 3]
PROBLEMS: dict[str, dict[str, Any]] = {
    "usual": {"model": {"kind": "mlp", "widths": [5, 8, 3]}, "data": GAUSSIAN},
    "saturated tanh": {"model": {"kind": "mlp", "widths": [20, 8, 4], "activation": "tanh"}, "data": pixels(0)},
    "silu of pixels": {"model": {"kind": "mlp", "widths": [20, 8, 4], "activation": "silu"}, "data": pixels(1)},
    "deep": {
        "model": {"kind": "mlp", "widths": DEEP, "activation": "linear", "parametrization": "ntk"},
        "data": GAUSSIAN,
    },
    "attention": {"model": ATTENTION | {"initial_std": 1.0}, "data": SEQUENCES},
    "sharp attention": {"model": ATTENTION | {"initial_std": 3.0, "sink_bias": 2.0}, "data": SEQUENCES},
    "digits": {"model": {"kind": "conv", "channels": [2], "stride": 2}, "data": {"kind": "digits", "num_samples": 30}},
    "regression": {
        "model": {"kind": "two-layer-linear", "W1": [[0.3, 1e-3]] * 2, "W2": [[1.0, -2.0]]},
        "data": GAUSSIAN | {"input_dim": 2, "output_dim": 1, "input_std": 3e3},
    },
}


def operator_of(problem: dict[str, Any], seed: int, matrix: str, *, dtype: torch.dtype) -> RiskOperator:
    """At the point that a float64 job has, rounded to `dtype`."""
    model = problem["model"] if "W1" in problem["model"] else problem["model"] | {"seed": seed}
    body = {"kind": "spectrum", "method": {"kind": "exact"}, "matrix": matrix, "loss": "mse"}
    request = SpectrumRequest.model_validate(body | problem | {"model": model})
    network = build_model(request.model)
    parameters = build_parameters(request.model, network, dtype=dtype, device=CPU)
    risk = EmpiricalRisk(network, build_loss(request), [build_dataset(request).to(dtype, CPU)])
    return build_operator(
        request,
        risk,
        parameters,
        execution=Execution(mode="interpreted"),
        recording_bytes=None,
        progress=ignore_progress,
    )


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_eigenvalues_and_products_in_float32_lie_within_the_stated_error(name: str, matrix: str) -> None:
    for seed in range(1 if name == "deep" else 2):
        single, double = (
            operator_of(PROBLEMS[name], seed, matrix, dtype=dtype) for dtype in (torch.float32, torch.float64)
        )
        exact = assemble(double)
        values, vectors = torch.linalg.eigh(exact)
        size, stated = float(values.abs().max()), single.product_error
        products = single.matmat(vectors.float()).double()
        assert float((products - vectors * values).norm(dim=0).max()) <= stated * size
        rounded = assemble(single).double()
        found = torch.linalg.eigvalsh((rounded + rounded.T) / 2)
        assert float((found - values).abs().max()) <= stated * size


def test_a_usual_network_reaches_the_default_tolerance() -> None:
    assert operator_of(PROBLEMS["usual"], 0, "hessian", dtype=torch.float32).product_error < 3e-6
    assert operator_of(PROBLEMS["usual"], 0, "hessian", dtype=torch.float64).product_error < 1e-14


def test_the_sensitivity_is_the_same_each_time() -> None:
    first, second = (operator_of(PROBLEMS["attention"], 0, "hessian", dtype=torch.float32) for _ in range(2))
    second.matvec(torch.ones(second.dim))
    assert first.sensitivity == second.sensitivity > 0
