"""Calls of LAPACK that work in the memory of their argument and let other threads run.

`torch.linalg.eigvalsh` copies the matrix first. `scipy.linalg.eigh` does not, but holds the lock of the interpreter
until LAPACK is done, which can take hours: no lease would be renewed and no cancellation heard.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from scipy.linalg import cython_lapack
from threadpoolctl import threadpool_limits
from torch import Tensor

_Integer = ctypes.c_int


def eigenvalues(matrix: Tensor) -> Tensor:
    """Return all eigenvalues (n,), ascending, of a symmetric matrix on the CPU, by LAPACK's `dsyevd`.

    Args:
        matrix: The matrix (n, n), contiguous, in float64; it is overwritten.

    Raises:
        LinAlgError: If the algorithm has not converged.
    """
    order = len(matrix)
    values = torch.empty(order, dtype=torch.float64)
    sizes, integers = torch.empty(1, dtype=torch.float64), torch.empty(1, dtype=torch.int32)
    _dsyevd(matrix, values, sizes, integers, is_question=True)
    work = torch.empty(int(sizes[0]), dtype=torch.float64)
    _dsyevd(matrix, values, work, torch.empty(int(integers[0]), dtype=torch.int32))
    return values


def _dsyevd(matrix: Tensor, values: Tensor, work: Tensor, integers: Tensor, *, is_question: bool = False) -> None:
    order, status = _Integer(len(matrix)), _Integer()
    sizes = [_Integer(-1 if is_question else len(each)) for each in (work, integers)]
    arguments = [
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
    ]
    # the threads that torch may use: those of scipy's LAPACK are counted apart
    with threadpool_limits(torch.get_num_threads(), user_api="blas"):
        _function("dsyevd", len(arguments))(*arguments)
    if status.value:
        message = f"the eigenvalues have not converged: dsyevd returned {status.value}"
        raise torch.linalg.LinAlgError(message)  # type: ignore[attr-defined]


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@cache
def _function(name: str, num_arguments: int) -> Any:
    """Return a function of scipy's LAPACK, which takes addresses; ctypes releases the interpreter's lock for it."""
    python = ctypes.pythonapi
    python.PyCapsule_GetName.restype, python.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsules: dict[str, Any] = dict(cython_lapack.__pyx_capi__)
    capsule = capsules[name]
    address = python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * num_arguments)(address)
