"""An experiment takes the spectra that it lists, as jobs of their own would, and resumes between and within them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from hessian_spectrum.api_schemas.experiments import EXPERIMENTS, ExperimentKind, ExperimentRequest, ExperimentResult
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import RitzValue
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.jobs.plans import memory_error, plan_job
from hessian_spectrum.results.arrays import result_arrays
from hessian_spectrum.storage.job_files import JobCheckpoints
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.worker import job_state
from hessian_spectrum.worker.experiments.experiment import run_experiment
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer

HARDWARE = Hardware(torch.device("cpu"), 1, 2**33)


class EndsRequest(ExperimentRequest):
    """Largest Ritz values after training with several seeds."""

    kind: Literal["ends"]
    seeds: list[int]
    num_steps: int = 6


class EndsResult(ExperimentResult):
    """One value for each seed."""

    kind: Literal["ends"] = "ends"
    seeds: list[int]
    largest: list[RitzValue]


def points(request: EndsRequest) -> list[SpectrumRequest]:
    fields: dict[str, Any] = {
        "kind": "spectrum",
        "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 4, "output_dim": 2},
        "loss": "mse",
        "method": {"kind": "lanczos", "num_steps": request.num_steps, "num_probes": 2, "num_points": 16},
        "train": {"num_steps": 5, "learning_rate": 0.1},
    }
    return [SpectrumRequest.model_validate(fields | {"seed": seed, "model": model(seed)}) for seed in request.seeds]


def model(seed: int) -> dict[str, Any]:
    """Return a network whose shape no other seed has, so that each is computed alone."""
    return {"kind": "mlp", "widths": [4, 5 + seed, 2], "activation": "tanh"}


def result_fields(request: EndsRequest, spectra: Sequence[LanczosResult]) -> dict[str, Any]:
    return {"seeds": request.seeds, "largest": [each.largest for each in spectra]}


@pytest.fixture(autouse=True)
def kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment, as if a file of the package listed it."""
    entry = ExperimentKind(EndsRequest, EndsResult, points, result_fields, example={"kind": "ends", "seeds": [0]})
    monkeypatch.setitem(EXPERIMENTS, "ends", entry)
    monkeypatch.setattr(EndsRequest, "entry", entry)
    monkeypatch.setattr(job_state, "LARGEST_SHARE", float("inf"))


REQUEST = {"kind": "ends", "seeds": [3, 1, 2]}


def numbers(output: JobOutput) -> dict[str, Any]:
    document = output.result.model_dump()
    for each in document["provenance"]:
        assert each.pop("wall_time_seconds") > 0
    return document


def test_each_spectrum_is_that_of_a_job_of_its_own() -> None:
    request = EndsRequest.model_validate(REQUEST)
    result = run_experiment(request, HARDWARE, ignore_progress).result
    assert isinstance(result, EndsResult)
    for point, largest, origin in zip(request.computations, result.largest, result.provenance, strict=True):
        alone = run_spectrum_job(point, HARDWARE, ignore_progress).result
        assert isinstance(alone, LanczosResult)
        assert largest == alone.largest
        assert origin.parameters_sha256 == alone.provenance.parameters_sha256
    assert result_arrays(result)["seeds"].tolist() == request.seeds


def test_the_plan_is_that_of_its_spectra_together() -> None:
    request = EndsRequest.model_validate(REQUEST)
    plan = plan_job(request, 10**9)
    assert len(plan.points) == len(request.seeds)
    assert plan.whole.num_products == sum(each.num_products for each in plan.points)
    assert memory_error(request, plan) is None
    small = plan_job(request, 10**3)
    error = memory_error(request, small)
    assert error is not None
    assert error.loc == ["body", "model"]


def test_a_request_that_no_spectrum_can_be_taken_for_is_refused() -> None:
    with pytest.raises(ValueError, match="num_steps"):
        EndsRequest.model_validate(REQUEST | {"num_steps": 1})


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.mark.parametrize("place", [1, 7, 12, 13, 20])
def test_an_experiment_that_is_killed_anywhere_gives_the_undisturbed_numbers(place: int, tmp_path: Path) -> None:
    request = EndsRequest.model_validate(REQUEST)
    undisturbed = run_experiment(request, HARDWARE, ignore_progress)
    left = [place]

    def report(phase: str, done: int, total: int) -> None:
        assert (phase, total) == ("points", 3)
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    directory = LocalDirectory(tmp_path)
    with pytest.raises(Killed):
        run_experiment(request, HARDWARE, report, job=JobCheckpointer(JobCheckpoints(directory, "job", 1), seconds=0))
    job = JobCheckpointer.restored(JobCheckpoints(directory, "job", 2), seconds=0)
    assert numbers(run_experiment(request, HARDWARE, ignore_progress, job=job)) == numbers(undisturbed)
