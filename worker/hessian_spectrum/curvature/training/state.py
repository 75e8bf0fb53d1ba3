"""State and result of a training run."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.curvature.training.batches import EpochPosition
from hessian_spectrum.curvature.training.loss_curve import LossCurve
from hessian_spectrum.quadrature.exceptions import NonFiniteError

Stop = Literal["num-steps", "plateau"]


@dataclass(eq=False, kw_only=True)
class TrainingState:
    """State of a run between two steps."""

    parameters: Parameters  # leaves, which steps change in place
    optimizer: torch.optim.Optimizer
    scheduler: ReduceLROnPlateau | None
    generator: torch.Generator
    epoch_position: EpochPosition = field(default_factory=EpochPosition)
    loss_curve: LossCurve = field(default_factory=LossCurve)
    num_steps: int = 0
    epoch_loss: float = 0.0  # sum over the valid targets of the present epoch
    epoch_terms: float = 0
    learning_rate_cuts: int = 0
    has_plateaued: bool = False  # the loss stopped improving at the smallest rate

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step, for parameters whose multiplier is 1."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] / group["multiplier"])


@serializable()
@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingCheckpoint:
    """All data of a `TrainingState`, as tensors on any device and plain numbers."""

    parameters: Parameters
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    generator: Tensor
    epoch_position: EpochPosition
    loss_curve: LossCurve
    counters: dict[str, Any]  # the other fields of the state by name


@serializable()
@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingResult:
    """Result of a training run."""

    parameters: Parameters
    loss: float  # over the whole data, at `parameters`
    gradient_norm: float  # norm of the gradient of `loss`
    num_steps: int
    learning_rate: float  # rate of the last step
    learning_rate_cuts: int
    loss_curve: LossCurve  # of the batches, each at the parameters before its step
    stopped: Stop


def checkpoint(state: TrainingState) -> TrainingCheckpoint:
    """Tensors and numbers that `Training.load` needs; later steps do not change them."""
    counters = ("num_steps", "epoch_loss", "epoch_terms", "learning_rate_cuts", "has_plateaued")
    return TrainingCheckpoint(
        parameters={name: tensor.detach().clone() for name, tensor in state.parameters.items()},
        optimizer=deepcopy(state.optimizer.state_dict()),
        scheduler=None if state.scheduler is None else state.scheduler.state_dict(),
        generator=state.generator.get_state(),
        epoch_position=replace(state.epoch_position),
        loss_curve=deepcopy(state.loss_curve),
        counters={name: getattr(state, name) for name in counters},
    )


def summarise_training(state: TrainingState, risk: EmpiricalRisk) -> TrainingResult:
    """Loss and gradient norm at the end of a run.

    Args:
        state: State after the last step.
        risk: Risk over the whole data.

    Returns:
        The parameters with their loss and gradient norm.

    Raises:
        NonFiniteError: If loss or gradient is not finite.
    """
    value, gradient = risk.value_and_gradient(state.parameters)
    norm = sqrt(sum(float(part.norm(dtype=torch.float64)) ** 2 for part in gradient.values()))
    for number in (float(value), norm):
        check_finite(number, state.num_steps)
    return TrainingResult(
        parameters={name: tensor.detach() for name, tensor in state.parameters.items()},
        loss=float(value),
        gradient_norm=norm,
        num_steps=state.num_steps,
        learning_rate=state.learning_rate,
        learning_rate_cuts=state.learning_rate_cuts,
        loss_curve=deepcopy(state.loss_curve),
        stopped="plateau" if state.has_plateaued else "num-steps",
    )


def check_finite(value: float, step: int) -> None:
    """Check the loss after a number of steps.

    Args:
        value: Mean loss of a batch.
        step: Number of steps done.

    Raises:
        NonFiniteError: If the loss is NaN or infinite.
    """
    if not isfinite(value):
        raise NonFiniteError(f"the training loss is {value} after {step} steps: try a smaller learning rate")
