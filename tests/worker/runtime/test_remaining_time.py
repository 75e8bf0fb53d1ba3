"""How long a job will take is told from its first products."""

from typing import Any

import pytest
import torch

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.worker.runtime import supervision
from hessian_spectrum.worker.runtime.supervision import RemainingTime

REQUEST: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [4, 8, 2]},
    "data": {"kind": "gaussian", "num_samples": 16, "input_dim": 4, "output_dim": 2},
    "loss": "mse",
}


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def expected_seconds(method: dict[str, Any]) -> list[float]:
    """What is expected of a job of 100 products: 3 s of recording, then 0.5 s for each."""
    request = SpectrumRequest.model_validate(REQUEST | {"method": method})
    clock, expected, heard = Clock(), list[float](), list[tuple[str, int, int]]()
    progress = RemainingTime(
        request,
        estimate(request),
        torch.device("cpu"),
        report=lambda phase, done, total: heard.append((phase, done, total)),
        expect=expected.append,
        clock=clock,
    )
    clock.seconds += 3.0
    progress("linearisation", 1, 1)
    for done in range(1, 101):
        clock.seconds += 0.5
        progress("products", done, 100)
    assert heard == [("linearisation", 1, 1), *(("products", done, 100) for done in range(1, 101))]
    return expected


@pytest.mark.parametrize("method", [{"kind": "lanczos"}, {"kind": "exact"}, {"kind": "trace", "num_probes": 100}])
def test_the_whole_is_foreseen_from_the_second_product_on(method: dict[str, Any]) -> None:
    found = expected_seconds(method)
    assert 5 <= len(found) <= 8
    assert found == pytest.approx([53.0] * len(found), rel=0.02)


@pytest.mark.parametrize("method", [{"kind": "top-k", "k": 2}, {"kind": "trace", "tolerance": 0.1}])
def test_nothing_is_said_where_a_tolerance_decides(method: dict[str, Any]) -> None:
    assert expected_seconds(method) == []


def test_a_disturbed_measurement_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    request = SpectrumRequest.model_validate(
        REQUEST | {"model": {"kind": "mlp", "widths": [4, 50, 2]}, "method": {"kind": "exact"}}
    )
    measured = iter([8.0, 9.0, 1.0])
    monkeypatch.setattr(supervision, "eigenvalue_seconds", lambda: next(measured))
    clock, expected = Clock(), list[float]()
    plan = estimate(request)
    progress = RemainingTime(
        request, plan, torch.device("cpu"), report=lambda *_: None, expect=expected.append, clock=clock
    )
    for done in (1, 2, 4):
        clock.seconds = done
        progress("products", done, plan.num_products)
    disturbed, quiet = (each - plan.num_products for each in expected)  # a second for each product
    assert quiet == pytest.approx(disturbed / 8, rel=0.02)
