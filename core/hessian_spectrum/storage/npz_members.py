"""Arrays of npz files, mapped into memory instead of read."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOCAL_HEADER_BYTES = 30
_LENGTHS_AT = 26
"""Where a local header says how long the name and the extra field are that follow it."""


def mapped_member(path: Path, name: str) -> NDArray[Any]:
    """An array of an npz file as `np.savez` writes it, uncompressed.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: It has no such array.
        ValueError: The array is compressed, or holds objects.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo(f"{name}.npy")
        file.seek(member.header_offset)
        lengths = struct.unpack_from("<HH", file.read(_LOCAL_HEADER_BYTES), _LENGTHS_AT)
        file.seek(sum(lengths), 1)
        if member.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} cannot be mapped")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds objects")
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")
