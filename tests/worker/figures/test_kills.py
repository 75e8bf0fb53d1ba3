"""A figure that is killed anywhere, also in the middle of a measurement, has the numbers of an undisturbed one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hessian_spectrum.api_schemas.experiments.figure import FigureRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.storage.job_files import JobCheckpoints
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.points import PointStore
from hessian_spectrum.worker import job_state
from hessian_spectrum.worker.experiments.experiment import run_experiment
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer
from tests.fixtures.longer import long

HARDWARE = Hardware(torch.device("cpu"), 1, 2**33)
NUM_KILLS = 2

_TRAINING = {"num_samples": 16, "batch_size": 8, "max_epochs": 3, "patience": 1}
_PRETRAINING = {
    "sizes": {"n_layer": 2, "n_head": 1, "n_embd": 4, "n_positions": 4, "vocab_size": 256},
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 4},
    "num_steps": 6,
    "measure_every": [{"every": 3}],
    "seeds": [0],
}
SMALL: dict[str, dict[str, Any]] = {
    "cracking-3": {"widths": [4], "input_dims": [1, 2], "num_networks": 3},
    "cracking-4": {"width": 4, "num_networks": 5, "dims": [1, 2], "varied": []} | _TRAINING,
    "cracking-5": _PRETRAINING,
    "cracking-8": {"num_steps": 20, "num_seeds": 3, "varies": False},
    "cracking-17": {"width": 4, "num_networks": 5, "depths": [2, 3], "varied": []} | _TRAINING,
    "cracking-27": {"num_steps": 20, "num_seeds": 3, "varies": False},
    "lecture-6": {"width": 3, "ratios": [0.3, 0.4], "num_searches": 8, "num_minimizers": 4, "max_descent_steps": 20},
}
"""Small overrides of figures whose measurements have several steps, from every family."""

LONG = ("cracking-4", "cracking-5", "cracking-8", "cracking-17")
"""Figures that only the long campaigns kill: others of the suite have the same measurements."""


class Killed(BaseException):
    """What no code of ours catches."""


def numbers(request: FigureRequest, **options: Any) -> dict[str, Any]:
    """Compute a figure, and return all but the time that it took."""
    progress = options.pop("progress", ignore_progress)
    document = run_experiment(request, HARDWARE, progress, **options).result.model_dump()
    assert document.pop("wall_time_seconds") >= 0
    return document


@pytest.mark.parametrize("name", [long(name) if name in LONG else name for name in SMALL])
def test_kills_change_no_number(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_state, "LARGEST_SHARE", float("inf"))
    fields = {"kind": "figure", "figure": name, "scale": "quick", "overrides": SMALL[name]}
    request = FigureRequest.model_validate(fields)
    count = [0]

    def counted(phase: str, done: int, total: int) -> None:
        assert (phase, total) == ("points", len(request.computations))
        count[0] += 1

    undisturbed = numbers(request, progress=counted)
    for number in range(NUM_KILLS):
        left = [(2 * number + 1) * count[0] // (2 * NUM_KILLS)]

        def killing(phase: str, done: int, total: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        directory, points = LocalDirectory(tmp_path, f"job-{number}"), LocalDirectory(tmp_path, f"points-{number}")
        options = {"store": PointStore(points)}
        job = JobCheckpointer(JobCheckpoints(directory, "job", 1), seconds=0)
        with pytest.raises(Killed):
            numbers(request, progress=killing, job=job, **options)
        job = JobCheckpointer.restored(JobCheckpoints(directory, "job", 2), seconds=0)
        assert numbers(request, job=job, **options) == undisturbed
