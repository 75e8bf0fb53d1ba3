"""Plain stochastic gradient descent, to reach the point where a spectrum is wanted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.data.base import Dataset
from curvature.errors import InvalidProblemError, NonFiniteError
from curvature.losses.base import Loss
from curvature.models.base import Model
from curvature.parameters import Parameters
from curvature.progress import Progress, ignore_progress
from curvature.risk import EmpiricalRisk


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """Where gradient descent arrived."""

    parameters: Parameters
    loss: float  # over the whole data, at `parameters`


def train(
    model: Model,
    loss: Loss,
    dataset: Dataset,
    parameters: Mapping[str, Tensor],
    num_steps: int,
    learning_rate: float,
    generator: torch.Generator,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    progress: Progress = ignore_progress,
) -> TrainingResult:
    """Take `num_steps` steps theta <- theta - learning_rate * gradient of the batch's mean loss.

    Args:
        parameters: the start; not changed.
        generator: a CPU generator for the order of the samples, which moves on; unused by full batches.
        batch_size: samples of a step, drawn without replacement epoch by epoch (the last batch of an epoch may be
            smaller); None means all, so gradient descent.
        micro_batch_size: samples whose activations are held at once; does not change the result beyond rounding.
    Raises:  NonFiniteError when the loss is no longer finite; InvalidProblemError on negative counts or rates.
    """
    if num_steps < 0 or not 0 <= learning_rate < float("inf"):
        raise InvalidProblemError(f"cannot train {num_steps} steps at learning rate {learning_rate}")
    current = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    batches = _batches(dataset, batch_size, generator)
    for step in range(num_steps):
        value, gradient = EmpiricalRisk(model, loss, next(batches).split(micro_batch_size)).value_and_gradient(current)
        _check_finite(value, step)
        for name, tensor in current.items():
            tensor.sub_(gradient[name], alpha=learning_rate)
        progress("training", step + 1, num_steps)
    final = EmpiricalRisk(model, loss, dataset.split(micro_batch_size)).value(current)
    _check_finite(final, num_steps)
    return TrainingResult(current, float(final))


def _batches(dataset: Dataset, batch_size: int | None, generator: torch.Generator) -> Iterator[Dataset]:
    if batch_size is not None and batch_size < 1:
        raise InvalidProblemError(f"a batch needs at least one sample, not {batch_size}")
    while True:
        if batch_size is None or batch_size >= len(dataset):
            yield dataset
        else:
            order = torch.randperm(len(dataset), generator=generator)
            for start in range(0, len(dataset), batch_size):
                yield dataset.take(order[start : start + batch_size])


def _check_finite(loss: Tensor, step: int) -> None:
    if not bool(loss.isfinite()):
        raise NonFiniteError(f"the training loss is {float(loss)} after {step} steps: try a smaller learning rate")
