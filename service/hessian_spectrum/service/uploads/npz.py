"""Arrays in numpy's formats: .npy, read from memory without a copy where possible, and npz archives of them.

zipfile reads the directory of an archive alone; the members are checked and read here.
"""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from hessian_spectrum.programs.program import ProgramError
from hessian_spectrum.service.problems import invalid_field, malformed_upload
from hessian_spectrum.service.uploads.memory_budget import Reservation
from hessian_spectrum.storage.npy_headers import read_npy_header

MAX_HEADER_BYTES = 1024
"""Largest size in bytes of a header that is parsed; those of accepted arrays take 128."""

MAX_TEXT_LENGTH = 64

MAX_DIMENSIONS = 8
NO_SHAPE = f"must have at most {MAX_DIMENSIONS} dimensions and must not be empty"

_FINITE_BLOCK = 2**17  # numbers: a block and its mask stay in the cache

NPY_MAGIC = npy_format.MAGIC_PREFIX

Value = NDArray[np.float64] | float | int | str

MAX_DIRECTORY_BYTES = 2**17
"""Largest size in bytes of an archive's comment (up to 64 KiB) or of its directory (about 60 bytes for each member)."""

DIRECTORY_ENTRY_BYTES = 200
"""Largest average size in bytes of an entry in the directory of an archive with many members."""

_LOCAL_HEADER = struct.Struct("<4s2xH18xHH")  # signature, flags, length of the name and of the extra field
_ENCRYPTED = 0x1 | 0x40
_INFLATED_AT_ONCE = 2**14  # compressed bytes; at most a thousand times as many come out

ZIP_MAGIC = b"PK\3\4"

_SUFFIX = ".npy"


class UnreadableArrayError(ValueError):
    """Raised if bytes are not an array, or not one that any request accepts."""


def read_npy(content: memoryview, reservation: Reservation) -> Value:
    """Read a .npy file into float64.

    Nothing is copied if the file already holds that; the order of the memory may then be Fortran's.

    Args:
        content: The bytes of the file.
        reservation: Memory for a copy where one is needed.

    Returns:
        An aligned float64 array in native byte order with one or two dimensions, or a number or a text for an array
        without dimensions.

    Raises:
        UnreadableArrayError: The array cannot be read.
        ProblemError: 503 if a copy is needed and there is no memory for it.
    """
    shape, fortran_order, dtype, start = read_header(content)
    _check_type(shape, dtype)
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise UnreadableArrayError("its size differs from what its header says")
    if not shape:
        return _scalar(content[start:], dtype)
    array = np.frombuffer(content, dtype=dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")
    numbers = _native(array, reservation)
    if not _is_finite(numbers):
        raise UnreadableArrayError("must be finite: no NaN, no infinity")
    return numbers


def read_numbers(content: memoryview) -> NDArray[np.generic]:
    """Read a .npy file without a copy.

    Args:
        content: The bytes of the file.

    Returns:
        A view of the bytes: floats of 2, 4 or 8 bytes, integers or booleans, of any shape and order.

    Raises:
        UnreadableArrayError: The array cannot be read.
    """
    shape, fortran_order, dtype, start = read_header(content)
    if not (dtype.kind in "iub" or (dtype.kind == "f" and dtype.itemsize <= 8)):
        raise UnreadableArrayError("must hold float16, float32, float64, integers or booleans")
    if not is_shape(shape):
        raise UnreadableArrayError(NO_SHAPE)
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise UnreadableArrayError("its size differs from what its header says")
    return np.frombuffer(content, dtype=dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")


def is_shape(shape: Sequence[Any]) -> bool:
    """Return whether an array of numbers may have this shape."""
    return len(shape) <= MAX_DIMENSIONS and all(type(length) is int and length >= 1 for length in shape)


def read_header(content: bytes | memoryview) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Read the header of a .npy file.

    Args:
        content: The beginning of the file, or all of it.

    Returns:
        The shape, whether the order is Fortran's, the type of the numbers, and the offset of the first one in bytes.

    Raises:
        UnreadableArrayError: The array cannot be read.
    """
    stream = io.BytesIO(content[:MAX_HEADER_BYTES])
    try:
        header = read_npy_header(stream, max_bytes=MAX_HEADER_BYTES)
    except NotImplementedError:
        raise UnreadableArrayError("has an unsupported version of the .npy format") from None
    except (ValueError, SyntaxError, TypeError, ArithmeticError, LookupError, tokenize.TokenError, RecursionError):
        raise UnreadableArrayError("is not an array in .npy format") from None
    return *header, stream.tell()


def _check_type(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    if len(shape) > 2 or any(type(length) is not int or length < 1 for length in shape):
        raise UnreadableArrayError("must have at most two dimensions and must not be empty")
    is_number = dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))
    is_text = dtype.kind == "U" and not shape and dtype.itemsize <= 4 * MAX_TEXT_LENGTH
    if not (is_number or is_text):
        raise UnreadableArrayError(
            f"must hold float32, float64 or integers (or be a single text of at most {MAX_TEXT_LENGTH} characters)"
        )


def _scalar(content: memoryview, dtype: np.dtype[np.generic]) -> float | int | str:
    if not dtype.itemsize:
        return ""
    try:
        value = np.frombuffer(content, dtype=dtype)[0].item()
    except ValueError:
        raise UnreadableArrayError("is not a text") from None
    if isinstance(value, str) and not value.isascii():
        raise UnreadableArrayError("must be plain ASCII")
    assert isinstance(value, (float, int, str))
    return value


def _native(array: NDArray[np.generic], reservation: Reservation) -> NDArray[np.float64]:
    if array.dtype == np.float64 and array.dtype.isnative and array.flags.aligned:
        return array.view(np.float64)
    reservation.grow(8 * array.size)
    return array.astype(np.float64)


def _is_finite(array: NDArray[np.float64]) -> bool:
    flat = array.ravel(order="K")
    blocks = (flat[start : start + _FINITE_BLOCK] for start in range(0, flat.size, _FINITE_BLOCK))
    return all(bool(np.isfinite(block).all()) for block in blocks)


def npz_contents(
    body: memoryview,
    reservation: Reservation,
    *,
    path_of: Callable[[str], tuple[str, ...]],
    max_members: int,
) -> Iterator[tuple[tuple[str, ...], memoryview]]:
    """Read the members of an npz archive in turn.

    Args:
        body: The archive.
        reservation: Memory for members that must be inflated.
        path_of: Maps the name of a member, without `.npy`, to its path; it may raise ProblemError.
        max_members: Largest number of members.

    Yields:
        The path of a member and its bytes, a view of `body` where the member is stored uncompressed.

    Raises:
        ProblemError: 400 or 422 for a malformed archive, 413 or 503 if it inflates to more than there is memory for.
    """
    members = archive_directory(body)
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


def archive_members(body: memoryview, reservation: Reservation, *, max_members: int) -> Callable[[str], memoryview]:
    """Return a function that reads a member of a zip archive by its name, which is checked when it is read.

    All members lie in one folder, whose name does not matter and is left out. A member is checked once, however often
    it is read.

    Args:
        body: The archive.
        reservation: Memory for members that must be inflated.
        max_members: Largest number of members.

    Returns:
        The function, which raises ProgramError for a member that is missing or damaged.

    Raises:
        ProblemError: 400 or 422 for a malformed archive, 413 or 503 if it inflates to more than there is memory for.
        ProgramError: If its members do not lie in one folder, each with its own name.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    largest = max(MAX_DIRECTORY_BYTES, DIRECTORY_ENTRY_BYTES * max_members)
    listed = archive_directory(body, largest, kind=".pt2 file")
    if is_inner(listed):
        raise malformed_upload("The body is not a valid .pt2 file: it is damaged, or was cut off.")
    if len(listed) > max_members:
        raise malformed_upload(f"The archive has more than {max_members} members.")
    if sum(member.compress_size for member in listed if member.compress_size <= len(body)) > len(body):
        raise malformed_upload("The members of the archive overlap.")
    folders = {member.orig_filename.partition("/")[0] for member in listed}
    for member in listed:
        name = member.orig_filename.partition("/")[2]
        if len(folders) > 1 or folders == {""} or "" in name.split("/") or ".." in name.split("/"):
            raise ProgramError("its members do not lie in one folder")
        if name in members:
            raise ProgramError("two of its members have the same name")
        members[name] = member
    known: dict[str, memoryview] = {}

    def contents(name: str) -> memoryview:
        if name not in known:
            known[name] = _checked_content(body, members.get(name), name, reservation)
        return known[name]

    return contents


def _checked_content(
    body: memoryview, member: zipfile.ZipInfo | None, name: str, reservation: Reservation
) -> memoryview:
    """Return the bytes of a member.

    Raises:
        ProgramError: If it is missing, encrypted or damaged.
    """
    if member is None:
        raise ProgramError(f"it has no member {name:.64}")
    if member.flag_bits & _ENCRYPTED:
        raise ProgramError(f"its member {name:.64} is encrypted")
    if member.compress_type != zipfile.ZIP_STORED:
        reservation.grow(member.file_size)
    try:
        return _content(body, member)
    except (zlib.error, zipfile.BadZipFile) as error:
        raise ProgramError(f"its member {name:.64} is damaged: {error!s:.100}") from None


class _Window:
    """A file for zipfile, over memory; it reads no more at once than the directory may take."""

    def __init__(self, body: memoryview, max_bytes: int) -> None:
        self._body = body
        self._max_bytes = max_bytes
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
        if len(part) > self._max_bytes:
            raise zipfile.BadZipFile("its directory is too large")
        self._position += len(part)
        return bytes(part)


def archive_directory(
    body: memoryview, max_directory_bytes: int = MAX_DIRECTORY_BYTES, *, kind: str = "npz archive"
) -> list[zipfile.ZipInfo]:
    """Return the members of a zip archive as its directory lists them; nothing of them is checked.

    Args:
        body: The archive.
        max_directory_bytes: Largest size of the directory in bytes.
        kind: What the archive must be, for the message.

    Returns:
        The members, in order.

    Raises:
        ProblemError: 400 if there is no such directory.
    """
    try:
        with zipfile.ZipFile(_Window(body, max_directory_bytes)) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error, OverflowError):
        raise malformed_upload(f"The body is not a valid {kind}: it is damaged, or was cut off.") from None


def is_inner(members: Sequence[zipfile.ZipInfo]) -> bool:
    """Return whether members begin late in a file, as in one that was cut off after an archive that it contains."""
    return bool(members) and min(member.header_offset for member in members) > 0


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
    if signature != ZIP_MAGIC or flags & _ENCRYPTED or name != member.orig_filename.encode("ascii", "replace"):
        raise zipfile.BadZipFile("its header differs from the directory")
    return name_start + name_length + extra_length


def _inflated(packed: memoryview, size: int) -> memoryview:
    """Inflate into exactly `size` bytes, piece by piece, so that a zip bomb gets no further than one piece."""
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
