"""What recorded products take, in copies of what a forward pass produces; imports no torch.

Fitted by `python -m benchmarks.footprints FAMILY` to the growth of fresh processes (Linux, glibc, PyTorch 2.13,
float32): models of 10 to 100 MB of activations, of shapes that tell the sorts apart. Below 32 MB tensors lie in the
heap, where the same job takes up to 15 % more in one process than in another; three coefficients were then moved to the
middle of what ten processes took.
"""

from dataclasses import dataclass
from typing import Literal

from curvature.cost.size import Family

Matrix = Literal["hessian", "ggn", "functional"]

OVERHEAD_BYTES = 12 * 2**20  # the graphs' Python objects, and what the allocator cannot use again


@dataclass(frozen=True)
class Footprint:
    """Copies of the numbers of each sort of the family, as in `size.SORTS`, and at last of the parameters."""

    recording: tuple[float, ...]  # the most, up to the end of the first product
    held: tuple[float, ...]  # by a recording
    running: tuple[float, ...]  # the most while products run, what is held included


FOOTPRINTS: dict[Family, dict[Matrix, Footprint]] = {
    "mlp": {
        "hessian": Footprint(
            recording=(1.2, 5.48, 9.2, 11.5, 14.6, 24.28, 12.85, 6.81, 13.58, 7.77),
            held=(0.0, 2.0, 2.0, 5.0, 5.0, 8.0, 5.0, 1.0, 3.0, 0.0),
            running=(0.0, 3.94, 5.12, 8.68, 10.28, 14.9, 9.28, 5.85, 7.47, 4.31),
        ),
        "ggn": Footprint(
            recording=(0.0, 3.34, 7.2, 7.03, 8.57, 13.66, 8.02, 5.52, 9.88, 6.58),
            held=(0.03, 1.4, 1.41, 3.4, 3.41, 4.41, 3.33, 0.03, 1.05, 0.02),
            running=(0.25, 3.53, 3.78, 4.52, 6.31, 7.3, 4.33, 5.15, 6.44, 4.7),
        ),
        "functional": Footprint(
            recording=(1.01, 4.96, 9.96, 12.14, 15.73, 26.51, 13.36, 8.21, 7.29, 7.8),
            held=(0.0, 1.58, 2.01, 4.44, 4.59, 7.59, 4.67, 0.96, 0.97, 0.0),
            running=(0.22, 3.53, 5.27, 8.84, 9.01, 14.51, 8.31, 0.6, 0.6, 4.65),
        ),
    },
    "conv": {
        "hessian": Footprint(
            recording=(7.67, 8.73, 6.1, 3.0, 10.0),
            held=(1.05, 0.82, 3.62, 1.59, 1.0),
            running=(3.71, 5.23, 6.52, 3.86, 6.0),
        ),
        "ggn": Footprint(
            recording=(5.02, 7.31, 7.66, 3.0, 10.0),
            held=(1.0, 0.68, 2.35, 0.95, 1.0),
            running=(3.1, 5.95, 4.91, 3.0, 6.0),
        ),
        "functional": Footprint(
            recording=(7.58, 9.76, 6.68, 3.0, 10.0),
            held=(1.06, 0.99, 3.02, 0.76, 1.0),
            running=(3.27, 9.03, 9.79, 3.0, 6.0),
        ),
    },
    "attention": {
        "hessian": Footprint(
            recording=(1.0, 7.61, 3.34, 4.43, 8.0),
            held=(0.0, 0.97, 0.49, 1.03, 1.0),
            running=(0.0, 2.13, 1.05, 2.67, 5.0),
        ),
        "ggn": Footprint(
            recording=(1.32, 3.28, 2.11, 2.69, 8.0),
            held=(0.0, 0.97, 0.24, 0.52, 1.0),
            running=(0.0, 1.68, 0.45, 1.24, 5.0),
        ),
        "functional": Footprint(
            recording=(1.31, 7.64, 2.32, 5.04, 8.0),
            held=(0.0, 1.01, 0.25, 1.0, 1.0),
            running=(0.0, 1.95, 0.35, 2.44, 5.0),
        ),
    },
    "gpt2": {
        "hessian": Footprint(
            recording=(8.14, 6.0, 3.5, 8.8),
            held=(2.07, 1.33, 0.99, 0.0),
            running=(3.55, 2.86, 2.07, 4.66),
        ),
        "ggn": Footprint(
            recording=(3.86, 3.05, 2.46, 7.23),
            held=(1.27, 0.67, 0.33, 0.0),
            running=(1.19, 2.22, 2.4, 4.53),
        ),
        "functional": Footprint(
            recording=(7.68, 5.7, 1.35, 9.09),
            held=(2.06, 1.33, 0.32, 0.0),
            running=(3.73, 2.59, 0.24, 4.97),
        ),
    },
    "neurons": {
        "hessian": Footprint(
            recording=(8.6, 12.7, 8.0),
            held=(1.0, 1.5, 1.0),
            running=(4.5, 5.5, 5.0),
        ),
        "ggn": Footprint(
            recording=(5.4, 8.1, 8.0),
            held=(1.0, 1.5, 1.0),
            running=(4.4, 4.5, 5.0),
        ),
        "functional": Footprint(
            recording=(9.4, 14.5, 8.0),
            held=(0.0, 1.0, 1.0),
            running=(2.5, 6.0, 5.0),
        ),
    },
    "quadratic": {
        "hessian": Footprint(
            recording=(4.14, 8.0),
            held=(0.5, 1.0),
            running=(1.0, 5.0),
        ),
        "ggn": Footprint(
            recording=(4.14, 8.0),
            held=(0.5, 1.0),
            running=(1.0, 5.0),
        ),
        "functional": Footprint(
            recording=(4.14, 8.0),
            held=(0.5, 1.0),
            running=(1.0, 5.0),
        ),
    },
}


def footprint(family: Family, matrix: Matrix) -> Footprint:
    """Of products with the matrix."""
    return FOOTPRINTS[family][matrix]
