"""Figures with GPT-2: the Gauss-Newton matrix in place of the Hessian while it is pretrained, and attention sinks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import norm

from hessian_spectrum.api_schemas.figures.gpt import (
    PretrainingMeasurement,
    PretrainingParameters,
    SinkMeasurement,
    SinkParameters,
)
from hessian_spectrum.api_schemas.figures.results import AxisScale, Choice, Curve, Panel, Verdict
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import (
    ComparisonPoint,
    ComparisonRun,
    HessianVsGgnResult,
    MeanCurve,
    ModelComparison,
)
from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.api_schemas.spectrum_results import RitzValue
from hessian_spectrum.results.tables import comparison_rows
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import CONFIDENCE, Estimate, joint_confidence, unknown
from hessian_spectrum.worker.experiments.comparison_curves import model_comparison
from hessian_spectrum.worker.experiments.hessian_vs_ggn import run_hessian_vs_ggn_job
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.figures.claims import Range, exact, verdict
from hessian_spectrum.worker.figures.measurement import Context, FigureContent, Measured

ALMOST_ALL = 0.9
"""Share from which we call a part "almost all"."""

NEAR_ZERO = 0.01
"""Distance from 0, relative to the largest eigenvalue without a sink, within which we count one as close to zero."""

NUM_OUTLIERS = 5
"""Number of the largest eigenvalues that we count as outliers."""

CONVERGED = 1e-3
"""Error of an outlier, relative to it, up to which we use it."""

DENSITY_RANGE = 1e-8
"""Smallest density that is drawn, relative to the largest one."""

_LABELS = ("GPT-2", "GPT-2 without attention")
_ERROR = "relative error of the top eigenvalue"


def _measure_pretraining(measurement: PretrainingMeasurement, context: Context) -> Measured:
    output = run_hessian_vs_ggn_job(
        measurement.request, context.hardware, context.progress, inputs=context.inputs, job=context.job
    )
    assert isinstance(output.result, HessianVsGgnResult)
    [curve] = output.result.curves
    return Measured({"num_parameters": curve.num_parameters, "run": curve.runs[0].model_dump()})


def _measure_sinks(measurement: SinkMeasurement, context: Context) -> Measured:
    output = run_spectrum_job(
        measurement.request, context.hardware, context.progress, inputs=context.inputs, job=context.job
    )
    assert isinstance(output.result, SpectrumSetResult)
    return Measured({"spectra": output.result.model_dump()["spectra"]})


def _comparisons(parameters: PretrainingParameters, measured: Sequence[Measured]) -> list[ModelComparison]:
    """Return the runs of both models with their mean curves."""
    runs = [ComparisonRun.model_validate(each.values["run"]) for each in measured]
    num_seeds = len(parameters.seeds)
    return [
        model_comparison(
            label,
            measured[index * num_seeds].values["num_parameters"],
            runs[index * num_seeds : (index + 1) * num_seeds],
            with_curves=True,
        )
        for index, label in enumerate(_LABELS)
    ]


@dataclass(frozen=True)
class _Across:
    """The quantity against which errors are drawn."""

    label: str
    name: str
    of_point: Callable[[ComparisonPoint], float]
    curve: Callable[[ModelComparison], MeanCurve | None]


_RESIDUAL = _Across(
    "mean residual norm", "mean residual norm", lambda p: p.mean_residual_norm, lambda m: m.against_residual
)
_LOSS = _Across("loss (nats per token)", "loss", lambda p: p.loss, lambda m: m.against_loss)
_STEP = _Across("training step", "step", lambda p: float(p.step), lambda m: m.relative_error)


def _pretraining_content(
    across: Sequence[_Across], *, with_loss: bool = False, choices: Sequence[Choice] = ()
) -> Callable[..., FigureContent]:
    def content(parameters: PretrainingParameters, measured: Sequence[Measured]) -> FigureContent:
        models = _comparisons(parameters, measured)
        rows = [row for model in models for row in comparison_rows(model)]
        panels = [_error_panel(each, models) for each in across]
        if with_loss:
            panels.insert(0, _loss_panel(models))
        verdicts = [_smaller_without_attention(each, models, parameters) for each in across]
        verdicts += [_decreases(models)] if with_loss else []
        return FigureContent(rows, panels, verdicts, [*_pretraining_choices(parameters), *choices])

    return content


def _error_panel(across: _Across, models: Sequence[ModelComparison]) -> Panel:
    curves = []
    for group, model in enumerate(models):
        if (mean_curve := across.curve(model)) is not None:
            curves.append(_mean_curve(model.label, mean_curve, group))
        points = [point for run in model.runs for point in run.points if point.relative_error is not None]
        values = [point.relative_error.value for point in points if point.relative_error is not None]
        x = [across.of_point(point) for point in points]
        curves.append(Curve(label="", x=x, y=list(values), style="markers", group=group))
    scale: AxisScale = "symlog" if across is _STEP else "linear"
    return Panel(title="", x_label=across.label, y_label=_ERROR, x_scale=scale, y_scale="log", curves=curves)


def _loss_panel(models: Sequence[ModelComparison]) -> Panel:
    curves = [
        _mean_curve(model.label, model.loss, group) for group, model in enumerate(models) if model.loss is not None
    ]
    return Panel(title="", x_label="training step", y_label=_LOSS.label, x_scale="symlog", curves=curves)


def _mean_curve(label: str, curve: MeanCurve, group: int) -> Curve:
    middle, error = np.asarray(curve.mean), curve.standard_error
    ends: dict[str, Any] = {}
    if error is not None:
        ends = {"lower": (middle - error).tolist(), "upper": (middle + error).tolist()}
    return Curve(label=label, x=curve.grid, y=list(curve.mean), style="line", group=group, **ends)


def _smaller_without_attention(
    across: _Across, models: Sequence[ModelComparison], parameters: PretrainingParameters
) -> Verdict:
    """Check that at almost all values of a quantity the error is smaller without attention, and say so of each seed."""
    seeds, trained = parameters.seeds, [_trained(model) for model in models]
    shares = [_share_of_seed(across, trained, index) for index in range(len(seeds))]
    of_all = [_share_of_seed(across, models, index) for index in range(len(seeds))]
    curves = [curve for each in trained if (curve := across.curve(each)) is not None]
    of_means = _share_below(*curves) if len(curves) == len(models) else np.nan
    variants = {
        "initialization included": _over_seeds(of_all, estimates.mean_share),
        "errors averaged over the seeds first": Estimate(of_means if np.isfinite(of_means) else None, None, None),
        **{f"seed {seed} alone": exact(value) for seed, value in zip(seeds, shares, strict=True)},
    }
    return verdict(
        f"For almost every fixed value of the {across.name}, except at the initialization, the relative error of the "
        "model without attention is smaller than that of the model with attention.",
        quantity=f"share of values of the {across.name} at which the error is smaller without attention, mean over "
        "seeds",
        estimate=_over_seeds(shares, estimates.mean_share),
        holds_for=Range(above=ALMOST_ALL),
        note="over the values that both models have after the first step",
        variants=variants,
    )


def _over_seeds(values: Sequence[float], mean: Callable[[Sequence[float]], Estimate]) -> Estimate:
    """Return the mean over seeds; without an interval for fewer seeds than it takes."""
    found = mean(values)
    if found.value is None and len(values) and np.isfinite(values).all():
        return Estimate(float(np.mean(values)), None, None, found.why)
    return found


def _trained(model: ModelComparison) -> ModelComparison:
    """Return the runs without the initialization."""
    runs = [run.model_copy(update={"points": [point for point in run.points if point.step > 0]}) for run in model.runs]
    return model_comparison(model.label, model.num_parameters, runs, with_curves=True)


def _share_below(first: MeanCurve, second: MeanCurve) -> float:
    """Return the share of the common range in which the second curve lies below the first; NaN if there is none."""
    low, high = max(first.grid[0], second.grid[0]), min(first.grid[-1], second.grid[-1])
    if not low < high:
        return np.nan
    grid = np.linspace(low, high, 201)
    upper, lower = (np.interp(grid, curve.grid, curve.mean) for curve in (first, second))
    return float(np.mean(lower < upper))


def _share_of_seed(across: _Across, models: Sequence[ModelComparison], index: int) -> float:
    single = [model_comparison("", 1, [model.runs[index]], with_curves=True) for model in models]
    curves = [curve for each in single if (curve := across.curve(each)) is not None]
    return _share_below(*curves) if len(curves) == len(models) else np.nan


def _decreases(models: Sequence[ModelComparison]) -> Verdict:
    """Check that the error falls during training, as the residual does, without attention."""
    ratios = []
    for run in models[1].runs:
        errors = [point.relative_error for point in run.points if point.relative_error is not None]
        has_ratio = len(errors) > 1 and errors[0].value > 0
        ratios.append(errors[-1].value / errors[0].value if has_ratio else np.nan)
    return verdict(
        "The residual drives the difference between Hessian and Gauss-Newton matrix to zero during training.",
        quantity="error at the last step divided by that at the first, without attention, mean over seeds",
        estimate=_over_seeds(ratios, partial(estimates.mean, within=(0.0, np.inf))),
        holds_for=Range(below=1.0),
    )


def _pretraining_choices(parameters: PretrainingParameters) -> list[Choice]:
    sizes = parameters.sizes
    return [
        Choice(
            name="data",
            value=parameters.data.kind if parameters.data.kind != "text" else f"text {parameters.data.name or 'given'}",
            reason="The source trains on OpenWebText, which this server does not hold; tokens can be uploaded.",
        ),
        Choice(
            name="sizes",
            value=f"{sizes.n_layer} layers of width {sizes.n_embd}, {parameters.num_steps} steps",
            reason="The source has 12 layers of width 768 and 10,000 steps.",
        ),
        Choice(
            name="residual",
            value="mean over targets of the norm of the derivative of a target's loss with respect to its logits",
            reason="The source does not say whether the mean over targets is part of the loss that is differentiated.",
        ),
    ]


def _sink_content(parameters: SinkParameters, measured: Sequence[Measured]) -> FigureContent:
    spectra = [LanczosResult.model_validate(each) for each in measured[0].values["spectra"]]
    scores = [each.attention_sink.mean_score_after for each in spectra if each.attention_sink is not None]
    rows = [_sink_row(score, spectrum) for score, spectrum in zip(scores, spectra, strict=True)]
    highest = max(max(spectrum.density.values) for spectrum in spectra)
    panels = [
        Panel(
            title="",
            x_label="eigenvalue",
            y_label="density",
            y_scale="log",
            y_limits=[DENSITY_RANGE * highest, 3 * highest],
            curves=[
                Curve(
                    label=f"mean score {score:.2f}",
                    x=spectrum.density.grid,
                    y=list(spectrum.density.values),
                    lower=list(spectrum.density.band.lower),
                    upper=list(spectrum.density.band.upper),
                    style="line",
                )
                for score, spectrum in zip(scores, spectra, strict=True)
            ],
        )
    ]
    choices = [
        Choice(
            name="model",
            value=parameters.checkpoint or f"trained here for {parameters.num_steps} steps",
            reason="The source takes the fitted GPT-2 of 124 million parameters, a checkpoint of the models directory.",
        ),
        Choice(
            name="mean_scores",
            value=", ".join(f"{score:.2f}" for score in scores),
            reason="The source goes from 0.32 to 0.81 in one step; a model has its own score without a sink.",
        ),
    ]
    return FigureContent(rows, panels, sink_verdicts([spectra[index] for index in np.argsort(scores)]), choices)


def _sink_row(score: float, spectrum: LanczosResult) -> dict[str, Any]:
    row: dict[str, Any] = {"mean_score": score, "loss": spectrum.loss}
    for name, number in (("largest", spectrum.largest), ("smallest", spectrum.smallest), ("trace", spectrum.trace)):
        row |= {name: number.value, f"{name}_lower": number.lower, f"{name}_upper": number.upper}
    return row


def outliers(spectrum: LanczosResult) -> list[Estimate]:
    """Return the largest eigenvalues, in descending order, from the Ritz values that all probes have found.

    Some eigenvalue differs from a Ritz value by no more than its residual and the error of products.

    Args:
        spectrum: A density with its quadratures.

    Returns:
        `NUM_OUTLIERS` eigenvalues. Those are unknown that have not converged, or on which the probes do not agree.
    """
    error = spectrum.largest.residual
    found: list[Estimate] = []
    for index in range(1, NUM_OUTLIERS + 1):
        ends = [
            (rule.nodes[-index], abs(rule.residuals[-index]) + error)
            for rule in spectrum.quadrature
            if rule.residuals is not None and len(rule.nodes) >= index
        ]
        lower, upper = max((v - e for v, e in ends), default=0.0), min((v + e for v, e in ends), default=0.0)
        value = ends[0][0] if ends else 0.0
        is_known = len(ends) == len(spectrum.quadrature) and lower <= upper <= lower + CONVERGED * abs(value)
        known = Estimate(min(max(value, lower), upper), lower, upper)
        found.append(known if is_known else unknown(f"the eigenvalue of rank {index} has not converged"))
    return found


def _sum(numbers: Sequence[Estimate]) -> Estimate:
    """Return the sum of numbers with the sums of their ends."""
    if reasons := [each.why for each in numbers if each.value is None]:
        return unknown(reasons[0] or "one of the numbers is unknown")
    ends = zip(*((each.value, each.lower, each.upper) for each in numbers), strict=True)
    return Estimate(*(None if None in column else sum(column) for column in ends))


def _ratio(after: Estimate, before: Estimate) -> Estimate:
    """Return the quotient of two numbers, with an interval if the second one is positive."""
    if after.value is None or not before.value:
        return unknown(after.why or before.why or "a number is unknown")
    value = after.value / before.value
    ends = [end for end in (after.lower, after.upper) if end is not None]
    divisors = [end for end in (before.lower, before.upper) if end is not None and end > 0]
    if len(ends) < 2 or len(divisors) < 2:
        return Estimate(value, None, None, "an end of an interval is unknown, or not positive")
    quotients = [end / divisor for end in ends for divisor in divisors]
    return Estimate(value, min(quotients), max(quotients))


def _grows(claim: str, name: str, numbers: Sequence[Estimate]) -> Verdict:
    """Check that a number grows from each sink to the next larger one; numbers are in the order of the sinks."""
    # the intervals are bounds by residuals, which hold for all sinks together
    steps = [_ratio(after, before) for before, after in pairwise(numbers)]
    return verdict(
        claim,
        quantity=f"smallest ratio of {name} with a sink to that with the next smaller sink",
        estimate=estimates.extreme(steps, which="smallest"),
        holds_for=Range(above=1.0),
        note=f"from the smallest to the largest sink, {name} is "
        + ", ".join("unknown" if each.value is None else f"{each.value:.4g}" for each in numbers),
        variants={"the largest sink alone": _ratio(numbers[-1], numbers[0])} if len(numbers) > 2 else None,
    )


def _stretches(spectra: Sequence[LanczosResult]) -> list[Verdict]:
    """Check that outliers and width of the spectrum grow with the sink; spectra are in the order of the sinks."""
    claim = "The more prominent the attention sinks, the larger the outliers in the spectrum"
    largest, smallest = ([_bounded(getattr(each, end)) for each in spectra] for end in ("largest", "smallest"))
    others = [_sum(outliers(each)[1:]) for each in spectra]
    widths = [_sum([high, _negative(low)]) for high, low in zip(largest, smallest, strict=True)]
    return [
        _grows(f"{claim}: the largest eigenvalue.", "the largest eigenvalue", largest),
        _grows(
            f"{claim}: those after the largest.", f"the sum of the eigenvalues of ranks 2 to {NUM_OUTLIERS}", others
        ),
        _grows(
            "Larger attention sinks stretch the spectrum.",
            "the distance between the smallest and the largest eigenvalue",
            widths,
        ),
    ]


def _bounded(number: RitzValue) -> Estimate:
    return Estimate(number.value, number.lower, number.upper)


def _negative(number: Estimate) -> Estimate:
    value, lower, upper = (None if end is None else -end for end in (number.value, number.upper, number.lower))
    return Estimate(value, lower, upper, number.why)


def sink_verdicts(spectra: Sequence[LanczosResult]) -> list[Verdict]:
    """Return the verdicts on spectra in the order of the sinks, that without a sink first."""
    return [*_stretches(spectra), _keeps_zeros(spectra)]


def _keeps_zeros(spectra: Sequence[LanczosResult]) -> Verdict:
    """Check that most eigenvalues stay close to zero with every sink."""
    limit = NEAR_ZERO * abs(spectra[0].largest.value)
    return verdict(
        "Attention sinks preserve many eigenvalues close to zero.",
        quantity=f"smallest share, over all sinks, of eigenvalues of at most {NEAR_ZERO:.0%} of the largest eigenvalue "
        "without a sink",
        estimate=estimates.extreme(
            [share_near_zero(each, limit, confidence=joint_confidence(len(spectra))) for each in spectra],
            which="smallest",
        ),
        holds_for=Range(above=0.5),
    )


def share_near_zero(spectrum: LanczosResult, limit: float, *, confidence: float) -> Estimate:
    """Return the share of eigenvalues within a distance of 0.

    Args:
        spectrum: A density with its cumulative curve.
        limit: The distance.
        confidence: Confidence of the interval; the band of the curve, which has 95 %, is widened as if it were that of
            a normal number, at each end of the window half of the probability of error.

    Returns:
        The share.
    """
    curve = spectrum.cumulative
    factor = float(norm.ppf(1 - (1 - confidence) / 4) / norm.ppf((1 + CONFIDENCE) / 2))
    value, lower, upper = (
        [float(np.interp(end, curve.grid, values)) for end in (-limit, limit)]
        for values in (curve.values, curve.band.lower, curve.band.upper)
    )
    share = value[1] - value[0]
    below, above = share - (lower[1] - upper[0]), upper[1] - lower[0] - share
    return Estimate(share, max(0.0, share - factor * below), min(1.0, share + factor * above))


_TWO_READINGS = Choice(
    name="panels",
    value="the error against the loss, and the error at each training step",
    reason="The text calls figure 24 a plot against the loss; its caption has the error while pretraining.",
)

MEASUREMENTS = {PretrainingMeasurement: _measure_pretraining, SinkMeasurement: _measure_sinks}

FIGURE_CONTENTS = {
    "cracking-5": _pretraining_content([_RESIDUAL]),
    "cracking-6": _sink_content,
    "cracking-23": _pretraining_content([_LOSS]),
    "cracking-24": _pretraining_content([_LOSS, _STEP], choices=[_TWO_READINGS]),
    "cracking-25": _pretraining_content([_STEP], with_loss=True),
}
