"""Jobs that are stopped anywhere and go on from their checkpoints give the undisturbed numbers, to the last bit."""

import errno
import itertools
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.storage.job_files import JobCheckpoints
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.worker import job_state
from hessian_spectrum.worker.experiments.hessian_vs_ggn import run_hessian_vs_ggn_job
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.failures import WorkerStoppingError
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.runtime.job_runner import fingerprint_of

CPU = torch.device("cpu")
HARDWARE = Hardware(CPU, 1, 2**33)
BASE: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 6, 10], "activation": "tanh"},
    "data": {"kind": "digits", "num_samples": 40},
    "loss": "cross-entropy",
}
SGD = {"num_steps": 25, "learning_rate": 0.1, "batch_size": 16, "momentum": 0.5}
LANCZOS = {"kind": "lanczos", "num_steps": 10, "num_probes": 4, "num_points": 64}
GPT2 = {"kind": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 8, "vocab_size": 256}
TEXT = {"kind": "text", "text": "to be or not to be " * 9, "num_sequences": 3, "sequence_length": 8}
RANK_3 = {"kind": "quadratic", "matrix": np.diag([3.0, 2.0, 1.0] + [0.0] * 97).tolist()}
EXHAUSTED = {"kind": "trace", "estimator": "xtrace", "num_probes": 90, "diagonal": True}
REQUESTS: dict[str, dict[str, Any]] = {
    "exact": BASE | {"method": {"kind": "exact", "eigenvectors": True}, "train": SGD},
    "lanczos": BASE | {"method": LANCZOS, "train": SGD},
    "lanczos-short": BASE | {"method": LANCZOS | {"reorthogonalisation": "none"}},
    "top-k": BASE | {"method": {"kind": "top-k", "k": 3, "which": "both-ends"}},
    "nearest": BASE | {"method": {"kind": "top-k", "k": 3, "which": "nearest", "target": 0.4}},
    "trace": BASE | {"method": {"kind": "trace", "estimator": "hutch++", "num_probes": 200, "diagonal": True}},
    "exhausted": {"kind": "spectrum", "model": RANK_3, "method": EXHAUSTED},
    "tolerance": BASE | {"method": {"kind": "trace", "estimator": "xtrace", "tolerance": 0.05}},
    "bfloat16": BASE | {"method": LANCZOS, "precision": "bfloat16"},
    "bfloat16-blocks": BASE
    | {"method": {"kind": "top-k", "k": 2}, "precision": "bfloat16", "blocks": ["layers.0.*", "layers.1.*", "*"]},
    "blocks": {
        "kind": "spectrum",
        "model": GPT2 | {"n_layer": 1},
        "data": TEXT,
        "loss": "cross-entropy",
        "blocks": ["blocks.0.attn.*", "blocks.0.mlp.*"],
        "method": {"kind": "top-k", "k": 2},
        "train": {"num_steps": 4, "learning_rate": 0.1, "optimizer": {"kind": "adamw"}},
    },
}
COMPARISON = {
    "kind": "hessian-vs-ggn",
    "models": [GPT2 | {"n_layer": 1}, GPT2 | {"attention": False}],
    "data": TEXT,
}
PRETRAIN = {"num_steps": 4, "batch_size": 2, "learning_rate": 0.03, "warmup_steps": 1, "measure_every": [{"every": 4}]}
SEEDS = {"models": [GPT2 | {"n_layer": 1}], "seeds": [0, 1], "pretrain": PRETRAIN}
REQUESTS |= {"comparison": COMPARISON, "pretraining": COMPARISON | SEEDS}


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long checkpoints take; no test here takes the power away, so that nothing need reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(job_state, "LARGEST_SHARE", float("inf"))


class Killed(BaseException):
    """What no code of ours catches."""


def after(num_reports: int) -> Progress:
    left = [num_reports]

    def report(phase: str, done: int, total: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return report


@cache
def undisturbed_run(name: str) -> tuple[JobOutput, int]:
    """What a job gives, and how often it reports."""
    calls: list[str] = []
    answer = run(REQUESTS[name], lambda *call: calls.append(call[0]))
    return answer, len(calls)


def run(fields: dict[str, Any], progress: Progress, kept: JobCheckpointer | None = None) -> JobOutput:
    if fields["kind"] == "hessian-vs-ggn":
        request = HessianVsGgnRequest.model_validate(fields)
        return run_hessian_vs_ggn_job(request, HARDWARE, progress, job=kept)
    return run_spectrum_job(SpectrumRequest.model_validate(fields), HARDWARE, progress, job=kept)


def without_times(answer: JobOutput) -> dict[str, Any]:
    document = answer.result.model_dump()
    for part in document.get("spectra") or [document]:
        assert part["provenance"].pop("wall_time_seconds") > 0
    return document


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("name", REQUESTS)
def test_a_job_killed_at_three_points_equals_the_undisturbed_one(name: str, tmp_path: Path) -> None:
    fields, rng = REQUESTS[name], random.Random(name)
    undisturbed, num_reports = undisturbed_run(name)
    places = sorted(rng.sample(range(1, num_reports), 3))
    spent = 0
    for attempt, (place, before) in enumerate(zip(places, [0, *places[:-1]], strict=True), 1):
        with pytest.raises(Killed):
            run(
                fields,
                after(place - before),
                JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", attempt), 0.0),
            )
        spent += place - before
    reports: list[str] = []
    kept = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 4), 0.0)
    found = run(fields, lambda *call: reports.append(call[0]), kept)
    assert without_times(found) == without_times(undisturbed)
    assert found.arrays.keys() == undisturbed.arrays.keys()
    for key, array in undisturbed.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array)
    # not begun again: each attempt repeats the step it was killed in, and the linearisations
    assert len(reports) + spent < num_reports + 3 * 5
    assert len(reports) < num_reports


@pytest.mark.parametrize("left", [1, 2])
@pytest.mark.parametrize("name", ["top-k", "trace", "exhausted", "tolerance", "lanczos", "exact"])
def test_a_job_stopped_at_its_last_reports_keeps_what_it_did(name: str, left: int, tmp_path: Path) -> None:
    """As by a worker that is told to stop, which saves what is under way at that moment."""
    undisturbed, num_reports = undisturbed_run(name)
    kept = JobCheckpointer(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), 1e9)
    with pytest.raises(Killed):
        run(REQUESTS[name], after(num_reports - left), kept)
    assert kept.save()
    found = run(
        REQUESTS[name], lambda *_: None, JobCheckpointer(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), 1e9)
    )
    assert without_times(found) == without_times(undisturbed)
    for key, array in undisturbed.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("name", ["top-k", "tolerance"])
def test_a_job_that_is_given_back_at_its_last_report_equals_the_undisturbed_one(name: str, tmp_path: Path) -> None:
    """The method has overwritten its state by then, or holds its result."""
    fields = REQUESTS[name]
    undisturbed, num_reports = undisturbed_run(name)
    reports = itertools.count(1)

    def stop_at_the_last(*_: Any) -> None:
        if next(reports) == num_reports:
            raise WorkerStoppingError

    first = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), 0.0)
    with pytest.raises(WorkerStoppingError):
        run(fields, stop_at_the_last, first)
    assert first.save()
    second, num_left = (
        JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), 0.0),
        itertools.count(),
    )
    found = run(fields, lambda *_: next(num_left), second)
    assert without_times(found) == without_times(undisturbed)
    assert next(num_left) < num_reports / 2


@pytest.mark.usefixtures("always_due")
def test_the_last_saved_state_of_a_sealed_stage_stays_saved(tmp_path: Path) -> None:
    first = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), 0.0)
    first.stage("a").update(lambda: torch.arange(3.0))
    second = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), 1e9)
    second.stage("a").seal()  # written by an earlier attempt alone
    second.stage("b").finish(1)
    assert second.save()
    third = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 3), 0.0)
    assert torch.equal(third.stage("a").restore(), torch.arange(3.0))
    stage = third.stage("a")
    stage.update(lambda: torch.arange(5.0))
    stage.seal()
    assert third.save()
    fourth = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 4), 0.0)
    assert torch.equal(fourth.stage("a").restore(), torch.arange(5.0))
    fourth.stage("a").finish(2)
    fourth.forget(["b"])
    assert fourth.save()
    fifth = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 5), 0.0)
    assert (fifth.stage("a").value, fifth.stage("a").restore(), fifth.stage("b").value) == (2, None, None)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("part", ["finished", "under_way", "notes", "seconds", "fingerprint"])
def test_a_checkpoint_that_makes_no_sense_is_ignored(part: str, tmp_path: Path) -> None:
    fields = REQUESTS["lanczos"]
    undisturbed, num_reports = undisturbed_run("lanczos")
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    with pytest.raises(Killed):
        run(fields, after(num_reports - 3), JobCheckpointer.restored(checkpoints, 0.0))
    newest = next(checkpoints.newest_first()).document
    wrong = {"finished": {"training": {"document": {"Popen": {}}, "tensors": []}}, "under_way": {"a": 3}}
    newest.pop(part)
    if part in wrong:
        newest[part] = wrong[part]
    for _ in range(2):
        checkpoints.commit(newest, set())
    calls: list[str] = []
    kept = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), 0.0)
    found = run(fields, lambda *call: calls.append(call[0]), kept)
    assert len(calls) == num_reports
    assert without_times(found) == without_times(undisturbed)


@pytest.mark.usefixtures("always_due")
def test_what_another_machine_computed_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = (fingerprint_of(Hardware(CPU, threads, 2**33)) for threads in (1, 2))
    first = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), 0.0, fingerprint=theirs)
    first.stage("a").finish(1)
    first.save()
    assert (
        JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), 0.0, fingerprint=ours)
        .stage("a")
        .value
        is None
    )
    assert "2 threads" in caplog.text
    assert (
        JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), 0.0, fingerprint=theirs)
        .stage("a")
        .value
        == 1
    )


def test_checkpoints_are_written_when_they_are_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(job_state.time, "monotonic", lambda: now[0])
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    written: list[float] = []
    commit = checkpoints.commit

    def slow(document: Any, pieces: set[str]) -> None:
        commit(document, pieces)
        written.append(now[0])
        now[0] += 3.0

    monkeypatch.setattr(checkpoints, "commit", slow)
    stage = JobCheckpointer.restored(checkpoints, 30.0).stage("stage")
    for _ in range(200):
        now[0] += 1.0
        stage.update(lambda: 1)
    # the first after 30 s; as each takes 3 s and may take 5 % of the time, the next ones after 60 s
    assert written == [30.0, 93.0, 156.0]


def test_a_disk_that_is_full_does_not_stop_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_the_way = tmp_path / "job"
    in_the_way.write_text("")
    fields = REQUESTS["top-k"]
    found = run(
        fields, lambda *_: None, JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), 0.0)
    )
    assert without_times(found) == without_times(undisturbed_run("top-k")[0])
    assert "no checkpoint could be written" in caplog.text


@pytest.mark.usefixtures("always_due")
def test_a_disk_that_fills_in_the_middle_keeps_nothing_of_what_it_could_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_state, "PIECE_BYTES", 64)
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    put, room = checkpoints.put, [100]

    def put_if_room(piece: bytes | memoryview) -> str:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return put(piece)

    monkeypatch.setattr(checkpoints, "put", put_if_room)
    first = JobCheckpointer.restored(checkpoints, 0.0)
    first.stage("a").finish(torch.arange(20.0))
    first.stage("b").update(lambda: torch.arange(30.0))
    kept = sorted(path.name for path in (tmp_path / "job" / "0001").iterdir())
    room[0] = 4  # what was finished since finds room, what is under way does not
    first.stage("c").finish(torch.arange(50.0, 100.0))
    first.stage("d").update(lambda: torch.arange(200.0, 300.0))
    assert sorted(path.name for path in (tmp_path / "job" / "0001").iterdir()) == kept
    room[0] = 100
    first.stage("d").update(lambda: torch.arange(200.0, 300.0))
    second = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 2))
    assert torch.equal(second.stage("c").value, torch.arange(50.0, 100.0))
    assert torch.equal(second.stage("d").restore(), torch.arange(200.0, 300.0))


@pytest.mark.usefixtures("always_due")
def test_large_tensors_come_back_from_their_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_state, "PIECE_BYTES", 64)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "rows": torch.randn(3, 5, 7, generator=generator)[:, :4],
        "long": torch.randn(100, generator=generator, dtype=torch.float64),
        "columns": torch.randn(9, 30, generator=generator).T,
        "empty": torch.zeros(0, 4),
        "number": torch.tensor(3),
        "flags": torch.tensor([True, False]),
    }
    first = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), 0.0)
    first.stage("a").finish(tensors)
    first.stage("b").update(lambda: (tensors["long"], None))
    second = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), 0.0)
    again = second.stage("a").value
    for name, tensor in tensors.items():
        assert torch.equal(again[name], tensor), name
        assert again[name].dtype == tensor.dtype
    # what nobody has asked for yet is not lost by the next checkpoint
    second.stage("c").update(lambda: 1)
    third = JobCheckpointer.restored(JobCheckpoints(LocalDirectory(tmp_path), "job", 3), 0.0)
    assert torch.equal(third.stage("b").restore()[0], tensors["long"])
    assert (third.stage("c").restore(), third.stage("d").restore(), third.stage("d").value) == (1, None, None)
