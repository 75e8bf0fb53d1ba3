"""Results are whole or refused."""

import io
from pathlib import Path

import numpy as np
import pytest

from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.results import ResultDamagedError, ResultStore


def test_what_was_written_is_read(tmp_path: Path) -> None:
    store = ResultStore(LocalDirectory(tmp_path, "results"))
    digest = store.write(b"{}")
    assert store.read(digest) == b"{}"
    assert store.write(b"{}") == digest
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{digest}.json"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    store = ResultStore(LocalDirectory(tmp_path))
    digest = store.write(b"right")
    next(tmp_path.rglob("*.json")).write_bytes(b"wrong")
    with pytest.raises(ResultDamagedError, match="damaged"):
        store.read(digest)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    store = ResultStore(LocalDirectory(tmp_path))
    digest = store.write(b"gone")
    store.delete(digest)
    store.delete(digest)
    with pytest.raises(ResultDamagedError, match="missing"):
        store.read(digest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 64 + "/x"])
def test_only_digests_lead_to_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(ResultDamagedError, match="no digest"):
        ResultStore(LocalDirectory(tmp_path)).read(name)


def test_arrays_live_and_die_with_their_document(tmp_path: Path) -> None:
    store = ResultStore(LocalDirectory(tmp_path))
    vectors = np.arange(400_000.0).reshape(2, -1)
    with store.drafted({"vectors": vectors}) as draft:
        digest = store.write(b"{}", draft)
    assert sorted(path.suffix for path in tmp_path.rglob("*.*")) == [".json", ".npz"]
    content = b"".join(store.stream_arrays(digest, draft.sha256))
    assert len(content) == draft.num_bytes
    np.testing.assert_array_equal(np.load(io.BytesIO(content), allow_pickle=False)["vectors"], vectors)
    store.delete(digest)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(ResultDamagedError, match="missing"):
        store.stream_arrays(digest, draft.sha256)


def test_arrays_that_no_document_takes_are_gone(tmp_path: Path) -> None:
    store = ResultStore(LocalDirectory(tmp_path))
    with store.drafted({"a": np.ones(3)}) as draft:
        assert draft.draft.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_writing_reports_and_can_be_stopped(tmp_path: Path) -> None:
    store, arrays = ResultStore(LocalDirectory(tmp_path)), {"a": np.zeros(6_000_000)}
    seen: list[int] = []
    with store.drafted(arrays, seen.append) as draft:
        assert seen == sorted(seen)
        assert len(seen) > 2
        assert seen[-1] >= draft.num_bytes

    def stop(num_bytes: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), store.drafted(arrays, stop):
        pass
    assert list(tmp_path.iterdir()) == []


def test_damaged_arrays_never_come_whole(tmp_path: Path) -> None:
    store = ResultStore(LocalDirectory(tmp_path))
    with store.drafted({"a": np.zeros(500_000)}) as draft:
        digest = store.write(b"{}", draft)
    path = next(tmp_path.rglob("*.npz"))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    received: list[bytes] = []
    with pytest.raises(ResultDamagedError, match="damaged"):
        received.extend(store.stream_arrays(digest, draft.sha256))
    assert 0 < sum(map(len, received)) < len(content)


def test_what_cannot_be_stored_without_pickle_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="pickle"),
        ResultStore(LocalDirectory(tmp_path)).drafted({"a": np.array([object()])}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
