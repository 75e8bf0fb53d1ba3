"""Every method that a request can name is one of the engine, and costs what the estimate says."""

from typing import Any

import pytest

from hessian_spectrum.api_schemas.methods import METHODS
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.algorithms.method import Method as EngineMethod
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.worker.experiments.points import method_of

BASE: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 6, 10], "activation": "tanh"},
    "data": {"kind": "digits", "num_samples": 40},
    "loss": "cross-entropy",
}
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "exact": [{}, {"eigenvectors": True}],
    "lanczos": [{}, {"reorthogonalisation": "none", "num_steps": 7, "num_probes": 3}, {"num_steps": 4096}],
    "top-k": [
        {"k": 3},
        {"k": 2, "which": "both-ends", "max_products": 50, "absolute_tolerance": 1e-3},
        {"k": 2, "which": "nearest", "target": 0.5},
    ],
    "slice": [{}, {"num_directions": 2, "num_points": 7, "which": "both-ends"}],
    "trace": [{}, {"estimator": "xtrace", "tolerance": 0.1}, {"estimator": "hutchinson", "num_probes": 9}],
}


def test_every_kind_of_method_has_an_example() -> None:
    assert METHODS.keys() == EXAMPLES.keys()


@pytest.mark.parametrize(("kind", "options"), [(kind, each) for kind, every in EXAMPLES.items() for each in every])
@pytest.mark.parametrize("memory_bytes", [None, 2**33])
def test_a_method_of_the_engine_costs_what_was_planned(
    kind: str, options: dict[str, Any], memory_bytes: int | None
) -> None:
    request = SpectrumRequest.model_validate(BASE | {"method": {"kind": kind} | options})
    plan = estimate(request, memory_bytes)
    method = method_of(request, plan)
    assert isinstance(method, EngineMethod)
    cost = method.cost(request.dim)
    assert cost.num_products == plan.num_products
    assert cost.dense_order == plan.work.dense_order
    assert getattr(method, "memory_bytes", None) == plan.vector_bytes
