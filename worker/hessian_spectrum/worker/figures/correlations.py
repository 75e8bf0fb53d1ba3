"""Pearson coefficients of sharpness or trace with norms of weights, point by point, and what they have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.figures.correlations import (
    CorrelationParameters,
    FigurePoint,
    Parametrization,
    TrainedNetworks,
    measurements,
)
from hessian_spectrum.api_schemas.figures.results import Cell, Choice, Curve, Panel, Verdict
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import CONFIDENCE, FEWEST, Estimate, Which, joint_confidence
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
    known: dict[tuple[str | float, ...], Estimate] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Depth and number of inputs."""
        return f"{self.measurement.depth} layers, D = {self.measurement.dim}"

    @property
    def has_converged(self) -> Array:
        """Whether training did not diverge (num_networks,)."""
        return np.asarray(self.measured.arrays["diverged"] == 0)

    def numbers(self, stage: Stage, name: str) -> Array:
        """Return numbers of all networks at initialization, and after training of those that did not diverge."""
        values = np.asarray(self.measured.arrays[f"{stage}_{name}"], dtype=np.float64)
        return values if stage == "initial" else np.asarray(values[self.has_converged])

    def sample(self, stage: Stage, quantity: str) -> Array:
        """Return what is correlated: squared norms, or absolute alignments."""
        values = self.numbers(stage, quantity)
        return values if quantity.endswith("alignment") else np.asarray(values**2)

    def correlation(self, stage: Stage, quantity: str, *, confidence: float = CONFIDENCE) -> Estimate:
        """Return the Pearson coefficient of the target with a quantity."""
        key = (stage, quantity, confidence)
        if key not in self.known:
            samples = self.sample(stage, quantity), self.numbers(stage, self.target)
            self.known[key] = self._of_enough(stage, lambda: estimates.pearson(*samples, confidence=confidence))
        return self.known[key]

    def extreme(
        self, stage: Stage, quantities: Sequence[str], *, which: Which, confidence: float = CONFIDENCE
    ) -> Estimate:
        """Return the smallest or largest coefficient of several quantities with the target."""
        samples, common = [self.sample(stage, each) for each in quantities], self.numbers(stage, self.target)
        return self._of_enough(
            stage, lambda: estimates.extreme_pearson(samples, common, which=which, confidence=confidence)
        )

    def difference(self, stage: Stage, first: str, second: str) -> Estimate:
        """Return r(first) - r(second), the coefficients with the target."""
        samples = (self.sample(stage, first), self.sample(stage, second), self.numbers(stage, self.target))
        return self._of_enough(stage, lambda: estimates.pearson_difference(*samples))

    def change(self, *quantities: str) -> Estimate:
        """Return the largest r of the quantities after training, less the largest at initialization.

        Args:
            *quantities: What is correlated with the target, in the networks that did not diverge.
        """
        kept, initial = self.has_converged, self.numbers("initial", self.target)
        before = [(self.sample("initial", each)[kept], initial[kept]) for each in quantities]
        after = [(self.sample("trained", each), self.numbers("trained", self.target)) for each in quantities]
        if len(quantities) == 1:
            return self._of_enough("trained", lambda: estimates.pearson_change(before[0], after[0]))
        return self._of_enough("trained", lambda: estimates.largest_pearson_change(before, after))

    def value(self, stage: Stage, quantity: str) -> float:
        """Return the coefficient without interval, -1 where there is none."""
        first, second = self.sample(stage, quantity), self.numbers(stage, self.target)
        if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
            return -1.0
        return float(np.corrcoef(first, second)[0, 1])

    def lead(self, stage: Stage, first: Sequence[str], others: Sequence[str]) -> Estimate:
        """Return the coefficient of the best of the first quantities, less that of the best of the others."""
        leading = [self.sample(stage, quantity) for quantity in first]
        following = [self.sample(stage, quantity) for quantity in others]
        common = self.numbers(stage, self.target)
        return self._of_enough(stage, lambda: estimates.pearson_lead(leading, following, common))

    def _of_enough(self, stage: Stage, estimate: Callable[[], Estimate]) -> Estimate:
        if stage == "trained" and self.has_converged.sum() < FEWEST:
            return estimates.unknown("nearly all networks diverged")
        return estimate()


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

    def decide_mean(
        self,
        claim: str,
        of: Callable[[Point], Estimate],
        *,
        among: Callable[[Sequence[Point]], Sequence[Point]] = tuple,
        quantity: str,
        holds_for: Range,
        note: str | None = None,
        further: Mapping[str, Estimate] | None = None,
    ) -> Verdict:
        """Return the verdict on a claim from the mean of a number over points.

        Args:
            claim: The claim.
            of: Returns the number of a point.
            among: Chooses the points.
            quantity: What the mean is.
            holds_for: Values for which the claim holds.
            note: What else a reader must know.
            further: Numbers under further choices, by the choice.

        Returns:
            The verdict, whose note lists the points that contradict the claim.
        """
        found = [(point, of(point).value) for point in among(self.points)]
        against = [f"{point.name} ({value:.3g})" for point, value in found if not _is_admitted(value, holds_for)]
        listed = f"points that contradict the claim: {', '.join(against)}" if against else None
        return self.decide(
            claim,
            lambda points: mean_over(among(points), of),
            quantity=quantity,
            holds_for=holds_for,
            note="; ".join(filter(None, (note, listed))) or None,
            further=further,
        )


def _is_admitted(value: float | None, holds_for: Range) -> bool:
    """Whether a number, if it is known, does not contradict a claim."""
    return value is None or holds_for.admits(value)


def groups(points: Sequence[FigurePoint], measured: Sequence[Measured], target: Target = "sharpness") -> list[Group]:
    """Sort the points of a figure by parametrization and option, in their order.

    Args:
        points: Points of the figure.
        measured: The numbers of their networks, each once.
        target: What is correlated with the norms.

    Returns:
        A group for each parametrization.
    """
    known = {
        message: Point(message, numbers, target)
        for message, numbers in zip(measurements(points), measured, strict=True)
    }
    found: dict[Parametrization, dict[str, list[Point]]] = {}
    for point in points:
        by_option = found.setdefault(point.networks.parametrization, {})
        by_option.setdefault(point.option, []).append(known[point.networks])
    return [
        Group(name, options[""], {option: points for option, points in options.items() if option})
        for name, options in found.items()
    ]


def mean_over(points: Iterable[Point], of: Callable[[Point], Estimate]) -> Estimate:
    """Return the mean of a number over points, which are independent of each other."""
    return estimates.mean_of_independent([of(point) for point in points])


def extreme_over(
    points: Sequence[Point], stage: Stage, quantities: Callable[[Point], Sequence[str]], *, which: Which
) -> Estimate:
    """Return the smallest or largest coefficient over points and quantities, from intervals that hold jointly."""
    cases = [(point, name) for point in points for name in quantities(point)]
    confidence = joint_confidence(len(cases))
    found = [point.correlation(stage, name, confidence=confidence) for point, name in cases]
    return estimates.extreme(found, which=which)


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
        "num_networks": len(point.numbers(stage, "loss")),
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
    points = [point for group in found for point in group.points]
    unfinished = sum(float(1 - np.mean(point.measured.arrays["has_plateaued"])) for point in points) / len(points)
    own = [
        Choice(
            name="shared_data",
            value=parameters.shared_data,
            reason="The source samples `a random dataset` and does not say whether each of the networks has its own.",
        ),
        Choice(
            name="teacher_scale",
            value=str(parameters.teacher_scale),
            reason="The scale of the teacher is not printed; 1 makes targets of order one.",
        ),
        Choice(
            name="reduction",
            value=parameters.reduction,
            reason="The loss of the formulas is half the sum of squared errors; PyTorch's mean over outputs has steps "
            "that are 2/D times as long.",
        ),
        Choice(
            name="patience",
            value=f"{parameters.patience} epochs, relative improvement {parameters.threshold}, at most "
            f"{parameters.max_epochs} epochs in all; {unfinished:.0%} of the networks did not reach the last plateau",
            reason="The source trains `until the loss stops improving`; PyTorch's plateau rule has these defaults.",
        ),
    ]
    if any(group.parametrization == "mup" for group in found):
        own.append(
            Choice(
                name="mup_rates",
                value=parameters.mup_rates,
                reason="Learning rates are printed as of order 1 / fan_in. The printed variance fan_out / fan_in is "
                "the square of the wanted spectral norm: entries have the variance min(1, fan_out / fan_in) / fan_in.",
            )
        )
    if any(group.parametrization == "ntk" for group in found):
        reason = "The source prints the root of the width of the layer itself, fan_out."
        own.append(Choice(name="NTP", value="outputs are divided by sqrt(fan_in)", reason=reason))
    return own
