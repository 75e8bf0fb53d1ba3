"""A disk that is nearly full takes no large files more: the rest is for Redis."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hessian_spectrum.storage.artifacts import ArtifactStore
from hessian_spectrum.storage.job_files import JobCheckpoints
from hessian_spectrum.storage.local_directory import LEAST_FREE_BYTES, LocalDirectory, require_room
from hessian_spectrum.storage.results import ResultStore

BLOCK = 4096


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes every disk have so many free bytes beyond those that count as none."""

    def leave(num_bytes: int) -> None:
        found = SimpleNamespace(f_bavail=(LEAST_FREE_BYTES + num_bytes) // BLOCK, f_frsize=BLOCK)
        monkeypatch.setattr(os, "statvfs", lambda _: found)

    return leave


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_room_is_what_is_left_beyond_the_least(leave: Callable[[int], None], tmp_path: Path) -> None:
    leave(10 * BLOCK)
    require_room(tmp_path, 10 * BLOCK)
    with pytest.raises(OSError, match="No space") as caught:
        require_room(tmp_path, 10 * BLOCK + 1)
    assert caught.value.errno == errno.ENOSPC


def test_arrays_of_results(leave: Callable[[int], None], tmp_path: Path) -> None:
    results = ResultStore(LocalDirectory(tmp_path))
    leave(10 * BLOCK)
    with pytest.raises(OSError, match="No space"), results.drafted({"vectors": np.zeros(11 * BLOCK // 8)}):
        pass
    assert files(tmp_path) == []
    leave(0)
    assert results.read(results.write(b"{}")) == b"{}"  # small, and hours of work


def test_tokens(leave: Callable[[int], None], tmp_path: Path) -> None:
    leave(BLOCK)
    with pytest.raises(OSError, match="No space"):
        ArtifactStore(LocalDirectory(tmp_path)).write_tokens(lambda: iter([np.arange(BLOCK)]))
    assert files(tmp_path) == []


def test_pieces_of_checkpoints(leave: Callable[[int], None], tmp_path: Path) -> None:
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    leave(BLOCK)
    first = checkpoints.put(b"a" * 10)
    checkpoints.commit({}, {first})
    kept = files(tmp_path)
    checkpoints.put(b"b" * 10)
    with pytest.raises(OSError, match="No space"):
        checkpoints.put(b"c" * 2 * BLOCK)
    assert files(tmp_path) != kept
    checkpoints.remove_rest()
    assert sorted(files(tmp_path)) == sorted(kept)
    [left] = JobCheckpoints(LocalDirectory(tmp_path), "job", 2).newest_first()
    assert left.read(first) == b"a" * 10
