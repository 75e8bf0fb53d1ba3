"""Memory of recorded products, in copies of what a forward pass produces; imports no torch.

Fitted by `python -m benchmarks.footprints` to the growth of fresh processes (Linux, glibc, PyTorch 2.13, float32) by
100 to 300 MB, for networks that tell the sorts apart: built-in kinds and exported programs together. Smaller processes
give back less of what they freed (`recording.RELEASE_BYTES`), and take up to 15 % more in one run than in the next. Set
by hand are inputs, which are data, and inputs that are read from a file.
"""

from dataclasses import dataclass
from typing import Literal

from hessian_spectrum.planning.size import Sort

Matrix = Literal["hessian", "ggn", "functional", "fisher", "empirical-fisher", "gradient-covariance"]

_COSTS_LIKE: dict[Matrix, Matrix] = {
    "fisher": "ggn",
    "empirical-fisher": "ggn",
    "gradient-covariance": "ggn",
}
"""Matrices whose products are those of another one, apart from what happens to the outputs."""

OVERHEAD_BYTES = 12 * 2**20  # the graphs' Python objects, and what the allocator cannot use again


@dataclass(frozen=True)
class Copies:
    """Copies of the numbers of one sort."""

    recording: float  # the most, up to the end of the first product
    held: float  # by a recording
    running: float  # the most while products run, what is held included


Quantity = Literal["recording", "held", "running"]
CoefficientTable = dict[Sort | Literal["parameters"], Copies]

_STREAMED = Copies(2.0, 1.0, 1.0)

COEFFICIENTS: dict[Matrix, CoefficientTable] = {
    "hessian": {
        "linear": Copies(5.06, 1.46, 3.59),
        "convolutions": Copies(4.7, 1.53, 2.54),
        "patches": Copies(5.67, 0.94, 3.4),
        "products": Copies(2.62, 1.03, 2.28),
        "sums": Copies(0.22, 0.0, 0.0),
        "piecewise": Copies(2.18, 0.0, 1.36),
        "smooth": Copies(4.91, 3.28, 5.26),
        "batch-norms": Copies(4.08, 2.95, 4.42),
        "norms": Copies(7.41, 7.41, 7.86),
        "softmax": Copies(5.02, 2.05, 4.65),
        "copies": Copies(2.94, 1.56, 2.95),
        "recurrent": Copies(17.08, 7.2, 16.07),
        "outputs": Copies(6.14, 1.05, 1.43),
        "logits": Copies(7.88, 2.02, 6.27),
        "parameters": Copies(4.5, 0.03, 3.31),
        "inputs": Copies(0.0, 0.0, 0.0),
        "streamed": _STREAMED,
    },
    "ggn": {
        "linear": Copies(3.36, 1.19, 2.01),
        "convolutions": Copies(3.3, 1.34, 2.3),
        "patches": Copies(3.96, 0.93, 3.98),
        "products": Copies(2.57, 0.35, 1.2),
        "sums": Copies(0.14, 0.0, 0.0),
        "piecewise": Copies(1.75, 0.07, 1.64),
        "smooth": Copies(2.22, 2.0, 2.37),
        "batch-norms": Copies(1.41, 1.32, 1.32),
        "norms": Copies(3.25, 2.7, 2.7),
        "softmax": Copies(1.34, 1.34, 2.42),
        "copies": Copies(1.28, 0.68, 1.21),
        "recurrent": Copies(9.54, 3.18, 7.43),
        "outputs": Copies(4.05, 0.06, 3.08),
        "logits": Copies(6.28, 1.12, 5.19),
        "parameters": Copies(3.91, 0.02, 3.17),
        "inputs": Copies(0.0, 0.0, 0.0),
        "streamed": _STREAMED,
    },
    "functional": {
        "linear": Copies(5.24, 1.26, 3.6),
        "convolutions": Copies(4.08, 1.37, 2.92),
        "patches": Copies(5.18, 0.94, 3.68),
        "products": Copies(3.28, 1.06, 2.05),
        "sums": Copies(0.02, 0.0, 0.76),
        "piecewise": Copies(2.39, 0.2, 1.48),
        "smooth": Copies(5.08, 2.93, 4.33),
        "batch-norms": Copies(4.66, 2.91, 4.22),
        "norms": Copies(7.91, 7.91, 7.91),
        "softmax": Copies(4.46, 1.8, 4.65),
        "copies": Copies(2.29, 1.8, 3.05),
        "recurrent": Copies(17.27, 7.03, 15.45),
        "outputs": Copies(4.82, 0.66, 0.66),
        "logits": Copies(4.74, 1.06, 1.06),
        "parameters": Copies(4.42, 0.03, 3.49),
        "inputs": Copies(0.0, 0.0, 0.0),
        "streamed": _STREAMED,
    },
}


def memory_coefficients(matrix: Matrix) -> CoefficientTable:
    """Return the copies for products with the matrix."""
    return COEFFICIENTS[_COSTS_LIKE.get(matrix, matrix)]
