"""Bodies of media types that schemathesis does not know: some right, some nearly so, some nonsense."""

import io
import json
import struct

import numpy as np
import schemathesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from hessian_spectrum.service.routes.documentation import CLOSED_FORM_EXAMPLES

_TYPES = st.sampled_from([np.dtype(name) for name in ("<u2", "<i8", ">i4", "<f8", "<f4", "|b1", "<c16")])
_ARRAYS = numpy_strategies.arrays(_TYPES, numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
_NAMES = st.sampled_from(["w", "v", "x", "y", "kind", "layers.0.weight", "layers.0.bias"]) | st.text(max_size=8)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name.replace("/", "") or "w": array for name, array in arrays.items()})
    return buffer.getvalue()


@st.composite
def _safetensors(draw: st.DrawFn) -> bytes:
    header, content = {}, b""
    for name, array in draw(st.dictionaries(_NAMES, _ARRAYS, max_size=3)).items():
        numbers = array.astype("<f8").tobytes() if array.dtype.kind != "c" else b""
        place = [len(content), len(content) + len(numbers)]
        header[name] = {
            "dtype": draw(st.sampled_from(["F64", "I64", "F4"])),
            "shape": array.shape,
            "data_offsets": place,
        }
        content += numbers
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


@st.composite
def _damaged(draw: st.DrawFn, files: st.SearchStrategy[bytes]) -> bytes:
    """The file as it is, or with one byte changed, or cut off."""
    content = bytearray(draw(files))
    match draw(st.integers(0, 3)):
        case 1 if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        case 2:
            del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


_NPY = _ARRAYS.map(_npy)
_LINES = st.sampled_from([json.dumps(each["value"]).encode() for each in CLOSED_FORM_EXAMPLES.values()])
for _name, _files in {
    "application/octet-stream": st.binary(max_size=40),
    "application/x-npy": _NPY,
    "application/x-npz": st.dictionaries(_NAMES.filter(str.isprintable), _ARRAYS, max_size=4).map(_npz),
    "application/x-safetensors": _safetensors(),
    "application/x-ndjson": st.lists(_LINES, max_size=4).map(b"\n".join),
}.items():
    schemathesis.openapi.media_type(_name, _damaged(_files) | st.binary(max_size=20))


@schemathesis.serializer(
    "application/octet-stream",
    "application/x-ndjson",
    "application/x-npy",
    "application/x-npz",
    "application/x-safetensors",
)
def _as_it_is(_: schemathesis.SerializationContext, value: bytes | str) -> dict[str, bytes]:
    """Bytes; an example of the document is a text, of a byte in each character."""
    return {"data": value.encode("latin-1", "replace") if isinstance(value, str) else bytes(value)}
