"""safetensors: what the library writes is read, any other header is refused before its arrays are looked at."""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from safetensors.numpy import save

from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.uploads.safetensors import MAX_HEADER_BYTES, may_be_safetensors, safetensors_arrays

DTYPES = st.sampled_from([np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)] + [np.dtype("f4")])


def file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def read(body: bytes) -> dict[str, Any]:
    return dict(safetensors_arrays(memoryview(body)))


@given(st.dictionaries(st.text(min_size=1, max_size=9), DTYPES, max_size=4), st.data())
def test_what_the_library_writes_is_read(dtypes: dict[str, Any], data: st.DataObject) -> None:
    shapes = numpy_strategies.array_shapes(min_dims=0, max_dims=3, max_side=3)
    arrays = {name: data.draw(numpy_strategies.arrays(dtype, shapes)) for name, dtype in dtypes.items()}
    found = read(save(arrays, metadata={"format": "pt"}))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"
        np.testing.assert_array_equal(found[name].values, array)


def test_arrays_are_not_copied() -> None:
    body = np.frombuffer(save({"a": np.arange(6.0)}), np.uint8)
    ((_, array),) = safetensors_arrays(body.data)
    assert np.shares_memory(body, array.values)


EIGHT = bytes(8)
HOSTILE = {
    "nothing": b"",
    "three bytes": b"abc",
    "a length alone": (2).to_bytes(8, "little"),
    "a length beyond the file": file({"a": entry()}, EIGHT, length=10**6),
    "an absurd length": file({"a": entry()}, EIGHT, length=2**64 - 1),
    "a header that is too long": file(b"{" + b" " * MAX_HEADER_BYTES + b"}"),
    "npz": b"PK\3\4" + bytes(40),
    "pickle": b"\x80\x04\x95" + bytes(40),
    "no object": file([1], EIGHT),
    "white space first": file(b' {"a": {}}', EIGHT),
    "no JSON": file(b"{'a': 1}", EIGHT),
    "no UTF-8": file(b'{"\xff": 1}', EIGHT),
    "more after the object": file(b"{}{}"),
    "deep": file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "long numbers": file(b'{"a":' + b"1" * 10_000 + b"}"),
    "NaN": file(b'{"a": NaN}', EIGHT),
    "infinity": file(b'{"a": {"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}', EIGHT),
    "a name twice": file(b'{"a": 1, "a": 2}', EIGHT),
    "the metadata twice": file(b'{"__metadata__": {}, "__metadata__": {}}'),
    "a field twice": file(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT),
    "metadata of numbers": file({"__metadata__": {"a": 1}}),
    "metadata that is no object": file({"__metadata__": "a"}),
    "no entry": file({"a": 5}, EIGHT),
    "a field is missing": file({"a": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "a field too many": file({"a": entry() | {"path": "/etc/passwd"}}, EIGHT),
    "unknown type": file({"a": entry("F8_E4M3", [8])}, EIGHT),
    "complex numbers": file({"a": entry("C64", [1])}, EIGHT),
    "type of no text": file({"a": entry(["F32"])}, EIGHT),
    "negative shape": file({"a": entry("F32", [-1, -2])}, EIGHT),
    "shape of fractions": file({"a": entry("F32", [2.0])}, EIGHT),
    "shape of truth": file({"a": entry("F64", [True])}, EIGHT),
    "shape of no list": file({"a": entry("F32", 2)}, EIGHT),
    "shape that wraps to two": file({"a": entry("F32", [2**63, 2, 2])}, EIGHT),
    "shape that wraps to nothing": file({"a": entry("F32", [2**32, 2**32], [0, 0])}),
    "larger than it says": file({"a": entry("F32", [1])}, EIGHT),
    "negative offsets": file({"a": entry("F32", [2], [-8, 0])}, EIGHT),
    "three offsets": file({"a": entry("F32", [2], [0, 8, 8])}, EIGHT),
    "backwards": file({"a": entry("F32", [2], [8, 0])}, EIGHT),
    "truncated": file({"a": entry()}, EIGHT[:-1]),
    "bytes that belong to nothing": file({"a": entry()}, EIGHT + b"x"),
    "bytes before the first": file({"a": entry("F32", [2], [1, 9])}, EIGHT + b"x"),
    "a gap": file({"a": entry(), "b": entry("F32", [2], [12, 20])}, bytes(20)),
    "an overlap": file({"a": entry(), "b": entry("F32", [2], [4, 12])}, bytes(12)),
    "the same bytes twice": file({"a": entry(), "b": entry()}, EIGHT),
    "no numbers": file({"a": entry("F32", [0], [0, 0])}),
    "a hundred dimensions": file({"a": entry("F64", [1] * 100)}, EIGHT),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(ProblemError) as caught:
        read(HOSTILE[name])
    assert caught.value.problem.status in (400, 422)
    assert len(str(caught.value.problem.detail)) < 300


@given(st.binary(max_size=40), st.integers(0, 130), st.booleans())
def test_damaged_bytes_are_refused_or_read(noise: bytes, start: int, keep_rest: bool) -> None:
    valid = save({"a": np.arange(4, dtype=np.int32), "b": np.ones((2, 2), np.float32)})
    with contextlib.suppress(ProblemError):
        read(valid[:start] + noise + (valid[start + len(noise) :] if keep_rest else b""))


def test_the_look_of_a_file() -> None:
    body = save({"a": np.ones(1)})
    assert may_be_safetensors(body[:1024], len(body))
    assert not may_be_safetensors(b"ab" * 500, 1000)
