"""Results are whole or refused."""

from pathlib import Path

import pytest

from jobs.results import ResultDamagedError, ResultStore


def test_what_was_written_is_read(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    digest = store.write(b"{}")
    assert store.read(digest) == b"{}"
    assert store.write(b"{}") == digest
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{digest}.json"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    digest = store.write(b"right")
    next(tmp_path.rglob("*.json")).write_bytes(b"wrong")
    with pytest.raises(ResultDamagedError, match="damaged"):
        store.read(digest)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    digest = store.write(b"gone")
    store.delete(digest)
    store.delete(digest)
    with pytest.raises(ResultDamagedError, match="missing"):
        store.read(digest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 64 + "/x"])
def test_only_digests_lead_to_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(ResultDamagedError, match="no digest"):
        ResultStore(tmp_path).read(name)
