"""Checkpoints on the disk: what comes back, what damage does, what is left behind."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_spectrum.storage.job_files import CheckpointDamagedError, CheckpointStore, JobCheckpoints
from hessian_spectrum.storage.local_directory import LocalDirectory

PIECES = [bytes([value]) * 1000 for value in range(4)]


def written(checkpoints: JobCheckpoints, name: str, pieces: list[bytes]) -> None:
    digests = [checkpoints.put(piece) for piece in pieces]
    checkpoints.commit({"name": name, "pieces": digests}, set(digests))


def found(checkpoints: JobCheckpoints) -> list[tuple[str, list[bytes]]]:
    """Of all checkpoints that are whole, newest first."""
    whole = []
    for each in checkpoints.newest_first():
        try:
            whole.append((each.document["name"], [each.read(digest) for digest in each.document["pieces"]]))
        except CheckpointDamagedError:
            continue
    return whole


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_the_last_two_are_kept_and_pieces_that_both_need_once(tmp_path: Path) -> None:
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    assert found(checkpoints) == []
    for count in (1, 2, 3, 4):
        written(checkpoints, str(count), PIECES[count - 1 : count + 1])
    assert found(checkpoints) == [("4", PIECES[3:]), ("3", PIECES[2:4])]
    assert len(names(tmp_path / "job" / "0001")) == 2 + 2


def test_a_later_attempt_goes_on_and_what_it_took_over_is_there(tmp_path: Path) -> None:
    written(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), "first", PIECES[:2])
    second = JobCheckpoints(LocalDirectory(tmp_path), "job", 2)
    assert found(second) == [("first", PIECES[:2])]
    written(second, "second", PIECES[:3])
    assert found(second) == [("second", PIECES[:3]), ("first", PIECES[:2])]
    written(second, "third", PIECES[1:3])
    assert names(tmp_path / "job") == {"0002"}
    # a worker that does not know yet that it lost its lease
    written(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), "late", PIECES[3:])
    assert found(JobCheckpoints(LocalDirectory(tmp_path), "job", 3))[0] == ("third", PIECES[1:3])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_passed_over_never_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    tmp_path = tmp_path_factory.mktemp("damage")
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    written(checkpoints, "before", PIECES[:2])
    written(checkpoints, "after", PIECES[1:])
    intact = found(checkpoints)
    paths = sorted((tmp_path / "job" / "0001").iterdir())
    path = data.draw(st.sampled_from(paths))
    content = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["flip", "truncate", "remove"])):
        case "flip":
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content)
        case "truncate":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        case "remove":
            path.unlink()
    left = found(checkpoints)
    assert set(map(str, left)) < set(map(str, intact))
    # work goes on, and what is written next is whole
    written(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), "next", PIECES)
    assert found(JobCheckpoints(LocalDirectory(tmp_path), "job", 3))[0] == ("next", PIECES)


def test_what_a_killed_write_left_behind_goes(tmp_path: Path) -> None:
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    written(checkpoints, "first", PIECES[:1])
    (tmp_path / "job" / "0001" / "tmpabc").write_bytes(b"half a pie")
    checkpoints.put(PIECES[3])  # and no document
    assert found(checkpoints) == [("first", PIECES[:1])]
    written(checkpoints, "second", PIECES[:1])
    assert len(names(tmp_path / "job" / "0001")) == 2 + 1


def test_a_full_disk_is_told_and_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    written(checkpoints, "first", PIECES[:1])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.put(PIECES[1])
    with pytest.raises(OSError, match="No space left"):
        checkpoints.commit({}, set())
    assert found(checkpoints) == [("first", PIECES[:1])]


def test_checkpoints_of_one_job_go(tmp_path: Path) -> None:
    store = CheckpointStore(LocalDirectory(tmp_path, "store"))
    assert store.job_ids() == []
    store.discard("a")
    for job in ("a", "b"):
        written(store.of_attempt(job, 1), job, PIECES[:1])
    assert sorted(store.job_ids()) == ["a", "b"]
    store.discard("a")
    assert found(store.of_attempt("a", 2)) == []
    assert found(store.of_attempt("b", 2)) == [("b", PIECES[:1])]


@pytest.mark.parametrize("job_id", ["..", "a/b", "", "/etc", "a\0"])
def test_no_id_leads_out_of_the_directory(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(ValueError, match="no id of a job"):
        JobCheckpoints(LocalDirectory(tmp_path), job_id, 1)
