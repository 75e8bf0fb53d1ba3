"""Uploads: archives and arrays of closed forms, forms, and files of tokens."""

from collections.abc import Iterator

import numpy as np

from tests.security.archives import archive, hostile_archives, request
from tests.security.arrays import hostile_arrays, saved
from tests.security.attack import Attack
from tests.security.bodies import CLOSED_FORM
from tests.security.onnx_files import hostile_onnx_files
from tests.security.programs import hostile_programs
from tests.security.safetensors import hostile_safetensors

ARTIFACTS = "/v1/artifacts"
PT2 = "application/vnd.pytorch.pt2"
NPZ, FORM = "application/x-npz", "multipart/form-data; boundary=b"


def part(name: str, content: bytes, boundary: str = "b") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="../../{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


def hostile_forms() -> Iterator[Attack]:
    """Attacks by multipart/form-data."""
    linear = [part(name.removesuffix(".npy"), content) for name, content in request().items()]
    for name, make in hostile_arrays():
        if name.startswith(("pickle", "code", "shape-over", "header")):
            yield Attack(
                f"form-{name}", CLOSED_FORM, lambda make=make: form(*linear[:1], part("w", make()), *linear[2:]), FORM
            )
    bodies = {
        "million-parts": lambda: part("w", b"1") * 200_000,
        "40-parts": lambda: form(*[part(f"w{index}", b"1") for index in range(40)]),
        "part-twice": lambda: form(*linear, linear[1]),
        "unknown-part": lambda: form(*linear, part("__class__", b"1")),
        "name-with-parents": lambda: form(*linear, part("../../etc/passwd", b"1")),
        "name-of-100-kb": lambda: form(*linear, part("w" * 100_000, b"1")),
        "no-name": lambda: b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--\r\n",
        "no-disposition": lambda: b"--b\r\n\r\n1\r\n--b--\r\n",
        "header-of-1-mb": lambda: b"--b\r\nX: " + b"a" * 2**20 + b"\r\n\r\n1\r\n--b--\r\n",
        "headers-without-end": lambda: b"--b\r\n" + b"X: a\r\n" * 100_000,
        "no-last-boundary": lambda: b"".join(linear),
        "no-boundary-at-all": lambda: b"a" * 10**6,
        "deep-json": lambda: form(part("request", b"[" * 100_000 + b"]" * 100_000)),
        "text-of-2-mb": lambda: form(*linear[1:], part("kind", b"l" * 2**21)),
        "archive-as-part": lambda: form(*linear[:1], part("w", archive(request())), *linear[2:]),
    }
    for name, make in bodies.items():
        yield Attack(f"form-{name}", CLOSED_FORM, make, FORM)
    yield Attack("form-without-boundary", CLOSED_FORM, lambda: form(*linear), "multipart/form-data")
    long = f"multipart/form-data; boundary={'b' * 5000}"
    yield Attack("form-boundary-of-5-kb", CLOSED_FORM, lambda: form(*linear), long)


def hostile_uploads() -> Iterator[Attack]:
    """All attacks by files."""
    for name, make in hostile_archives():
        yield Attack(f"npz-{name}", CLOSED_FORM, make, NPZ)
    yield from hostile_forms()
    for name, make in hostile_arrays():
        yield Attack(f"tokens-{name}", ARTIFACTS, make, "application/x-npy")
        if name != "order-fortran-of-scalars":  # data may have three axes
            yield Attack(f"npy-{name}", f"{ARTIFACTS}?name=x", make, "application/x-npy")
    for name, make in hostile_safetensors():
        yield Attack(f"safetensors-{name}", ARTIFACTS, make, "application/x-safetensors")
    for name, make in hostile_programs():
        yield Attack(f"program-{name}", ARTIFACTS, make, PT2)
    for name, make in hostile_onnx_files():
        yield Attack(f"onnx-{name}", ARTIFACTS, make, "application/onnx")
    for name, make in hostile_archives():
        yield Attack(f"program-npz-{name}", ARTIFACTS, make, PT2)
        # here any names will do that are no paths
        if not name.startswith(("forty-members", "name-of-windows")):
            yield Attack(f"arrays-{name}", ARTIFACTS, make, NPZ)
    arrays = {
        "real": np.ones(3),
        "negative": np.array([-1, 2]),
        "too-large": np.array([2**31]),
        "two-axes": np.ones((2, 2), np.uint16),
        "unsigned-beyond": np.array([2**64 - 1], np.uint64),
        "boolean": np.ones(3, bool),
        "none": np.ones(0, np.uint16),
    }
    for name, array in arrays.items():
        yield Attack(f"tokens-of-{name}", ARTIFACTS, lambda array=array: saved(array), "application/x-npy")
    yield Attack("tokens-odd", ARTIFACTS, lambda: b"abc", "application/octet-stream")
    yield Attack("tokens-empty", ARTIFACTS, lambda: b"", "application/octet-stream")
    yield Attack("tokens-pickle", ARTIFACTS, dict(hostile_arrays())["pickle-alone"], "application/x-python-pickle")
    yield Attack("tokens-archive", ARTIFACTS, lambda: archive(request()), "application/zip")
