"""Token files as hostile bytes, and as a stream that is never held."""

import asyncio
import errno
import io
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.uploads import artifact_upload
from hessian_spectrum.storage.artifacts import ArtifactStore
from tests.fixtures.longer import examples

BINARY, NPY = "application/octet-stream", "application/x-npy"


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def forged(header: str, data: bytes = b"") -> bytes:
    """A .npy file with any header."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


class Hostile:
    def __reduce__(self) -> Any:
        return (Path("/tmp/unpickled-by-the-server").touch, ())


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def use(directory: Path, steps: Callable[[httpx.AsyncClient], Awaitable[None]], **options: Any) -> None:
    """Run the steps against an application of their own, in this process."""

    async def run() -> None:
        app = create_app(ServiceSettings(redis_url="unix:///nowhere", results_dir=directory, **options))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            await steps(http)

    asyncio.run(run())


def post(directory: Path, content: Any, sent_as: str = BINARY, **options: Any) -> httpx.Response:
    answers: list[httpx.Response] = []

    async def send(http: httpx.AsyncClient) -> None:
        answers.append(await http.post("/v1/artifacts", content=content, headers={"Content-Type": sent_as}))

    use(directory, send, **options)
    return answers[0]


@pytest.mark.parametrize(
    ("content", "sent_as"),
    [
        (np.array([3, 1, 50_256], "<u2").tobytes(), BINARY),
        (npy(np.array([3, 1, 50_256], ">i8")), BINARY),
        (npy(np.array([3, 1, 50_256], np.uint32)), NPY),
        (npy(np.asfortranarray([3, 1, 50_256])), f"{NPY}; charset=binary"),
    ],
)
def test_every_file_of_the_same_tokens_is_the_same_artifact(tmp_path: Path, content: bytes, sent_as: str) -> None:
    first = post(tmp_path, npy(np.array([3, 1, 50_256])))
    assert first.status_code == 201, first.text
    again = post(tmp_path, content, sent_as)
    assert again.status_code == 200, again.text
    assert again.json() == first.json()
    assert again.headers["location"].endswith(f"/v1/artifacts/{first.json()['id']}")
    assert len(files(tmp_path / "artifacts")) == 1


ONES = np.ones(4, np.int64)
WRONG: list[tuple[bytes, str, int, str]] = [
    (b"", BINARY, 422, "holds no tokens"),
    (b"abc", BINARY, 422, "3 bytes"),
    (b"", NPY, 422, "not an array in .npy format"),
    (b"ab", NPY, 422, "not an array in .npy format"),
    (b"\x93NUMPY", BINARY, 422, "not an array in .npy format"),
    (b"\x93NUMPY\x03\x00\xff\xff\xff\x7f", NPY, 422, "version"),
    (b"\x93NUMPY\x01\x00\xff\xff{", NPY, 422, "not an array in .npy format"),
    (npy(ONES)[:-1], NPY, 422, "size"),
    (npy(ONES) + b"x", NPY, 422, "size"),
    (npy(np.array([1, -1])), NPY, 422, "holds -1"),
    (npy(np.array([2**31])), NPY, 422, "2147483648"),
    (npy(np.array([2**64 - 1], np.uint64)), NPY, 422, "18446744073709551615"),
    (npy(np.array([], int)), NPY, 422, "no tokens"),
    (npy(np.array(3)), NPY, 422, "one-dimensional"),
    (npy(np.ones((2, 2), int)), NPY, 422, "one-dimensional"),
    (npy(np.asfortranarray(np.ones((2, 2), int))), NPY, 422, "one-dimensional"),
    (npy(np.ones(3)), NPY, 422, "integers"),
    (npy(np.ones(3, bool)), NPY, 422, "integers"),
    (npy(np.array(["a"])), NPY, 422, "integers"),
    (npy(np.ones(3, "m8[s]")), NPY, 422, "integers"),
    (npy(np.ones(3, [("a", int)])), NPY, 422, "integers"),
    (npy(np.array([Hostile()], object), allow_pickle=True), NPY, 422, "integers"),
    (npy(np.array([Hostile()], object), allow_pickle=True), BINARY, 422, "integers"),
    (forged("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}"), NPY, 422, ""),
    (forged("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999,)}", b"x" * 8), NPY, 422, ""),
    (forged("{'descr': '<V0', 'fortran_order': False, 'shape': (5,)}"), NPY, 422, ""),
    (forged("{'descr': '<i8', 'fortran_order': False, 'shape': 1}", b"x" * 8), NPY, 422, ""),
    (forged("__import__('os').system('touch /tmp/unpickled-by-the-server')"), NPY, 422, "not an array"),
    (forged("(" * 100), NPY, 422, "not an array"),
    (b"ab", "text/plain", 415, "application/octet-stream"),
    (b"ab", "application/json", 415, "application/x-npy"),
    (b"ab", "", 415, "application/x-npy"),
]


@pytest.mark.parametrize(("content", "sent_as", "status", "detail"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_token_file_is_refused_and_not_kept(
    tmp_path: Path, content: bytes, sent_as: str, status: int, detail: str
) -> None:
    response = post(tmp_path, content, sent_as)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert detail in response.json()["detail"]
    assert files(tmp_path) == []
    assert not Path("/tmp/unpickled-by-the-server").exists()


@settings(deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(npy(np.arange(4)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    response = post(tmp_path, bytes(content), data.draw(st.sampled_from([BINARY, NPY])))
    assert response.status_code in (200, 201, 422), response.text
    assert not list(tmp_path.rglob("draft-*"))


def test_a_compressed_body_is_refused(tmp_path: Path) -> None:
    async def send(http: httpx.AsyncClient) -> None:
        headers = {"Content-Type": BINARY, "Content-Encoding": "gzip"}
        assert (await http.post("/v1/artifacts", content=b"ab", headers=headers)).status_code == 415

    use(tmp_path, send)


async def in_pieces(num_pieces: int, pause: Callable[[], Awaitable[Any]] | None = None) -> AsyncIterator[bytes]:
    for _ in range(num_pieces):
        yield b"ab" * 2**15
        if pause:
            await pause()


def test_a_file_is_never_held_in_memory(tmp_path: Path) -> None:
    post(tmp_path, b"ab")
    tracemalloc.start()
    try:
        response = post(tmp_path, in_pieces(640))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert response.json()["num_tokens"] == 640 * 2**15
    assert peak < 8 * 2**20  # of 40


def test_larger_files_are_refused_and_not_kept(tmp_path: Path) -> None:
    limits = {"max_upload_bytes": 2**18, "max_body_bytes": 1024}
    for content in (in_pieces(5), b"ab" * 2**17 + b"ab"):
        response = post(tmp_path, content, **limits)
        assert response.status_code == 413
        assert response.json()["type"] == "/problems/body-too-large"
    assert files(tmp_path) == []
    assert post(tmp_path, in_pieces(4), **limits).status_code == 201
    assert post(tmp_path, b"a" * 2000, "application/json", **limits).status_code == 413


def test_an_upload_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_upload, "UPLOAD_SECONDS", 0.2)
    response = post(tmp_path, in_pieces(2, lambda: asyncio.sleep(30)))
    assert response.status_code == 408
    assert files(tmp_path) == []


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ArtifactStore, "write_tokens", fail)
    response = post(tmp_path, b"abcd")
    assert response.status_code == 507
    assert response.json()["type"] == "/problems/storage-full"
    assert files(tmp_path) == []
