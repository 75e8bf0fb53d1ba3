"""`python benchmarks/ahead_tasks.py TASK`: one computation of the build whose Python runs it, measured in this process.

It imports nothing of the benchmarks, so that an earlier build can run it, too.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator

NUM_SAMPLES = 64
F64 = torch.float64


@dataclass(frozen=True)
class Computation:
    """What is measured.

    Attributes:
        compute: Returns the numbers that all builds must agree on.
        unit_bytes: Memory that the peak is compared with.
    """

    compute: Callable[[], list[float]]
    unit_bytes: int


def exact(width: int) -> Computation:
    """Every eigenvalue of the Hessian of a network 64-width-10, in units of P^2 float64 numbers."""
    model, generator = Mlp((64, width, 10)), torch.Generator().manual_seed(0)
    parameters = model.initial_parameters(generator, F64, torch.device("cpu"))
    inputs = torch.rand(NUM_SAMPLES, 64, generator=generator, dtype=F64)
    targets = torch.randint(10, (NUM_SAMPLES,), generator=generator)
    risk = EmpiricalRisk(model, CrossEntropy(), [Dataset(inputs, targets)])
    dim = sum(each.numel() for each in parameters.values())

    def compute() -> list[float]:
        operator = HessianOperator(risk, parameters)
        found: list[float] = run(DenseEigensolver(), operator, generator=torch.Generator()).eigenvalues.tolist()
        return found

    return Computation(compute, 8 * dim**2)


TASKS: dict[str, Callable[[], Computation]] = {
    "exact": lambda: exact(80),
    "warm-up": lambda: exact(2),
}


def measured(computation: Computation) -> dict[str, Any]:
    """Seconds, peak of memory above the beginning in the computation's unit, and numbers."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten, see proc(5)
    before, started = _status("VmRSS"), time.perf_counter()
    numbers = computation.compute()
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "memory": (_status("VmHWM") - before) / computation.unit_bytes,
        "numbers": numbers,
    }


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured(TASKS["warm-up"]())
    print(json.dumps(measured(TASKS[arguments.task]())))


if __name__ == "__main__":
    main()
