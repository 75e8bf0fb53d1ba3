"""safetensors files whose headers lie."""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

_NUMBERS = bytes(24)


def safetensors(header: Any, content: bytes = _NUMBERS, length: int | None = None) -> bytes:
    """A file with this header, or text of one, and its length, the right one unless told."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(**changes: Any) -> dict[str, Any]:
    """Three numbers of 8 bytes."""
    return {"dtype": "F64", "shape": [3], "data_offsets": [0, 24]} | changes


_TEXTS = {
    "not-unicode": b'{"\xff": 1}',
    "null-bytes": b'{"x":\0}',
    "array": b"[]",
    "text": b'"x"',
    "blank-before": b" " + json.dumps({"x": entry()}).encode(),
    "deep": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "key-twice": b'{"x": %b, "x": %b}' % ((json.dumps(entry()).encode(),) * 2),
    "field-twice": b'{"x": {"dtype": "F64", "dtype": "F64", "shape": [3], "data_offsets": [0, 24]}}',
    "number-of-many-digits": b'{"x": {"dtype": "F64", "shape": [%b], "data_offsets": [0, 24]}}' % (b"9" * 10**6),
    "not-a-number": b'{"x": {"dtype": "F64", "shape": [NaN], "data_offsets": [0, 24]}}',
    "infinite": b'{"x": {"dtype": "F64", "shape": [1e999], "data_offsets": [0, 24]}}',
    "pickle": b"cos\nsystem\n(S'touch /tmp/spectrum-hostile-canary'\ntR.",
}
_ENTRIES: dict[str, Any] = {
    "offsets-beyond-the-end": {"x": entry(data_offsets=[0, 32], shape=[4])},
    "offsets-negative": {"x": entry(data_offsets=[-24, 0])},
    "offsets-backwards": {"x": entry(data_offsets=[24, 0])},
    "offsets-of-2-64": {"x": entry(data_offsets=[2**64 - 24, 2**64])},
    "offsets-real": {"x": entry(data_offsets=[0.0, 24.0])},
    "offsets-three": {"x": entry(data_offsets=[0, 8, 24])},
    "offsets-overlap": {"x": entry(), "y": entry()},
    "offsets-overlap-partly": {
        "x": entry(shape=[2], data_offsets=[0, 16]),
        "y": entry(shape=[2], data_offsets=[8, 24]),
    },
    "offsets-with-gaps": {"x": entry(shape=[1], data_offsets=[0, 8]), "y": entry(shape=[1], data_offsets=[16, 24])},
    "offsets-from-8-on": {"x": entry(shape=[2], data_offsets=[8, 24])},
    "numbers-left-over": {"x": entry(shape=[2], data_offsets=[0, 16])},
    "shape-overflows": {"x": entry(shape=[2**62, 4])},
    "shape-overflows-to-three": {"x": entry(shape=[2**61 + 3])},
    "shape-negative": {"x": entry(shape=[-3])},
    "shape-negative-twice": {"x": entry(shape=[-3, -1])},
    "shape-boolean": {"x": entry(shape=[True, 3])},
    "shape-real": {"x": entry(shape=[3.0])},
    "shape-text": {"x": entry(shape="3")},
    "shape-of-40000-axes": {"x": entry(shape=[2**62] * 40_000)},
    "shape-of-ones": {"x": entry(shape=[1] * 100_000 + [3])},
    "type-unknown": {"x": entry(dtype="F4096")},
    "type-of-objects": {"x": entry(dtype="O")},
    "type-code": {"x": entry(dtype="__import__('os').system('touch /tmp/spectrum-hostile-canary')")},
    "type-number": {"x": entry(dtype=8)},
    "type-list": {"x": entry(dtype=["F64"])},
    "field-missing": {"x": {"dtype": "F64", "shape": [3]}},
    "field-extra": {"x": entry(pickle="yes")},
    "entry-text": {"x": "F64"},
    "entry-null": {"x": None},
    "metadata-alone": {"__metadata__": {}},
    "metadata-numbers": {"x": entry(), "__metadata__": {"a": 1}},
    "metadata-list": {"x": entry(), "__metadata__": []},
    "name-empty": {"": entry()},
    "name-absolute": {"/etc/passwd": entry()},
    "name-with-parents": {"../../../etc/passwd": entry()},
    "name-with-null": {"x\0": entry()},
    "name-with-line-ends": {"x\r\nSet-Cookie: a=b": entry()},
    "name-with-half-a-surrogate-pair": {"x\ud800": entry()},
    "type-of-half-a-surrogate-pair": {"x": entry(dtype="\udfff")},
    "name-with-format": {"{0.__class__}%n": entry()},
    "name-of-100-kb": {"x" * 100_000: entry()},
    "10000-entries": {f"x{i}": entry(shape=[0], data_offsets=[0, 0]) for i in range(10_000)},
}


def hostile_safetensors() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each file."""
    plain = safetensors({"x": entry()})
    yield "empty", lambda: b"\0"
    yield "length-alone", lambda: struct.pack("<Q", 2)
    for name, length in (("huge", 2**64 - 1), ("of-8-exabytes", 2**63), ("of-1-gb", 2**30), ("beyond-the-end", 10**4)):
        yield f"header-{name}", lambda length=length: safetensors({"x": entry()}, length=length)
    yield "header-of-no-length", lambda: safetensors({"x": entry()}, length=0)
    yield "header-cut", lambda: safetensors({"x": entry()}, length=20)
    yield "header-of-2-mb", lambda: safetensors({"x": entry(), "__metadata__": {"a": "b" * 2**21}})
    for name, text in _TEXTS.items():
        yield f"header-{name}", lambda text=text: safetensors(text)
    for name, header in _ENTRIES.items():
        yield name, lambda header=header: safetensors(header)
    yield "shape-zero", lambda: safetensors({"x": entry(shape=[0], data_offsets=[0, 0])}, b"")
    yield "ends-in-numbers", lambda: plain[:-1]
    yield "goes-on-after-numbers", lambda: plain + b"\0"
    yield "archive-behind", lambda: plain + b"PK\5\6" + bytes(18)
