"""Lists of points: groups, reuse by content, failures of single points, and kills in the middle of anything."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.experiments.figure import FigureRequest
from hessian_spectrum.api_schemas.experiments.sweep import SweepRequest, SweepResult
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.storage.job_files import JobCheckpoints
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.points import PointStore
from hessian_spectrum.worker import job_state
from hessian_spectrum.worker.experiments import point_list
from hessian_spectrum.worker.experiments.experiment import run_experiment
from hessian_spectrum.worker.experiments.point_list import groups_of
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer
from tests.fixtures.longer import long

HARDWARE = Hardware(torch.device("cpu"), 1, 2**33)
BASE: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [4, 5, 2], "activation": "tanh"},
    "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 4, "output_dim": 2},
    "loss": "mse",
    "precision": "float64",
    "method": {"kind": "lanczos", "num_steps": 6, "num_probes": 2, "num_points": 16},
    "train": {"num_steps": 5, "learning_rate": 0.1},
}


class Killed(BaseException):
    """What no code of ours catches."""


def sweep(**over: list[Any]) -> SweepRequest:
    fields = {name.replace("__", "."): values for name, values in over.items()}
    return SweepRequest.model_validate({"kind": "sweep", "base": BASE, "over": fields})


def columns(output: JobOutput) -> dict[str, list[Any]]:
    assert isinstance(output.result, SweepResult)
    return output.result.columns


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after every step, and small groups."""
    monkeypatch.setattr(job_state, "LARGEST_SHARE", float("inf"))
    monkeypatch.setattr(point_list, "MIN_GROUP_SIZE", 2)
    monkeypatch.setattr(point_list, "GROUPS_OF_A_SHAPE", 2)


@pytest.fixture
def store(tmp_path: Path) -> PointStore:
    return PointStore(LocalDirectory(tmp_path, "points"))


def test_networks_of_one_shape_are_grouped() -> None:
    request = sweep(model__widths=[[4, 5, 2], [4, 6, 2]], model__seed=[0, 1, 2, 3])
    groups = groups_of(request.computations, range(8))
    assert groups == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert groups_of(request.computations, [0, 5, 6]) == [[0], [5, 6]]


def test_the_longest_measurements_come_first() -> None:
    overrides = {"parametrizations": ["standard"], "varied": [], "dims": [1, 2, 20, 50]}
    request = FigureRequest.model_validate({"kind": "figure", "figure": "cracking-4", "overrides": overrides})
    groups = groups_of(request.computations, [0, 2, 3])
    assert groups == [[3], [2], [0]]


def test_a_longer_grid_computes_the_new_points_alone(store: PointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_experiment(sweep(model__seed=[0, 1]), HARDWARE, ignore_progress, store=store)
    computed: list[int] = []
    finished = point_list.PointList.finished

    def watched(task: point_list.PointList, index: int, *arguments: Any) -> Any:
        computed.extend(task.groups[index])
        return finished(task, index, *arguments)

    monkeypatch.setattr(point_list.PointList, "finished", watched)
    longer = columns(run_experiment(sweep(model__seed=[0, 1, 2, 3, 4]), HARDWARE, ignore_progress, store=store))
    assert sorted(computed) == [2, 3, 4]
    for name, values in columns(first).items():
        assert longer[name][:2] == values
    alone = columns(run_experiment(sweep(model__seed=[0, 1, 2, 3, 4]), HARDWARE, ignore_progress))
    scale = max(alone["largest"])
    np.testing.assert_allclose(longer["largest"], alone["largest"], rtol=0, atol=1e-12 * scale)


def test_a_damaged_point_is_computed_again(store: PointStore, tmp_path: Path) -> None:
    request = sweep(model__seed=[0, 1, 2])
    first = columns(run_experiment(request, HARDWARE, ignore_progress, store=store))
    for path in sorted((tmp_path / "points").rglob("*")):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    again = columns(run_experiment(request, HARDWARE, ignore_progress, store=store))
    np.testing.assert_allclose(again["largest"], first["largest"], rtol=1e-12)


WIDTHS = [[4, 5, 2], [4, 6, 2], [4, 7, 2], [4, 8, 2]]


@pytest.mark.parametrize("num_known", [4, 2])
def test_points_of_several_shapes_that_are_lost_are_computed_again(
    num_known: int, store: PointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = sweep(model__widths=WIDTHS)
    first = columns(run_experiment(request, HARDWARE, ignore_progress))
    run_experiment(sweep(model__widths=WIDTHS[:num_known]), HARDWARE, ignore_progress, store=store)
    monkeypatch.setattr(store, "read_all", lambda keys: [None] * len(keys))  # they are removed meanwhile
    assert columns(run_experiment(request, HARDWARE, ignore_progress, store=store)) == first


def test_a_list_with_lost_points_is_killed_anywhere(tmp_path: Path) -> None:
    request = sweep(model__widths=WIDTHS)
    first = columns(run_experiment(request, HARDWARE, ignore_progress))
    for most in range(15, 60, 15):
        store = PointStore(LocalDirectory(tmp_path, f"points-{most}"))
        run_experiment(request, HARDWARE, ignore_progress, store=store)
        for path in (tmp_path / f"points-{most}").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1])  # it is there until it is read
        left = [most]

        def report(phase: str, done: int, total: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        directory = LocalDirectory(tmp_path, f"job-{most}")
        job = JobCheckpointer(JobCheckpoints(directory, "job", 1), seconds=0)
        with pytest.raises(Killed):
            run_experiment(request, HARDWARE, report, job=job, store=store)
        job = JobCheckpointer.restored(JobCheckpoints(directory, "job", 2), seconds=0)
        assert columns(run_experiment(request, HARDWARE, ignore_progress, job=job, store=store)) == first


def test_a_point_that_diverges_fails_alone() -> None:
    request = sweep(train__learning_rate=[0.1, 1e200, 0.2])
    found = columns(run_experiment(request, HARDWARE, ignore_progress))
    assert [value is None for value in found["largest"]] == [False, True, False]
    assert [value is None for value in found["problem"]] == [True, False, True]
    assert "try a smaller learning rate" in found["problem"][1]


@pytest.mark.parametrize("widths", [long([[4, 5, 2]]), [[4, 5, 2], [4, 6, 2], [4, 7, 2]]])
def test_a_list_that_is_killed_anywhere_has_the_undisturbed_numbers(widths: list[Any], tmp_path: Path) -> None:
    request = sweep(model__widths=widths, model__seed=[0, 1, 2])
    undisturbed = columns(run_experiment(request, HARDWARE, ignore_progress))
    num_reports = Counter[str]()

    def count(phase: str, done: int, total: int) -> None:
        num_reports[phase] += 1

    run_experiment(request, HARDWARE, count)
    assert set(num_reports) == {"points"}
    for number, place in enumerate(range(0, num_reports["points"], max(1, num_reports["points"] // 3))):
        left = [place]

        def report(phase: str, done: int, total: int, left: list[int] = left) -> None:
            assert (phase, total) == ("points", len(request.computations))
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        directory, points = (
            LocalDirectory(tmp_path, f"job-{number}"),
            PointStore(LocalDirectory(tmp_path, f"p{number}")),
        )
        job = JobCheckpointer(JobCheckpoints(directory, "job", 1), seconds=0)
        with pytest.raises(Killed):
            run_experiment(request, HARDWARE, report, job=job, store=points)
        job = JobCheckpointer.restored(JobCheckpoints(directory, "job", 2), seconds=0)
        # what the first attempt has kept does not change which networks are computed together
        assert columns(run_experiment(request, HARDWARE, ignore_progress, job=job, store=points)) == undisturbed
