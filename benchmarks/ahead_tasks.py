"""`python benchmarks/ahead_tasks.py TASK`: one computation of the build whose Python runs it, measured in this process.

It imports nothing of the benchmarks, so that an earlier build can run it, too.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import ignore_progress, run
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

NUM_SAMPLES = 64
F64 = torch.float64


@dataclass(frozen=True)
class Computation:
    """What is measured.

    Attributes:
        compute: Returns the numbers that all builds must agree on.
        unit_bytes: Memory that the peak is compared with.
        num_products: Returns the number of matrix-vector products so far, where they are compared.
        errors: Returns errors of an estimate by name, where they are compared.
    """

    compute: Callable[[], list[float]]
    unit_bytes: int
    num_products: Callable[[], int] = lambda: 0
    errors: Callable[[], dict[str, float]] = dict


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


def blocks(shape: tuple[int, int, int, int, int], data: tuple[int, int], matrix: str, *, rest: bool) -> Computation:
    """Spectra of every transformer block of a GPT-2, by 100 products each, and of what lies around them if `rest`.

    Args:
        shape: Layers, heads, width, positions and vocabulary.
        data: Number and length of sequences.
        matrix: Hessian or GGN.
        rest: Whether embeddings and the last layer norm are blocks as well.
    """
    globs = [f"blocks.{index}.*" for index in range(shape[0])]
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    request = SpectrumRequest.model_validate(
        {
            "kind": "spectrum",
            "model": {"kind": "gpt2", **dict(zip(names, shape, strict=True))},
            "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": data[0], "sequence_length": data[1]},
            "loss": "cross-entropy",
            "matrix": matrix,
            "blocks": ["wte.*", "wpe.*", *globs, "ln_f.*"] if rest else globs,
            "method": {"kind": "lanczos", "num_steps": 100, "num_probes": 1, "num_points": 16},
            "precision": "float32",
        }
    )

    def compute() -> list[float]:
        # without the memory in which a compiler would be tried
        hardware = Hardware(torch.device("cpu"), torch.get_num_threads(), 2**31)
        found: Any = run_spectrum_job(request, hardware, ignore_progress).result
        return [number for each in found.spectra for number in (each.trace.value, each.largest.value)]

    return Computation(compute, 2**20)


class CountedDiagonal(SymmetricOperator):
    """A diagonal matrix that counts its products.

    Args:
        diagonal: Its entries (P,).
    """

    def __init__(self, diagonal: Tensor) -> None:
        self._diagonal, self.num_products = diagonal, 0

    @property
    def dim(self) -> int:
        """Number of rows."""
        return len(self._diagonal)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the entries."""
        return self._diagonal.dtype

    @property
    def device(self) -> torch.device:
        """Device of the entries."""
        return self._diagonal.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v (P,)."""
        return self.matmat(vector.unsqueeze(1))[:, 0]

    def matmat(self, matrix: Tensor) -> Tensor:
        """Return A V (P, k)."""
        self.num_products += matrix.shape[1]
        return self._diagonal[:, None] * matrix


def eigenvalues_like(spectrum: str, dim: int) -> Tensor:
    """Eigenvalues (P,) like those of a trained network, in clusters, repeated, or decaying like a power."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.where(torch.rand(dim, generator=generator) < 0.3, -0.3, 1.0)
    outliers = {
        "outliers": [100.0, 60, 45, 33, 24, 18, 13, 9, 6, 4],
        "clusters": [c * (1 + 1e-3 * i) for c in (100, 50, 20, 10) for i in range(5)],
        "repeated": [50.0] * 3 + [20.0] * 3 + [10.0] * 10,
        "power law": [],
    }[spectrum]
    bulk = torch.logspace(0, -6, dim) * signs if outliers else 100 * signs / torch.arange(1, dim + 1)
    bulk[: len(outliers)] = torch.tensor(outliers)
    return bulk


def top_k(spectrum: str, k: int, tolerance: float, *, dim: int = 10**6) -> Computation:
    """The largest eigenvalues of a large matrix, which costs nothing but products."""
    operator = CountedDiagonal(eigenvalues_like(spectrum, dim))

    def compute() -> list[float]:
        method = ThickRestartLanczos(k, "largest", tolerance)
        found: list[float] = run(method, operator, generator=torch.Generator().manual_seed(0)).eigenvalues.tolist()
        return found

    return Computation(compute, 4 * dim, lambda: operator.num_products)


def density(widths: tuple[int, ...]) -> Computation:
    """Errors of densities by 120 products; the builds agree on the trace that they estimate."""
    from density_task import (  # type: ignore[import-not-found]  # noqa: PLC0415 - scikit-learn and scipy.stats
        errors_of,
        trained_hessian,
    )

    matrix = trained_hessian(widths)
    errors: dict[str, float] = {}

    def compute() -> list[float]:
        errors.update(asdict(errors_of(matrix)))
        return [float(matrix.trace())]

    return Computation(compute, matrix.nbytes, errors=lambda: errors)


DENSITY_TASKS = {
    f"density-{name}": widths
    for name, widths in {"1": (64, 24, 10), "2": (64, 20, 20, 10), "3": (64, 16, 16, 16, 10)}.items()
}

TOP_K_TASKS = {
    f"top-{k}-{spectrum}-{tolerance}": (spectrum, k, tolerance)
    for spectrum, k, tolerance in (
        *(("outliers", k, 1e-3) for k in (3, 5, 10, 20)),
        *(("power law", k, 1e-5) for k in (3, 5, 10, 20)),
        ("clusters", 10, 1e-3),
        ("repeated", 10, 1e-3),
    )
}

GPT_SMALL = (4, 4, 256, 128, 2048), (4, 128)
TWELVE_LAYERS = (12, 4, 128, 64, 256), (4, 64)

TASKS: dict[str, Callable[[], Computation]] = {
    **{f"blocks-{matrix}": partial(blocks, *GPT_SMALL, matrix, rest=True) for matrix in ("hessian", "ggn")},
    **{f"layers-{matrix}": partial(blocks, *TWELVE_LAYERS, matrix, rest=False) for matrix in ("hessian", "ggn")},
    **{task: partial(density, widths) for task, widths in DENSITY_TASKS.items()},
    **{task: partial(top_k, *arguments) for task, arguments in TOP_K_TASKS.items()},
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
        "products": computation.num_products(),
        "numbers": numbers,
        **computation.errors(),
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
