"""Bounds on an ONNX file that are checked on its bytes, before any message of it exists.

A protobuf message of two bytes becomes an object of a hundred, so that a small file may fill the memory. The fields
are walked by the schema here, without making objects, and counted.
"""

from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto

from hessian_spectrum.programs.program import ProgramError

MAX_FIELDS = 500_000
"""Largest number of fields of all messages together, without those that hold texts only."""

MAX_DEPTH = 24
"""Depth to which messages may be nested; a node's attribute lies four deep."""

MAX_STRUCTURE_BYTES = 2**26
"""Largest size of the file without the raw numbers of its arrays, in bytes."""

MAX_LISTED_BYTES = 2**23
"""Largest size in bytes of numbers that are stored as lists of the protobuf format, which take time to read."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_RAW: Final = "raw bytes"
_LISTED: Final = "numbers"
_LONGEST_VARINT = 10
_DAMAGED = "the file is damaged: it is not a protobuf message, or ends too early"

_BYTES_PER_FIELD = 128
_BYTES_PER_LISTED_BYTE = 48


@cache
def _fields(full_name: str) -> dict[int, str]:
    """Return what the fields of a message hold, by number: the name of a message, `_RAW`, `_LISTED`; others not."""
    return {field.number: kind for field in _descriptors()[full_name].fields if (kind := _kind(field)) is not None}


def _kind(field: Any) -> str | None:
    if field.message_type is not None:
        return str(field.message_type.full_name) if _is_walked(field.message_type) else None
    if field.name == "raw_data":
        return _RAW
    is_text = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return _LISTED if field.is_repeated and not is_text else None


def _is_walked(message: Any) -> bool:
    """Whether a message may become larger than its bytes; those of a few texts and numbers do not."""
    return any(field.is_repeated or field.message_type for field in message.fields)


@cache
def _descriptors() -> dict[str, Any]:
    found, waiting = {}, [ModelProto.DESCRIPTOR]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name not in found:
            found[descriptor.full_name] = descriptor
            waiting += [field.message_type for field in descriptor.fields if field.message_type]
    return found


def check_bounds(content: memoryview) -> int:
    """Check that a file is a protobuf message of bounded size and depth.

    Args:
        content: The bytes of the file.

    Returns:
        Memory in bytes that reading the file takes at most.

    Raises:
        ProgramError: If it is damaged or exceeds a bound.
    """
    num_fields = num_raw_bytes = num_listed_bytes = 0
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
                inner = fields.get(tag >> 3)
                if inner is not None:
                    if inner is _RAW:
                        num_raw_bytes += size
                    elif inner is _LISTED:
                        num_listed_bytes += size
                    elif size:
                        waiting.append((inner, position, position + size, depth + 1))
                position += size
            elif kind == _VARINT:
                _, position = _varint(content, position, end)
            elif kind in (_FIXED32, _FIXED64):
                position += 4 if kind == _FIXED32 else 8
            else:
                raise ProgramError(_DAMAGED)
        if position != end:
            raise ProgramError(_DAMAGED)
    num_structure_bytes = len(content) - num_raw_bytes
    if num_structure_bytes > MAX_STRUCTURE_BYTES or num_listed_bytes > MAX_LISTED_BYTES:
        raise ProgramError(
            "it is too large without the arrays that are stored as raw bytes: store the numbers of its arrays as raw_data"
        )
    listed = _BYTES_PER_LISTED_BYTE * num_listed_bytes
    return 3 * num_raw_bytes + 4 * num_structure_bytes + _BYTES_PER_FIELD * num_fields + listed


def _varint(content: memoryview, position: int, end: int) -> tuple[int, int]:
    """Read a number; return it and where it ends."""
    if position < end and content[position] < 0x80:
        return content[position], position + 1
    value = shift = 0
    for index in range(position, min(end, position + _LONGEST_VARINT)):
        byte = content[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise ProgramError(_DAMAGED)
