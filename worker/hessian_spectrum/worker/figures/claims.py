"""Verdicts from estimates with intervals: what decides them, and the same claim under other choices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hessian_spectrum.api_schemas.figures.results import Curve, Variant, Verdict
from hessian_spectrum.statistics.estimates import (
    Estimate,
    Which,
    extreme,
    joint_confidence,
    median,
    proportion,
    unknown,
)


@dataclass(frozen=True)
class Range:
    """Values for which a claim holds: between two ends, None for no end."""

    above: float | None = None
    below: float | None = None

    def contains(self, estimate: Estimate) -> bool | None:
        """Whether the interval lies within the range (True), apart from it (False), or neither (None)."""
        if estimate.lower is None or estimate.upper is None:
            return None
        if (self.above is not None and estimate.upper <= self.above) or (
            self.below is not None and estimate.lower >= self.below
        ):
            return False
        is_inside = (self.above is None or estimate.lower > self.above) and (
            self.below is None or estimate.upper < self.below
        )
        return True if is_inside else None

    def admits(self, value: float) -> bool:
        """Whether a number lies within the range."""
        return (self.above is None or value > self.above) and (self.below is None or value < self.below)

    @property
    def thresholds(self) -> tuple[float | None, float | None]:
        """The end that decides and None; or both ends."""
        ends = [end for end in (self.above, self.below) if end is not None]
        return (ends[0] if ends else None), (ends[1] if len(ends) > 1 else None)


def verdict(
    claim: str,
    *,
    quantity: str,
    estimate: Estimate,
    holds_for: Range,
    note: str | None = None,
    variants: Mapping[str, Estimate] | None = None,
) -> Verdict:
    """Make a verdict on a claim from an estimate with a 95 % interval.

    Args:
        claim: The claim, in the words of the source or close to them.
        quantity: What the estimate is of.
        estimate: The number found.
        holds_for: Values for which the claim holds.
        note: What a reader must know beside it.
        variants: Estimates of the same number under other choices, by the choice.

    Returns:
        The verdict, undecided where the interval contains an end of the range.
    """
    threshold, upper = holds_for.thresholds
    return Verdict(
        claim=claim,
        holds=holds_for.contains(estimate),
        quantity=quantity,
        **_numbers(estimate),
        threshold=threshold,
        threshold_upper=upper,
        note="; ".join(filter(None, (note, estimate.why))) or None,
        variants=[
            Variant(choice=choice, holds=holds_for.contains(other), note=other.why, **_numbers(other))
            for choice, other in (variants or {}).items()
        ],
    )


def exact(value: float) -> Estimate:
    """A number that no sampling affects: it is its own interval."""
    if not np.isfinite(value):
        return unknown("the number is not finite")
    return Estimate(float(value), float(value), float(value))


def share(holds: ArrayLike) -> Estimate:
    """Share of independent cases in which something holds, with Wilson's interval."""
    cases = np.asarray(holds, dtype=bool)
    return proportion(int(cases.sum()), cases.size)


def in_every(holds: ArrayLike) -> Estimate:
    """Share of cases in which a theorem holds, which one case refutes: a number without sampling error."""
    cases = np.asarray(holds, dtype=bool)
    return exact(float(cases.mean())) if cases.size else unknown("there are no cases")


EVERY = Range(above=0.999999)
"""Shares for which something holds in every case."""


def extreme_median(samples: Sequence[ArrayLike], *, which: Which) -> Estimate:
    """Return the smallest or largest median of independent samples, from intervals that hold jointly."""
    confidence = joint_confidence(len(samples))
    return extreme([median(sample, confidence=confidence) for sample in samples], which=which)


def curve(label: str, x: ArrayLike, y: ArrayLike, **options: Any) -> Curve:
    """Make a curve of arrays; numbers that are not finite are left out.

    Args:
        label: Name in the legend.
        x: Positions of shape (n,).
        y: Values of shape (n,).
        **options: Other fields of `Curve`; intervals may be arrays.

    Returns:
        The curve.
    """
    fields: dict[str, Any] = {
        name: _values(each) if name in ("lower", "upper") else each for name, each in options.items()
    }
    return Curve(label=label, x=np.asarray(x, dtype=float).tolist(), y=_values(y), **fields)


def interval_curve(label: str, x: ArrayLike, y: Sequence[Estimate], **options: object) -> Curve:
    """Make a curve of estimates with their intervals.

    Args:
        label: Name in the legend.
        x: Positions of shape (n,).
        y: Estimates at these positions.
        **options: Other fields of `Curve`.

    Returns:
        The curve.
    """
    value, lower, upper = ([getattr(each, name) for each in y] for name in ("value", "lower", "upper"))
    return curve(label, x, value, lower=lower, upper=upper, **options)


def _values(values: object) -> list[float | None]:
    array = np.asarray(values, dtype=float)
    return [float(value) if np.isfinite(value) else None for value in array]


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "lower": estimate.lower, "upper": estimate.upper}


def thinned(count: int, most: int) -> list[int]:
    """At most so many of `count` indices, evenly spread, with the first and the last."""
    indices: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return indices
