"""Uploads of named arrays, from the body to the stored file: every layout, every refusal, and in bounded memory."""

import asyncio
import io
import struct
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from tests.fixtures.longer import examples

NPZ, SAFETENSORS, BINARY = "application/x-npz", "application/x-safetensors", "application/octet-stream"
X, Y = np.arange(6.0).reshape(3, 2), np.array([0, 1, -100])
TRACE = Path("/tmp/unpickled-by-the-server")


class Hostile:
    def __reduce__(self) -> Any:
        return (TRACE.touch, ())


def npz(write: Any = np.savez, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def members(*contents: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in contents:
            file.writestr(name, content)
    return buffer.getvalue()


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def post(directory: Path, content: Any, sent_as: str, **options: Any) -> httpx.Response:
    """Sent to an application of its own, in this process."""

    async def send() -> httpx.Response:
        app = create_app(ServiceSettings(redis_url="unix:///nowhere", results_dir=directory, **options))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            return await http.post("/v1/artifacts", content=content, headers={"Content-Type": sent_as})

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("content", "sent_as"),
    [
        (npz(x=X, y=Y), NPZ),
        (npz(np.savez_compressed, y=Y.astype(">i8"), x=np.asfortranarray(X)), NPZ),
        (save({"y": Y, "x": X}, metadata={"format": "np"}), SAFETENSORS),
    ],
)
def test_every_file_of_the_same_arrays_is_the_same_artifact(tmp_path: Path, content: bytes, sent_as: str) -> None:
    first = post(tmp_path, save({"x": X, "y": Y}), SAFETENSORS)
    assert first.status_code == 201, first.text
    again = post(tmp_path, content, sent_as)
    assert again.status_code == 200, again.text
    assert again.json() == first.json()
    assert len(files(tmp_path / "artifacts")) == 1
    assert first.json()["arrays"] == {
        "x": {"dtype": "F64", "shape": [3, 2], "whole_numbers": {"smallest": 0, "largest": 5, "num_ignored": 0}},
        "y": {"dtype": "I64", "shape": [3], "whole_numbers": {"smallest": 0, "largest": 1, "num_ignored": 1}},
    }


SHORT = npy(np.ones(3))


def forged(shape: str) -> bytes:
    """A .npy file of one byte with any shape in its header."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + b"\1"


def overlapping() -> bytes:
    """Five members whose bytes are the same ones, and more than half of the archive."""
    body = bytearray(members(("a.npy", npy(np.zeros(1000))), *((f"{name}.npy", b"") for name in "bcde")))
    first = body.index(b"PK\1\2")
    entry = body[first : first + 51]
    return bytes(body[:first] + 5 * entry + body[first + 5 * len(entry) :])


WRONG: dict[str, tuple[bytes, str, int, str]] = {
    "an empty npz": (b"", NPZ, 400, ""),
    "an empty safetensors": (b"", SAFETENSORS, 400, ""),
    "npz of nothing": (members(), NPZ, 422, "body"),
    "safetensors of nothing": (save({}), SAFETENSORS, 422, "body"),
    "safetensors as npz": (save({"x": X}), NPZ, 400, ""),
    "npz as safetensors": (npz(x=X), SAFETENSORS, 400, ""),
    "npz as tokens": (npz(x=X), BINARY, 422, "body"),
    "safetensors as tokens": (save({"x": X}), BINARY, 422, "body"),
    "arrays as JSON": (b"{}", "application/json", 415, ""),
    "objects": (members(("x.npy", npy(np.array([Hostile()], object), allow_pickle=True))), NPZ, 422, "body.x"),
    "a pickle": (members(("x.npy", b"\x80\x04N.")), NPZ, 422, "body.x"),
    "no array": (members(("x.txt", b"1 2 3")), NPZ, 422, "body.x.txt"),
    "a path": (members(("../x.npy", SHORT)), NPZ, 422, "body.../x"),
    "an absolute path": (members(("/x.npy", SHORT)), NPZ, 422, "body./x"),
    "a name that is none": (save({"a b": X}), SAFETENSORS, 422, "body.a b"),
    "a name of letters elsewhere": (save({"é": X}), SAFETENSORS, 422, "body.é"),
    "a long name": (save({"a" * 300: X}), SAFETENSORS, 422, "body." + "a" * 64),
    "no name": (members((".npy", SHORT)), NPZ, 422, "body."),
    "a name twice": (members(("x.npy", SHORT), ("x", SHORT)), NPZ, 422, "body.x"),
    "too many members": (members(*((f"a{i}.npy", SHORT) for i in range(257))), NPZ, 400, ""),
    "too many entries": (save({f"a{i:03}": Y for i in range(257)}), SAFETENSORS, 422, "body.a256"),
    "NaN in npz": (npz(x=X, y=np.array([np.nan])), NPZ, 422, "body"),
    "infinity in safetensors": (save({"y": np.array([np.inf])}), SAFETENSORS, 422, "body"),
    "text": (npz(x=np.array("linear")), NPZ, 422, "body.x"),
    "complex numbers": (npz(x=np.ones(2, complex)), NPZ, 422, "body.x"),
    "truth values that are neither 0 nor 1": (
        save({"x": np.ones(2, bool)})[:-2] + b"\1\2",
        SAFETENSORS,
        422,
        "body",
    ),
    "extended precision": (npz(x=np.ones(2, np.longdouble)), NPZ, 422, "body.x"),
    "no numbers": (npz(x=np.ones((0, 3))), NPZ, 422, "body.x"),
    "nine dimensions": (npz(x=np.ones((1,) * 9)), NPZ, 422, "body.x"),
    "seventy dimensions": (members(("x.npy", forged("(" + "1," * 70 + ")"))), NPZ, 422, "body.x"),
    "a shape of truth": (members(("x.npy", forged("(True,)"))), NPZ, 422, "body.x"),
    "a shape that wraps to one": (members(("x.npy", forged(f"({2**63}, 2, 1)"))), NPZ, 422, "body.x"),
    "a call": (members(("x.npy", forged("__import__('os').system('false')"))), NPZ, 422, "body.x"),
    "members that overlap": (overlapping(), NPZ, 400, ""),
    "truncated npz": (npz(x=X)[:-30], NPZ, 400, ""),
    "truncated safetensors": (save({"x": X})[:-1], SAFETENSORS, 400, ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_holds_no_arrays_is_refused_and_not_kept(tmp_path: Path, name: str) -> None:
    content, sent_as, status, field = WRONG[name]
    response = post(tmp_path, content, sent_as)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    errors = response.json().get("errors", [])
    assert ".".join(map(str, errors[0]["loc"])) == field if field else not errors
    assert files(tmp_path) == []
    assert not TRACE.exists()


@settings(deadline=None, max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content, sent_as = data.draw(
        st.sampled_from(
            [(npz(x=X, y=Y), NPZ), (npz(np.savez_compressed, x=X, y=Y), NPZ), (save({"x": X, "y": Y}), SAFETENSORS)]
        )
    )
    body = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    response = post(tmp_path, bytes(body), sent_as)
    assert response.status_code in (200, 201, 400, 413, 422), response.text
    assert not list(tmp_path.rglob("draft-*"))


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    bomb = npz(np.savez_compressed, x=np.zeros(4_000_000))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        response = post(tmp_path, bomb, NPZ, upload_memory_bytes=2**20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert response.status_code == 413
    assert peak < 10 * 2**20
    assert files(tmp_path) == []


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 2**16):
        yield content[start : start + 2**16]


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_never_held_in_memory(tmp_path: Path, order: Any) -> None:
    post(tmp_path, save({"x": X}), SAFETENSORS)
    large = npz(x=np.ones((2000, 2500), order=order), y=np.ones(2000, np.int16))
    tracemalloc.start()
    try:
        response = post(tmp_path, in_pieces(large), NPZ)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert response.status_code == 201, response.text
    assert peak < 10 * 2**20  # of 40


def test_larger_files_are_refused_and_not_kept(tmp_path: Path) -> None:
    limits = {"max_upload_bytes": 2**18, "max_body_bytes": 1024}
    response = post(tmp_path, in_pieces(npz(x=np.ones(2**16))), NPZ, **limits)
    assert response.status_code == 413
    assert files(tmp_path) == []
    assert post(tmp_path, in_pieces(npz(x=np.ones(2**14))), NPZ, **limits).status_code == 201
