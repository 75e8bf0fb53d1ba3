"""Measured speed of this machine, within milliseconds."""

import time
from collections.abc import Callable

import torch

from hessian_spectrum.planning.work import EIGENVALUE_ORDER

Clock = Callable[[], float]

VECTOR_NUMBERS = 2**18
NUM_VECTORS = 32
NUM_TIMINGS = 3


def vector_rate(device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return the measured bytes per second that products of a float32 basis in memory with a vector read."""
    basis = torch.ones(NUM_VECTORS, VECTOR_NUMBERS, dtype=torch.float32, device=device)
    vector = torch.ones(VECTOR_NUMBERS, dtype=torch.float32, device=device)

    def multiply() -> None:
        vector.addmv_(basis.T, basis @ vector, alpha=-1e-9)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * basis.nbytes / _seconds(multiply, clock)


def eigenvalue_seconds(clock: Clock = time.perf_counter) -> float:
    """Return the measured seconds to compute the eigenvalues of a dense float64 matrix of order EIGENVALUE_ORDER."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(EIGENVALUE_ORDER, EIGENVALUE_ORDER, dtype=torch.float64, generator=generator)
    return _seconds(lambda: torch.linalg.eigvalsh(matrix), clock)


def _seconds(call: Callable[[], object], clock: Clock) -> float:
    """Return the shortest of a few timings, as disturbances only lengthen them."""
    times = []
    for _ in range(NUM_TIMINGS + 1):
        started = clock()
        call()
        times.append(clock() - started)
    return max(min(times), 1e-9)
