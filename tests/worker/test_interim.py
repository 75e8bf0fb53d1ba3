"""Interim results: how often they are made, what they cost, and which of them are kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.results import ResultStore
from hessian_spectrum.worker import interim
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.interim import InterimResults

REQUEST = SpectrumRequest.model_validate(
    {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [3, 8, 2], "activation": "tanh"},
        "data": {"kind": "gaussian", "num_samples": 20, "input_dim": 3, "output_dim": 2, "seed": 1},
        "loss": "mse",
        "method": {"kind": "lanczos", "num_steps": 12, "num_probes": 3, "num_points": 1024},
        "matrix": "hessian",
        "precision": "float64",
        "blocks": ["*"],
    }
)
HARDWARE = Hardware(torch.device("cpu"), 1, 2**32)


class Clock:
    """Time that passes when somebody says so."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def spectrum(**changes: Any) -> LanczosResult:
    result = run_spectrum_job(REQUEST, HARDWARE, lambda *_: None).result
    (found,) = result.spectra  # type: ignore[union-attr]
    return found.model_copy(update=changes)  # type: ignore[no-any-return]


@pytest.fixture
def results(tmp_path: Path) -> ResultStore:
    return ResultStore(LocalDirectory(tmp_path))


def test_they_take_a_small_share_of_the_time(results: ResultStore) -> None:
    clock, announced, made = Clock(), list[str](), list[float]()
    offered = InterimResults(results, announced.append, clock)
    result = spectrum()

    def make() -> LanczosResult:
        made.append(clock.seconds)
        clock.seconds += 0.3
        origin = result.provenance.model_copy(update={"num_products": len(made)})
        return result.model_copy(update={"loss": clock.seconds, "provenance": origin})

    while clock.seconds < 200:
        clock.seconds += 0.1
        offered.offer(make)
    assert made[0] == pytest.approx(1.0, abs=0.15)
    assert 0.3 * len(made) <= (interim.LARGEST_SHARE + 0.005) * clock.seconds
    assert len(announced) == len(made) > 10
    assert LanczosResult.model_validate_json(results.read(announced[-1])).loss == pytest.approx(made[-1] + 0.3)


def test_one_that_says_nothing_new_is_not_stored(results: ResultStore) -> None:
    clock, announced = Clock(), list[str]()
    offered = InterimResults(results, announced.append, clock)
    result = spectrum()
    for _ in range(3):
        clock.seconds += 1
        offered.offer(lambda: result)
    assert len(announced) == 1


def test_nothing_to_show_yet_and_a_full_disk_stop_nothing(
    results: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, announced = Clock(), list[str]()
    offered = InterimResults(results, announced.append, clock)
    clock.seconds = 1
    offered.offer(lambda: None)

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write", full)
    clock.seconds = 2
    offered.offer(spectrum)
    assert announced == []


def test_a_job_computes_the_same_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interim result after every product changes no bit; its bands hold what the result says, and become it."""
    offered: list[LanczosResult] = []

    def take(make: Any) -> None:
        if (found := make()) is not None:
            offered.append(found)

    watched = run_spectrum_job(REQUEST, HARDWARE, lambda *_: None, offer_interim=take).result
    (final,) = watched.spectra  # type: ignore[union-attr]
    alone = spectrum()
    assert final.model_copy(update={"provenance": alone.provenance}) == alone
    assert final.interim is False
    assert len(offered) > 5
    for found in offered:
        assert found.interim
        assert len(found.density.grid) == found.smoothing.num_points == 512
        assert found.num_steps == max(len(each.nodes) for each in found.quadrature)
        assert found.parameters == final.parameters
        assert found.block == "*"
    steps = [found.num_steps for found in offered]
    assert steps[0] == 3
    assert steps[-1] == 12
    assert steps == sorted(steps)
    assert offered[-1].trace == final.trace
    assert [found.provenance.num_products for found in offered] == [3 * each for each in steps]
