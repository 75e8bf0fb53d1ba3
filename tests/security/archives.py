"""Archives whose directory lies, whose members are no arrays, or that grow beyond all bounds."""

import io
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tests.security.arrays import Touch, hostile_arrays, saved

_END = b"PK\5\6"
_ENTRY = b"PK\1\2"


def archive(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def request(**changes: bytes) -> dict[str, bytes]:
    """Members of a request that would be answered."""
    arrays = {"kind": np.array("linear"), "w": np.ones(3), "v": np.ones(3), "x": np.ones(3), "y": np.ones(3)}
    return {f"{name}.npy": saved(array) for name, array in arrays.items()} | {
        f"{name}.npy": content for name, content in changes.items()
    }


def patched(content: bytes, signature: bytes, offset: int, *, value: bytes) -> bytes:
    """The bytes after the last place of a signature replaced."""
    place = content.rindex(signature) + offset
    return content[:place] + value + content[place + len(value) :]


def without(name: str) -> dict[str, bytes]:
    return {member: content for member, content in request().items() if member != name}


def member(name: str, content: bytes = b"", attributes: int = 0) -> bytes:
    """A request with one member more, of this name and with these attributes of Unix."""
    buffer = io.BytesIO(archive(request()))
    info = zipfile.ZipInfo(name)
    info.external_attr = attributes << 16
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr(info, content or saved(np.ones(3)))
    return buffer.getvalue()


def bomb(declared: int | None) -> bytes:
    """64 MB of zeros in 64 kB; with a size of its own choice in the directory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros, checksum, size = bytes(2**20), 0, 0
    packed = bytearray()
    for _ in range(64):
        packed += packer.compress(zeros)
        checksum, size = zlib.crc32(zeros, checksum), size + len(zeros)
    packed += packer.flush()
    size = size if declared is None else declared
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, checksum, len(packed), size, 5, 0) + b"w.npy"
    entry = struct.pack("<4s6H3I5H2I", _ENTRY, 20, 20, 0, 8, 0, 0, checksum, len(packed), size, 5, 0, 0, 0, 0, 0, 0)
    directory = entry + b"w.npy"
    end = struct.pack("<4s4H2IH", _END, 0, 0, 1, 1, len(directory), len(local) + len(packed), 0)
    return local + bytes(packed) + directory + end


def overlapping() -> bytes:
    """A directory whose members all lie at the same place, each as long as the archive."""
    plain = archive({"w.npy": saved(np.ones(3))})
    start = plain.index(_ENTRY)
    entry = plain[start : plain.index(_END)]
    directory = b"".join(entry.replace(b"w.npy", f"{name}.npy".encode()) for name in "wvxyb")
    end = struct.pack("<4s4H2IH", _END, 0, 0, 5, 5, len(directory), start, 0)
    return plain[:start] + directory + end


def zip64(size: int, offset: int) -> bytes:
    """A member whose sizes and place stand in an extra field."""
    extra = struct.pack("<HHQQQ", 1, 24, size, size, offset)
    entry = struct.pack(
        "<4s6H3I5H2I", _ENTRY, 45, 45, 0, 0, 0, 0, 0, *[2**32 - 1] * 2, 5, len(extra), 0, 0, 0, 0, 2**32 - 1
    )
    directory = entry + b"w.npy" + extra
    return directory + struct.pack("<4s4H2IH", _END, 0, 0, 1, 1, len(directory), 0, 0)


def hostile_archives() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each archive."""
    plain = archive(request())
    for name, make in hostile_arrays():
        yield f"array-{name}", lambda make=make: archive(request(w=make()))
    yield "pickled-member", lambda: archive(without("w.npy") | {"w": pickle.dumps(Touch())})
    yield "checkpoint-of-torch", lambda: archive({"model/data.pkl": pickle.dumps(Touch()), "model/version": b"3\n"})
    yield "bomb", lambda: bomb(None)
    yield "bomb-that-declares-little", lambda: bomb(152)
    yield "bomb-that-declares-4-gb", lambda: bomb(2**32 - 2)
    yield "archive-in-archive", lambda: archive(request(w=archive(request(w=plain))))
    yield "overlapping-members", overlapping
    yield "absolute-name", lambda: member("/etc/passwd.npy")
    yield "name-with-parents", lambda: member("../../../../etc/passwd.npy")
    yield "name-of-windows", lambda: member("C:\\windows\\w.npy")
    yield "name-with-null", lambda: plain.replace(b"w.npy", b"w\0npy")
    yield "name-of-64-kb", lambda: member("w" * 65_000)
    yield "name-with-format", lambda: member("{0.__class__}%n%s.npy")
    yield "name-with-line-ends", lambda: member("w\r\nSet-Cookie: a=b.npy")
    yield "symbolic-link", lambda: member("link.npy", b"/etc/passwd", stat.S_IFLNK | 0o777)
    yield "directory", lambda: member("w/", b" ", stat.S_IFDIR | 0o777)
    yield "member-twice", lambda: plain.replace(b"v.npy", b"w.npy")
    yield "forty-members", lambda: archive({f"w{index}.npy": saved(np.ones(3)) for index in range(40)})
    yield "20000-members", lambda: archive({f"{index}": b"" for index in range(20_000)})
    yield "encrypted", lambda: patched(plain, _ENTRY, 8, value=b"\1\0")
    yield "bzip2", lambda: archive(request(), zipfile.ZIP_BZIP2)
    yield "lzma", lambda: archive(request(), zipfile.ZIP_LZMA)
    yield "unknown-method", lambda: patched(plain, _ENTRY, 10, value=b"\x63\0")
    yield "wrong-checksum", lambda: patched(plain, _ENTRY, 16, value=b"\0\0\0\0")
    yield "wrong-size", lambda: patched(plain, _ENTRY, 24, value=struct.pack("<I", 2**31))
    yield "wrong-place", lambda: patched(plain, _ENTRY, 42, value=struct.pack("<I", 2**31))
    yield "other-name-inside", lambda: plain.replace(b"w.npy", b"b.npy", 1)
    yield "zip64-of-8-exabytes", lambda: zip64(2**63 - 1, 0)
    yield "zip64-of-all-bits", lambda: zip64(2**64 - 1, 2**64 - 1)
    yield "zip64-beyond-the-end", lambda: zip64(100, 2**40)
    yield "directory-beyond-the-end", lambda: patched(plain, _END, 16, value=struct.pack("<I", 2**31))
    yield "directory-of-4-gb", lambda: patched(plain, _END, 12, value=b"\xff\xff\xff\xff")
    yield "no-members", lambda: archive({})
    yield "end-alone", lambda: _END + bytes(18)
    yield "ends-early", lambda: plain[: len(plain) // 2]
    yield "junk", lambda: bytes(range(256)) * 64
    yield "gzip", lambda: zlib.compress(plain, wbits=31)
