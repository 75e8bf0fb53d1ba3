"""Stored results are verified by reading all of their files, large ones not at every request."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hessian_spectrum.api_schemas.spectrum_results import StoredArrays
from hessian_spectrum.service import result_integrity
from hessian_spectrum.service.result_integrity import VERIFIED_SECONDS, ResultVerifier
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
    """The digest of a document that only describes its arrays."""
    monkeypatch.setattr(result_integrity, "parse_result", json.loads)
    monkeypatch.setattr(result_integrity, "stored_arrays", StoredArrays.model_validate)
    with store.drafted({"vectors": np.arange(1000.0)}) as draft:
        document = StoredArrays(sha256=draft.sha256, num_bytes=draft.num_bytes, shapes={"vectors": [1000]})
        return store.write(document.model_dump_json().encode(), draft)


def arrays_of(tmp_path: Path) -> Path:
    [path] = tmp_path.glob("*/*.npz")
    return path


def test_arrays_are_read_once_in_an_hour(store: CountingStore, digest: str) -> None:
    now = [10 * VERIFIED_SECONDS]
    verifier = ResultVerifier(store, lambda: now[0])
    for hour in (1, 2, 3):
        for _ in range(5):
            verifier.verify(digest)
        assert store.num_reads == hour
        now[0] += VERIFIED_SECONDS


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change", [damage, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_changed_file_is_detected_at_once(
    store: CountingStore, digest: str, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    verifier = ResultVerifier(store)
    verifier.verify(digest)
    change(arrays_of(tmp_path))
    for _ in range(2):  # a damaged result fails every time
        with pytest.raises(ResultDamagedError):
            verifier.verify(digest)


def test_a_restored_copy_is_read_again(store: CountingStore, digest: str, tmp_path: Path) -> None:
    verifier = ResultVerifier(store)
    verifier.verify(digest)
    path = arrays_of(tmp_path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    verifier.verify(digest)
    assert store.num_reads == 2


def test_a_document_is_parsed_once(
    store: CountingStore, digest: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parsed = []
    monkeypatch.setattr(result_integrity, "parse_result", lambda text: parsed.append(text) or json.loads(text))
    verifier = ResultVerifier(store)
    for _ in range(3):
        verifier.verify(digest)
    assert len(parsed) == 1
    [path] = tmp_path.glob("*/*.json")
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(ResultDamagedError):
        verifier.verify(digest)
