"""Limits on an ONNX file that are checked on its bytes, before any of its messages is created.

A protobuf message of two bytes becomes an object of a hundred bytes, so a small file may fill the memory. Here the
fields are traversed according to the schema and counted, without creating objects.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto

from hessian_spectrum.programs.program import ProgramError

MAX_FIELDS = 500_000
"""Largest number of fields of all messages together, not counting those that contain only text."""

MAX_DEPTH = 24
"""Depth to which messages may be nested; a node's attribute lies four deep."""

MAX_STRUCTURE_BYTES = 2**26
"""Largest size of the file without the raw numbers of its arrays, in bytes."""

MAX_LISTED_BYTES = 2**23
"""Largest size in bytes of numbers that are stored as lists of the protobuf format, which take time to read."""

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""Sizes of numbers of fixed length, by the type on the wire."""

_RAW: Final = "raw bytes"
_LISTED: Final = "numbers"
_LONGEST_VARINT = 10
_DAMAGED = "the file is damaged: it is not a protobuf message, or ends too early"

_BYTES_PER_FIELD = 128
_BYTES_PER_LISTED_BYTE = 48


@cache
def _fields(full_name: str) -> dict[int, str]:
    """Return the contents of some fields of a message, by number: the name of a message, `_RAW` or `_LISTED`."""
    fields = _descriptors()[full_name].fields
    return {each.number: kind for each in fields if (kind := _kind(each)) is not None}


def _kind(descriptor: Any) -> str | None:
    if descriptor.message_type is not None:
        return str(descriptor.message_type.full_name) if _is_walked(descriptor.message_type) else None
    if descriptor.name == "raw_data":
        return _RAW
    is_text = descriptor.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return _LISTED if descriptor.is_repeated and not is_text else None


def _is_walked(message: Any) -> bool:
    """Whether the object of a message may be larger than its bytes; this is not so for a few strings and numbers."""
    return any(each.is_repeated or each.message_type for each in message.fields)


@cache
def _descriptors() -> dict[str, Any]:
    found, waiting = {}, [ModelProto.DESCRIPTOR]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name not in found:
            found[descriptor.full_name] = descriptor
            waiting += [each.message_type for each in descriptor.fields if each.message_type]
    return found


def check_bounds(content: memoryview) -> int:
    """Check that a file is a protobuf message of bounded size and depth.

    Args:
        content: The bytes of the file.

    Returns:
        Upper bound on the memory in bytes that reading the file takes.

    Raises:
        ProgramError: If it is damaged or exceeds a bound.
    """
    walk = _Walk(content)
    walk.waiting.append((ModelProto.DESCRIPTOR.full_name, 0, len(content), 1))
    while walk.waiting:
        walk.message(*walk.waiting.pop())
    num_structure_bytes = len(content) - walk.num_raw_bytes
    if num_structure_bytes > MAX_STRUCTURE_BYTES or walk.num_listed_bytes > MAX_LISTED_BYTES:
        raise ProgramError(
            "apart from arrays stored as raw bytes, it is too large: store the numbers of all arrays as raw_data"
        )
    listed = _BYTES_PER_LISTED_BYTE * walk.num_listed_bytes
    return 3 * walk.num_raw_bytes + 4 * num_structure_bytes + _BYTES_PER_FIELD * walk.num_fields + listed


@dataclass
class _Walk:
    """Counts of one file, and the messages that remain to be traversed: schema, where they begin and end, depth."""

    content: memoryview
    waiting: list[tuple[str, int, int, int]] = field(default_factory=list)
    num_fields: int = 0
    num_raw_bytes: int = 0
    num_listed_bytes: int = 0

    def message(self, schema: str, position: int, end: int, depth: int) -> None:
        """Traverse the fields of one message."""
        if depth > MAX_DEPTH:
            raise ProgramError("its messages are nested too deeply")
        content, kinds = self.content, _fields(schema)
        while position < end:
            self.num_fields += 1
            if self.num_fields > MAX_FIELDS:
                raise ProgramError(f"its graph has more than {MAX_FIELDS:,} fields")
            tag, position = _varint(content, position, end)
            wire_type = tag & 7
            if wire_type == _BYTES:
                size, position = _varint(content, position, end)
                if size > end - position:
                    raise ProgramError(_DAMAGED)
                kind = kinds.get(tag >> 3)
                if kind is not None and size:
                    self._sized(kind, position, size, depth)
                position += size
            elif wire_type == _VARINT:
                _, position = _varint(content, position, end)
            elif wire_type in _FIXED:
                position += _FIXED[wire_type]
            else:
                raise ProgramError(_DAMAGED)
        if position != end:
            raise ProgramError(_DAMAGED)

    def _sized(self, kind: str, position: int, size: int, depth: int) -> None:
        if kind is _RAW:
            self.num_raw_bytes += size
        elif kind is _LISTED:
            self.num_listed_bytes += size
        else:
            self.waiting.append((kind, position, position + size, depth + 1))


def _varint(content: memoryview, position: int, end: int) -> tuple[int, int]:
    """Read a number; return it and the position after it."""
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
