"""Sharpness, trace and norms of self-attention on scalars along gradient descent."""

from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr

from hessian_spectrum.api_schemas.figures.attention_descent import AttentionDescent, EdgeOfStabilityParameters
from hessian_spectrum.api_schemas.figures.results import AxisScale, Cell, Choice, Panel, Verdict
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.dynamics.descent_path import DenseSpectra, DescentPath, dense_spectra, descent_path
from hessian_spectrum.curvature.models.closed_form import SelfAttention
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate, unknown
from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.attention_spectra import attention_moments, printed_bounds
from hessian_spectrum.worker.figures.claims import Range, curve, exact, share, thinned, verdict
from hessian_spectrum.worker.figures.closed_forms import number
from hessian_spectrum.worker.figures.measurement import Context, FigureContent, Measured

Array = NDArray[np.float64]

WEIGHTS, DATA = 1, 2
"""Purposes of random numbers."""

NUM_SEQUENCES = 100
"""Number of sequences where they are drawn."""

NUM_WINDOWS = 10
"""Number of windows after the onset of oscillations, in which their amplitude is measured."""

NUM_CLOSED = 60
"""Number of points of a run at which the closed form is evaluated."""

MOST_POINTS = 4000
"""Largest number of points of a curve. Fewer than all of them distort oscillations of two steps."""

CHUNK_NUMBERS = 2**20
"""Largest number of attention scores of all rows of all Hessians that are computed at once."""

_ROUNDING = 1e-10


def sequences(measurement: AttentionDescent) -> Array:
    """Return the input sequences (batch, L) of a measurement."""
    if measurement.sequence is not None:
        return np.array([measurement.sequence], dtype=np.float64)
    generator = generator_of(measurement.seed, DATA)
    drawn: Array = torch.randn((NUM_SEQUENCES, 2), generator=generator, dtype=torch.float64).numpy()
    return drawn


def measure_attention_descent(measurement: AttentionDescent, context: Context) -> Measured:
    """Train self-attention to reverse sequences, with every eigenvalue of the Hessian at every step.

    A loss with the factor c is half the mean squared error times 2c: descent is that of the latter with the learning
    rate 2c eta, and eigenvalues are 2c times as large.

    Args:
        measurement: The network, its data and its training.
        context: Progress.

    Returns:
        Arrays over the points: `loss`, `sharpness`, `smallest`, `trace`, `residual_norm`, `value`, |w_V|;
        `query_norm`, `key_norm`; `alignment`, <w_Q, w_K>; `mean_norm`, `second_norm`, `third_norm`, of the moments.
        Arrays over `closed_steps`, some of them: `largest_outlier` by the closed form, its bounds of eq. (121), `lower`
        and `upper`, and `printed_lower` and `printed_upper`, as printed. Values: `diverged_at`, the step after which
        parameters left the range, None if none did; `edge`, 2/eta; `closed_difference`, the largest difference of
        eigenvalues of the closed form and of automatic differentiation, over the largest eigenvalue.
    """
    m, x = measurement, sequences(measurement)
    y, scale = x[:, ::-1].copy(), 2 * m.loss_factor
    model = SelfAttention(m.key_dim)
    generator = generator_of(m.seed, WEIGHTS)
    initial = {
        name: m.initial_std * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in model.parameter_shapes.items()
    }
    data = Dataset(torch.from_numpy(x)[:, :, None], torch.from_numpy(y)[:, :, None])
    path = descent_path(
        model,
        data,
        initial,
        learning_rate=scale * m.learning_rate,
        num_steps=m.num_steps,
        progress=context.progress,
    )
    chunk = max(1, min(256, CHUNK_NUMBERS // ((2 * m.key_dim + 1) * x.size * x.shape[1])))
    dense = dense_spectra(model, data, path, chunk=chunk)
    arrays = {
        "loss": scale * dense.loss,
        "sharpness": scale * dense.eigenvalues[:, -1],
        "smallest": scale * dense.eigenvalues[:, 0],
        "trace": scale * dense.eigenvalues.sum(axis=1),
    }
    closed, difference = _closed_forms(path, dense, x=x, y=y, scale=scale)
    values = {"diverged_at": path.diverged_at, "edge": 2 / m.learning_rate, "closed_difference": difference}
    return Measured(values, arrays | _norms(path, x, y) | closed)


def _norms(path: DescentPath, x: Array, y: Array) -> dict[str, Array]:
    w_v, w_q, w_k = (path.parameters[name] for name in ("w_v", "w_q", "w_k"))
    alignment = (w_q * w_k).sum(axis=1)
    moments = [attention_moments(x, score / sqrt(w_q.shape[1])) for score in alignment]
    residuals = [np.linalg.norm(value * each.mean - y) for value, each in zip(w_v, moments, strict=True)]
    return {
        "residual_norm": np.array(residuals),
        "value": np.abs(w_v),
        "query_norm": np.linalg.norm(w_q, axis=1),
        "key_norm": np.linalg.norm(w_k, axis=1),
        "alignment": alignment,
        "mean_norm": np.array([np.linalg.norm(each.mean) for each in moments]),
        "second_norm": np.array([np.linalg.norm(each.second) for each in moments]),
        "third_norm": np.array([np.linalg.norm(each.third) for each in moments]),
    }


def _closed_forms(
    path: DescentPath, dense: DenseSpectra, *, x: Array, y: Array, scale: float
) -> tuple[dict[str, Array], float]:
    """Bounds by the closed form at some points, and its largest difference from dense eigenvalues there."""
    steps, rows, difference = thinned(path.num_points, NUM_CLOSED), [], 0.0
    for step in steps:
        w_v, w_q, w_k = (path.parameters[name][step] for name in ("w_v", "w_q", "w_k"))
        spectrum = self_attention_spectrum(w_v=float(w_v), w_q=w_q, w_k=w_k, x=x, y=y)
        printed = printed_bounds(spectrum, norm_q=float(np.linalg.norm(w_q)), norm_k=float(np.linalg.norm(w_k)))
        xi = number(spectrum, "xi")
        largest = next(entry.value for entry in spectrum.eigenvalues if entry.role == "outlier")
        rows.append((largest, spectrum.trace / 3 + xi / 2, spectrum.trace / 3 + xi, *printed))
        gap = float(np.abs(spectrum.dense() - dense.eigenvalues[step]).max())
        difference = max(difference, gap / spectrum.scale)
    names = ("largest_outlier", "lower", "upper", "printed_lower", "printed_upper")
    columns = dict(zip(names, scale * np.array(rows).T, strict=True))
    return columns | {"closed_steps": np.array(steps)}, difference


MEASUREMENTS = {AttentionDescent: measure_attention_descent}


def onset(each: Measured) -> int | None:
    """First step at which the sharpness exceeds 2/eta; None if it never does."""
    above = each.arrays["sharpness"] > each.values["edge"]
    return int(np.argmax(above)) if above.any() else None


def _late(each: Measured, name: str) -> Array:
    """An array over the second half of the run."""
    values = each.arrays[name]
    late: Array = values[len(values) // 2 :]
    return late


def late_mean(each: Measured) -> float:
    """Mean sharpness of the second half of the run over 2/eta; NaN if descent diverges."""
    if each.values["diverged_at"] is not None:
        return np.nan
    return float(_late(each, "sharpness").mean() / each.values["edge"])


def late_amplitude(each: Measured) -> float:
    """Standard deviation of the sharpness in the second half of the run over 2/eta; NaN if descent diverges."""
    if each.values["diverged_at"] is not None:
        return np.nan
    return float(_late(each, "sharpness").std() / each.values["edge"])


def crossings(each: Measured) -> int:
    """Number of times that the sharpness crosses 2/eta in the second half of the run."""
    side = _late(each, "sharpness") > each.values["edge"]
    return int((side[1:] != side[:-1]).sum())


def opposition(each: Measured, of: Literal["changes", "values", "slow"] = "changes") -> float:
    """Correlation of sharpness and trace in the second half of a run; NaN where one of them is constant.

    Args:
        each: A run.
        of: Changes from step to step, the values themselves, or means of two successive steps, which have no
            oscillations of two steps.

    Returns:
        Pearson's coefficient.
    """
    if each.values["diverged_at"] is not None:
        return np.nan
    columns = [_late(each, name) for name in ("sharpness", "trace")]
    if of == "changes":
        columns = [np.diff(column) for column in columns]
    elif of == "slow":
        columns = [(column[1:] + column[:-1]) / 2 for column in columns]
    # oscillations below this size are rounding
    if min(np.ptp(column) for column in columns) < _ROUNDING:
        return np.nan
    return float(pearsonr(*columns).statistic)


class Windows(NamedTuple):
    """Numbers of successive parts of a run, from the one with the largest oscillations on."""

    amplitude: Array  # standard deviation of the sharpness
    peak: Array  # largest norm of the residual
    mean: Array  # root mean square of the norm of the residual


def windows(each: Measured) -> Windows | None:
    """Amplitude of the sharpness and norms of the residual in windows; None for no onset, or too few windows."""
    start = onset(each)
    if start is None or each.values["diverged_at"] is not None:
        return None
    parts = np.array_split(np.arange(start, len(each.arrays["sharpness"])), NUM_WINDOWS)
    amplitude = np.array([each.arrays["sharpness"][part].std() for part in parts])
    residuals = [each.arrays["residual_norm"][part] for part in parts]
    first = int(np.argmax(amplitude))
    if NUM_WINDOWS - first < 4:
        return None
    peak = np.array([residual.max() for residual in residuals])
    mean = np.array([np.sqrt((residual**2).mean()) for residual in residuals])
    return Windows(amplitude[first:], peak[first:], mean[first:])


def amplitude_correlation(each: Measured, norm: Literal["peak", "mean"] = "peak") -> float:
    """Correlation of the amplitude of the sharpness with the norm of the residual over windows; NaN if undefined."""
    found = windows(each)
    if found is None:
        return np.nan
    pair = found.amplitude, getattr(found, norm)
    return float(pearsonr(*pair).statistic) if min(np.ptp(column) for column in pair) >= _ROUNDING else np.nan


def _over_runs(runs: Sequence[Measured], quantity: Callable[[Measured], float], why: str) -> Estimate:
    """Mean of a quantity over the runs that have one, with its interval."""
    found = np.array([quantity(each) for each in runs])
    found = found[np.isfinite(found)]
    if len(found) < 3:
        # an interval takes three runs; of fewer, the mean alone is given
        return Estimate(float(found.mean()), None, None, why) if len(found) else unknown(why)
    return estimates.mean(found)


def growth(each: Measured, name: str) -> float:
    """A quantity at the onset, or at its largest before the end if there is none, over its initial value."""
    end = onset(each)
    values = each.arrays[name]
    return float(values[end] / values[0]) if end else np.nan


def _increasing(each: Measured) -> float:
    """Share of the steps before the onset at which the sharpness grows."""
    end = onset(each)
    return float((np.diff(each.arrays["sharpness"][: end + 1]) > 0).mean()) if end else np.nan


def settles(each: Measured) -> bool:
    """Whether the mean of the second half is within 5 % of 2/eta, crossed at least twice, with a smaller amplitude."""
    return bool(abs(late_mean(each) - 1) < 0.05 and late_amplitude(each) < 0.1 and crossings(each) >= 2)


def behaviour(each: Measured) -> str:
    """What the sharpness does: diverges, oscillates with falling or constant amplitude, or stays below 2/eta."""
    if each.values["diverged_at"] is not None:
        return "diverges"
    if late_amplitude(each) < 1e-6:
        return "converges below 2/eta" if late_mean(each) < 1 else "converges at 2/eta"
    first, last = np.array_split(_late(each, "sharpness"), 2)
    return "oscillates with constant amplitude" if last.std() > 0.98 * first.std() else "oscillates, amplitude falls"


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
            estimate=_over_runs(runs.chosen, _increasing, why),
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
    rises = [float((np.diff(_late(each, "loss")) > 0).mean()) for each in runs.chosen if settles(each)]
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
    third, last = np.array_split(_late(each, "loss"), 2)
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
        slack = _ROUNDING * np.abs(largest)
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
