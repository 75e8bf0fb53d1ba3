"""Synthetic regression: Gaussian inputs and the noisy answers of a random teacher."""

from math import sqrt

import torch

from curvature.data.base import Dataset
from curvature.errors import InvalidProblemError

TEACHERS = ("linear", "relu", "none")


def gaussian(
    num_samples: int, input_dim: int, output_dim: int, teacher: str, noise: float, generator: torch.Generator
) -> Dataset:
    """x ~ N(0, I) and y = t(x) + noise * N(0, I) with t(x) = W x (linear), relu(W x) (relu) or 0 (none).

    W has independent N(0, 1 / input_dim) entries, so that y is of order one. Drawn in the order W, inputs, noise; W is
    drawn for every teacher, so that the inputs of one seed are the same whatever the teacher.

    Args:  noise, the standard deviation, >= 0, in units of y.
    Returns:  inputs (num_samples, input_dim), targets (num_samples, output_dim), float64.
    Raises:  InvalidProblemError on counts below 1, negative noise or an unknown teacher.
    Source:  Cracking the Hessian, appendix D (noise 0.1; the scale of W is not stated there).
    """
    if min(num_samples, input_dim, output_dim) < 1:
        raise InvalidProblemError("num_samples, input_dim and output_dim must be at least 1")
    if not 0 <= noise < float("inf"):
        raise InvalidProblemError(f"noise is a standard deviation, so it cannot be {noise}")
    if teacher not in TEACHERS:
        raise InvalidProblemError(f"teacher {teacher!r} is none of {', '.join(TEACHERS)}")
    weight = torch.randn(output_dim, input_dim, generator=generator, dtype=torch.float64) / sqrt(input_dim)
    inputs = torch.randn(num_samples, input_dim, generator=generator, dtype=torch.float64)
    targets = noise * torch.randn(num_samples, output_dim, generator=generator, dtype=torch.float64)
    if teacher != "none":
        answers = inputs @ weight.T
        targets = targets + (answers.relu() if teacher == "relu" else answers)
    return Dataset(inputs, targets)
