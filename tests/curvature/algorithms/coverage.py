"""How often 95 % intervals hold the exact number, and how wide they are, over many seeds.

`python -m tests.curvature.algorithms.coverage --seeds 300` prints the tables of docs/intervals.md.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.curvature.algorithms.trace import Estimator, TraceEstimator
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.quadrature.results import FloatArray, Interval, Reorthogonalisation

DIM = 200
NUM_PROBES = (1, 2, 3, 4, 5, 10, 30)
LANCZOS_STEPS = 12  # of each probe
NOMINAL, LEAST = 0.95, 0.92


class Reflected(SymmetricOperator):
    """H D H for diagonal D and H the product of two reflections, or the identity: no eigenvector is a unit vector.

    Attributes:
        matrix: (P, P) in float64, exactly that of the numbers held.
    """

    def __init__(self, eigenvalues: FloatArray, dtype: torch.dtype, rotated: bool) -> None:
        generator = torch.Generator().manual_seed(1)
        self._eigenvalues = torch.from_numpy(eigenvalues).to(dtype)
        count = 2 if rotated else 0
        self._mirrors = [torch.randn(len(eigenvalues), generator=generator, dtype=dtype) for _ in range(count)]
        self._dtype = dtype
        self.matrix = self._times(torch.eye(self.dim, dtype=torch.float64)).numpy()

    @property
    def dim(self) -> int:
        return len(self._eigenvalues)

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def matvec(self, vector: Tensor) -> Tensor:
        return self._times(vector.unsqueeze(1))[:, 0]

    def matmat(self, matrix: Tensor) -> Tensor:
        return self._times(matrix)

    def _times(self, columns: Tensor) -> Tensor:
        mirrors = [each.to(columns.dtype) for each in self._mirrors]
        for mirror in mirrors:
            columns = columns - torch.outer(mirror, (mirror @ columns) * (2 / (mirror @ mirror)))
        columns = columns * self._eigenvalues.to(columns.dtype).unsqueeze(1)
        for mirror in reversed(mirrors):
            columns = columns - torch.outer(mirror, (mirror @ columns) * (2 / (mirror @ mirror)))
        return columns


def _bulk(dim: int) -> FloatArray:
    return np.random.default_rng(0).standard_normal(dim)


def _few(*values: float, rest: FloatArray) -> FloatArray:
    return np.concatenate([values, rest[len(values) :]])


SPECTRA: dict[str, Callable[[int], FloatArray]] = {
    "outlier 1e3 above ones": lambda dim: _few(1e3, rest=np.ones(dim)),
    "outlier 1e3 above normal": lambda dim: _few(1e3, rest=_bulk(dim)),
    "outlier 1e6 above normal": lambda dim: _few(1e6, rest=_bulk(dim)),
    "1/i^2": lambda dim: 1 / np.arange(1.0, dim + 1) ** 2,
    "rank 1": lambda dim: _few(1.0, rest=np.zeros(dim)),
    "rank 3": lambda dim: _few(1.0, 1.0, 1.0, rest=np.zeros(dim)),
    "100, -100, tiny bulk": lambda dim: _few(100.0, -100.0, rest=1e-3 * _bulk(dim)),
    "identity": np.ones,
    "clusters 1, 3, 50": lambda dim: np.repeat([1.0, 3.0, 50.0], [dim // 2, dim - dim // 2 - 10, 10]),
}
"""By their names; those of the issue's list first."""

OTHERS: dict[str, Callable[[int], FloatArray]] = {
    "outlier 10 above ones": lambda dim: _few(10.0, rest=np.ones(dim)),
    "outlier 30 above normal": lambda dim: _few(30.0, rest=_bulk(dim)),
    "outlier -1e3 below |normal|": lambda dim: _few(-1e3, rest=np.abs(_bulk(dim))),
    "rank 2, 1 and 0.2": lambda dim: _few(1.0, 0.2, rest=np.zeros(dim)),
    "half 1, half -1": lambda dim: np.where(np.arange(dim) % 2, 1.0, -1.0),
    "0.8^i": lambda dim: 0.8 ** np.arange(dim),
    "(-0.5)^i": lambda dim: (-0.5) ** np.arange(dim),
    "1/i": lambda dim: 1 / np.arange(1.0, dim + 1),
    "normal": _bulk,
    "uniform 1 to 3": lambda dim: np.linspace(1, 3, dim),
    "1e4, 20 times 10, normal": lambda dim: np.concatenate([[1e4], np.full(20, 10.0), _bulk(dim)[21:]]),
    "15 times 1e3 above ones": lambda dim: np.concatenate([np.full(15, 1e3), np.ones(dim - 15)]),
    "5 times 1e3 above ones": lambda dim: np.concatenate([np.full(5, 1e3), np.ones(dim - 5)]),
}


class Ends(NamedTuple):
    """Lower and upper ends of one interval or of several."""

    lower: FloatArray
    upper: FloatArray

    @classmethod
    def of(cls, interval: Interval) -> "Ends":
        """An interval that is refused is without bounds."""
        lower = -np.inf if interval.lower is None else interval.lower
        upper = np.inf if interval.upper is None else interval.upper
        return cls(np.array([lower]), np.array([upper]))


class Method(NamedTuple):
    """An estimator: what it gives for an operator, a number of probes and a generator, by the quantity's name."""

    intervals: Callable[[SymmetricOperator, int, torch.Generator], Mapping[str, Ends]]
    num_probes: tuple[int, ...]  # of the table, the fewest allowed first


def exact_numbers(matrix: FloatArray) -> dict[str, FloatArray]:
    """What intervals must hold, by the quantity's name."""
    diagonal = matrix.diagonal()
    peak = np.abs(diagonal).argmax()
    norm = np.linalg.norm(matrix)
    return {
        "trace": np.array([diagonal.sum()]),
        "frobenius": np.array([norm]),
        "diagonal": diagonal,
        "largest entry": diagonal[peak : peak + 1],
    }


def _of_trace(
    operator: SymmetricOperator, num_probes: int, generator: torch.Generator, *, estimator: Estimator
) -> Mapping[str, Ends]:
    found = run(TraceEstimator(estimator, num_probes=num_probes, diagonal=True), operator, generator=generator)
    assert found.diagonal is not None
    ends = Ends(found.diagonal.lower, found.diagonal.upper)
    assert isinstance(operator, Reflected)
    peak = int(np.abs(operator.matrix.diagonal()).argmax())
    return {
        "trace": Ends.of(found.trace.interval),
        "frobenius": Ends.of(found.frobenius.interval),
        "diagonal": ends,
        "largest entry": Ends(*(end[peak : peak + 1] for end in ends)),
    }


def _of_lanczos(
    operator: SymmetricOperator, num_probes: int, generator: torch.Generator, *, mode: Reorthogonalisation
) -> Mapping[str, Ends]:
    found = run(
        StochasticLanczosQuadrature(LANCZOS_STEPS, num_probes, Smoothing(2, 3.0), reorthogonalisation=mode),
        operator,
        generator=generator,
    )
    return {"trace": Ends.of(found.trace.interval), "frobenius": Ends.of(found.frobenius.interval)}


METHODS: dict[str, Method] = {
    "hutchinson": Method(partial(_of_trace, estimator="hutchinson"), NUM_PROBES),
    "hutch++": Method(partial(_of_trace, estimator="hutch++"), NUM_PROBES),
    "xtrace": Method(partial(_of_trace, estimator="xtrace"), NUM_PROBES[3:]),
    "lanczos": Method(partial(_of_lanczos, mode="full"), (1, 4)),
    "lanczos without reorthogonalisation": Method(partial(_of_lanczos, mode="none"), (1, 4)),
}


@dataclass(frozen=True)
class Cell:
    """Of one spectrum, method, number of probes and quantity."""

    spectrum: str
    method: str
    num_probes: int
    quantity: str
    coverage: float  # share of seeds, of diagonals also of entries
    width: float  # median half width, relative to |trace| or the Frobenius norm, whichever is larger


def cells(
    spectrum: str, method: str, num_probes: int, *, num_seeds: int, dtype: torch.dtype, rotated: bool, dim: int = DIM
) -> Iterator[Cell]:
    """One for each quantity."""
    eigenvalues = (SPECTRA | OTHERS)[spectrum](dim)
    operator = Reflected(eigenvalues, dtype, rotated)
    exact = exact_numbers(operator.matrix)
    scale = max(abs(float(exact["trace"][0])), float(exact["frobenius"][0]))
    # what the exact numbers are rounded by
    slack = 1e-14 * float(exact["frobenius"][0])
    hits: dict[str, list[float]] = {}
    widths: dict[str, list[float]] = {}
    first = crc32(f"{spectrum} {method} {num_probes}".encode())
    for seed in range(first, first + num_seeds):  # no two cells share their probes
        generator = torch.Generator().manual_seed(seed)
        for quantity, (lower, upper) in METHODS[method].intervals(operator, num_probes, generator).items():
            inside = (lower <= exact[quantity] + slack) & (exact[quantity] - slack <= upper)
            hits.setdefault(quantity, []).append(float(inside.mean()))
            widths.setdefault(quantity, []).append(float(np.median(upper - lower)) / 2 / scale)
    for quantity, shares in hits.items():
        width = float(np.median(widths[quantity]))
        yield Cell(spectrum, method, num_probes, quantity, float(np.mean(shares)), width)


def _table(rows: list[Cell], quantities: list[str], counts: list[int]) -> Iterator[str]:
    """Markdown: coverage in per cent and width, of each quantity and number of probes."""
    yield "| spectrum | " + " | ".join(f"{count}" for count in counts) + " |"
    yield "|---" * (len(counts) + 1) + "|"
    found = {(row.spectrum, row.num_probes, row.quantity): row for row in rows}
    for spectrum in dict.fromkeys(row.spectrum for row in rows):
        for quantity in quantities:
            parts = [found[spectrum, count, quantity] for count in counts]
            text = " | ".join(f"{100 * part.coverage:.0f} ({part.width:.1g})" for part in parts)
            yield f"| {spectrum}: {quantity} | {text} |"


def main() -> None:
    """Print a table for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--precision", choices=["float64", "float32"], default="float64")
    parser.add_argument("--diagonal", action="store_true", help="eigenvectors are unit vectors")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--probes", type=int, action="append")
    parser.add_argument("--others", action="store_true", help="the spectra that the documents do not list")
    options = parser.parse_args()
    dtype = getattr(torch, options.precision)
    torch.set_num_threads(1)
    for method in options.method or METHODS:
        counts = options.probes or METHODS[method].num_probes
        rows = [
            cell
            for spectrum in (OTHERS if options.others else SPECTRA)
            for count in counts
            for cell in cells(
                spectrum,
                method,
                count,
                num_seeds=options.seeds,
                dtype=dtype,
                rotated=not options.diagonal,
                dim=options.dim,
            )
        ]
        print(f"\n### {method}\n")
        for line in _table(rows, list(dict.fromkeys(row.quantity for row in rows)), counts):
            print(line, flush=True)
        bad = [row for row in rows if row.coverage < LEAST]
        print(f"\nlowest {min(row.coverage for row in rows):.3f}; below {LEAST}:", *bad, sep="\n", flush=True)


if __name__ == "__main__":
    main()
