"""Synthetic regression: Gaussian inputs, and the noisy outputs of a random teacher."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.transforms import decorrelated, standardised
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

TEACHERS = ("linear", "relu", "none")


TASKS = ("reversal", "linear", "none")


def gaussian(
    num_samples: int,
    input_dim: int,
    output_dim: int,
    *,
    teacher: str,
    noise: float,
    generator: torch.Generator,
    input_std: float = 1.0,
    teacher_scale: float = 1.0,
    teacher_generator: torch.Generator | None = None,
) -> Dataset:
    """Draw x ~ N(0, input_std^2 I) and y = t(x) + noise * N(0, I).

    The teacher is t(x) = W x (linear), relu(W x) (relu) or 0 (none).

    W has independent N(0, teacher_scale^2 / input_dim) entries, so that y is of order one for a scale of 1. W, inputs
    and noise are drawn in this order, W for every teacher, so that the inputs of a seed do not depend on the teacher.

    Args:
        num_samples: Number of samples.
        input_dim: Length of each x.
        output_dim: Length of each y.
        teacher: One of `TEACHERS`.
        noise: Standard deviation of the noise, >= 0, in units of y.
        generator: CPU generator, which advances.
        input_std: Standard deviation of the inputs, >= 0.
        teacher_scale: Standard deviation of the entries of W, times sqrt(input_dim), >= 0.
        teacher_generator: CPU generator from which W is drawn instead, so that several data sets have one teacher.

    Returns:
        Inputs (num_samples, input_dim) and targets (num_samples, output_dim), in float64.

    Raises:
        InvalidProblemError: If a count is below 1, a deviation is negative, or the teacher is unknown.

    References:
        Cracking the Hessian, appendix D (noise 0.1; the scale of W is not stated there).
    """
    if min(num_samples, input_dim, output_dim) < 1:
        raise InvalidProblemError("num_samples, input_dim and output_dim must be at least 1")
    _check_deviations(noise=noise, input_std=input_std, teacher_scale=teacher_scale)
    if teacher not in TEACHERS:
        raise InvalidProblemError(f"unknown teacher {teacher!r}: must be one of {', '.join(TEACHERS)}")
    weight = torch.randn(output_dim, input_dim, generator=generator, dtype=torch.float64)
    if teacher_generator is not None:
        weight = torch.randn(output_dim, input_dim, generator=teacher_generator, dtype=torch.float64)
    weight = weight * (teacher_scale / sqrt(input_dim)) if teacher_scale != 1 else weight / sqrt(input_dim)
    inputs = input_std * torch.randn(num_samples, input_dim, generator=generator, dtype=torch.float64)
    targets = noise * torch.randn(num_samples, output_dim, generator=generator, dtype=torch.float64)
    if teacher != "none":
        outputs = inputs @ weight.T
        targets = targets + (outputs.relu() if teacher == "relu" else outputs)
    return Dataset(inputs, targets)


def gaussian_sequences(
    num_sequences: int,
    sequence_length: int,
    embedding_dim: int,
    *,
    task: str,
    noise: float,
    generator: torch.Generator,
    input_std: float = 1.0,
) -> Dataset:
    """Draw sequences of x_t ~ N(0, input_std^2 I) and y_t = t_t(x) + noise * N(0, I), for t = 1 .. L.

    The task is t_t(x) = x_{L+1-t} (reversal), W x_t (linear) or 0 (none), where W has independent N(0, 1 /
    embedding_dim) entries. W, inputs and noise are drawn in this order, whatever the task.

    Args:
        num_sequences: Number of sequences.
        sequence_length: Length L of each sequence.
        embedding_dim: Length of each x_t and y_t.
        task: One of `TASKS`.
        noise: Standard deviation of the noise, >= 0, in units of y.
        generator: CPU generator, which advances.
        input_std: Standard deviation of the inputs, >= 0.

    Returns:
        Inputs and targets (num_sequences, sequence_length, embedding_dim), in float64.

    Raises:
        InvalidProblemError: If a count is below 1, a deviation is negative, or the task is unknown.

    References:
        Cracking the Hessian, appendix D.2 (reversal of sequences of length 2, embedding dimension 1).
    """
    if min(num_sequences, sequence_length, embedding_dim) < 1:
        raise InvalidProblemError("num_sequences, sequence_length and embedding_dim must be at least 1")
    _check_deviations(noise=noise, input_std=input_std)
    if task not in TASKS:
        raise InvalidProblemError(f"unknown task {task!r}: must be one of {', '.join(TASKS)}")
    shape = (num_sequences, sequence_length, embedding_dim)
    weight = torch.randn(embedding_dim, embedding_dim, generator=generator, dtype=torch.float64) / sqrt(embedding_dim)
    inputs = input_std * torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    if task != "none":
        targets = targets + (inputs.flip(1) if task == "reversal" else inputs @ weight.T)
    return Dataset(inputs, targets)


def _check_deviations(**deviations: float) -> None:
    for name, value in deviations.items():
        if not 0 <= value < float("inf"):
            raise InvalidProblemError(f"{name} must be finite and at least 0, not {value}")


_TRANSFORMS: dict[str, Callable[[Dataset], Dataset]] = {
    "none": lambda drawn: drawn,
    "standardised": standardised,
    "decorrelated": decorrelated,
}


def gaussian_dataset(*, transform: str, **options: Any) -> Dataset:
    """Return the data of `gaussian`, with exact empirical moments if a transform is requested.

    Args:
        transform: One of "none", "standardised" and "decorrelated".
        **options: Arguments of `gaussian`.

    Returns:
        The transformed data.

    Raises:
        InvalidProblemError: As raised by `gaussian` and by the transform.
    """
    return _TRANSFORMS[transform](gaussian(**options))


DATASETS = {"gaussian": gaussian_dataset, "gaussian-sequences": gaussian_sequences}
