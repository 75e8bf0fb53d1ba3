"""Uploaded tokens: stored once, whole, and under the digest of what is stored."""

import hashlib
import io
import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hessian_spectrum.storage import artifacts
from hessian_spectrum.storage.artifact_files import Blocks, Tokens, UnfitTokensError
from hessian_spectrum.storage.artifacts import ArtifactStore, UnknownArtifactError
from hessian_spectrum.storage.local_directory import LocalDirectory


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(LocalDirectory(tmp_path, "artifacts"))


def blocks(*parts: list[int], dtype: str = "<i8") -> Blocks:
    return lambda: iter([np.asarray(part, dtype) for part in parts])


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


def test_the_stored_file_is_numpys_own_and_its_digest_the_id(store: ArtifactStore, tmp_path: Path) -> None:
    for tokens, dtype in (([5, 0, 65_535], np.uint16), ([5, 0, 65_536], np.uint32)):
        artifact, is_new = store.write_tokens(blocks(tokens[:2], tokens[2:]))
        expected = io.BytesIO()
        np.save(expected, np.array(tokens, dtype))
        assert is_new
        assert artifact.id == hashlib.sha256(expected.getvalue()).hexdigest()
        assert artifact.num_bytes == len(expected.getvalue())
        assert (artifact.num_tokens, artifact.largest_token) == (3, tokens[2])
        mapped = store.tokens(artifact.id)
        assert isinstance(mapped, np.memmap)
        assert (mapped.tolist(), mapped.dtype) == (tokens, dtype)
        assert store.get(artifact.id) == artifact
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("dtype", ["|u1", "|i1", ">i2", "<u4", ">i8", "<u8"])
def test_the_same_tokens_are_one_artifact(store: ArtifactStore, tmp_path: Path, dtype: str) -> None:
    first, _ = store.write_tokens(blocks([1, 2], [3]))
    again, is_new = store.write_tokens(blocks([1, 2, 3], dtype=dtype))
    assert (again, is_new) == (first, False)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "no tokens"),
        (([1], [2, -1]), "holds -1"),
        (([2**31],), "2147483648"),
        (([-(2**63)],), "-9223372036854775808"),
    ],
)
def test_what_is_no_token_leaves_nothing(
    store: ArtifactStore, tmp_path: Path, parts: tuple[list[int], ...], message: str
) -> None:
    with pytest.raises(UnfitTokensError, match=message):
        store.write_tokens(blocks(*parts))
    assert files(tmp_path) == []


def test_a_failure_on_the_way_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    readings = iter([[np.array([1])], None])

    def fail_at_the_second_reading() -> Iterator[Tokens]:
        reading = next(readings)
        if reading is None:
            raise OSError("no space")
        return iter(reading)

    with pytest.raises(OSError, match="no space"):
        store.write_tokens(fail_at_the_second_reading)
    with store.draft() as draft:
        draft.write(b"half")
        assert len(files(tmp_path)) == 1
    assert files(tmp_path) == []


def test_deleted_tokens_are_gone_but_for_whoever_has_them_open(store: ArtifactStore, tmp_path: Path) -> None:
    artifact, _ = store.write_tokens(blocks([7, 8]))
    mapped = store.tokens(artifact.id)
    store.delete(artifact.id)
    assert files(tmp_path) == []
    assert mapped.tolist() == [7, 8]
    for call in (store.get, store.tokens, store.delete):
        with pytest.raises(UnknownArtifactError):
            call(artifact.id)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "*", "a" * 63, "A" * 64, "a" * 64 + "/x", "a" * 64 + "\n"])
def test_only_digests_lead_to_files(store: ArtifactStore, name: str) -> None:
    with pytest.raises(UnknownArtifactError):
        store.get(name)


def test_pages_go_from_the_newest_to_the_oldest(store: ArtifactStore, tmp_path: Path) -> None:
    made = [store.write_tokens(blocks([number]))[0] for number in range(5)]
    for age, artifact in enumerate(made):
        path = next(tmp_path.rglob(f"{artifact.id}*"))
        os.utime(path, ns=(0, 1_600_000_000_000_001_000 + (age // 2) * 1_000_000))
    newest_first = sorted((store.get(a.id) for a in made), key=lambda a: (a.created_at, a.id), reverse=True)
    first, place = store.page(2, None)
    second, last = store.page(2, place)
    assert first + second == newest_first[:4]
    store.delete(second[-1].id)
    assert store.page(2, last) == (newest_first[4:], None)
    assert store.page(5, None)[1] is None


def test_drafts_of_killed_processes_are_removed(store: ArtifactStore, tmp_path: Path) -> None:
    artifact, _ = store.write_tokens(blocks([1]))
    old, young = tmp_path / "artifacts" / "draft-old", tmp_path / "artifacts" / "draft-young"
    old.touch()
    young.touch()
    os.utime(old, (0, time.time() - 2 * artifacts._ABANDONED_SECONDS))
    store.remove_abandoned_drafts()
    assert not old.exists()
    assert young.exists()
    assert store.get(artifact.id) == artifact


def test_memory_is_that_of_a_block(store: ArtifactStore) -> None:
    def many() -> Iterator[Tokens]:
        return (np.full(2**16, number, "<u2") for number in range(200))

    tracemalloc.start()
    try:
        artifact, _ = store.write_tokens(many)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    assert artifact.num_tokens == 200 * 2**16
    assert store.tokens(artifact.id)[-1] == 199


def test_a_page_reads_no_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(LocalDirectory(tmp_path))
    ids = [store.write_tokens(lambda number=number: iter([np.asarray([number])]))[0].id for number in range(6)]
    looked_at = []
    described = ArtifactStore._artifact
    monkeypatch.setattr(ArtifactStore, "_artifact", lambda self, info: looked_at.append(info) or described(self, info))
    first, place = store.page(2, None)
    second, _ = store.page(2, place)
    assert [artifact.id for artifact in (*first, *second)] == ids[:1:-1]
    assert len(looked_at) == 4
