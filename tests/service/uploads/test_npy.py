"""Arrays in .npy format: every layout of numbers is read, anything else is refused and nothing is run."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from numpy.lib import format as npy_format

from hessian_spectrum.service.uploads.memory_budget import MemoryBudget, Reservation
from hessian_spectrum.service.uploads.npz import MAX_TEXT_LENGTH, UnreadableArrayError, read_npy

NUMBERS = st.one_of(
    numpy_strategies.floating_dtypes(sizes=(32, 64)),
    numpy_strategies.integer_dtypes(),
    numpy_strategies.unsigned_integer_dtypes(),
)
SHAPES = numpy_strategies.array_shapes(max_dims=2, max_side=5)


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    npy_format.write_array(buffer, np.asanyarray(array), **options)
    return buffer.getvalue()


def header(text: str, version: bytes = b"\1\0") -> bytes:
    content = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(content).to_bytes(2 if version == b"\1\0" else 4, "little") + content


def read(content: bytes, budget: int = 10**6) -> Any:
    return read_npy(memoryview(content), Reservation(MemoryBudget(budget)))


@given(dtype=NUMBERS, shape=SHAPES, order=st.sampled_from("CF"), offset=st.integers(0, 7), data=st.data())
def test_every_layout_of_numbers_is_read(dtype: Any, shape: Any, order: Any, offset: int, data: st.DataObject) -> None:
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
    array = data.draw(numpy_strategies.arrays(dtype, shape, elements=elements))
    content = bytes(offset) + npy(np.asarray(array, order=order))
    found = read_npy(memoryview(content)[offset:], Reservation(MemoryBudget(10**6)))
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    assert found.dtype.isnative
    assert found.flags.aligned
    np.testing.assert_array_equal(found, array.astype(np.float64))


def test_aligned_doubles_are_not_copied() -> None:
    content = np.frombuffer(npy(np.arange(6.0).reshape(2, 3)), np.uint8).copy()
    reservation = Reservation(MemoryBudget(0))
    found = read_npy(content.data, reservation)
    assert np.shares_memory(content, found)  # type: ignore[arg-type]
    assert reservation.num_bytes == 0


@pytest.mark.parametrize(
    ("value", "found"), [(2, 2), (0.5, 0.5), (np.array(3, ">i2"), 3), ("linear", "linear"), ("", "")]
)
def test_scalars_and_texts(value: Any, found: Any) -> None:
    assert read(npy(value)) == found
    assert type(read(npy(value))) is type(found)


HOSTILE = {
    "object": npy(np.array([{}, 1], dtype=object), allow_pickle=True),
    "pickle of an object in one cell": npy(np.array(None, dtype=object), allow_pickle=True),
    "structured": npy(np.zeros(2, dtype=[("a", float)])),
    "complex": npy(np.zeros(2, complex)),
    "boolean": npy(np.zeros(2, bool)),
    "half": npy(np.zeros(2, np.float16)),
    "extended": npy(np.zeros(2, np.longdouble)),
    "dates": npy(np.zeros(2, "datetime64[s]")),
    "bytes": npy(np.array(b"linear")),
    "several texts": npy(np.array(["a", "b"])),
    "long text": npy(np.array("a" * (MAX_TEXT_LENGTH + 1))),
    "foreign text": npy(np.array("löß")),
    "empty": npy(np.zeros(0)),
    "no columns": npy(np.zeros((3, 0))),
    "three dimensions": npy(np.zeros((1, 1, 1))),
    "NaN": npy(np.array([1.0, np.nan])),
    "infinite": npy(np.array([[1.0, -np.inf]], np.float32)),
    "truncated": npy(np.zeros(9))[:-1],
    "too long": npy(np.zeros(9)) + b"\0",
    "header alone": npy(np.zeros(9))[:40],
    "magic alone": b"\x93NUMPY",
    "nothing": b"",
    "text": b"[1, 2, 3]",
    "absurd shape": header(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807)}"
    ),
    "shape that wraps to nothing": header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**61}, 8)}}"),
    "negative shape": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -8)}") + bytes(64),
    "shape of booleans": header("{'descr': '<f8', 'fortran_order': False, 'shape': (True, 2.0)}") + bytes(16),
    "subarray": header("{'descr': ('<f8', (2,)), 'fortran_order': False, 'shape': (1,)}") + bytes(16),
    "call": header("{'descr': __import__('os').system('false'), 'fortran_order': False, 'shape': (1,)}") + bytes(8),
    "deep": header("(" * 400 + ")" * 400),
    "deeper": header("{'descr': " + "-" * 900 + "1}"),
    "long header": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}" + " " * 5000) + bytes(8),
    "endless header": b"\x93NUMPY\2\0\xff\xff\xff\xff{",
    "next version": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", b"\3\0") + bytes(8),
    "Python 2": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1L, -1L,)}") + bytes(8),
}


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(UnreadableArrayError):
        read(HOSTILE[name])


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@given(st.binary(max_size=300), st.integers(0, 127), st.booleans())
def test_damaged_bytes_are_refused_or_read(noise: bytes, start: int, keep_rest: bool) -> None:
    valid = npy(np.arange(4.0))
    content = valid[:start] + noise + (valid[start + len(noise) :] if keep_rest else b"")
    try:
        found = read(content)
    except UnreadableArrayError:
        return
    assert np.isfinite(found).all() if not isinstance(found, str) else found.isascii()
