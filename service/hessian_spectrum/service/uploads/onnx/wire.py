"""Bounds on an ONNX file that are checked on its bytes, before any message of it exists.

A protobuf message of two bytes becomes an object of a hundred, so that a small file may fill the memory. The fields
are walked by the schema here, without making objects, and counted.
"""

from functools import cache
from typing import Any, Final

from onnx import ModelProto

from hessian_spectrum.programs.program import ProgramError

MAX_FIELDS = 1_000_000
"""Largest number of fields of all messages together."""

MAX_DEPTH = 24
"""Depth to which messages may be nested; a node's attribute lies four deep."""

MAX_STRUCTURE_BYTES = 2**26
"""Largest size of the file without the raw numbers of its arrays, in bytes."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_RAW_DATA: Final = "raw_data"
_LONGEST_VARINT = 10
_DAMAGED = "the file is damaged: it is not a protobuf message, or ends too early"

Fields = dict[int, tuple[Any, bool]]


@cache
def _fields(full_name: str) -> Fields:
    """Fields of a message by number: the schema of the message inside, if it is one, and whether it is raw numbers."""
    descriptor = _descriptors()[full_name]
    return {
        field.number: (field.message_type.full_name if field.message_type else None, field.name == _RAW_DATA)
        for field in descriptor.fields
    }


@cache
def _descriptors() -> dict[str, Any]:
    found, waiting = {}, [ModelProto.DESCRIPTOR]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name not in found:
            found[descriptor.full_name] = descriptor
            waiting += [field.message_type for field in descriptor.fields if field.message_type]
    return found


def check_bounds(content: memoryview) -> None:
    """Check that a file is a protobuf message of bounded size and depth.

    Args:
        content: The bytes of the file.

    Raises:
        ProgramError: If it is damaged or exceeds a bound.
    """
    num_fields = num_raw_bytes = 0
    # messages that are left to walk: schema, where they begin and end, depth
    waiting: list[tuple[str, int, int, int]] = [(ModelProto.DESCRIPTOR.full_name, 0, len(content), 1)]
    while waiting:
        schema, position, end, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ProgramError("its messages are nested too deeply")
        fields = _fields(schema)
        while position < end:
            num_fields += 1
            if num_fields > MAX_FIELDS:
                raise ProgramError(f"its graph has more than {MAX_FIELDS:,} fields")
            tag = content[position]
            position += 1
            if tag >= 0x80:
                tag, position = _varint(content, position - 1, end)
            kind = tag & 7
            if kind == _BYTES:
                size, position = _varint(content, position, end)
                if size > end - position:
                    raise ProgramError(_DAMAGED)
                inner, is_raw = fields.get(tag >> 3, (None, False))
                if inner is not None:
                    waiting.append((inner, position, position + size, depth + 1))
                elif is_raw:
                    num_raw_bytes += size
                position += size
            elif kind == _VARINT:
                _, position = _varint(content, position, end)
            elif kind in (_FIXED32, _FIXED64):
                position += 4 if kind == _FIXED32 else 8
            else:
                raise ProgramError(_DAMAGED)
        if position != end:
            raise ProgramError(_DAMAGED)
    if len(content) - num_raw_bytes > MAX_STRUCTURE_BYTES:
        raise ProgramError(
            f"it takes more than {MAX_STRUCTURE_BYTES // 2**20} MiB without the arrays that are stored as raw bytes"
        )


def _varint(content: memoryview, position: int, end: int) -> tuple[int, int]:
    """Read a number; return it and where it ends."""
    value = shift = 0
    for index in range(position, min(end, position + _LONGEST_VARINT)):
        byte = content[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise ProgramError(_DAMAGED)
