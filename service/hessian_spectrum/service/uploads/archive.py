"""The members of an npz archive in memory: zipfile reads the directory alone, the members are checked and read here."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from hessian_spectrum.service.problems import invalid_field
from hessian_spectrum.service.uploads.fields import MAX_FIELDS, field_path, malformed_upload
from hessian_spectrum.service.uploads.memory_budget import Reservation

MAX_DIRECTORY_BYTES = 2**17
"""Of an archive: its comment, up to 64 KiB, or its directory, which takes about 60 bytes for each member."""

_LOCAL_HEADER = struct.Struct("<4s2xH18xHH")  # signature, flags, length of the name and of the extra field
_ENCRYPTED = 0x1 | 0x40
_INFLATED_AT_ONCE = 2**14  # compressed bytes; at most a thousand times as many come out

MAGIC = b"PK\3\4"

_SUFFIX = ".npy"


def npz_contents(
    body: memoryview,
    reservation: Reservation,
    path_of: Callable[[str], tuple[str, ...]] = field_path,
    max_members: int = MAX_FIELDS,
) -> Iterator[tuple[tuple[str, ...], memoryview]]:
    """Path and bytes of each member in turn; a view of `body` where the member is stored uncompressed.

    Args:
        body: The archive.
        reservation: Memory for members that must be inflated.
        path_of: Maps the name of a member, without `.npy`, to its path; it may raise ProblemError.
        max_members: Largest number of members.

    Raises:
        ProblemError: 400 or 422 for a malformed archive, 413 or 503 if it inflates to more than there is memory for.
    """
    members = _members(body)
    if len(members) > max_members:
        raise malformed_upload(f"The archive has more than {max_members} members.")
    if sum(member.compress_size for member in members if member.compress_size <= len(body)) > len(body):
        raise malformed_upload("The members of the archive overlap.")
    reservation.grow(sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED))
    for member in members:
        # not `filename`, which zipfile ends at a null byte
        path = path_of(member.orig_filename.removesuffix(_SUFFIX))
        if member.flag_bits & _ENCRYPTED:
            raise invalid_field(path, "is encrypted")
        try:
            content = _content(body, member)
        except (zlib.error, zipfile.BadZipFile) as error:
            raise invalid_field(path, f"is damaged: {error!s:.100}") from None
        yield path, content


class _Window:
    """A file for zipfile, over memory; it reads no more at once than a directory of few members takes."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._position = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._position, len(self._body))[whence]
        if position < 0:
            raise OSError("before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, num_bytes: int = -1) -> bytes:
        part = self._body[self._position :]
        part = part if num_bytes < 0 else part[:num_bytes]
        if len(part) > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its directory is too large")
        self._position += len(part)
        return bytes(part)


def _members(body: memoryview) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(_Window(body)) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error, OverflowError):
        raise malformed_upload("The body is no npz archive, or a damaged one.") from None


def _content(body: memoryview, member: zipfile.ZipInfo) -> memoryview:
    """Raises:  BadZipFile, zlib.error."""
    start = _content_start(body, member)
    packed = body[start : start + member.compress_size]
    if len(packed) != member.compress_size:
        raise zipfile.BadZipFile("it ends too early")
    if member.compress_type == zipfile.ZIP_STORED:
        content = packed
    elif member.compress_type == zipfile.ZIP_DEFLATED:
        content = _inflated(packed, member.file_size)
    else:
        raise zipfile.BadZipFile("neither stored nor deflated")
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise zipfile.BadZipFile("wrong size or checksum")
    return content


def _content_start(body: memoryview, member: zipfile.ZipInfo) -> int:
    header = body[member.header_offset :][: _LOCAL_HEADER.size] if member.header_offset >= 0 else body[:0]
    if len(header) != _LOCAL_HEADER.size:
        raise zipfile.BadZipFile("it lies outside the archive")
    signature: bytes
    flags: int
    name_length: int
    extra_length: int
    signature, flags, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    name_start = member.header_offset + _LOCAL_HEADER.size
    name = bytes(body[name_start : name_start + name_length])
    if signature != MAGIC or flags & _ENCRYPTED or name != member.orig_filename.encode("ascii", "replace"):
        raise zipfile.BadZipFile("its header differs from the directory")
    return name_start + name_length + extra_length


def _inflated(packed: memoryview, size: int) -> memoryview:
    """Inflate into exactly `size` bytes, piece by piece, so that no bomb gets further than one piece."""
    content = np.empty(size, np.uint8).data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    filled = 0
    for start in range(0, len(packed), _INFLATED_AT_ONCE):
        piece = inflater.decompress(packed[start : start + _INFLATED_AT_ONCE])
        if filled + len(piece) > size:
            raise zipfile.BadZipFile("it inflates to more than it declares")
        content[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled != size or not inflater.eof or inflater.unused_data:
        raise zipfile.BadZipFile("it inflates to less than it declares")
    return content
