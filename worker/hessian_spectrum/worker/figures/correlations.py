"""Pearson coefficients of sharpness or trace with norms of weights, point by point, and what they have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.figures.correlations import (
    CorrelationParameters,
    Parametrization,
    TrainedNetworks,
    trainings,
)
from hessian_spectrum.api_schemas.figures.results import Cell, Choice, Curve, Panel, Verdict
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate
from hessian_spectrum.worker.figures.claims import Range, interval_curve, verdict
from hessian_spectrum.worker.figures.measurement import Measured

Array = NDArray[Any]

Stage = Literal["initial", "trained"]
Target = Literal["sharpness", "trace"]

STAGES: dict[Stage, str] = {"initial": "at initialization", "trained": "after training"}
NAMES: dict[Parametrization, str] = {"standard": "SP", "mup": "muP", "ntk": "NTP"}

STRONG = 0.5
"""Pearson coefficient from which a correlation counts as strong."""


@dataclass(frozen=True, eq=False)
class Point:
    """The networks of one measurement.

    Attributes:
        measurement: Their message.
        measured: Their numbers.
        target: What is correlated with the norms.
        known: Coefficients that were computed before.
    """

    measurement: TrainedNetworks
    measured: Measured
    target: Target
    known: dict[tuple[str, ...], Estimate] = field(default_factory=dict)

    @property
    def has_converged(self) -> Array:
        """Whether training did not diverge (num_networks,)."""
        return np.asarray(self.measured.arrays["diverged"] == 0)

    def numbers(self, stage: Stage, name: str) -> Array:
        """Return numbers of the networks that did not diverge."""
        values = np.asarray(self.measured.arrays[f"{stage}_{name}"], dtype=np.float64)
        return np.asarray(values[self.has_converged])

    def sample(self, stage: Stage, quantity: str) -> Array:
        """Return what is correlated: squared norms, or absolute alignments."""
        values = self.numbers(stage, quantity)
        return values if quantity.endswith("alignment") else np.asarray(values**2)

    def correlation(self, stage: Stage, quantity: str) -> Estimate:
        """Return the Pearson coefficient of the target with a quantity."""
        key = (stage, quantity)
        if key not in self.known:
            samples = self.sample(stage, quantity), self.numbers(stage, self.target)
            self.known[key] = _of_enough(samples, lambda: estimates.pearson(*samples))
        return self.known[key]

    def difference(self, stage: Stage, first: str, second: str) -> Estimate:
        """Return r(first) - r(second), the coefficients with the target."""
        samples = (self.sample(stage, first), self.sample(stage, second), self.numbers(stage, self.target))
        return _of_enough(samples, lambda: estimates.pearson_difference(*samples))

    def change(self, quantity: str) -> Estimate:
        """Return r after training less r at initialization."""
        before, after = (
            (self.sample(stage, quantity), self.numbers(stage, self.target)) for stage in ("initial", "trained")
        )
        return _of_enough((*before, *after), lambda: estimates.pearson_change(before, after))

    def value(self, stage: Stage, quantity: str) -> float:
        """Return the coefficient without interval, -1 where there is none."""
        first, second = self.sample(stage, quantity), self.numbers(stage, self.target)
        if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
            return -1.0
        return float(np.corrcoef(first, second)[0, 1])

    def best(self, stage: Stage, quantities: Iterable[str]) -> str:
        """Return the quantity that correlates most with the target."""
        return max(quantities, key=lambda quantity: self.value(stage, quantity))

    def lead(self, stage: Stage, first: Sequence[str], others: Sequence[str]) -> Estimate:
        """Return the coefficient of the best of the first quantities, less that of the best of the others."""
        leading = [self.sample(stage, quantity) for quantity in first]
        following = [self.sample(stage, quantity) for quantity in others]
        common = self.numbers(stage, self.target)
        return _of_enough([common], lambda: estimates.pearson_lead(leading, following, common))


def _of_enough(samples: Sequence[Array], estimate: Callable[[], Estimate]) -> Estimate:
    return estimate() if len(samples[0]) >= 3 else estimates.unknown("nearly all networks diverged")


@dataclass(frozen=True)
class Group:
    """The points of one parametrization, under the chosen options and under others.

    Attributes:
        parametrization: Initialization, scales and learning rates.
        points: Points under the chosen options.
        others: Points under other options, by the option.
    """

    parametrization: Parametrization
    points: Sequence[Point]
    others: Mapping[str, Sequence[Point]]

    @property
    def name(self) -> str:
        """Usual abbreviation of the parametrization."""
        return NAMES[self.parametrization]

    def decide(
        self,
        claim: str,
        of: Callable[[Sequence[Point]], Estimate],
        *,
        quantity: str,
        holds_for: Range,
        note: str | None = None,
        further: Mapping[str, Estimate] | None = None,
    ) -> Verdict:
        """Return the verdict on a claim from a number of the points.

        Args:
            claim: The claim.
            of: Returns the number, from points under one set of options.
            quantity: What the number is.
            holds_for: Values for which the claim holds.
            note: What a reader must know beside it.
            further: Numbers under further choices, by the choice.

        Returns:
            The verdict, with the number under every option.
        """
        return verdict(
            f"{claim} ({self.name})",
            quantity=quantity,
            estimate=of(self.points),
            holds_for=holds_for,
            note=note,
            variants={option: of(points) for option, points in self.others.items()} | dict(further or {}),
        )


def groups(
    parameters: CorrelationParameters,
    measurements: Sequence[TrainedNetworks],
    measured: Sequence[Measured],
    target: Target = "sharpness",
) -> list[Group]:
    """Sort the measurements of a figure by parametrization and option, in their order."""
    found: dict[Parametrization, dict[str, list[Point]]] = {}
    for message, numbers in zip(measurements, measured, strict=True):
        options = trainings(parameters, message.parametrization)
        option = next(name for name, training in options.items() if training == message.training)
        by_option = found.setdefault(message.parametrization, {})
        by_option.setdefault(option, []).append(Point(message, numbers, target))
    return [
        Group(name, options[""], {option: points for option, points in options.items() if option})
        for name, options in found.items()
    ]


def mean_over(points: Iterable[Point], of: Callable[[Point], Estimate]) -> Estimate:
    """Return the mean of a number over points, which are independent of each other."""
    return estimates.mean_of_independent([of(point) for point in points])


def panels_of(
    group: Group,
    *,
    x_label: str,
    y_label: str,
    curves: Callable[[Stage], Sequence[Curve]],
) -> list[Panel]:
    """Return a panel for each end of training."""
    return [
        Panel(title=f"{group.name}, {name}", x_label=x_label, y_label=y_label, curves=list(curves(stage)))
        for stage, name in STAGES.items()
    ]


def correlation_curve(
    label: str, x: Sequence[float], coefficients: Sequence[Estimate], *, group: int, is_dashed: bool = False
) -> Curve:
    """Return a curve of coefficients with their intervals."""
    style = "dashed" if is_dashed else "line-markers"
    return interval_curve(label, x, coefficients, group=group, style=style)


def rows(found: Sequence[Group], quantities: Callable[[Point], Sequence[str]]) -> list[dict[str, Cell]]:
    """Return a row for each point, end and quantity; intervals under the chosen options only."""
    table: list[dict[str, Cell]] = []
    for group in found:
        for option, points in {"": group.points, **group.others}.items():
            for point in points:
                for stage in STAGES:
                    table += [_row(point, option, stage, quantity) for quantity in quantities(point)]
    return table


def _row(point: Point, option: str, stage: Stage, quantity: str) -> dict[str, Cell]:
    message = point.measurement
    known = point.correlation(stage, quantity) if not option else None
    value = point.value(stage, quantity) if known is None else known.value
    steps_per_epoch = -(-message.training.num_samples // message.training.batch_size)
    return {
        "parametrization": message.parametrization,
        "option": option,
        "depth": message.depth,
        "dim": message.dim,
        "stage": stage,
        "quantity": quantity,
        "correlation": value,
        "lower": None if known is None else known.lower,
        "upper": None if known is None else known.upper,
        "num_networks": int(point.has_converged.sum()),
        "num_diverged": int((~point.has_converged).sum()),
        "median_epochs": float(np.median(point.measured.arrays["num_steps"])) / steps_per_epoch,
        "share_plateaued": float(np.mean(point.measured.arrays["has_plateaued"])),
        "median_loss": _median(point.numbers(stage, "loss")),
        "median_target": _median(point.numbers(stage, point.target)),
    }


def _median(values: Array) -> float | None:
    return float(np.median(values)) if len(values) else None


def choices(parameters: CorrelationParameters, found: Sequence[Group]) -> list[Choice]:
    """Return what the source leaves open, and how it is chosen."""
    training = parameters.training
    points = [point for group in found for point in group.points]
    unfinished = sum(float(1 - np.mean(point.measured.arrays["has_plateaued"])) for point in points) / len(points)
    own = [
        Choice(
            name="training.shared_data",
            value=training.shared_data,
            reason="the source samples `a random dataset` and does not say whether each of the networks has its own",
        ),
        Choice(
            name="training.teacher_scale",
            value=str(training.teacher_scale),
            reason="the scale of the teacher is not printed; 1 makes targets of order one",
        ),
        Choice(
            name="training.reduction",
            value=training.reduction,
            reason="the loss of the formulas is half the sum of squared errors; PyTorch's mean over outputs has steps "
            "that are 2/D times as long",
        ),
        Choice(
            name="training.patience",
            value=f"{training.patience} epochs, relative improvement {training.threshold}, at most "
            f"{training.max_epochs} epochs in all; {unfinished:.0%} of the networks did not reach the last plateau",
            reason="`until the loss stops improving` is not made precise; PyTorch's plateau rule has these defaults",
        ),
    ]
    if any(group.parametrization == "mup" for group in found):
        own.append(
            Choice(
                name="training.mup_rates",
                value=training.mup_rates,
                reason="learning rates are printed as of order 1 / fan_in. The printed variance fan_out / fan_in is "
                "the square of the wanted spectral norm: entries have the variance min(1, fan_out / fan_in) / fan_in",
            )
        )
    if any(group.parametrization == "ntk" for group in found):
        reason = "the print divides the output of a layer by the root of its own width"
        own.append(Choice(name="NTP", value="outputs are divided by sqrt(fan_in)", reason=reason))
    return own
