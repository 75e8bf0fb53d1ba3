"""npz archives: what numpy writes is read, what could fill the memory or read elsewhere is refused."""

import io
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget, Reservation
from hessian_spectrum.service.uploads.npz import MAX_DIRECTORY_BYTES, npz_contents
from hessian_spectrum.service.uploads.parser import MAX_FIELDS, field_path

BUDGET = 10**6


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
        file.comment = comment
    return buffer.getvalue()


def contents(body: bytes, budget: int = BUDGET) -> dict[tuple[str, ...], bytes]:
    reservation = Reservation(MemoryBudget(budget))
    return {
        path: bytes(content)
        for path, content in npz_contents(memoryview(body), reservation, path_of=field_path, max_members=MAX_FIELDS)
    }


def problem(body: bytes, budget: int = BUDGET) -> tuple[int, str]:
    with pytest.raises(ProblemError) as caught:
        contents(body, budget)
    found = caught.value.problem
    return found.status, ".".join(map(str, found.errors[0].loc)) if found.errors else ""


W, X = npy(np.arange(3.0)), npy(np.arange(4.0))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(write: Any) -> None:
    buffer = io.BytesIO()
    write(buffer, w=np.arange(3.0), **{"data.x": np.arange(4.0)})
    assert contents(buffer.getvalue()) == {("model", "w"): W, ("data", "x"): X}


def test_a_stored_member_is_a_view_and_takes_no_memory() -> None:
    body = np.frombuffer(archive(("w.npy", W)), np.uint8)
    ((_, content),) = npz_contents(body.data, Reservation(MemoryBudget(0)), path_of=field_path, max_members=MAX_FIELDS)
    assert np.shares_memory(body, np.frombuffer(content, np.uint8))


def test_an_archive_with_a_comment_and_a_prefix_is_read() -> None:
    assert contents(b"prefix" + archive(("w.npy", W), comment=b"c" * 60_000)) == {("model", "w"): W}


@pytest.mark.parametrize(
    "name", ["u.npy", "../w.npy", "/w.npy", "a/w.npy", "model/w.npy", "model.x.npy", "w.npy.npy", ".npy"]
)
def test_members_that_are_no_fields_are_refused(name: str) -> None:
    status, field = problem(archive((name, W)))
    assert (status, field.partition(".")[0]) == (422, "body")


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    body = archive(("w.npy", npy(np.zeros(10**6))), method=zipfile.ZIP_DEFLATED)
    assert len(body) < 10_000
    assert problem(body)[0] == 413
    many = archive(
        *((f"{n}.npy", npy(np.zeros(30_000))) for n in ("w", "v", "x", "y", "b")), method=zipfile.ZIP_DEFLATED
    )
    assert problem(many)[0] == 413
    assert len(contents(many, 2 * BUDGET)) == 5


def _patched(body: bytes, signature: bytes, offset: int, *, value: bytes) -> bytes:
    start = body.index(signature) + offset
    return body[:start] + value + body[start + len(value) :]


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
STORED = archive(("w.npy", W))
DEFLATED = archive(("w.npy", npy(np.zeros(10_000))), method=zipfile.ZIP_DEFLATED)

DAMAGED = {
    "declares less than it inflates to": _patched(DEFLATED, CENTRAL, 24, value=struct.pack("<I", 1000)),
    "declares more than it inflates to": _patched(DEFLATED, CENTRAL, 24, value=struct.pack("<I", 100_000)),
    "wrong checksum": _patched(STORED, CENTRAL, 16, value=b"\0\0\0\0"),
    "changed content": _patched(STORED, LOCAL, 150, value=b"\xff"),
    "encrypted": _patched(STORED, CENTRAL, 8, value=b"\1\0"),
    "encrypted by its own header": _patched(STORED, LOCAL, 6, value=b"\1\0"),
    "other name in its own header": _patched(STORED, LOCAL, 30, value=b"v"),
    "points outside": _patched(STORED, CENTRAL, 42, value=struct.pack("<I", 10**6)),
    "points into itself": _patched(STORED, CENTRAL, 42, value=struct.pack("<I", 1)),
    "longer than the archive": _patched(STORED, CENTRAL, 20, value=struct.pack("<II", 10**6, 10**6)),
    "stored, with two sizes": _patched(STORED, CENTRAL, 24, value=struct.pack("<I", 10)),
    "bzip2": archive(("w.npy", W), method=zipfile.ZIP_BZIP2),
    "lzma": archive(("w.npy", W), method=zipfile.ZIP_LZMA),
    "deflated garbage": _patched(DEFLATED, LOCAL, 40, value=b"\xff" * 8),
    "deflated, cut": _patched(DEFLATED, CENTRAL, 20, value=struct.pack("<I", 10)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_member_is_named(name: str) -> None:
    assert problem(DAMAGED[name]) == (422, "body.model.w")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"PK",
        b"no archive",
        STORED[:-30],
        STORED[30:60],
        _patched(STORED, END, 12, value=struct.pack("<I", 10**9)),
        archive(*((f"{index}.npy", b"") for index in range(MAX_FIELDS + 1))),
        archive(*((f"{index}" * 40, b"") for index in range(MAX_DIRECTORY_BYTES // 80))),
    ],
    ids=range(8),
)
def test_what_is_no_archive_is_refused(body: bytes) -> None:
    assert problem(body)[0] == 400


@given(st.integers(0, len(DEFLATED) - 1), st.binary(min_size=1, max_size=12))
def test_any_damage_is_refused_or_harmless(start: int, noise: bytes) -> None:
    body = DEFLATED[:start] + noise + DEFLATED[start + len(noise) :]
    allowed = [{}, {("model", "w"): npy(np.zeros(10_000))}]
    try:
        found = contents(body)
    except ProblemError as error:
        allowed, found = [400, 413, 422], error.problem.status  # type: ignore[assignment]
    assert found in allowed
