"""Figures with GPT-2: the Gauss-Newton matrix in place of the Hessian while it is pretrained, and attention sinks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hessian_spectrum.api_schemas.figures.gpt import (
    PretrainingMeasurement,
    PretrainingParameters,
    SinkMeasurement,
    SinkParameters,
)
from hessian_spectrum.api_schemas.figures.results import AxisScale, Choice, Curve, Panel, Variant, Verdict
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import (
    ComparisonPoint,
    ComparisonRun,
    HessianVsGgnResult,
    MeanCurve,
    ModelComparison,
)
from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.serialization.tables import comparison_rows
from hessian_spectrum.statistics.estimates import Estimate, mean, unknown
from hessian_spectrum.worker.experiments.comparison_curves import model_comparison
from hessian_spectrum.worker.experiments.hessian_vs_ggn import run_hessian_vs_ggn_job
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.figures.measurement import Context, FigureContent, Measured

ALMOST_ALL = 0.9
"""Share from which we call a part "almost all"."""

NEAR_ZERO = 0.01
"""Distance from 0, relative to the largest eigenvalue, within which we count an eigenvalue as close to zero."""

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


def _pretraining_content(across: Sequence[_Across], with_loss: bool = False) -> Callable[..., FigureContent]:
    def content(parameters: PretrainingParameters, measured: Sequence[Measured]) -> FigureContent:
        models = _comparisons(parameters, measured)
        rows = [row for model in models for row in comparison_rows(model)]
        panels = [_error_panel(each, models) for each in across]
        if with_loss:
            panels.insert(0, _loss_panel(models))
        verdicts = [_smaller_without_attention(each, models, parameters) for each in across]
        verdicts += [_decreases(models)] if with_loss else []
        return FigureContent(rows, panels, verdicts, _pretraining_choices(parameters))

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
    curves = [across.curve(model) for model in models]
    share = None if None in curves else _share_below(*[curve for curve in curves if curve is not None])
    shares = [_share_of_seed(across, models, index) for index in range(len(parameters.seeds))]
    known = [each for each in shares if each is not None]
    interval = mean(known) if len(known) > 2 else unknown("an interval needs three seeds")
    return Verdict(
        claim=f"For almost every fixed value of the {across.name}, the relative error of the model without attention "
        "is smaller than that of the model with attention.",
        quantity=f"share of values of the {across.name} at which the mean error is smaller without attention; the "
        "interval is that of the mean share of single seeds",
        holds=None if share is None else share >= ALMOST_ALL,
        value=share,
        lower=interval.lower,
        upper=interval.upper,
        threshold=ALMOST_ALL,
        note="The two models meet only where their curves overlap; the source excepts the initialisation.",
        variants=[
            Variant(
                choice=f"seed {seed} alone",
                holds=None if value is None else value >= ALMOST_ALL,
                value=value,
                lower=None,
                upper=None,
            )
            for seed, value in zip(parameters.seeds, shares, strict=True)
        ],
    )


def _share_below(first: MeanCurve, second: MeanCurve) -> float | None:
    """Return the share of the common range in which the second curve lies below the first."""
    low, high = max(first.grid[0], second.grid[0]), min(first.grid[-1], second.grid[-1])
    if not low < high:
        return None
    grid = np.linspace(low, high, 201)
    upper, lower = (np.interp(grid, curve.grid, curve.mean) for curve in (first, second))
    return float(np.mean(lower < upper))


def _share_of_seed(across: _Across, models: Sequence[ModelComparison], index: int) -> float | None:
    single = [model_comparison("", 1, [model.runs[index]], with_curves=True) for model in models]
    curves = [curve for each in single if (curve := across.curve(each)) is not None]
    return _share_below(*curves) if len(curves) == len(models) else None


def _decreases(models: Sequence[ModelComparison]) -> Verdict:
    """Check that the error falls during training, as the residual does, without attention."""
    model = models[1]
    ratios = []
    for run in model.runs:
        errors = [point.relative_error for point in run.points if point.relative_error is not None]
        if len(errors) > 1 and errors[0].value > 0:
            ratios.append(errors[-1].value / errors[0].value)
    estimate = mean(ratios) if len(ratios) > 2 else Estimate(ratios[0] if ratios else None, None, None)
    return Verdict(
        claim="The residual drives the difference between Hessian and Gauss-Newton matrix to zero during training.",
        quantity="error at the last step divided by that at the first, without attention, mean over seeds",
        holds=estimate.is_below(1.0),
        value=estimate.value,
        lower=estimate.lower,
        upper=estimate.upper,
        threshold=1.0,
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
    return FigureContent(rows, panels, [_stretches(spectra, scores), _keeps_zeros(spectra)], choices)


def _sink_row(score: float, spectrum: LanczosResult) -> dict[str, Any]:
    row: dict[str, Any] = {"mean_score": score, "loss": spectrum.loss}
    for name, number in (("largest", spectrum.largest), ("smallest", spectrum.smallest), ("trace", spectrum.trace)):
        row |= {name: number.value, f"{name}_lower": number.lower, f"{name}_upper": number.upper}
    return row


def _stretches(spectra: Sequence[LanczosResult], scores: Sequence[float]) -> Verdict:
    """Check that the largest eigenvalue grows from each sink to the next larger one."""
    ordered = [spectra[index].largest for index in np.argsort(scores)]
    first, last = ordered[0], ordered[-1]
    known = None not in (first.lower, first.upper, last.lower, last.upper) and (first.lower or 0) > 0
    ends = [last.lower / first.upper, last.upper / first.lower] if known else [None, None]
    steps = [
        None if before.upper is None or after.lower is None else after.lower > before.upper
        for before, after in pairwise(ordered)
    ]
    return Verdict(
        claim="The more prominent the attention sinks, the larger the outliers in the spectrum.",
        quantity="largest eigenvalue with the largest sink, divided by that without a sink",
        holds=None if None in steps else all(steps),
        value=last.value / first.value if first.value else None,
        lower=ends[0],
        upper=ends[1],
        threshold=1.0,
        note="It holds if the largest eigenvalue grows from each sink to the next: "
        + ", ".join(f"{each.value:.4g}" for each in ordered),
    )


def _keeps_zeros(spectra: Sequence[LanczosResult]) -> Verdict:
    """Check that most eigenvalues stay close to zero with every sink."""
    shares = [_share_near_zero(each) for each in spectra]
    value, lower, upper = min(shares)
    return Verdict(
        claim="Attention sinks preserve many eigenvalues close to zero.",
        quantity=f"smallest share of eigenvalues within {NEAR_ZERO:.0%} of the largest one, over all sinks",
        holds=True if lower > 0.5 else False if upper < 0.5 else None,
        value=value,
        lower=lower,
        upper=upper,
        threshold=0.5,
    )


def _share_near_zero(spectrum: LanczosResult) -> tuple[float, float, float]:
    """Return the share of eigenvalues near 0 with the ends of its interval, from the cumulative curve and its band."""
    curve, limit = spectrum.cumulative, NEAR_ZERO * abs(spectrum.largest.value)
    value, lower, upper = (
        [float(np.interp(end, curve.grid, values)) for end in (-limit, limit)]
        for values in (curve.values, curve.band.lower, curve.band.upper)
    )
    return value[1] - value[0], max(0.0, lower[1] - upper[0]), min(1.0, upper[1] - lower[0])


MEASUREMENTS = {PretrainingMeasurement: _measure_pretraining, SinkMeasurement: _measure_sinks}

FIGURE_CONTENTS = {
    "cracking-5": _pretraining_content([_RESIDUAL]),
    "cracking-6": _sink_content,
    "cracking-23": _pretraining_content([_LOSS]),
    "cracking-24": _pretraining_content([_LOSS]),
    "cracking-25": _pretraining_content([_STEP], with_loss=True),
}
