"""The directory of a tracked run: whatever is killed or lost, each point reaches the server once, in order."""

import json
import operator
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.client import SpectrumClient
from hessian_spectrum.client.arrays import NamedArray, UnfitArrayError
from hessian_spectrum.client.errors import ProblemResponseError, ServerUnreachableError
from hessian_spectrum.client.tracking.points import Point
from hessian_spectrum.client.tracking.sender import Sender
from hessian_spectrum.client.tracking.spool import LARGEST_BATCH, Run, Spool, SpoolError
from tests.client import killed_run
from tests.client.series_server import SeriesServer, series_server

RUN = Run("run", {"loss": "mse", "data": {"kind": "digits"}}, killed_run.digest(b"program"))
ROOT = Path(__file__).parents[2]


@pytest.fixture
def series() -> Iterator[SeriesServer]:
    with series_server() as series:
        yield series


@pytest.fixture
def client(series: SeriesServer) -> Iterator[SpectrumClient]:
    with SpectrumClient(series.url, patience_seconds=0) as client:
        yield client


def opened(directory: Path, **options: int) -> Spool:
    spool = Spool(directory, **options)
    spool.begin(RUN, b"program", [])
    return spool


def numbers(value: float, size: int = 4) -> dict[str, NamedArray]:
    return {"w": NamedArray("F64", np.linspace(value, value + 0.5, size))}


def steps(spool: Spool) -> list[int]:
    """Steps of the points on disk, in the order in which they would be sent."""
    return [json.loads(path.read_text())["step"] for path in sorted(spool.directory.glob("point-*.json"))]


def test_a_process_that_is_killed_between_any_two_file_operations_loses_nothing_and_sends_nothing_twice(
    series: SeriesServer, client: SpectrumClient, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.client.killed_run", series.url, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment).stdout
    recorded: dict[str, set[int]] = defaultdict(set)
    for name, step in re.findall(r"(run-\d+) (\d+)", output):
        recorded[name].add(int(step))
    num_operations = len(recorded)
    assert num_operations > 40
    left = {path.parent.name for path in tmp_path.glob("*/run.json")}
    sent_before = {name: len(series.points(name)) for name in recorded}
    assert left
    assert {run.name for run in client.send_tracked(tmp_path)} == left
    for name, expected in recorded.items():
        found = series.points(name)
        assert [point["step"] for point in found] == sorted(set(range(len(found)))), "in order, and each once"
        assert expected <= {point["step"] for point in found}
        for point in found:
            (values,) = [bytes(each["data"]) for each in series.arrays(point).values()]
            assert values == killed_run.arrays(name, point["step"])["weight"].values.tobytes()
            assert series.uploads[point["parameters"]["id"]] == 1
    assert any(0 < number < killed_run.NUM_POINTS for number in sent_before.values())
    assert not [path for path in tmp_path.glob("run-*") if path.is_dir() and list(path.glob("*.json"))]


def test_what_is_left_without_a_run_is_removed_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".draft-abc", f"{64 * '0'}.safetensors"):
        (tmp_path / "run" / name).write_bytes(b"half")
    (tmp_path / "run" / "mine.safetensors").write_bytes(b"of somebody else")
    opened(tmp_path / "run").abandon()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "mine.safetensors", "run.json", f"{RUN.program}.pt2", "lock",
    }  # fmt: skip


def test_files_that_are_not_whole_are_not_sent(series: SeriesServer, client: SpectrumClient, tmp_path: Path) -> None:
    """After a power failure, files may have a name before their contents are on disk."""
    spool = opened(tmp_path / "run")
    for step in range(4):
        spool.add(step, None, numbers(step))
    spool.abandon()
    points = sorted(spool.directory.glob("point-*.json"))
    spool.path(json.loads(points[1].read_text())["parameters"]).write_bytes(b"")
    points[2].write_bytes(b"")
    client.send_tracked(tmp_path)
    assert series.steps() == [0, 3]
    assert not spool.directory.exists()


def test_a_lost_answer_is_asked_for_again(series: SeriesServer, client: SpectrumClient, tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    sender, num_lost, num_sent = Sender(client, spool), 0, 0
    for step in range(3):
        spool.add(step, None, numbers(step))
    series.lost_answers = 1
    for _ in range(20):
        try:
            num_sent += sender.send_batch()
        except ServerUnreachableError:
            num_lost += 1
            spool.add(2 + num_lost, None, numbers(2 + num_lost))
            series.lost_answers = num_lost % 3  # of the next request, or of the next two
        if num_sent == 3 + num_lost:
            break
    assert num_lost > 2
    assert series.steps() == list(range(num_sent))
    assert set(series.uploads.values()) == {1}


def test_parameters_that_the_server_has_removed_are_sent_again(
    series: SeriesServer, client: SpectrumClient, tmp_path: Path
) -> None:
    spool = opened(tmp_path / "run")
    sender = Sender(client, spool)
    spool.add(0, None, numbers(0))
    assert sender.send_batch() == 1
    series.artifacts.clear()  # with the program
    spool.add(1, None, numbers(1))
    assert sender.send_batch() == 1
    assert series.steps() == [0, 1]
    assert len(series.artifacts) == 2


def test_a_refusal_keeps_everything_until_the_server_accepts_it(
    series: SeriesServer, client: SpectrumClient, tmp_path: Path
) -> None:
    spool = opened(tmp_path / "run")
    for step in range(LARGEST_BATCH + 3):
        spool.add(step, 0.5, numbers(step))
    spool.abandon()
    for status in (401, 422, 500, 503):
        series.refusal = (status, {})
        with pytest.raises(ProblemResponseError):
            client.send_tracked(tmp_path)
    series.refusal = None
    (sent,) = client.send_tracked(tmp_path)
    assert (sent.name, sent.num_points, len(sent.job_ids)) == ("run", LARGEST_BATCH + 3, 2)
    assert series.steps() == list(range(LARGEST_BATCH + 3))
    assert set(series.uploads.values()) == {1}
    with pytest.raises(SpoolError, match="no tracked run"):
        client.send_tracked(tmp_path)


def test_points_cover_the_run_evenly_within_the_limit(tmp_path: Path) -> None:
    size = 8 * 100
    spool = opened(tmp_path / "run", disk_bytes=10 * size)
    dropped = 0
    for step in range(0, 1000, 10):
        dropped += spool.add(step, None, numbers(step, 100))
        assert sum(path.stat().st_size for path in spool.directory.glob("*.safetensors")) < 10 * (size + 300)
    found = steps(spool)
    assert len(found) == spool.num_points == 10
    assert dropped == 90
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 990)
    gaps = Counter(np.diff(found))
    assert max(gaps) <= 3 * 1000 / 10
    spool.abandon()


def counted(operation: Callable[[int, int], int]) -> Callable[[int, int], Any]:
    def apply(number: int, other: int) -> int:
        Counted.num_operations += 1
        result = operation(int(number), int(other))
        return result if isinstance(result, bool) else Counted(result)

    return apply


class Counted(int):
    """A number that counts the operations on numbers of this kind."""

    num_operations = 0

    __add__ = __radd__ = counted(operator.add)
    __sub__ = counted(operator.sub)
    __rsub__ = counted(lambda number, other: other - number)
    __lt__, __le__, __gt__, __ge__ = map(counted, (operator.lt, operator.le, operator.gt, operator.ge))
    __eq__ = counted(operator.eq)
    __hash__ = int.__hash__


class CountedArray(NamedArray):
    @property
    def num_bytes(self) -> int:
        return Counted(super().num_bytes)


@pytest.mark.parametrize("situation", ["room", "no room", "repeated step"])
def test_adding_a_point_takes_hardly_more_operations_where_many_wait(
    situation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 100 times as many, additions and comparisons of steps, sizes and points are at most 5 times as many."""
    compare = Point.__eq__

    def counted_compare(point: Point, other: object) -> bool:
        Counted.num_operations += 1
        return compare(point, other)

    monkeypatch.setattr(Point, "__eq__", counted_compare)
    found = {}
    for num_points in (10, 1000):
        spool = opened(tmp_path / f"run-{num_points}", disk_bytes=(num_points + (situation != "no room") * 5) * 8)
        for step in range(num_points):
            spool.add(Counted(step), None, {"w": CountedArray("F64", np.full(1, float(step)))})
        spool.make_batch(spool.first_points()[:5])
        step = Counted(num_points - 2 if situation == "repeated step" else num_points)
        Counted.num_operations = 0
        num_dropped = spool.add(step, None, {"w": CountedArray("F64", np.full(1, -1.0))})
        found[num_points] = Counted.num_operations
        assert num_dropped == (situation == "no room")
        assert spool.num_points == num_points + (situation == "room")
        spool.abandon()
    assert 0 < found[1000] <= 5 * found[10], found


def test_points_that_are_being_sent_stay(series: SeriesServer, client: SpectrumClient, tmp_path: Path) -> None:
    size = 8 * 100
    spool = opened(tmp_path / "run", disk_bytes=5 * size)
    for step in range(5):
        spool.add(step, None, numbers(step, 100))
    spool.make_batch(spool.first_points())
    assert spool.add(5, None, numbers(5, 100)) == -1
    assert Sender(client, spool).send_batch() == 5
    assert series.steps() == [0, 1, 2, 3, 4]
    assert spool.add(6, None, numbers(6, 100)) == 0
    assert spool.num_points == 1


def test_points_that_are_dropped_before_their_upload_are_left_out(
    series: SeriesServer, client: SpectrumClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 8 * 100
    spool = opened(tmp_path / "run", disk_bytes=4 * size)
    for step in range(4):
        spool.add(step, None, numbers(step, 100))
    earlier = spool.first_points()
    for step in range(4, 7):
        spool.add(step, None, numbers(step, 100))
    monkeypatch.setattr(spool, "first_points", lambda: earlier)
    left = steps(spool)
    num_sent = Sender(client, spool).send_batch()
    assert 0 < num_sent == len(set(left) & {0, 1, 2, 3}) < 4
    monkeypatch.undo()
    assert Sender(client, spool).send_batch() == len(left) - num_sent
    assert series.steps() == left


def test_a_step_that_is_recorded_again_replaces_the_one_that_waits(
    series: SeriesServer, client: SpectrumClient, tmp_path: Path
) -> None:
    """After the run was resumed from a checkpoint. One that is being sent is sent as it was, and then the new one."""
    spool = opened(tmp_path / "run")
    for value, step in enumerate([0, 1, 2, 1]):
        spool.add(step, None, numbers(value))
    assert steps(spool) == [0, 2, 1]
    spool.make_batch(spool.first_points())
    batch = spool.batch
    spool.add(2, None, numbers(9))
    assert spool.batch == batch
    sender = Sender(client, spool)
    assert (sender.send_batch(), sender.send_batch()) == (3, 1)
    assert [each["step"] for each in series.points()] == [0, 2, 1, 2]
    assert series.arrays(series.points()[-1])["w"]["data"] == numbers(9)["w"].values.tobytes()


def test_equal_parameters_are_sent_once(series: SeriesServer, client: SpectrumClient, tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    for step in range(3):
        spool.add(step, None, numbers(7))
    assert len(list(spool.directory.glob("*.safetensors"))) == 1
    spool.make_batch(spool.first_points())
    spool.add(3, None, numbers(7))
    assert Sender(client, spool).send_batch() == 3
    assert len(list(spool.directory.glob("*.safetensors"))) == 1, "the next point needs it"
    assert Sender(client, spool).send_batch() == 1
    assert set(series.uploads.values()) == {1}
    assert series.steps() == [0, 1, 2, 3]


def test_a_directory_belongs_to_one_process_and_to_one_run(tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    with pytest.raises(SpoolError, match="another process"):
        Spool(tmp_path / "run")
    spool.add(0, None, numbers(0))
    spool.abandon()
    with pytest.raises(SpoolError, match="was left"):
        spool.add(1, None, numbers(1))
    again = Spool(tmp_path / "run")
    other = Run("run", {"loss": "cross-entropy"}, RUN.program)
    with pytest.raises(SpoolError, match=r"another run named run, .*spectrum track send"):
        again.begin(other, b"program", [])
    again.begin(RUN, b"program", [])
    assert again.num_points == 1
    again.abandon()
    (again.directory / "run.json").write_text('{"version": 2}')
    with pytest.raises(SpoolError, match="another version"):
        Spool(tmp_path / "run")


def test_numbers_that_are_not_finite_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    with pytest.raises(UnfitArrayError, match="finite"):
        spool.add(0, None, numbers(np.nan))
    assert {path.suffix for path in spool.directory.iterdir()} == {".json", ".pt2", ""}
    spool.abandon()


def test_a_batch_begins_with_the_last_point_of_the_one_before(
    series: SeriesServer, client: SpectrumClient, tmp_path: Path
) -> None:
    """The overlap of eigenvectors is that of steps of one job; a point that the server no longer has is left out."""
    spool = opened(tmp_path / "run")
    for step in range(LARGEST_BATCH + 2):
        spool.add(step, 0.5, numbers(step))
    sender = Sender(client, spool)
    sender.send_batch()
    series.artifacts.pop(series.posts[0]["points"][-1]["parameters"]["id"])
    sender.send_batch()
    assert [len(each["points"]) for each in series.posts] == [LARGEST_BATCH, 2]
    spool.add(100, 0.5, numbers(100))
    sender.send_batch()
    assert [point["step"] for point in series.posts[-1]["points"]] == [LARGEST_BATCH + 1, 100]
    spool.abandon()
