"""The parameters of one network at every step of gradient descent on all of its data."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import Progress, ignore_progress, iterates
from hessian_spectrum.curvature.losses import LOSS_CLASSES
from hessian_spectrum.curvature.models.base import Model, ParameterLayout
from hessian_spectrum.curvature.training import Sgd, Training, TrainingPlan
from hessian_spectrum.quadrature.exceptions import NonFiniteError

Array = NDArray[np.float64]

DIVERGED = 1e6
"""Largest magnitude of a parameter; a path that exceeds it has diverged."""


@dataclass(frozen=True)
class DescentPath:
    """Parameters along gradient descent, the first before any step.

    Attributes:
        parameters: Arrays (points, *shape) by name.
        diverged_at: Step at which a parameter exceeded `DIVERGED`, and the path ends; None if none did.
    """

    parameters: Mapping[str, Array]
    diverged_at: int | None

    @property
    def num_points(self) -> int:
        """Number of points, one more than steps."""
        return len(next(iter(self.parameters.values())))


def descent_path(
    model: Model,
    data: Dataset,
    initial: Mapping[str, Tensor],
    *,
    learning_rate: float,
    momentum: float = 0.0,
    num_steps: int,
    progress: Progress = ignore_progress,
) -> DescentPath:
    """Gradient descent on half the mean squared error over all samples, with every intermediate point.

    A step is v <- momentum v + gradient, theta <- theta - learning_rate v. Descent that diverges is a result, not an
    error: the path then ends at the last point within bounds.

    Args:
        model: The network.
        data: Its samples.
        initial: Initial parameters by name, in float64, which are not changed.
        learning_rate: Step size, in squared parameter per loss.
        momentum: Factor of the last step, 0 for plain gradient descent.
        num_steps: Largest number of steps.
        progress: Called after every step.

    Returns:
        The path.
    """
    plan = TrainingPlan(num_steps, learning_rate, optimizer=Sgd(momentum))
    training = Training(model, LOSS_CLASSES["mse"](), data, plan=plan)
    points: list[dict[str, Array]] = []
    diverged_at = None
    states = iterates(training, initial, generator=torch.Generator(), progress=progress)
    try:
        for state in states:
            point = {name: leaf.detach().numpy().copy() for name, leaf in state.parameters.items()}
            if not all(np.abs(values).max() <= DIVERGED for values in point.values()):
                diverged_at = state.num_steps
                break
            points.append(point)
    except NonFiniteError:
        diverged_at = len(points)
    return DescentPath({name: np.stack([point[name] for point in points]) for name in initial}, diverged_at)


@dataclass(frozen=True)
class DenseSpectra:
    """Dense spectra along a path: loss (points,), and eigenvalues (points, P), ascending."""

    loss: Array
    eigenvalues: Array


def dense_spectra(model: Model, data: Dataset, path: DescentPath, *, chunk: int = 256) -> DenseSpectra:
    """Every eigenvalue of the Hessian at each point of a path, by automatic differentiation of many points at once.

    Args:
        model: The network, with few parameters.
        data: Its samples.
        path: Points.
        chunk: Number of points that are computed at once.

    Returns:
        Loss and eigenvalues, for half the mean squared error.
    """
    layout = ParameterLayout.of(model.parameter_shapes)
    loss, num_terms = LOSS_CLASSES["mse"](), LOSS_CLASSES["mse"]().num_terms(data.targets)

    def value(flat: Tensor) -> Tensor:
        return loss.total(model(layout.unflatten(flat), data.inputs), data.targets) / num_terms

    flat = np.concatenate([path.parameters[n].reshape(path.num_points, -1) for n in model.parameter_shapes], axis=1)
    losses, eigenvalues = [], []
    for points in torch.split(torch.from_numpy(flat), chunk):
        losses.append(torch.vmap(value)(points))
        eigenvalues.append(torch.linalg.eigvalsh(torch.vmap(torch.func.jacrev(torch.func.jacrev(value)))(points)))
    return DenseSpectra(torch.cat(losses).numpy(), torch.cat(eigenvalues).numpy())
