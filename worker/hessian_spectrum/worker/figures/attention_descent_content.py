"""Content of figure 27 of Cracking the Hessian, made of runs of gradient descent of self-attention."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hessian_spectrum.api_schemas.figures.attention_descent import EdgeOfStabilityParameters
from hessian_spectrum.api_schemas.figures.results import AxisScale, Cell, Choice, Panel, Verdict
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate, unknown
from hessian_spectrum.worker.figures.attention_descent import (
    NUM_CLOSED,
    NUM_WINDOWS,
    ROUNDING,
    amplitude_correlation,
    behaviour,
    growth,
    increasing,
    late,
    late_amplitude,
    late_mean,
    onset,
    opposition,
    settles,
)
from hessian_spectrum.worker.figures.claims import Range, curve, exact, share, thinned, verdict
from hessian_spectrum.worker.figures.measurement import FigureContent, Measured

MOST_POINTS = 4000
"""Largest number of points of a curve. Fewer than all of them distort oscillations of two steps."""


def _over_runs(runs: Sequence[Measured], quantity: Callable[[Measured], float], why: str) -> Estimate:
    """Mean of a quantity over the runs that have one, with its interval."""
    found = np.array([quantity(each) for each in runs])
    found = found[np.isfinite(found)]
    if len(found) < 3:
        # an interval takes three runs; of fewer, the mean alone is given
        return Estimate(float(found.mean()), None, None, why) if len(found) else unknown(why)
    return estimates.mean(found)


class _Runs:
    """Runs on the chosen data, and on other data by name."""

    def __init__(self, parameters: EdgeOfStabilityParameters, measured: Sequence[Measured]) -> None:
        first, count = parameters.num_seeds, parameters.num_variant_seeds
        self.chosen = measured[:first]
        self.variants = {
            name: measured[first + i * count : first + (i + 1) * count] for i, name in enumerate(parameters.variants)
        }

    def estimates(self, quantity: Callable[[Measured], float], why: str) -> dict[str, Estimate]:
        """A quantity for each variant."""
        return {name: _over_runs(runs, quantity, why) for name, runs in self.variants.items()}

    @property
    def labelled(self) -> dict[str, Sequence[Measured]]:
        """All runs by name."""
        return {"chosen": self.chosen, **self.variants}


def _settling_verdicts(runs: _Runs) -> list[Verdict]:
    why = "fewer than three runs have a value: the others diverge, or the sharpness never reaches 2/eta"
    reached = [each for each in runs.chosen if onset(each) is not None]
    behaviours = "; ".join(
        f"{name}: {', '.join(sorted({behaviour(each) for each in of}))}" for name, of in runs.labelled.items()
    )
    return [
        verdict(
            "The sharpness rises to 2/eta (progressive sharpening).",
            quantity="mean of the sharpness at the first step above 2/eta over the initial one",
            estimate=_over_runs(runs.chosen, lambda each: growth(each, "sharpness"), why),
            holds_for=Range(above=1.5),
            variants=runs.estimates(lambda each: growth(each, "sharpness"), why),
        ),
        verdict(
            "It increases consistently during the initial stage.",
            quantity="mean share of steps before that at which the sharpness increases",
            estimate=_over_runs(runs.chosen, increasing, why),
            holds_for=Range(above=0.8),
        ),
        verdict(
            "The sharpness settles around 2/eta.",
            quantity="mean sharpness of the second half of a run over 2/eta, mean over runs that reach 2/eta",
            estimate=_over_runs(reached, late_mean, why),
            holds_for=Range(above=0.95, below=1.05),
            variants=runs.estimates(late_mean, why),
            note=f"decisive are data and loss, which are not printed. {behaviours}",
        ),
        verdict(
            "Every initialization leads to the edge of stability.",
            quantity="share of runs whose late mean is within 5 % of 2/eta, with oscillations of less than 10 %",
            estimate=share([settles(each) for each in runs.chosen]),
            holds_for=Range(above=0.5),
            variants={name: share([settles(each) for each in of]) for name, of in runs.variants.items()},
            note="some initial weights lead to another minimum, of smaller sharpness",
        ),
        verdict(
            "Around 2/eta the sharpness oscillates.",
            quantity="standard deviation of the sharpness in the second half of a run over 2/eta, mean over runs",
            estimate=_over_runs(reached, late_amplitude, why),
            holds_for=Range(above=1e-4),
            variants=runs.estimates(late_amplitude, why),
        ),
    ]


def _phase_verdicts(runs: _Runs) -> list[Verdict]:
    why = "fewer than three runs have oscillations"
    rises = [float((np.diff(late(each, "loss")) > 0).mean()) for each in runs.chosen if settles(each)]
    return [
        verdict(
            "During the edge of stability the oscillations of sharpness and trace are in opposite phases.",
            quantity="correlation of the changes of both from step to step in the second half of a run, mean over runs",
            estimate=_over_runs(runs.chosen, opposition, why),
            holds_for=Range(below=-0.5),
            variants={
                "values instead of changes": _over_runs(runs.chosen, partial(opposition, of="values"), why),
                "means of two successive steps": _over_runs(runs.chosen, partial(opposition, of="slow"), why),
                **runs.estimates(opposition, why),
            },
            note="oscillations of two steps are opposite; slower ones, in which both rise and fall, are not",
        ),
        verdict(
            "The amplitude of the oscillations decreases similarly to the norm of the residual.",
            quantity=f"correlation with the largest residual over {NUM_WINDOWS} windows, from the largest amplitude on",
            estimate=_over_runs(runs.chosen, amplitude_correlation, why),
            holds_for=Range(above=0.5),
            variants={
                "root mean square of the residual in each window": _over_runs(
                    runs.chosen, partial(amplitude_correlation, norm="mean"), why
                ),
                **runs.estimates(amplitude_correlation, why),
            },
            note="mean over runs; in the end an oscillation of two steps with a constant amplitude remains",
        ),
        verdict(
            "The loss continues to decrease over long timescales.",
            quantity="mean loss of the last quarter of a run over that of the third one, mean over runs that settle",
            estimate=_over_runs([each for each in runs.chosen if settles(each)], _loss_ratio, why),
            holds_for=Range(below=1.0),
        ),
        verdict(
            "The loss is locally not monotonic.",
            quantity="share of steps of the second half at which the loss rises, mean over runs that settle at 2/eta",
            estimate=estimates.mean(rises) if len(rises) >= 3 else unknown(why),
            holds_for=Range(above=0.05),
        ),
    ]


def _loss_ratio(each: Measured) -> float:
    third, last = np.array_split(late(each, "loss"), 2)
    return float(last.mean() / third.mean())


def _growth_verdicts(runs: _Runs) -> list[Verdict]:
    named = {
        "trace": "the trace of the Hessian",
        "query_norm": "the norm of w_Q",
        "key_norm": "the norm of w_K",
        "value": "the magnitude of w_V",
        "mean_norm": "the norm of the attention moment m1",
        "second_norm": "the norm of the attention moment m2",
        "third_norm": "the norm of the attention moment m3",
    }
    return [
        verdict(
            f"During progressive sharpening grows {label}.",
            quantity="median of its value at the first step above 2/eta over the initial one",
            estimate=_median_growth(runs.chosen, name),
            holds_for=Range(above=1.0),
        )
        for name, label in named.items()
    ]


def _median_growth(runs: Sequence[Measured], name: str) -> Estimate:
    found = [growth(each, name) for each in runs if onset(each)]
    return estimates.median(found) if len(found) >= 3 else unknown("fewer than three runs reach 2/eta")


def _bound_verdict(runs: _Runs) -> Verdict:
    every = [each for of in runs.labelled.values() for each in of]
    largest = np.concatenate([each.arrays["largest_outlier"] for each in every])

    def within(prefix: str) -> Estimate:
        lower, upper = (np.concatenate([each.arrays[prefix + end] for each in every]) for end in ("lower", "upper"))
        slack = ROUNDING * np.abs(largest)
        return share((largest >= lower - slack) & (largest <= upper + slack))

    return verdict(
        "The sharpness lies between T/3 + xi/2 and T/3 + xi (eq. 121).",
        quantity="share of all points of all runs at which the largest outlier does",
        estimate=within(""),
        holds_for=Range(above=0.99),
        variants={"xi as printed, whose norms are not squared": within("printed_")},
        note="xi with squared norms; the bulk |gamma| can exceed the outliers, which the remark does not consider",
    )


def _agreement(runs: _Runs) -> Verdict:
    every = [each for of in runs.labelled.values() for each in of]
    return verdict(
        "The closed form of Theorem 3.5 is the spectrum along training.",
        quantity=f"largest difference to dense eigenvalues over the largest one, at {NUM_CLOSED} points of each run",
        estimate=exact(max(float(each.values["closed_difference"]) for each in every)),
        holds_for=Range(below=1e-8),
        note="runs that diverge included, whose large weights cost automatic differentiation digits",
    )


def _panels(first: Measured) -> list[Panel]:
    arrays = first.arrays
    steps = thinned(len(arrays["loss"]), MOST_POINTS)

    def panel(title: str, y_label: str, names: dict[str, str], *, scale: AxisScale = "linear") -> Panel:
        curves = [curve(label, steps, arrays[name][steps], style="line") for name, label in names.items()]
        return Panel(title=title, x_label="step", y_label=y_label, y_scale=scale, curves=curves)

    moments = {"mean_norm": "|m1|", "second_norm": "|m2|", "third_norm": "|m3|"}
    sharpness = panel("Sharpness", "largest eigenvalue", {"sharpness": "sharpness"})
    for name in ("lower", "upper"):
        sharpness.curves.append(curve(f"{name} bound", arrays["closed_steps"], arrays[name], style="dashed"))
    sharpness.curves.append(curve("2 / learning rate", [], [first.values["edge"]], style="horizontal"))
    return [
        sharpness,
        panel("Residual", "norm of the residual", {"residual_norm": ""}, scale="log"),
        panel("Loss", "loss", {"loss": ""}, scale="log"),
        panel("Attention moments", "norm", moments),
        panel("Trace", "trace of the Hessian", {"trace": ""}),
        panel("Parameters", "norm", {"value": "|w_V|", "query_norm": "|w_Q|", "key_norm": "|w_K|"}),
    ]


def _variant_panel(runs: _Runs) -> Panel:
    curves = []
    for name, of in runs.variants.items():
        sharpness = of[0].arrays["sharpness"] / of[0].values["edge"]
        steps = thinned(len(sharpness), MOST_POINTS)
        curves.append(curve(name, steps, np.minimum(sharpness[steps], 3.0), style="line"))
    curves.append(curve("2 / learning rate", [], [1.0], style="horizontal"))
    title = "Other data and losses, cut at 3"
    return Panel(title=title, x_label="step", y_label="sharpness over 2 / learning rate", curves=curves)


def _rows(runs: _Runs) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for name, of in runs.labelled.items():
        for index, each in enumerate(of):
            numbers = {
                "late_mean": late_mean(each),
                "late_amplitude": late_amplitude(each),
                "opposition": opposition(each),
                "amplitude_and_residual": amplitude_correlation(each),
                "loss_last": float(each.arrays["loss"][-1]),
            }
            rows.append(
                {
                    "data": name,
                    "run": index,
                    "behaviour": behaviour(each),
                    "settles": settles(each),
                    "onset": onset(each),
                    "diverged_at": each.values["diverged_at"],
                    **{key: value if np.isfinite(value) else None for key, value in numbers.items()},
                }
            )
    return rows


def figure_27(parameters: EdgeOfStabilityParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 27: progressive sharpening and the edge of stability of self-attention on scalars.

    Args:
        parameters: Parameters of the figure.
        measured: Runs on the chosen data by seed, then those of each variant.

    Returns:
        The content.
    """
    runs = _Runs(parameters, measured)
    verdicts = [*_settling_verdicts(runs), *_phase_verdicts(runs), *_growth_verdicts(runs), _bound_verdict(runs)]
    verdicts.append(_agreement(runs))
    panels = _panels(next((each for each in runs.chosen if settles(each)), runs.chosen[0]))
    if runs.variants:
        panels.append(_variant_panel(runs))
    choices = [
        Choice(
            name="sequence",
            value=str(tuple(parameters.sequence)),
            reason="The source prints neither the sequence nor its scale. With tokens of opposite signs and somewhat "
            "different size, as here, the loss can vanish beyond the edge of stability. Equal sizes or larger tokens "
            "cycle or diverge; smaller ones, one sign, or many sequences converge below 2/eta.",
        ),
        Choice(
            name="loss_factor",
            value=f"{parameters.loss_factor:g}",
            reason="Not printed for this figure. With 1 instead of 1/2 the step is twice as long at the same 2/eta; a "
            "variant.",
        ),
        Choice(name="num_steps", value=str(parameters.num_steps), reason="Not printed."),
    ]
    return FigureContent(_rows(runs), panels, verdicts, choices)


FIGURE_CONTENTS = {"cracking-27": figure_27}
