"""Training of all members of an ensemble in lockstep, each at its own learning rate and with its own batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from hessian_spectrum.curvature.ensembles.gradients import BackwardGradients, Gradients, gradients_of
from hessian_spectrum.curvature.ensembles.stack import Ensemble, penalties, selected
from hessian_spectrum.curvature.iteration import Count, Iteration
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.curvature.training.descent import DECAYING_AXES, FLOOR_ROUNDING
from hessian_spectrum.curvature.training.loss_curve import LossCurve
from hessian_spectrum.curvature.training.plan import AdamW, Plateau, Sgd, TrainingPlan, WarmupCosine
from hessian_spectrum.curvature.training.state import check_finite
from hessian_spectrum.quadrature.exceptions import NonFiniteError

LEAST_SHARE = 0.75
"""Share of the members in memory that are still trained below which the others are dropped."""

CACHE_BYTES = 2**23
"""What a step of the members that pass together reads and writes: more does not stay in the cache of a processor."""

CLIP_EPSILON = 1e-6
"""Number that `clip_grad_norm_` adds to norms."""


@serializable()
@dataclass(eq=False, kw_only=True)
class EnsembleTrainingState:
    """State of all runs between two steps.

    Rows are those of members still in memory; a row that is not active has stopped and does not change any more.
    """

    members: Tensor  # (A,) int64: member of each row
    active: Tensor  # (A,) bool
    parameters: Parameters  # (A, *shape)
    moments: list[Parameters]  # momentum, or Adam's two means; empty before the first step
    rates: Tensor  # (A,) float64
    best: Tensor  # (A,) float64: least loss of an epoch
    num_bad: Tensor  # (A,) int64: epochs without improvement
    cuts: Tensor  # (A,) int64
    epoch_loss: Tensor  # (A,) float64: sum over the samples of the present epoch
    generators: list[torch.Generator]  # one for each order of samples
    orders: Tensor | None = None  # (number of generators, n): samples of the present epoch
    num_drawn: int = 0  # samples of the present epoch so far
    num_steps: int = 0
    loss_curve: LossCurve = field(default_factory=LossCurve)  # of all N members
    trained: Parameters = field(default_factory=dict)  # (N, *shape) of members that were dropped
    stops: "Stops"


@serializable()
@dataclass(eq=False, kw_only=True)
class Stops:
    """Where and why members stopped, for all N members."""

    num_steps: Tensor  # (N,) int64
    rates: Tensor  # (N,) float64: learning rate of the last step
    cuts: Tensor  # (N,) int64
    has_plateaued: Tensor  # (N,) bool
    failures: dict[int, str]  # message by member


@serializable()
@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedEnsemble:
    """Parameters of all members after training, with losses and gradient norms over all data.

    Attributes:
        parameters: By name, of shape (N, *shape).
        losses: Final losses (N,) in float64.
        gradient_norms: Norms of the gradients (N,) in float64.
        num_steps: Steps of each member (N,).
        learning_rates: Rates of the last steps (N,).
        learning_rate_cuts: Number of cuts by a plateau (N,).
        has_plateaued: Whether each run ended because of a plateau (N,).
        loss_curve: Losses of the batches, each at the parameters before its step, of all members.
        failures: Message of each member that failed, by its index; its numbers are undefined.
    """

    parameters: Parameters
    losses: Tensor
    gradient_norms: Tensor
    num_steps: Tensor
    learning_rates: Tensor
    learning_rate_cuts: Tensor
    has_plateaued: Tensor
    loss_curve: LossCurve
    failures: dict[int, str]


@dataclass(frozen=True, eq=False)
class EnsembleTraining(Iteration[Parameters, EnsembleTrainingState, TrainedEnsemble]):
    """Gradient descent on the mean loss of each member; the steps of `training.Training`, for all members at once.

    Args:
        ensemble: Networks and data.
        plan: How to train; its learning rate is that of no member.
        learning_rates: Rate of each member.
        seeds: Seed of the order of samples of each member; members with equal seeds see the same order.
        generators: Generator of each different seed, in the order in which `seeds` has them first.
    """

    ensemble: Ensemble
    plan: TrainingPlan
    learning_rates: Sequence[float]
    seeds: Sequence[int]
    generators: Sequence[torch.Generator]

    phase: ClassVar[str] = "training"

    @cached_property
    def _batch_size(self) -> int:
        return min(self.plan.batch_size or self.ensemble.num_samples, self.ensemble.num_samples)

    @cached_property
    def _order_of(self) -> Tensor:
        """Index of the order of samples of each member (N,)."""
        index = {seed: number for number, seed in enumerate(dict.fromkeys(self.seeds))}
        return torch.tensor([index[seed] for seed in self.seeds])

    @property
    def _is_full_batch(self) -> bool:
        return self._batch_size == self.ensemble.num_samples

    @cached_property
    def _gradients(self) -> Gradients:
        shares_orders = self._is_full_batch or len(set(self.seeds)) == 1
        shares = shares_orders and self.ensemble.has_shared_data
        return gradients_of(self.ensemble, self._batch_size, shares_batches=shares)

    def init(self, problem: Parameters, *, generator: torch.Generator) -> EnsembleTrainingState:
        """Return the state before the first step; `generator` is not used.

        Args:
            problem: Initial parameters (N, *shape), which are not changed.
            generator: Unused, because each member has its own.
        """
        size = self.ensemble.size
        return EnsembleTrainingState(
            members=torch.arange(size),
            active=torch.ones(size, dtype=torch.bool),
            parameters={name: values.clone() for name, values in problem.items()},
            moments=[],
            rates=self._planned_rates(0),
            best=torch.full((size,), math.inf, dtype=torch.float64),
            num_bad=torch.zeros(size, dtype=torch.int64),
            cuts=torch.zeros(size, dtype=torch.int64),
            epoch_loss=torch.zeros(size, dtype=torch.float64),
            generators=list(self.generators),
            stops=Stops(
                num_steps=torch.zeros(size, dtype=torch.int64),
                rates=torch.zeros(size, dtype=torch.float64),
                cuts=torch.zeros(size, dtype=torch.int64),
                has_plateaued=torch.zeros(size, dtype=torch.bool),
                failures={},
            ),
        )

    def is_finished(self, state: EnsembleTrainingState) -> bool:
        """Return whether no member has a further step to take."""
        return state.num_steps >= self.plan.num_steps or not bool(state.active.any())

    def count(self, state: EnsembleTrainingState) -> Count:
        """Return the number of steps done, of those in the plan."""
        return Count(state.num_steps, self.plan.num_steps)

    def step(self, problem: Parameters, state: EnsembleTrainingState) -> EnsembleTrainingState:
        """Take one step of every active member, in place."""
        orders = self._drawn(state)
        if isinstance(self.plan.schedule, WarmupCosine):
            planned = self._planned_rates(state.num_steps)[state.members]
            state.rates = torch.where(state.active, planned, state.rates)
        size = self._batch_size if orders is None else orders.shape[1]
        width = self._num_rows_at_once(state, size)
        starts = range(0, len(state.members), width)
        values = torch.cat([self._step_rows(state, slice(first, first + width), orders) for first in starts])
        self._fail(state, values)
        losses = torch.zeros(self.ensemble.size, dtype=torch.float64)
        losses[state.members] = torch.where(state.active, values, 0.0)
        state.loss_curve.add(losses)
        state.num_steps += 1
        state.epoch_loss += values * size
        if state.num_drawn >= self.ensemble.num_samples:
            self._end_epoch(state)
        return state

    def result(self, problem: Parameters, state: EnsembleTrainingState) -> TrainedEnsemble:
        """Return the parameters at the end, with losses and gradients over the whole data."""
        for row in torch.nonzero(state.active).flatten().tolist():
            self._stop(state, row)
        state.active[:] = False
        self._keep(state)
        ensemble, stops = self.ensemble, state.stops
        losses, norms = final_losses(ensemble, state.trained)
        for member in torch.nonzero(~(losses.isfinite() & norms.isfinite())).flatten().tolist():
            for number in (float(losses[member]), float(norms[member])):
                _note(stops.failures, member, number, int(stops.num_steps[member]))
        return TrainedEnsemble(
            parameters=state.trained,
            losses=losses,
            gradient_norms=norms,
            num_steps=stops.num_steps,
            learning_rates=stops.rates,
            learning_rate_cuts=stops.cuts,
            has_plateaued=stops.has_plateaued,
            loss_curve=state.loss_curve,
            failures=stops.failures,
        )

    def _planned_rates(self, step: int) -> Tensor:
        schedule, rates = self.plan.schedule, self.learning_rates
        if isinstance(schedule, WarmupCosine):
            rates = [schedule.rate(rate, step) for rate in rates]
        return torch.tensor(rates, dtype=torch.float64)

    def _drawn(self, state: EnsembleTrainingState) -> Tensor | None:
        """Return the next samples of each order (number of orders, batch); None: all samples, as they are."""
        size = self.ensemble.num_samples
        if self._is_full_batch:
            state.num_drawn = size
            return None
        if state.orders is None or state.num_drawn >= size:
            state.orders = torch.stack([torch.randperm(size, generator=each) for each in state.generators])
            state.num_drawn = 0
        chosen = state.orders[:, state.num_drawn : state.num_drawn + self._batch_size]
        state.num_drawn += chosen.shape[1]
        return chosen.to(self.ensemble.inputs.device)

    def _num_rows_at_once(self, state: EnsembleTrainingState, batch_size: int) -> int:
        """Return how many members pass together, such that what a step reads and writes stays in a processor's cache.

        Args:
            state: State of the runs.
            batch_size: Number of samples of a batch.
        """
        numbers = self._gradients.num_activations(batch_size)
        numbers += 3 * sum(each[0].numel() for each in state.parameters.values())
        return max(1, CACHE_BYTES // (self.ensemble.inputs.itemsize * numbers))

    def _step_rows(self, state: EnsembleTrainingState, rows: slice, orders: Tensor | None) -> Tensor:
        """Take the step of some rows, in place, and return the losses of their batches in float64."""
        parameters = {name: values[rows] for name, values in state.parameters.items()}
        inputs, targets = self._batch(state.members[rows], orders)
        values, gradients = self._gradients(parameters, inputs, targets)
        values = values.double()
        if decay := self.ensemble.weight_decay:
            values = values + penalties(parameters, decay)
            for name, each in parameters.items():
                gradients[name].add_(each, alpha=decay)
        if self.plan.max_gradient_norm is not None:
            _clip(gradients, self.plan.max_gradient_norm)
        if not state.moments:
            state.moments = _zero_moments(self.plan.optimizer, state.parameters)
        moments = [{name: each[rows] for name, each in part.items()} for part in state.moments]
        rates = torch.where(state.active[rows], state.rates[rows], 0.0)
        step = _Step(parameters, moments, rates, self.ensemble.model.learning_rate_multipliers())
        match self.plan.optimizer:
            case Sgd() as rule:
                step.descend(gradients, rule)
            case AdamW() as rule:
                step.adapt(gradients, rule, state.num_steps + 1)
        return values.cpu()

    def _batch(self, members: Tensor, orders: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return samples (A, batch, D) of members, and their targets; all share them where the first stride is 0."""
        inputs, targets = self.ensemble.inputs, self.ensemble.targets
        is_shared, count = self.ensemble.has_shared_data, len(members)
        members = members.to(inputs.device)
        if orders is not None and len(orders) > 1:
            chosen = orders[self._order_of[members.cpu()].to(orders.device)]
            # rows of one table: twice as fast as two indices
            places = chosen if is_shared else chosen + members.unsqueeze(1) * inputs.shape[1]
            tables = (inputs[0], targets[0]) if is_shared else (inputs.flatten(0, 1), targets.flatten(0, 1))
            own, answers = (each.index_select(0, places.flatten()) for each in tables)
            return own.reshape(*chosen.shape, *own.shape[1:]), answers.reshape(*chosen.shape, *answers.shape[1:])
        own, answers = (inputs[:1], targets[:1]) if is_shared else (inputs[_place(members)], targets[_place(members)])
        if orders is not None:
            own, answers = own[:, orders[0]], answers[:, orders[0]]
        return own.expand(count, *own.shape[1:]), answers.expand(count, *answers.shape[1:])

    def _fail(self, state: EnsembleTrainingState, values: Tensor) -> None:
        """Stop the members whose loss is not finite."""
        lost = state.active & ~values.isfinite()
        if not bool(lost.any()):
            return
        for row in torch.nonzero(lost).flatten().tolist():
            _note(state.stops.failures, int(state.members[row]), float(values[row]), state.num_steps)
            self._stop(state, row)
            for numbers in (state.parameters, *state.moments):
                for each in numbers.values():
                    each[row] = 0  # NaN would stay, and zeros cost the others nothing
        state.active &= ~lost

    def _end_epoch(self, state: EnsembleTrainingState) -> None:
        """Apply the plateau rule of `ReduceLROnPlateau` to every active member."""
        mean = state.epoch_loss / self.ensemble.num_samples
        state.epoch_loss = torch.zeros_like(mean)
        rule = self.plan.schedule
        if isinstance(rule, Plateau):
            is_better = mean < state.best * (1 - rule.threshold)
            state.best = torch.where(is_better & state.active, mean, state.best)
            num_bad = torch.where(is_better, 0, state.num_bad + 1)
            is_cut = (num_bad > rule.patience) & state.active
            state.num_bad = torch.where(is_cut, 0, num_bad)
            ends = is_cut & (state.rates <= rule.min_learning_rate * (1 + FLOOR_ROUNDING))
            reduced = (state.rates * rule.factor).clamp(min=rule.min_learning_rate)
            state.rates = torch.where(is_cut & (reduced < state.rates), reduced, state.rates)
            state.cuts += (is_cut & ~ends).long()
            for row in torch.nonzero(ends).flatten().tolist():
                state.stops.has_plateaued[state.members[row]] = True
                self._stop(state, row)
            state.active &= ~ends
        if int(state.active.sum()) < LEAST_SHARE * len(state.active):
            self._keep(state)

    def _stop(self, state: EnsembleTrainingState, row: int) -> None:
        member, stops = int(state.members[row]), state.stops
        stops.num_steps[member] = state.num_steps
        stops.rates[member] = state.rates[row]
        stops.cuts[member] = state.cuts[row]

    def _keep(self, state: EnsembleTrainingState) -> None:
        """Move the parameters of members that have stopped out of the rows."""
        if not state.trained:
            size = self.ensemble.size
            state.trained = {name: each.new_zeros(size, *each.shape[1:]) for name, each in state.parameters.items()}
        stopped, going = (torch.nonzero(each).flatten() for each in (~state.active, state.active))
        for name, values in state.parameters.items():
            state.trained[name][state.members[stopped]] = values[stopped]
        state.parameters = selected(state.parameters, going)
        state.moments = [selected(each, going) for each in state.moments]
        for name in ("members", "active", "rates", "best", "num_bad", "cuts", "epoch_loss"):
            setattr(state, name, getattr(state, name)[going])


def final_losses(ensemble: Ensemble, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Return the loss of each member over all of its data, and the norm of its gradient, each (N,) in float64."""
    values, gradients = BackwardGradients(ensemble.model, ensemble.loss)(parameters, ensemble.inputs, ensemble.targets)
    values = values.double()
    if ensemble.weight_decay:
        values = values + penalties(parameters, ensemble.weight_decay)
        gradients = {name: each + ensemble.weight_decay * parameters[name] for name, each in gradients.items()}
    norms = [torch.linalg.vector_norm(each.flatten(1), dim=1, dtype=torch.float64) for each in gradients.values()]
    return values.cpu(), torch.linalg.vector_norm(torch.stack(norms), dim=0).cpu()


def _note(failures: dict[int, str], member: int, value: float, num_steps: int) -> None:
    """Note the message of a single run at this loss, unless it is finite or the member has failed before."""
    try:
        check_finite(value, num_steps)
    except NonFiniteError as error:
        failures.setdefault(member, str(error))


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Return one number for each row, in the precision and on the device of `like` (A, ...), to multiply it with."""
    return values.to(like).reshape(-1, *(1,) * (like.ndim - 1))


def _clip(gradients: Parameters, max_norm: float) -> None:
    """Shorten the gradient of each member to the norm, as `clip_grad_norm_` does."""
    norms = torch.stack([torch.linalg.vector_norm(each.flatten(1), dim=1) for each in gradients.values()])
    factors = (max_norm / (torch.linalg.vector_norm(norms, dim=0) + CLIP_EPSILON)).clamp(max=1.0)
    for each in gradients.values():
        each.mul_(_column(factors, each))


def _place(members: Tensor) -> slice | Tensor:
    """Return the place of ascending members in a table, without gaps as a slice, which copies nothing."""
    first, last = int(members[0]), int(members[-1])
    return slice(first, last + 1) if last - first + 1 == len(members) else members


def _zero_moments(optimizer: Sgd | AdamW, parameters: Parameters) -> list[Parameters]:
    """Return what the optimizer averages over steps, before the first: nothing, a momentum, or two means."""
    count = int(optimizer.momentum > 0) if isinstance(optimizer, Sgd) else 2
    return [{name: torch.zeros_like(each) for name, each in parameters.items()} for _ in range(count)]


@dataclass(frozen=True, eq=False)
class _Step:
    """A step of some members, in place.

    Attributes:
        parameters: Their parameters.
        moments: Averages over the steps before.
        rates: Learning rate of each (A,), 0 for those that have stopped.
        multipliers: Factors of the learning rate by parameter name.
    """

    parameters: Parameters
    moments: list[Parameters]
    rates: Tensor
    multipliers: dict[str, float]

    def descend(self, gradients: Parameters, rule: Sgd) -> None:
        """Take the step of `torch.optim.SGD`."""
        for name, values in self.parameters.items():
            direction = gradients[name]
            if rule.momentum:
                momentum = self.moments[0][name].mul_(rule.momentum).add_(direction)
                direction = direction.add(momentum, alpha=rule.momentum) if rule.nesterov else momentum
            values.addcmul_(direction, self._rate(name, values), value=-1)

    def adapt(self, gradients: Parameters, rule: AdamW, number: int) -> None:
        """Take step `number` of `torch.optim.AdamW`, counted from 1."""
        first, second = 1 - rule.beta1**number, 1 - rule.beta2**number
        for name, values in self.parameters.items():
            gradient, mean, square = gradients[name], self.moments[0][name], self.moments[1][name]
            rate = self._rate(name, values)
            if values.ndim - 1 >= DECAYING_AXES:
                values.mul_(1 - rate * rule.weight_decay)
            mean.lerp_(gradient, 1 - rule.beta1)
            square.mul_(rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
            size = (square.sqrt() / math.sqrt(second)).add_(rule.epsilon)
            values.addcmul_(mean / size, rate / first, value=-1)

    def _rate(self, name: str, like: Tensor) -> Tensor:
        return _column(self.rates * self.multipliers[name], like)
