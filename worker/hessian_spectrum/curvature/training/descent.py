"""Training steps along the gradient of a batch's mean loss."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.text import TokenStream
from hessian_spectrum.curvature.iteration import Count, Iteration
from hessian_spectrum.curvature.losses import EmpiricalRisk, Loss
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.training.batches import Batches, batches_of
from hessian_spectrum.curvature.training.plan import AdamW, Plateau, Sgd, TrainingPlan, WarmupCosine
from hessian_spectrum.curvature.training.state import (
    TrainingCheckpoint,
    TrainingResult,
    TrainingState,
    check_finite,
    checkpoint,
    summarise_training,
)
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

FLOOR_ROUNDING = 1e-9  # relative distance at which a rate counts as the smallest
DECAYING_AXES = 2  # smallest number of axes of parameters that AdamW decays


class Training(Iteration[Mapping[str, Tensor], TrainingState, TrainingResult]):
    """Gradient descent on a model's mean loss over a data set, or over the windows of a token stream.

    With `Sgd` a step is theta <- theta - learning_rate * multiplier * gradient of the mean loss.

    Args:
        model: Model to train.
        loss: Loss of the model's outputs.
        data: Samples, or a stream of tokens.
        plan: How to train.
        weight_decay: Factor d of the term (d/2) ||theta||^2 of the loss.

    Raises:
        NonFiniteError: If the loss is no longer finite.
    """

    phase: ClassVar[str] = "training"

    def __init__(
        self, model: Model, loss: Loss, data: Dataset | TokenStream, *, plan: TrainingPlan, weight_decay: float = 0.0
    ) -> None:
        self._model, self._loss, self._data, self._plan = model, loss, data, plan
        self._weight_decay = weight_decay

    @cached_property
    def _batches(self) -> Batches:
        return batches_of(self._data, self._plan.batch_size, self._plan.micro_batch_size)

    def init(self, problem: Mapping[str, Tensor], *, generator: torch.Generator) -> TrainingState:
        """Return the state before the first step.

        Args:
            problem: Initial parameters by name, which are not changed.
            generator: CPU generator for the order of the samples, which advances; unused by full batches.

        Raises:
            InvalidProblemError: If the data fit neither model nor loss, or the plan does not fit the data.
        """
        # once, because a step of a small network costs less than checking its samples again
        self._batches.check(self._model, self._loss)
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in problem.items()}
        plan = self._plan
        optimizer = _optimizer(plan, leaves, self._model.learning_rate_multipliers())
        scheduler = None
        if isinstance(rule := plan.schedule, Plateau):
            scheduler = ReduceLROnPlateau(
                optimizer,
                factor=rule.factor,
                patience=rule.patience,
                threshold=rule.threshold,
                min_lr=[rule.min_learning_rate * group["multiplier"] for group in optimizer.param_groups],
                eps=0.0,
            )
        return TrainingState(parameters=leaves, optimizer=optimizer, scheduler=scheduler, generator=generator)

    def is_finished(self, state: TrainingState) -> bool:
        """Return whether no further step remains."""
        return state.has_plateaued or state.num_steps >= self._plan.num_steps

    def step(self, problem: Mapping[str, Tensor], state: TrainingState) -> TrainingState:
        """Take one step, in place."""
        micro_batches = self._batches.draw(state.epoch_position, state.generator)
        # a batch whose targets are all ignored has the gradient 0
        weight = sum(self._loss.weight(batch.targets) for batch in micro_batches) or 1
        value = 0.0
        for batch in micro_batches:
            share = self._loss.total(self._model(state.parameters, batch.inputs), batch.targets) / weight
            share.backward()  # type: ignore[no-untyped-call]
            value += share.item()
        if self._weight_decay:
            value += self._add_decay(state)
        check_finite(value, state.num_steps)
        self._step(state)
        state.loss_curve.add(value)
        state.num_steps += 1
        state.epoch_loss += value * weight
        state.epoch_terms += weight
        if self._batches.ends_epoch(state.epoch_position):
            self._end_epoch(state)
        return state

    def _add_decay(self, state: TrainingState) -> float:
        """Add d theta to the gradient, and return (d/2) ||theta||^2."""
        decay, penalty = self._weight_decay, 0.0
        with torch.no_grad():
            for leaf in state.parameters.values():
                change = decay * leaf
                leaf.grad = change if leaf.grad is None else leaf.grad.add_(change)
                penalty += float((leaf * change).sum()) / 2
        return penalty

    def count(self, state: TrainingState) -> Count:
        """Return the number of steps done, of those in the plan."""
        return Count(state.num_steps, self._plan.num_steps)

    def result(self, problem: Mapping[str, Tensor], state: TrainingState) -> TrainingResult:
        """Return the parameters at the end, with loss and gradient over the whole data set.

        Args:
            problem: Initial parameters.
            state: Finished state.

        Raises:
            InvalidProblemError: If the data are a token stream, over which the whole loss is not computed.
        """
        if not isinstance(self._data, Dataset):
            raise InvalidProblemError("the loss over all windows of a token stream is not computed")
        batches = self._data.split(self._plan.micro_batch_size)
        risk = EmpiricalRisk(self._model, self._loss, batches, weight_decay=self._weight_decay)
        return summarise_training(state, risk)

    def save(self, state: TrainingState) -> TrainingCheckpoint:
        """Return a copy that later steps do not change."""
        return checkpoint(state)

    def load(self, problem: Mapping[str, Tensor], saved: TrainingCheckpoint) -> TrainingState:
        """Return the state from which `saved` was taken, with tensors of its own."""
        state = self.init(saved.parameters, generator=torch.Generator())
        state.optimizer.load_state_dict(deepcopy(saved.optimizer))
        if state.scheduler is not None and saved.scheduler is not None:
            state.scheduler.load_state_dict(saved.scheduler)
        state.generator.set_state(saved.generator)
        state.epoch_position = replace(saved.epoch_position)
        state.loss_curve = deepcopy(saved.loss_curve)
        for name, value in saved.counters.items():
            setattr(state, name, value)
        return state

    def _step(self, state: TrainingState) -> None:
        plan = self._plan
        if isinstance(plan.schedule, WarmupCosine):
            rate = plan.planned_rate(state.num_steps)
            for group in state.optimizer.param_groups:
                group["lr"] = rate * group["multiplier"]
        if plan.max_gradient_norm is not None:
            clip_grad_norm_(state.parameters.values(), plan.max_gradient_norm)
        state.optimizer.step()
        state.optimizer.zero_grad()  # now, not before the next step: between steps the memory may serve others

    def _end_epoch(self, state: TrainingState) -> None:
        """Reduce the learning rate if the loss stopped improving, or note that it cannot be reduced any further."""
        mean = state.epoch_loss / state.epoch_terms
        state.epoch_loss, state.epoch_terms = 0.0, 0
        scheduler, rule = state.scheduler, self._plan.schedule
        if scheduler is None or not isinstance(rule, Plateau):
            return
        before, least, num_bad = state.learning_rate, scheduler.best, scheduler.num_bad_epochs
        scheduler.step(mean)
        if scheduler.best != least or num_bad < rule.patience:
            return
        if before <= rule.min_learning_rate * (1 + FLOOR_ROUNDING):
            state.has_plateaued = True
        else:
            state.learning_rate_cuts += 1


def _optimizer(plan: TrainingPlan, leaves: Parameters, multipliers: Mapping[str, float]) -> torch.optim.Optimizer:
    """Return an optimizer with groups of parameters that share a multiplier, with and without weight decay apart."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    weight_decay = plan.optimizer.weight_decay if isinstance(plan.optimizer, AdamW) else 0.0
    for name, leaf in leaves.items():
        multiplier, decay = multipliers[name], weight_decay if leaf.ndim >= DECAYING_AXES else 0.0
        options = {"lr": plan.planned_rate(0) * multiplier, "multiplier": multiplier, "weight_decay": decay}
        groups.setdefault((multiplier, decay), {"params": [], **options})["params"].append(leaf)
    match plan.optimizer:
        case Sgd(momentum=momentum, nesterov=nesterov):
            return torch.optim.SGD(groups.values(), plan.learning_rate, momentum, nesterov=nesterov)
        case AdamW(beta1=beta1, beta2=beta2, epsilon=epsilon):
            return torch.optim.AdamW(groups.values(), plan.learning_rate, (beta1, beta2), epsilon)
