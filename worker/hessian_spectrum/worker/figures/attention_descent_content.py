"""Content of figure 27 of Cracking the Hessian, made of runs of gradient descent of self-attention."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from hessian_spectrum.api_schemas.figures.attention_descent import EdgeOfStabilityParameters
from hessian_spectrum.api_schemas.figures.results import AxisScale, Cell, Choice, Panel, Verdict
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate
from hessian_spectrum.worker.figures.attention_descent import (
    NUM_CLOSED,
    NUM_WINDOWS,
    ROUNDING,
    amplitude_correlation,
    behaviour,
    first_steps,
    growth,
    increasing,
    late_amplitude,
    late_mean,
    loss_change,
    loss_rises,
    onset,
    opposition,
    rises,
    settles,
)
from hessian_spectrum.worker.figures.claims import EVERY, Range, curve, exact, in_every, share, thinned, verdict
from hessian_spectrum.worker.figures.measurement import FigureContent, Measured

MOST_POINTS = 4000
"""Largest number of points of a curve. Fewer than all of them distort oscillations of two steps."""


PARTS = (2, 4)
"""The number of steps is also halved and quartered, as it is not printed: parts of the runs need no others."""

Quantity = Callable[[Measured], float]
Ends = tuple[float, float]

SHARE: Ends = (0.0, 1.0)
COEFFICIENT: Ends = (-1.0, 1.0)
POSITIVE: Ends = (0.0, np.inf)
ANY: Ends = (-np.inf, np.inf)


def _over_runs(runs: Sequence[Measured], quantity: Quantity, within: Ends) -> Estimate:
    """Mean of a quantity, which lies between these ends, over the runs that have one, with its interval."""
    values = np.array([quantity(each) for each in runs])
    known = values[np.isfinite(values)]
    found = estimates.mean_share(known) if within == SHARE else estimates.mean(known, within=within)
    if found.value is None and np.isfinite(values).any():
        return Estimate(float(np.nanmean(values)), None, None, found.why)
    return found


def _share(runs: Sequence[Measured], has: Callable[[Measured], bool]) -> Estimate:
    return share([has(each) for each in runs])


class _Runs:
    """Runs on the chosen data, on other data or with other learning rates by name, and fewer steps of the chosen."""

    def __init__(self, parameters: EdgeOfStabilityParameters, measured: Sequence[Measured]) -> None:
        first, count = parameters.num_seeds, parameters.num_variant_seeds
        self.chosen = measured[:first]
        self.variants = {
            name: measured[first + i * count : first + (i + 1) * count] for i, name in enumerate(parameters.variants)
        }
        lengths = [parameters.num_steps // part for part in PARTS]
        self.shorter = {f"{steps} steps": [first_steps(each, steps) for each in self.chosen] for steps in lengths}
        self.rates = {name: self.variants[name] for name in parameters.rate_variants if name in self.variants}

    @property
    def labelled(self) -> dict[str, Sequence[Measured]]:
        """All runs by name."""
        return {"chosen": self.chosen, **self.variants}

    @property
    def others(self) -> dict[str, Sequence[Measured]]:
        """All runs but the chosen ones by name."""
        return {**self.variants, **self.shorter}

    def mean(
        self,
        claim: str,
        *,
        quantity: str,
        of: Quantity,
        holds_for: Range,
        within: Ends,
        note: str | None = None,
        variants: Mapping[str, Quantity] | None = None,
    ) -> Verdict:
        """Verdict by the mean over the runs that have a quantity; the note says how many have none.

        Args:
            claim: The claim.
            quantity: What is averaged.
            of: The quantity of a run, NaN if it has none.
            holds_for: Means for which the claim holds.
            within: Ends of the range of the quantity.
            note: What a reader must know beside it.
            variants: Other quantities of the chosen runs, by name.

        Returns:
            The verdict, with the same mean of the other runs.
        """
        quantities = {name: _over_runs(self.chosen, other, within) for name, other in (variants or {}).items()}
        missing = [
            f"{name} {absent} of {len(runs)}"
            for name, runs in {"chosen": self.chosen, **self.others}.items()
            if (absent := sum(not np.isfinite(of(each)) for each in runs))
        ]
        left_out = f"runs without this number are left out: {', '.join(missing)}" if missing else ""
        return verdict(
            claim,
            quantity=f"{quantity}, mean over runs",
            estimate=_over_runs(self.chosen, of, within),
            holds_for=holds_for,
            variants=quantities | {name: _over_runs(runs, of, within) for name, runs in self.others.items()},
            note="; ".join(filter(None, (note, left_out))),
        )

    def most(self, claim: str, *, quantity: str, has: Callable[[Measured], bool], note: str | None = None) -> Verdict:
        """Verdict on whether most runs have a property; all runs count."""
        return verdict(
            claim,
            quantity=f"share of all runs {quantity}",
            estimate=_share(self.chosen, has),
            holds_for=Range(above=0.5),
            variants={name: _share(runs, has) for name, runs in self.others.items()},
            note=note,
        )


def _settling_verdicts(runs: _Runs) -> list[Verdict]:
    behaviours = "; ".join(
        f"{name}: {', '.join(sorted({behaviour(each) for each in of}))}" for name, of in runs.labelled.items()
    )
    return [
        runs.most(
            "The sharpness rises to 2/eta (progressive sharpening).",
            quantity="whose sharpness begins below 2/eta and later exceeds it",
            has=rises,
        ),
        runs.mean(
            "It increases consistently during the initial stage.",
            quantity="share of the steps at which the sharpness increases, up to 2/eta or else to its largest value",
            of=increasing,
            holds_for=Range(above=0.8),
            within=SHARE,
        ),
        runs.most(
            "The sharpness settles around 2/eta.",
            quantity="in whose second half the mean is within 5 % of 2/eta, the standard deviation is below 10 % of "
            "2/eta, and 2/eta is crossed at least twice",
            has=settles,
            note="runs that diverge count as not settling. Decisive are data and loss, which are not printed, and "
            f"some initial weights lead to another minimum, of smaller sharpness. {behaviours}",
        ),
        runs.mean(
            "The mean of the sharpness late in training is 2/eta.",
            quantity="mean sharpness of the second half of a run over 2/eta",
            of=late_mean,
            holds_for=Range(above=0.95, below=1.05),
            within=POSITIVE,
            note="a run that cycles may have this mean, too",
        ),
        runs.mean(
            "Around 2/eta the sharpness oscillates.",
            quantity="standard deviation of the sharpness in the second half of a run over 2/eta",
            of=late_amplitude,
            holds_for=Range(above=1e-4, below=0.1),
            within=POSITIVE,
            note="larger oscillations are cycles around 2/eta rather than a sharpness that settles",
        ),
    ]


def _rate_verdict(runs: _Runs) -> Verdict:
    """Appendix D.2: both phenomena can be observed for a range of learning rates."""

    def shows(each: Measured) -> bool:
        return rises(each) and settles(each)

    by_seed = zip(runs.chosen, *runs.rates.values(), strict=False)
    return verdict(
        "Progressive sharpening and the edge of stability can be observed for a range of learning rates.",
        quantity="share of initial weights from which the sharpness rises to 2/eta and settles at every rate",
        estimate=share([all(map(shows, of_seed)) for of_seed in by_seed]),
        holds_for=Range(above=0.5),
        variants={name: _share(of, shows) for name, of in runs.rates.items()},
        note="at small rates the sharpness reaches 2/eta late, so that few steps remain in which it can settle",
    )


def _phase_verdicts(runs: _Runs) -> list[Verdict]:
    return [
        runs.mean(
            "During the edge of stability the oscillations of sharpness and trace are in opposite phases.",
            quantity="correlation of the changes of both from step to step, from the first step above 2/eta on",
            of=opposition,
            holds_for=Range(below=-0.5),
            within=COEFFICIENT,
            variants={
                "values instead of changes": partial(opposition, of="values"),
                "means of two successive steps": partial(opposition, of="slow"),
            },
            note="oscillations of two steps are opposite; slower ones, in which both rise and fall, are not",
        ),
        runs.mean(
            "The amplitude of the oscillations decreases similarly to the norm of the residual.",
            quantity=f"correlation with the largest residual over {NUM_WINDOWS} windows, from the largest amplitude on",
            of=amplitude_correlation,
            holds_for=Range(above=0.5),
            within=COEFFICIENT,
            variants={"root mean square of the residual in each window": partial(amplitude_correlation, norm="mean")},
            note="in the end an oscillation of two steps with a constant amplitude remains",
        ),
        runs.mean(
            "The loss continues to decrease over long timescales.",
            quantity="decades by which the mean loss rises from the first to the second half of the steps from the "
            "first one above 2/eta on, in runs that settle",
            of=loss_change,
            holds_for=Range(below=0.0),
            within=ANY,
            variants={
                f"first and last of {NUM_WINDOWS} windows of these steps": partial(loss_change, of="windows"),
                "first step above 2/eta and last window": partial(loss_change, of="onset"),
            },
            note="the loss falls between bursts, which bring the sharpness back below 2/eta; windows that do not span "
            "several bursts depend on where they lie",
        ),
        runs.mean(
            "The loss is locally not monotonic.",
            quantity="share of steps at which the loss rises, from the first one above 2/eta on, in runs that settle",
            of=loss_rises,
            holds_for=Range(above=0.05),
            within=SHARE,
        ),
    ]


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
            f"During progressive sharpening, {label} grows.",
            quantity="median over all runs of its value at the first step above 2/eta, or where the sharpness is "
            "largest if there is none, over the initial one",
            estimate=_median_growth(runs.chosen, name),
            holds_for=Range(above=1.0),
            variants={label: _median_growth(of, name) for label, of in runs.shorter.items()},
        )
        for name, label in named.items()
    ]


def _median_growth(runs: Sequence[Measured], name: str) -> Estimate:
    return estimates.median([growth(each, name) for each in runs])


def _bound_verdict(runs: _Runs) -> Verdict:
    every = [each for of in runs.labelled.values() for each in of]
    largest = np.concatenate([each.arrays["largest_outlier"] for each in every])

    def within(prefix: str) -> Estimate:
        lower, upper = (np.concatenate([each.arrays[prefix + end] for each in every]) for end in ("lower", "upper"))
        slack = ROUNDING * np.abs(largest)
        return in_every((largest >= lower - slack) & (largest <= upper + slack))

    return verdict(
        "The sharpness lies between T/3 + xi/2 and T/3 + xi (eq. 121).",
        quantity="share of all points of all runs at which the largest outlier does",
        estimate=within(""),
        holds_for=EVERY,
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


def _variant_panel(variants: Mapping[str, Sequence[Measured]], title: str) -> Panel:
    curves = []
    for name, of in variants.items():
        sharpness = of[0].arrays["sharpness"] / of[0].values["edge"]
        steps = thinned(len(sharpness), MOST_POINTS)
        curves.append(curve(name, steps, np.minimum(sharpness[steps], 3.0), style="line"))
    curves.append(curve("2 / learning rate", [], [1.0], style="horizontal"))
    return Panel(title=f"{title}, cut at 3", x_label="step", y_label="sharpness over 2 / learning rate", curves=curves)


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
    rates = [_rate_verdict(runs)] if runs.rates else []
    verdicts = [*_settling_verdicts(runs), *rates, *_phase_verdicts(runs), *_growth_verdicts(runs)]
    verdicts += [_bound_verdict(runs), _agreement(runs)]
    panels = _panels(next((each for each in runs.chosen if settles(each)), runs.chosen[0]))
    others = {name: of for name, of in runs.variants.items() if name not in runs.rates}
    for title, variants in (("Other data and losses", others), ("Other learning rates", runs.rates)):
        if variants:
            panels.append(_variant_panel(variants, title))
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
        Choice(
            name="learning_rate",
            value=f"{parameters.learning_rate:g}",
            reason="Printed, with the remark that a range of rates around it does the same; other rates are variants.",
        ),
        Choice(
            name="num_steps",
            value=str(parameters.num_steps),
            reason="Not printed. Its half and its quarter are variants.",
        ),
    ]
    return FigureContent(_rows(runs), panels, verdicts, choices)


FIGURE_CONTENTS = {"cracking-27": figure_27}
