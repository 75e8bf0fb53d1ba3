"""Calls of LAPACK that work in the memory of their argument and let other threads run.

`torch.linalg.eigvalsh` copies the matrix first. `scipy.linalg.eigh` does not, but holds the lock of the interpreter
until LAPACK is done, which can take hours: no lease would be renewed and no cancellation heard. The LAPACK that torch
brings is therefore called directly; ctypes releases the lock.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_Integer = ctypes.c_int


def eigenvalues(matrix: Tensor) -> Tensor:
    """Return all eigenvalues (n,), ascending, of a symmetric matrix on the CPU, by LAPACK's `dsyevd`.

    Args:
        matrix: The matrix (n, n), contiguous, in float64; it is overwritten.

    Raises:
        LinAlgError: If the algorithm has not converged.
    """
    if dsyevd() is None:
        found: Tensor = torch.linalg.eigvalsh(matrix)
        return found
    values = torch.empty(len(matrix), dtype=torch.float64)
    sizes, integers = torch.empty(1, dtype=torch.float64), torch.empty(1, dtype=torch.int32)
    _solve(matrix, values, sizes, integers, is_question=True)
    work = torch.empty(int(sizes[0]), dtype=torch.float64)
    _solve(matrix, values, work, torch.empty(int(integers[0]), dtype=torch.int32))
    return values


@cache
def dsyevd() -> Any | None:
    """Return the function of torch's LAPACK; None if this build of torch exports none."""
    for library in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        try:
            return ctypes.CDLL(str(library)).dsyevd_
        except (OSError, AttributeError):
            continue
    return None


def _solve(matrix: Tensor, values: Tensor, work: Tensor, integers: Tensor, *, is_question: bool = False) -> None:
    """Call `dsyevd`, or ask it how much work space it needs."""
    function = dsyevd()
    assert function is not None
    order, status = _Integer(len(matrix)), _Integer()
    sizes = [_Integer(-1 if is_question else len(each)) for each in (work, integers)]
    function(
        ctypes.c_char_p(b"N"),
        ctypes.c_char_p(b"L"),
        ctypes.byref(order),
        _address(matrix),
        ctypes.byref(order),
        _address(values),
        _address(work),
        ctypes.byref(sizes[0]),
        _address(integers),
        ctypes.byref(sizes[1]),
        ctypes.byref(status),
    )
    if status.value:
        message = f"the eigenvalues have not converged: dsyevd returned {status.value}"
        raise torch.linalg.LinAlgError(message)  # type: ignore[attr-defined]


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
