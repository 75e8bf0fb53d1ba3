"""What every blob store promises, asked of each of them."""

import hashlib
import io
import multiprocessing
import os
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hessian_spectrum.api_schemas.artifacts import ArrayArtifact, TokenArtifact
from hessian_spectrum.storage import object_store as object_store_module
from hessian_spectrum.storage.artifact_files import NamedArray
from hessian_spectrum.storage.artifacts import UnknownArtifactError
from hessian_spectrum.storage.blob_store import BlobNotFoundError, BlobStore, StorageUnavailableError
from hessian_spectrum.storage.job_files import RequestDamagedError
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.object_store import ObjectStore
from hessian_spectrum.storage.results import ResultDamagedError
from hessian_spectrum.storage.stores import Stores
from tests.fixtures.longer import long

Open = Callable[[str], BlobStore]
"""Opens the same store as a machine of this name does."""

WHOLE_STORES = ["directory", "object store", long("part of a directory"), long("part of an object store")]
"""For tests that take seconds in each store."""

DIGITS = hashlib.sha256(b"").hexdigest()


@pytest.fixture(params=["directory", "part of a directory", "object store", "part of an object store"])
def open_on(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if "object store" in request.param:
        opened: Callable[[str], ObjectStore] = request.getfixturevalue("object_store")
        return opened if request.param == "object store" else lambda machine: opened(machine).within("part/of/it")
    directory = LocalDirectory(tmp_path / "shared")
    directory.prepare()
    return lambda _: directory if request.param == "directory" else directory.within("part/of/it")


@pytest.fixture
def blobs(open_on: Open) -> BlobStore:
    return open_on("one")


def names(blobs: BlobStore, prefix: str = "") -> list[str]:
    return sorted(info.name for info in blobs.list(prefix))


def test_the_first_content_of_a_name_stays(blobs: BlobStore) -> None:
    assert blobs.put("a/b", b"first")
    assert not blobs.put("a/b", b"second")
    assert blobs.read("a/b") == b"first"
    assert blobs.put("a/b", b"third", overwrite=True)
    assert blobs.read("a/b") == b"third"
    assert blobs.put("a/c", memoryview(b"new"), overwrite=True)
    assert blobs.put("empty", b"")
    assert (blobs.read("a/c"), blobs.read("empty")) == (b"new", b"")


def test_of_many_that_put_at_once_one_is_first(blobs: BlobStore) -> None:
    contents = [bytes([number]) * 1000 for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        firsts = list(pool.map(lambda content: blobs.put("contested", content), contents))
    assert firsts.count(True) == 1
    assert blobs.read("contested") == contents[firsts.index(True)]


def test_what_is_not_there(blobs: BlobStore) -> None:
    blobs.put("a/b", b"there")
    for missing in ("nothing", "a/nothing", "nothing/at/all", "a", "a/b/c"):
        for ask in (blobs.open, blobs.read, blobs.stat, blobs.local_file):
            with pytest.raises(BlobNotFoundError):
                ask(missing)
        with pytest.raises(BlobNotFoundError):
            blobs.copy(missing, "copy")
        assert names(blobs, f"{missing}/") == (["a/b"] if missing == "a" else [])
    for nowhere in ("nothing", "nothing/at/all"):
        blobs.delete(nowhere)
        blobs.delete_all(f"{nowhere}/")
        assert list(blobs.folders(f"{nowhere}/")) == []
    assert names(blobs) == ["a/b"]


def test_what_is_known_of_a_blob(blobs: BlobStore) -> None:
    before = time.time()
    blobs.put("a", b"12345")
    info = blobs.stat("a")
    assert (info.name, info.num_bytes) == ("a", 5)
    assert before - 2 < info.modified_at < time.time() + 2
    assert [info] == list(blobs.list())
    blobs.put("a", b"54321", overwrite=True)
    assert blobs.stat("a").version != info.version


def test_listing_by_prefix_and_by_folder(blobs: BlobStore) -> None:
    everything = ["one", "two/a", "two/b", "two/c/d", "two/ab", "three/x"]
    for name in everything:
        blobs.put(name, name.encode())
    assert names(blobs) == sorted(everything)
    assert names(blobs, "two/") == ["two/a", "two/ab", "two/b", "two/c/d"]
    assert names(blobs, "two/a") == ["two/a", "two/ab"]
    assert names(blobs, "two/c/") == ["two/c/d"]
    assert sorted(blobs.folders()) == ["three", "two"]
    assert list(blobs.folders("two/")) == ["c"]
    part = blobs.within("two")
    assert names(part) == ["a", "ab", "b", "c/d"]
    assert part.read("c/d") == b"two/c/d"


def test_more_blobs_than_one_answer_lists(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store_module, "_PAGE", 7)
    for number in range(30):
        blobs.put(f"many/{number:04d}/a", b"")
    assert names(blobs) == [f"many/{number:04d}/a" for number in range(30)]
    assert sorted(blobs.folders("many/")) == [f"{number:04d}" for number in range(30)]
    blobs.delete_all("many/")
    assert names(blobs) == []


def test_deleting_and_copying(blobs: BlobStore) -> None:
    for name in ("a/1", "a/2", "ab/3"):
        blobs.put(name, name.encode())
    blobs.copy("a/1", "copies/of/1")
    blobs.delete("a/1")
    assert names(blobs) == ["a/2", "ab/3", "copies/of/1"]
    assert blobs.read("copies/of/1") == b"a/1"
    blobs.delete_all("a/")
    assert names(blobs) == ["ab/3", "copies/of/1"]
    assert blobs.put("a/1", b"again")


@pytest.mark.parametrize("num_bytes", [0, 100, 3 * 2**20])
def test_reading_from_any_place(blobs: BlobStore, num_bytes: int) -> None:
    content = os.urandom(num_bytes)
    blobs.put("a", content)
    with blobs.open("a") as file:
        assert file.read(10) == content[:10]
        file.seek(num_bytes // 2)
        assert file.read(50) == content[num_bytes // 2 : num_bytes // 2 + 50]
        file.seek(-min(7, num_bytes), os.SEEK_END)
        assert file.read() == content[-7:]
        assert file.read(1) == b""
        file.seek(0)
        assert file.read() == content


def test_a_local_file_has_the_bytes_and_stays_readable(blobs: BlobStore) -> None:
    blobs.put("a", b"first")
    with blobs.local_file("a").open("rb") as file:
        assert blobs.local_file("a").read_bytes() == b"first"
        blobs.put("a", b"other", overwrite=True)
        assert blobs.local_file("a").read_bytes() == b"other"
        blobs.delete("a")
        assert file.read() == b"first"
    with pytest.raises(BlobNotFoundError):
        blobs.local_file("a")


def test_a_draft_becomes_a_blob_or_nothing(blobs: BlobStore) -> None:
    reported: list[int] = []
    with blobs.draft(report=reported.append) as draft:
        draft.write([b"123", b"45"])
        assert (draft.num_bytes, draft.sha256()) == (5, hashlib.sha256(b"12345").hexdigest())
        draft.write([b"6"])
        assert names(blobs) == []
        assert draft.commit("a/b")
    assert reported == [5, 6]
    with blobs.draft() as draft:
        draft.write([b"other"])
        assert not draft.commit("a/b")
        path = draft.path
    assert blobs.read("a/b") == b"123456"
    assert not path.exists()
    with blobs.draft() as draft:
        draft.write([b"half"])
        path = draft.path
    assert not path.exists()
    assert names(blobs) == ["a/b"]


@pytest.mark.parametrize("open_on", WHOLE_STORES, indirect=True)
def test_a_large_draft_is_streamed(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store_module, "_PART_BYTES", 5 * 2**20)
    piece = os.urandom(2**20)
    digest = hashlib.sha256(piece * 48).hexdigest()
    tracemalloc.start()
    try:
        with blobs.draft() as draft:
            draft.write(piece for _ in range(48))
            assert draft.sha256() == digest
            assert draft.commit("large")
        with blobs.draft() as draft:
            draft.write(piece for _ in range(47))
            assert not draft.commit("large")
        found = hashlib.sha256()
        with blobs.open("large") as file:
            while part := file.read(2**20):
                found.update(part)
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
    assert found.hexdigest() == digest
    assert blobs.stat("large").num_bytes == 48 * 2**20
    assert np.memmap(blobs.local_file("large"), "u1", "r")[-(2**20) :].tobytes() == piece


def test_drafts_of_killed_processes_are_removed(blobs: BlobStore) -> None:
    with blobs.draft() as draft:
        draft.write([b"1"])
        blobs.remove_abandoned_drafts(60)
        assert draft.path.exists()
        blobs.remove_abandoned_drafts(-60)
        assert not draft.path.exists()


@pytest.mark.parametrize("open_on", WHOLE_STORES, indirect=True)
def test_the_last_use_is_remembered(blobs: BlobStore) -> None:
    blobs.put("a/used", b"content")
    blobs.put("a/unused", b"content")
    before = blobs.stat("a/used").modified_ns
    assert list(blobs.unused(60)) == []
    time.sleep(5.0)
    blobs.mark_used("a/used")
    assert [info.name for info in blobs.unused(3.9)] == ["a/unused"]
    assert blobs.stat("a/used").modified_ns == before
    assert names(blobs) == ["a/unused", "a/used"]
    assert list(blobs.folders()) == ["a"]
    blobs.delete("a/used")
    blobs.put("a/used", b"content")
    assert [info.name for info in blobs.unused(3.9)] == ["a/unused"]


def test_a_process_that_is_forked_goes_on(blobs: BlobStore) -> None:
    blobs.put("before", b"1")

    def work() -> None:
        assert blobs.read("before") == b"1"
        blobs.put("after", b"2")

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    started = time.monotonic()
    assert blobs.read("after") == b"2"
    assert time.monotonic() - started < 20  # what the child closes, this process still has


def test_all_stores_on_two_machines(open_on: Open) -> None:
    one, other = Stores.of(open_on("one")), Stores.of(open_on("other"))
    assert one.results.is_empty()
    vectors = np.arange(200_000.0).reshape(2, -1)
    with one.results.drafted({"vectors": vectors}) as draft:
        digest = one.results.write(b"{}", draft)
        assert one.results.write(b"{}", draft) == digest
    assert other.results.read(digest) == b"{}"
    content = b"".join(other.results.stream_arrays(digest, draft.sha256))
    np.testing.assert_array_equal(np.load(io.BytesIO(content), allow_pickle=False)["vectors"], vectors)
    np.testing.assert_array_equal(other.results.mapped_array(digest, "vectors"), vectors)
    assert other.results.sizes() == {digest: len(content) + 2}

    tokens, is_new = one.artifacts.write_tokens(lambda: iter([np.array([7, 8, 9])]))
    assert is_new
    assert other.artifacts.write_tokens(lambda: iter([np.array([7, 8, 9])]))[1] is False
    arrays, _ = one.artifacts.write_arrays({"x": NamedArray("F64", np.ones((2, 3)))})
    assert isinstance(tokens, TokenArtifact)
    assert isinstance(arrays, ArrayArtifact)
    assert (tokens.num_tokens, tokens.largest_token, arrays.arrays["x"].shape) == (3, 9, [2, 3])
    assert other.artifacts.get(tokens.id) == tokens
    assert other.artifacts.tokens(tokens.id).tolist() == [7, 8, 9]
    assert hashlib.sha256(other.artifacts.safetensors(arrays.id)).hexdigest() == arrays.id
    assert {artifact.id for artifact in other.artifacts.page(10, None)[0]} == {tokens.id, arrays.id}
    assert other.artifacts.remove_unused(3600) == []
    other.artifacts.delete(tokens.id)
    with pytest.raises(UnknownArtifactError):
        one.artifacts.get(tokens.id)

    assert one.artifact_owners.add("anna", arrays.id)
    assert not other.artifact_owners.add("anna", arrays.id)
    assert other.artifact_owners.owners(arrays.id) == ["anna"]
    assert other.artifact_owners.artifacts("anna") == {arrays.id}
    other.artifact_owners.remove("anna", arrays.id)
    assert not one.artifact_owners.owns("anna", arrays.id)

    one.requests.write("a" * 32, "request")
    assert other.requests.read("a" * 32, hashlib.sha256(b"request").hexdigest()) == "request"
    assert other.requests.job_ids(-5.0) == ["a" * 32]
    other.requests.discard("a" * 32)
    with pytest.raises(RequestDamagedError, match="missing"):
        one.requests.read("a" * 32, "")

    first = one.checkpoints.of_attempt("job", 1)
    pieces = [first.put(b"piece 1"), first.put(b"piece 2")]
    first.commit({"step": 1}, set(pieces))
    second = other.checkpoints.of_attempt("job", 2)
    [left] = second.newest_first()
    assert (left.document, [left.read(piece) for piece in pieces]) == ({"step": 1}, [b"piece 1", b"piece 2"])
    for step in (2, 3):
        second.commit({"step": step}, {second.put(b"piece 1"), second.put(b"piece 3")})
    assert [each.document["step"] for each in one.checkpoints.of_attempt("job", 3).newest_first()] == [3, 2]
    assert len(names(one.blobs, "job-checkpoints/")) == 4
    assert one.checkpoints.job_ids() == ["job"]
    one.checkpoints.discard("job")
    assert names(other.blobs, "job-checkpoints/") == []

    one.results.delete(digest)
    with pytest.raises(ResultDamagedError, match="missing"):
        other.results.read(digest)
    assert other.results.is_empty()


def test_a_damaged_result_is_replaced_by_the_same_result(open_on: Open) -> None:
    blobs = open_on("one")
    results = Stores.of(blobs).results
    digest = results.write(b"whole")
    blobs.put(f"{digest[:2]}/{digest}.json", b"damaged", overwrite=True)
    with pytest.raises(ResultDamagedError, match="damaged"):
        results.read(digest)
    assert results.write(b"whole") == digest
    assert results.read(digest) == b"whole"


def test_a_store_that_is_gone_says_nothing_about_its_blobs(tmp_path: Path, object_store: Open) -> None:
    gone = ObjectStore("s3://no-such-bucket/prefix", tmp_path)
    away = LocalDirectory(tmp_path / "not-mounted")
    for store in (gone, away):
        for ask in (store.read, store.stat, store.open, store.local_file):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - of any kind but one
                ask("a")
            assert not isinstance(caught.value, BlobNotFoundError)
            assert caught.value.errno is not None
        for look in (lambda store=store: list(store.list()), lambda store=store: store.folders("a/")):
            with pytest.raises(OSError):  # noqa: PT011
                look()
    with pytest.raises(StorageUnavailableError, match="no bucket no-such-bucket"):
        gone.require_present()
    assert not away.root.exists()


def test_an_object_store_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(object_store_module, "_CLIENT", object_store_module._Client())
    stores = Stores.of(ObjectStore("s3://bucket", tmp_path))
    with pytest.raises(StorageUnavailableError, match="cannot be used"):
        stores.results.write(b"{}")
    with pytest.raises(StorageUnavailableError):
        stores.results.read(DIGITS)
    with pytest.raises(StorageUnavailableError):  # what was computed before is not taken for lost
        list(stores.checkpoints.of_attempt("job", 2).newest_first())
