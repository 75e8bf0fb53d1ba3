"""Checkpoints that nobody has tried yet: a worker tries each of them, one at a time, and gives way to jobs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.worker_registry import VerdictStore
from hessian_spectrum.worker import checkpoint_inspector
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck
from hessian_spectrum.worker.checkpoint_inspector import BESIDE_A_JOB_BYTES, CheckpointInspector

SAY = """
import sys
with open({notes!r}, "a") as notes:
    print(*sys.argv[2:4], sys.argv[-1], file=notes)
{more}
print('{{"state": "loadable"}}')
"""
LARGE = f"if int(sys.argv[-1]) <= {BESIDE_A_JOB_BYTES}: sys.exit(75)"


@pytest.fixture
def models(tmp_path: Path, write_gpt2: Callable[..., Path]) -> Path:
    for name in ("one", "two"):
        write_gpt2(tmp_path / "models" / name, seed=len(name + "x" * (name == "two")))
    write_gpt2(tmp_path / "models" / "broken", n_layer=7)
    return tmp_path / "models"


@pytest.fixture
def inspector(redis_client: Any, models: Path, tmp_path: Path) -> Callable[..., CheckpointInspector]:
    """Its trials note name, kind and limit of memory, and then do `more`."""
    verdicts = VerdictStore(redis_client, lambda: ["version-1"])

    def build(more: str = "", memory_bytes: int = 2**40) -> CheckpointInspector:
        program = SAY.format(notes=str(tmp_path / "notes"), more=more)
        command = (sys.executable, "-S", "-c", program)
        check = CheckpointCheck(ModelsDirectory(models, verdicts), verdicts, command=command)
        return CheckpointInspector(check, memory_bytes)

    return build


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[list[str]]]:
    path = tmp_path / "notes"
    return lambda: [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def states(models: Path, redis_client: Any) -> dict[str, str]:
    directory = ModelsDirectory(models, VerdictStore(redis_client, lambda: ["version-1"]))
    return {found.name: found.state for found in directory.describe_all()}


def test_each_is_tried_once_with_little_memory(inspector: Any, models: Path, notes: Any, redis_client: Any) -> None:
    assert states(models, redis_client) == {"broken": "refused", "one": "unchecked", "two": "unchecked"}
    first = inspector()
    first.look_through()
    assert states(models, redis_client) == {"broken": "refused", "one": "loadable", "two": "loadable"}
    first.look_through()
    assert sorted(notes()) == [[name, "gpt2", str(BESIDE_A_JOB_BYTES)] for name in ("one", "two")]


def test_a_large_one_waits_until_the_worker_has_no_job(
    inspector: Any, models: Path, notes: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = True
    monkeypatch.setattr(checkpoint_inspector, "_is_busy", lambda: busy)
    found = inspector(LARGE)
    for _ in range(3):
        found.look_through()
    assert len(notes()) == 2
    assert states(models, redis_client)["one"] == "unchecked"
    busy = False
    found.look_through()
    assert sorted(limit for *_, limit in notes()) == sorted(2 * [str(BESIDE_A_JOB_BYTES)] + 2 * [str(2**40)])
    assert states(models, redis_client) == {"broken": "refused", "one": "loadable", "two": "loadable"}


def test_one_that_takes_more_than_a_job_may_is_not_tried_again_and_again(
    inspector: Any, models: Path, notes: Any, redis_client: Any
) -> None:
    found = inspector("sys.exit(75)")
    for _ in range(4):
        found.look_through()
    assert len(notes()) == 4  # two checkpoints, little memory and much
    assert states(models, redis_client)["one"] == "unchecked"


def test_a_large_trial_gives_way_to_a_job(
    inspector: Any, models: Path, notes: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inspector(LARGE + "\nimport time; time.sleep(60)")
    found.look_through()
    monkeypatch.setattr(checkpoint_inspector, "_is_busy", lambda: len(notes()) > 2)
    with pytest.raises(checkpoint_inspector._JobArrivedError):
        found.look_through()
    assert states(models, redis_client)["one"] == "unchecked"
    assert not redis_client.keys("spectrum:checkpoint-trial:*")


def test_what_another_worker_tries_is_left_to_it(inspector: Any, models: Path, notes: Any, redis_client: Any) -> None:
    one = ModelsDirectory(models).describe("one")
    VerdictStore(redis_client, lambda: ["version-1"]).may_try(str(one.sha256), "gpt2", 60)
    inspector().look_through()
    assert [name for name, *_ in notes()] == ["two"]


def test_a_worker_that_stops_ends_the_trial(inspector: Any, redis_client: Any) -> None:
    found = inspector("import time; time.sleep(60)")
    found.stop()
    found.look_through()
    assert not redis_client.keys("spectrum:checkpoint-*")
