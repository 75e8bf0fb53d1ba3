"""Headers of .npy files, read in any thread."""

import threading
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}

_lock = threading.RLock()  # NumPy reads a header with `ast`, which fails in two threads at once (Python 3.11.7)

NpyHeader = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether the order is Fortran's, and type of the numbers."""


def read_npy_header(file: BinaryIO, *, max_bytes: int = 10_000) -> NpyHeader:
    """Read the header of a .npy file of version 1.0 or 2.0 from its beginning to the first number.

    Args:
        file: The file.
        max_bytes: Largest length of the header.

    Returns:
        The header.

    Raises:
        NotImplementedError: If the file has another version.
        ValueError: If there is no such header, or one of the errors of `ast.literal_eval` for hostile ones.

    References:
        https://github.com/python/cpython/issues/106905 (threads).
    """
    version = npy_format.read_magic(file)
    if version not in _READERS:
        raise NotImplementedError(f"version {version[0]}.{version[1]} of the .npy format")
    with _lock:
        header: NpyHeader = _READERS[version](file, max_bytes)
    return header
