"""Whether a stored result is whole is found out by reading it, large files not every time that somebody asks."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hessian_spectrum.api_schemas.spectrum_results import StoredArrays
from hessian_spectrum.service import whole_results
from hessian_spectrum.service.whole_results import SECONDS_BELIEVED, WholeResults
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.results import ResultDamagedError, ResultStore


class CountingStore(ResultStore):
    num_reads = 0

    def stream_arrays(self, digest: str, sha256: str) -> Iterator[bytes]:
        self.num_reads += 1
        return super().stream_arrays(digest, sha256)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(LocalDirectory(tmp_path))


@pytest.fixture
def digest(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a document that says no more than what its arrays are."""
    monkeypatch.setattr(whole_results, "result_of", json.loads)
    monkeypatch.setattr(whole_results, "stored_arrays", StoredArrays.model_validate)
    with store.drafted({"vectors": np.arange(1000.0)}) as draft:
        document = StoredArrays(sha256=draft.sha256, num_bytes=draft.num_bytes, shapes={"vectors": [1000]})
        return store.write(document.model_dump_json().encode(), draft)


def arrays_of(tmp_path: Path) -> Path:
    [path] = tmp_path.glob("*/*.npz")
    return path


def test_arrays_are_read_once_in_an_hour(store: CountingStore, digest: str) -> None:
    now = [10 * SECONDS_BELIEVED]
    whole = WholeResults(store, lambda: now[0])
    for hour in (1, 2, 3):
        for _ in range(5):
            whole.check(digest)
        assert store.num_reads == hour
        now[0] += SECONDS_BELIEVED


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change", [damage, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_what_has_changed_since_is_found_at_once(
    store: CountingStore, digest: str, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    whole = WholeResults(store)
    whole.check(digest)
    change(arrays_of(tmp_path))
    for _ in range(2):  # a result that is not whole is no better the next time
        with pytest.raises(ResultDamagedError):
            whole.check(digest)


def test_a_copy_that_was_put_in_place_is_read_anew(store: CountingStore, digest: str, tmp_path: Path) -> None:
    whole = WholeResults(store)
    whole.check(digest)
    path = arrays_of(tmp_path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    whole.check(digest)
    assert store.num_reads == 2


def test_a_document_is_understood_once(
    store: CountingStore, digest: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    understood = []
    monkeypatch.setattr(whole_results, "result_of", lambda text: understood.append(text) or json.loads(text))
    whole = WholeResults(store)
    for _ in range(3):
        whole.check(digest)
    assert len(understood) == 1
    [path] = tmp_path.glob("*/*.json")
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(ResultDamagedError):
        whole.check(digest)
