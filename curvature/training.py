"""Stochastic gradient descent, to reach the point where a spectrum is wanted, one step at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from curvature.data.base import Dataset
from curvature.errors import InvalidProblemError, NonFiniteError
from curvature.losses.base import Loss
from curvature.models.base import Model
from curvature.parameters import Parameters
from curvature.progress import Progress, ignore_progress
from curvature.risk import EmpiricalRisk

Stop = Literal["num-steps", "plateau"]

FLOOR_ROUNDING = 1e-9  # a rate that repeated cuts bring so close to the smallest one, relative to it, has arrived


@dataclass(frozen=True)
class Plateau:
    """Multiply the learning rate by `factor` when the epoch's loss stops improving; at the smallest rate, stop.

    Improving means to fall below (1 - threshold) times the least loss so far; `patience` epochs in a row without that
    are borne, the next one cuts. The epoch's loss is the mean over its steps, each at the parameters of that step.

    Raises:  InvalidProblemError on a factor outside 0 .. 1, a negative patience or rate, or a threshold outside 0 .. 1.
    Source:  Cracking the Hessian, appendix D.1.3 (factor 1/10, smallest rate 1e-5); patience and threshold are
        PyTorch's defaults.
    """

    factor: float = 0.1
    patience: int = 10  # epochs
    threshold: float = 1e-4
    min_learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        if not (0 < self.factor < 1 and self.patience >= 0 and 0 <= self.threshold < 1 and self.min_learning_rate >= 0):
            raise InvalidProblemError(f"{self} is no schedule")


@dataclass(frozen=True)
class TrainingPlan:
    """How to descend.

    Args:
        num_steps: the most steps; fewer if a plateau ends training before.
        learning_rate: of parameters whose multiplier is 1, in squared parameter per loss.
        batch_size: samples of a step, drawn without replacement epoch by epoch (the last batch of an epoch may be
            smaller); None means all, so gradient descent, and an epoch is a step.
        momentum, nesterov: as in `torch.optim.SGD`, without dampening.
        plateau: when to cut the learning rate; None: never.
        micro_batch_size: samples whose activations are held at once; does not change the result beyond rounding.
    Raises:  InvalidProblemError on negative counts or rates, momentum outside 0 .. 1, or nesterov without momentum.
    """

    num_steps: int
    learning_rate: float
    batch_size: int | None = None
    momentum: float = 0.0
    nesterov: bool = False
    plateau: Plateau | None = None
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.num_steps < 0 or not 0 <= self.learning_rate < float("inf"):
            raise InvalidProblemError(f"cannot train {self.num_steps} steps at learning rate {self.learning_rate}")
        for size in (self.batch_size, self.micro_batch_size):
            if size is not None and size < 1:
                raise InvalidProblemError(f"a batch needs at least one sample, not {size}")
        if not 0 <= self.momentum < 1 or (self.nesterov and self.momentum == 0):
            raise InvalidProblemError(f"momentum must be in 0 .. 1, and positive for nesterov, not {self.momentum}")


@dataclass(eq=False)
class TrainingState:
    """A run that stopped between two steps."""

    parameters: Parameters  # leaves, which steps change in place
    optimizer: torch.optim.SGD
    scheduler: ReduceLROnPlateau | None
    generator: torch.Generator
    order: Tensor | None = None  # (n,) samples of the present epoch; None: before the first, or full batches
    position: int = 0  # samples of the present epoch that were seen
    num_steps: int = 0
    epoch_loss: float = 0.0  # sum over the valid targets of the present epoch
    epoch_terms: int = 0
    learning_rate_cuts: int = 0
    has_plateaued: bool = False  # at the smallest rate

    @property
    def learning_rate(self) -> float:
        """Of parameters whose multiplier is 1."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] / group["multiplier"])


@dataclass(frozen=True, eq=False)
class TrainingCheckpoint:
    """All that a `TrainingState` holds, as tensors on any device and plain numbers."""

    parameters: Parameters
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    generator: Tensor
    order: Tensor | None
    counters: dict[str, Any]  # the other fields of the state by name


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """Where gradient descent arrived."""

    parameters: Parameters
    loss: float  # over the whole data, at `parameters`
    gradient_norm: float  # of that loss
    num_steps: int
    learning_rate: float  # of the last step
    learning_rate_cuts: int
    stopped: Stop


class Training:
    """Descent of a model's mean loss over a data set.

    All that a run needs to go on is its state: `start`, then `advance` until `finished`, then `finish`.

    Raises:  InvalidProblemError if the data fit neither model nor loss.
    """

    def __init__(self, model: Model, loss: Loss, dataset: Dataset, plan: TrainingPlan) -> None:
        # checked here once: a step of a small network costs less than looking at its samples again
        self._risk = EmpiricalRisk(model, loss, dataset.split(plan.micro_batch_size))
        self._model, self._loss, self._dataset, self._plan = model, loss, dataset, plan
        self._full_batch = plan.batch_size is None or plan.batch_size >= len(dataset)

    def start(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> TrainingState:
        """State before the first step.

        Args:  parameters, the start, not changed; generator, a CPU generator for the order of the samples, which moves
            on; unused by full batches.
        """
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
        plan, multipliers = self._plan, self._model.learning_rate_multipliers()
        groups = [
            {"params": [leaf], "lr": plan.learning_rate * multipliers[name], "multiplier": multipliers[name]}
            for name, leaf in leaves.items()
        ]
        optimizer = torch.optim.SGD(groups, plan.learning_rate, plan.momentum, nesterov=plan.nesterov)
        scheduler = None
        if (rule := plan.plateau) is not None:
            scheduler = ReduceLROnPlateau(
                optimizer,
                factor=rule.factor,
                patience=rule.patience,
                threshold=rule.threshold,
                min_lr=[rule.min_learning_rate * group["multiplier"] for group in optimizer.param_groups],
                eps=0.0,
            )
        return TrainingState(leaves, optimizer, scheduler, generator)

    def finished(self, state: TrainingState) -> bool:
        """Whether there is no further step to take."""
        return state.has_plateaued or state.num_steps >= self._plan.num_steps

    def advance(self, state: TrainingState) -> None:
        """Take one step, in place.

        Raises:  NonFiniteError when the loss is no longer finite.
        """
        pieces = self._next_batch(state)
        # a batch whose targets are all ignored has the gradient 0
        num_terms = max(sum(self._loss.num_terms(piece.targets) for piece in pieces), 1)
        state.optimizer.zero_grad()
        value = 0.0
        for piece in pieces:
            share = self._loss.total(self._model(state.parameters, piece.inputs), piece.targets) / num_terms
            share.backward()  # type: ignore[no-untyped-call]
            value += share.item()
        _check_finite(value, state.num_steps)
        state.optimizer.step()
        state.num_steps += 1
        state.epoch_loss += value * num_terms
        state.epoch_terms += num_terms
        if state.position >= len(self._dataset):
            self._end_epoch(state)

    def finish(self, state: TrainingState) -> TrainingResult:
        """Loss and gradient over the whole data, where the run has arrived.

        Raises:  NonFiniteError if one of them is not finite.
        """
        value, gradient = self._risk.value_and_gradient(state.parameters)
        norm = sqrt(sum(float(part.norm(dtype=torch.float64)) ** 2 for part in gradient.values()))
        for number in (float(value), norm):
            _check_finite(number, state.num_steps)
        return TrainingResult(
            parameters={name: tensor.detach() for name, tensor in state.parameters.items()},
            loss=float(value),
            gradient_norm=norm,
            num_steps=state.num_steps,
            learning_rate=state.learning_rate,
            learning_rate_cuts=state.learning_rate_cuts,
            stopped="plateau" if state.has_plateaued else "num-steps",
        )

    def resume(self, checkpoint: TrainingCheckpoint) -> TrainingState:
        """The state of which `checkpoint` was taken, with tensors of its own."""
        state = self.start(checkpoint.parameters, torch.Generator())
        state.optimizer.load_state_dict(checkpoint.optimizer)
        if state.scheduler is not None and checkpoint.scheduler is not None:
            state.scheduler.load_state_dict(checkpoint.scheduler)
        state.generator.set_state(checkpoint.generator)
        state.order = checkpoint.order
        for name, value in checkpoint.counters.items():
            setattr(state, name, value)
        return state

    def _next_batch(self, state: TrainingState) -> tuple[Dataset, ...]:
        """The next samples of the epoch, in micro-batches."""
        size = len(self._dataset)
        if self._full_batch:
            state.position = size
            return self._risk.batches
        if state.order is None or state.position >= size:
            state.order, state.position = torch.randperm(size, generator=state.generator), 0
        chosen = state.order[state.position : state.position + (self._plan.batch_size or size)]
        state.position += len(chosen)
        return self._dataset.take(chosen).split(self._plan.micro_batch_size)

    def _end_epoch(self, state: TrainingState) -> None:
        """Cut the learning rate if the loss stopped improving, or take note that it cannot be cut any more."""
        mean = state.epoch_loss / state.epoch_terms
        state.epoch_loss, state.epoch_terms = 0.0, 0
        scheduler, rule = state.scheduler, self._plan.plateau
        if scheduler is None or rule is None:
            return
        before, least, num_bad = state.learning_rate, scheduler.best, scheduler.num_bad_epochs
        scheduler.step(mean)
        if scheduler.best != least or num_bad < rule.patience:
            return
        if before <= rule.min_learning_rate * (1 + FLOOR_ROUNDING):
            state.has_plateaued = True
        else:
            state.learning_rate_cuts += 1


def checkpoint(state: TrainingState) -> TrainingCheckpoint:
    """All that `Training.resume` needs, in tensors that later steps do not change."""
    optimizer = state.optimizer.state_dict()
    optimizer["state"] = {
        index: {name: value.clone() if isinstance(value, Tensor) else value for name, value in entry.items()}
        for index, entry in optimizer["state"].items()
    }
    counters = ("position", "num_steps", "epoch_loss", "epoch_terms", "learning_rate_cuts", "has_plateaued")
    return TrainingCheckpoint(
        parameters={name: tensor.detach().clone() for name, tensor in state.parameters.items()},
        optimizer=optimizer,
        scheduler=None if state.scheduler is None else state.scheduler.state_dict(),
        generator=state.generator.get_state(),
        order=state.order,
        counters={name: getattr(state, name) for name in counters},
    )


def train(
    model: Model,
    loss: Loss,
    dataset: Dataset,
    parameters: Mapping[str, Tensor],
    plan: TrainingPlan,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
) -> TrainingResult:
    """Follow the plan to its end: theta <- theta - learning_rate * multiplier * gradient of the batch's mean loss.

    Args:  parameters, the start, not changed; generator, a CPU generator for the order of the samples, which moves on.
    Raises:  NonFiniteError when the loss is no longer finite; InvalidProblemError if data, model and loss do not fit.
    """
    training = Training(model, loss, dataset, plan)
    state = training.start(parameters, generator)
    while not training.finished(state):
        training.advance(state)
        progress("training", state.num_steps, plan.num_steps)
    return training.finish(state)


def _check_finite(value: float, step: int) -> None:
    if not isfinite(value):
        raise NonFiniteError(f"the training loss is {value} after {step} steps: try a smaller learning rate")
