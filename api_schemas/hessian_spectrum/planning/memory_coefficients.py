"""Memory of recorded products, in copies of what a forward pass produces; imports no torch.

Fitted by `python -m benchmarks.footprints FAMILY` to the growth of fresh processes (Linux, glibc, PyTorch 2.13,
float32) by 100 to 300 MB, for shapes that tell the sorts apart. Smaller processes give back less of what they freed
(`recording.RELEASE_BYTES`), and take up to 15 % more in one run than in the next. Set by hand, towards more, is what
the sort does not tell: patches of Gauss-Newton (small and large kernels), a neuron's piecewise activation (leaky or
not) and its linear one under Gauss-Newton (with a bias or without), the quadratic form, whose parameters no shape
tells from its matrix, and inputs that are read from a file.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from hessian_spectrum.planning.size import Family

Matrix = Literal["hessian", "ggn", "functional", "fisher", "empirical-fisher", "gradient-covariance"]

_COSTS_LIKE: dict[Matrix, Matrix] = {
    "fisher": "ggn",
    "empirical-fisher": "ggn",
    "gradient-covariance": "ggn",
}
"""Matrices whose products are those of another one, apart from what happens to the outputs."""

OVERHEAD_BYTES = 12 * 2**20  # the graphs' Python objects, and what the allocator cannot use again


@dataclass(frozen=True)
class MemoryCoefficients:
    """Copies of the numbers of each sort of the family, as in `size.SORTS`, followed by those of the parameters."""

    recording: tuple[float, ...]  # the most, up to the end of the first product
    held: tuple[float, ...]  # by a recording
    running: tuple[float, ...]  # the most while products run, what is held included


COEFFICIENTS: dict[Family, dict[Matrix, MemoryCoefficients]] = {
    "mlp": {
        "hessian": MemoryCoefficients(
            recording=(0.0, 5.28, 6.86, 9.21, 11.82, 17.31, 9.88, 5.87, 7.09, 4.41),
            held=(0.0, 2.0, 2.0, 5.0, 5.0, 8.0, 5.0, 1.0, 2.0, 0.0),
            running=(0.0, 4.57, 4.96, 8.15, 8.34, 14.56, 8.59, 5.8, 6.08, 2.87),
        ),
        "ggn": MemoryCoefficients(
            recording=(0.32, 4.31, 4.85, 5.24, 5.55, 11.62, 4.54, 4.53, 6.27, 4.04),
            held=(0.03, 1.4, 1.42, 3.42, 3.41, 4.41, 3.33, 0.03, 1.05, 0.01),
            running=(0.18, 2.24, 2.53, 4.52, 4.11, 7.38, 5.25, 2.93, 6.65, 2.8),
        ),
        "functional": MemoryCoefficients(
            recording=(0.26, 5.05, 6.24, 9.23, 11.36, 16.37, 9.92, 4.41, 5.2, 4.57),
            held=(0.0, 1.59, 2.01, 4.47, 4.59, 7.59, 4.67, 0.92, 0.97, 0.0),
            running=(0.41, 4.2, 5.05, 7.51, 9.91, 15.26, 8.61, 0.92, 0.97, 3.78),
        ),
    },
    "conv": {
        "hessian": MemoryCoefficients(
            recording=(4.7, 8.18, 13.6, 1.27, 5.36),
            held=(1.03, 1.0, 3.92, 1.27, 0.02),
            running=(3.3, 3.72, 7.83, 7.22, 4.81),
        ),
        "ggn": MemoryCoefficients(
            recording=(3.6, 5.56, 7.87, 0.42, 6.01),
            held=(0.97, 0.99, 2.89, 0.42, 0.01),
            running=(3.07, 6.02, 7.11, 0.42, 4.28),
        ),
        "functional": MemoryCoefficients(
            recording=(4.79, 9.22, 13.15, 0.76, 5.23),
            held=(1.06, 0.99, 3.02, 0.76, 0.01),
            running=(3.29, 4.34, 9.08, 13.67, 4.19),
        ),
    },
    "attention": {
        "hessian": MemoryCoefficients(
            recording=(2.45, 4.29, 2.24, 3.21, 5.59),
            held=(0.03, 1.0, 0.5, 1.03, 0.0),
            running=(0.03, 3.24, 0.72, 2.85, 2.95),
        ),
        "ggn": MemoryCoefficients(
            recording=(0.03, 3.98, 1.42, 1.61, 4.15),
            held=(0.03, 1.02, 0.25, 0.52, 0.0),
            running=(0.03, 1.14, 0.55, 1.88, 3.27),
        ),
        "functional": MemoryCoefficients(
            recording=(0.01, 4.25, 2.38, 3.1, 6.25),
            held=(0.0, 1.0, 0.25, 1.0, 0.0),
            running=(0.17, 1.97, 0.52, 3.05, 4.27),
        ),
    },
    "gpt2": {
        "hessian": MemoryCoefficients(
            recording=(3.14, 4.74, 1.99, 4.03),
            held=(2.08, 1.33, 0.66, 0.0),
            running=(2.64, 4.42, 1.98, 2.53),
        ),
        "ggn": MemoryCoefficients(
            recording=(1.48, 2.44, 1.97, 4.75),
            held=(1.28, 0.67, 0.34, 0.0),
            running=(1.28, 2.19, 1.67, 3.28),
        ),
        "functional": MemoryCoefficients(
            recording=(3.46, 3.64, 1.69, 4.39),
            held=(2.05, 1.33, 0.32, 0.0),
            running=(3.52, 2.35, 0.32, 2.7),
        ),
    },
    "neurons": {
        "hessian": MemoryCoefficients(
            recording=(7.4, 8.78, 3.56),
            held=(1.0, 1.5, 0.0),
            running=(4.41, 4.34, 4.08),
        ),
        "ggn": MemoryCoefficients(
            recording=(3.94, 6.32, 3.29),
            held=(1.0, 1.5, 0.0),
            running=(5.8, 4.73, 2.64),
        ),
        "functional": MemoryCoefficients(
            recording=(7.51, 9.76, 3.5),
            held=(0.0, 1.01, 0.0),
            running=(1.75, 3.69, 2.89),
        ),
    },
    "quadratic": {
        "hessian": MemoryCoefficients(
            recording=(3.0, 8.0),
            held=(0.5, 1.0),
            running=(1.7, 5.0),
        ),
        "ggn": MemoryCoefficients(
            recording=(2.3, 8.0),
            held=(0.0, 1.0),
            running=(1.6, 5.0),
        ),
        "functional": MemoryCoefficients(
            recording=(3.0, 8.0),
            held=(0.5, 1.0),
            running=(2.0, 5.0),
        ),
    },
    "program": {
        "hessian": MemoryCoefficients(
            recording=(1.43, 2.32, 0.69, 7.58, 3.63, 5.62, 8.26, 3.7, 8.48, 0.0, 4.44, 16.72, 5.86, 6.88, 2.0, 4.6),
            held=(0.0, 0.62, 0.69, 3.94, 3.63, 0.86, 3.75, 1.82, 6.19, 0.0, 2.31, 7.19, 4.68, 1.45, 1.0, 0.02),
            running=(0.0, 1.28, 0.69, 8.09, 4.3, 3.0, 6.58, 3.31, 8.76, 0.0, 4.32, 15.84, 4.68, 6.17, 1.0, 3.39),
        ),
        "ggn": MemoryCoefficients(
            recording=(1.48, 1.69, 2.7, 3.64, 0.29, 1.2, 2.89, 2.54, 6.66, 0.0, 2.19, 9.27, 18.22, 4.83, 2.0, 4.08),
            held=(0.01, 0.0, 0.34, 2.04, 0.0, 0.94, 2.89, 1.64, 3.46, 0.0, 0.78, 3.18, 4.56, 1.14, 1.0, 0.0),
            running=(0.01, 0.12, 2.04, 3.39, 0.0, 0.94, 3.1, 1.97, 3.46, 0.0, 1.69, 7.36, 23.04, 6.62, 1.0, 2.67),
        ),
        "functional": MemoryCoefficients(
            recording=(1.45, 2.41, 0.75, 7.36, 3.39, 5.28, 8.02, 4.25, 9.7, 0.0, 4.09, 17.09, 2.16, 3.04, 2.0, 4.24),
            held=(0.0, 0.61, 0.47, 3.93, 3.39, 1.15, 3.77, 1.88, 6.36, 0.0, 2.35, 7.04, 2.16, 0.44, 1.0, 0.01),
            running=(0.0, 0.61, 0.47, 7.82, 5.0, 3.39, 6.84, 3.01, 8.95, 0.0, 4.33, 15.34, 6.52, 0.44, 1.0, 4.32),
        ),
    },
}


@cache
def memory_coefficients(family: Family, matrix: Matrix) -> MemoryCoefficients:
    """Return the coefficients for products with the matrix; a generic model gets the largest that were measured."""
    matrix = _COSTS_LIKE.get(matrix, matrix)
    if family != "generic":
        return COEFFICIENTS[family][matrix]
    measured = [each[matrix] for family, each in COEFFICIENTS.items() if family != "program"]

    def largest(copies: list[tuple[float, ...]]) -> tuple[float, float]:
        return max(max(numbers) for *numbers, _ in copies), max(parameters for *_, parameters in copies)

    return MemoryCoefficients(
        recording=largest([each.recording for each in measured]),
        held=largest([each.held for each in measured]),
        running=largest([each.running for each in measured]),
    )
