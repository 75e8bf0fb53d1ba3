"""Arrays in .npy format that say what is not so, or hold more than numbers."""

import io
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.security.attack import CANARY

MAGIC = b"\x93NUMPY"


class Touch:
    """Makes the canary when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(CANARY).touch, ()


def saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def with_header(header: str | bytes, content: bytes = b"\0" * 24, version: tuple[int, int] = (1, 0)) -> bytes:
    """An array whose header is this text."""
    text = header if isinstance(header, bytes) else header.encode("latin-1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return MAGIC + bytes(version) + length + text + content


def fields(descr: str = "'<f8'", order: str = "False", shape: str = "(3,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


_RUN = f"__import__('pathlib').Path({CANARY!r}).touch()"
_HEADERS = {
    "code-as-shape": fields(shape=f"({_RUN},)"),
    "code-as-type": fields(descr=_RUN),
    "code-as-order": fields(order=_RUN),
    "code-for-header": _RUN,
    "attributes": fields(shape="(3).__class__.__mro__"),
    "comprehension": fields(shape="tuple(3 for _ in [1])"),
    "shape-overflows": fields(shape=f"({2**62}, 4)"),
    "shape-overflows-to-three": fields(shape=f"({2**64 + 3},)"),
    "shape-of-many-digits": fields(shape=f"({'9' * 900},)"),
    "shape-negative": fields(shape="(-3,)"),
    "shape-negative-twice": fields(shape="(-3, -1)"),
    "shape-boolean": fields(shape="(True, 3)"),
    "shape-real": fields(shape="(3.0,)"),
    "shape-text": fields(shape="('3',)"),
    "shape-list": fields(shape="[3]"),
    "shape-number": fields(shape="3"),
    "shape-none": fields(shape="None"),
    "shape-zero": fields(shape="(0,)"),
    "shape-too-small": fields(shape="(2,)"),
    "shape-too-large": fields(shape="(4,)"),
    "a-hundred-axes": fields(shape="(" + "1," * 100 + ")"),
    "order-text": fields(order="'False'"),
    "order-number": fields(order="2"),
    "order-fortran-of-scalars": fields(order="True", shape="(3, 1, 1)"),
    "type-structure": fields("[('a', '<f8')]"),
    "type-nested": fields("[('a', " * 30 + "'<f8'" + ")]" * 30),
    "type-subarray": fields("('<f8', (1000000000,))", shape="()"),
    "type-dates": fields("'<M8[ns]'"),
    "type-void": fields("'|V8'"),
    "type-bytes-of-2-gb": fields("'|S2147483647'"),
    "type-text-of-2-gb": fields("'<U536870911'"),
    "type-complex": fields("'<c8'"),
    "type-unknown": fields("'<z8'"),
    "type-number": fields("8"),
    "key-missing": "{'descr': '<f8', 'shape': (3,)}\n",
    "key-extra": "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), 'eval': '1'}\n",
    "key-of-bytes": "{b'descr': '<f8', 'fortran_order': False, 'shape': (3,)}\n",
    "no-dictionary": "['<f8', False, (3,)]\n",
    "parentheses": "(" * 900 + ")" * 900,
    "brackets": "[" * 500 + "]" * 500,
    "minuses": fields(shape="(" + "-" * 400 + "3,)"),
    "format-string": fields("'%n%n%s{0.__class__}'"),
    "null-bytes": "\0" * 64,
    "spaces": " " * 60_000,
}


def hostile_arrays() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each file; none is an array of three numbers."""
    yield "pickled-objects", lambda: saved(np.array([Touch()] * 3, dtype=object))
    yield "pickle-alone", lambda: pickle.dumps([Touch()] * 3)
    yield "pickle-after-header", lambda: with_header(fields("'|O'"), pickle.dumps([Touch()] * 3))
    yield "objects-of-no-size", lambda: with_header(fields("'|O'", shape="(0,)"), b"")
    for name, header in _HEADERS.items():
        yield name, lambda header=header: with_header(header)
    yield "header-not-unicode", lambda: with_header(b"\xff\xfe" + fields().encode())
    yield "header-of-4-gb", lambda: MAGIC + b"\2\0" + b"\xff\xff\xff\xff" + fields().encode()
    yield "header-of-1-gb", lambda: MAGIC + b"\2\0" + struct.pack("<I", 2**30) + fields().encode()
    yield "header-longer-than-file", lambda: MAGIC + b"\1\0" + struct.pack("<H", 500) + fields().encode()
    yield "version-3", lambda: with_header(fields(), version=(3, 0))
    yield "version-255", lambda: with_header(fields(), version=(255, 255))
    yield "ends-after-magic", lambda: MAGIC
    yield "ends-in-numbers", lambda: saved(np.ones(3))[:-1]
    yield "goes-on-after-numbers", lambda: saved(np.ones(3)) + b"\0" * 8
    yield "not-a-number", lambda: saved(np.array([1.0, np.nan, 2.0]))
    yield "infinite", lambda: saved(np.array([1.0, -np.inf, 2.0]))
