"""Memory that the C library keeps after it was freed."""

import ctypes
import sys

import torch

_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's


def release_freed_memory() -> None:
    """Give freed pages back to the system; does nothing where the C library is not glibc.

    Without it a process stays as large as it was while a gradient was recorded: 590 MB, where the products of a small
    GPT-2 take 330 MB. Takes 0.1 ms, and that again for each further MB that is given back.
    """
    if _TRIM is not None:
        _TRIM(0)


def is_memory_error(error: BaseException) -> bool:
    """Whether an allocation failed; on a CPU torch says so by a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
