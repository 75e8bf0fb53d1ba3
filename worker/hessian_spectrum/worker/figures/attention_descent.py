"""Sharpness, trace and norms of self-attention on scalars along gradient descent."""

from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr

from hessian_spectrum.api_schemas.figures.attention_descent import AttentionDescent
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.dynamics.descent_path import DenseSpectra, DescentPath, dense_spectra, descent_path
from hessian_spectrum.curvature.models.closed_form import SelfAttention
from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.attention_spectra import attention_moments, printed_bounds
from hessian_spectrum.worker.figures.claims import thinned
from hessian_spectrum.worker.figures.closed_forms import number
from hessian_spectrum.worker.figures.measurement import Context, Measured

Array = NDArray[np.float64]

WEIGHTS, DATA = 1, 2
"""Purposes of random numbers."""

NUM_SEQUENCES = 100
"""Number of sequences where they are drawn."""

NUM_WINDOWS = 10
"""Number of windows after the onset of oscillations, in which their amplitude is measured."""

NUM_CLOSED = 60
"""Number of points of a run at which the closed form is evaluated."""

CHUNK_NUMBERS = 2**20
"""Largest number of attention scores of all rows of all Hessians that are computed at once."""

ROUNDING = 1e-10
"""Size of oscillations, and relative excess of bounds, up to which they count as rounding."""


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


def onset(each: Measured) -> int | None:
    """First step at which the sharpness exceeds 2/eta; None if it never does."""
    above = each.arrays["sharpness"] > each.values["edge"]
    return int(np.argmax(above)) if above.any() else None


def first_steps(each: Measured, num_steps: int) -> Measured:
    """What the measurement of a run of so many steps returns, which is part of the longer run."""
    num_points = num_steps + 1
    if len(each.arrays["sharpness"]) < num_points:  # it diverged before
        return each
    steps = each.arrays["closed_steps"]
    arrays = {
        name: values[: int((steps < num_points).sum()) if len(values) == len(steps) else num_points]
        for name, values in each.arrays.items()
    }
    return Measured({**each.values, "diverged_at": None}, arrays)


def late(each: Measured, name: str) -> Array:
    """An array over the second half of the run."""
    values = each.arrays[name]
    late: Array = values[len(values) // 2 :]
    return late


def late_mean(each: Measured) -> float:
    """Mean sharpness of the second half of the run over 2/eta; NaN if descent diverges."""
    if each.values["diverged_at"] is not None:
        return np.nan
    return float(late(each, "sharpness").mean() / each.values["edge"])


def late_amplitude(each: Measured) -> float:
    """Standard deviation of the sharpness in the second half of the run over 2/eta; NaN if descent diverges."""
    if each.values["diverged_at"] is not None:
        return np.nan
    return float(late(each, "sharpness").std() / each.values["edge"])


def crossings(each: Measured) -> int:
    """Number of times that the sharpness crosses 2/eta in the second half of the run."""
    side = late(each, "sharpness") > each.values["edge"]
    return int((side[1:] != side[:-1]).sum())


def at_edge(each: Measured, name: str) -> Array:
    """An array from the first step above 2/eta on; empty unless the run settles."""
    values: Array = each.arrays[name][onset(each) if settles(each) else len(each.arrays[name]) :]
    return values


def opposition(each: Measured, of: Literal["changes", "values", "slow"] = "changes") -> float:
    """Correlation of sharpness and trace at the edge of stability; NaN unless the run settles, or if one is constant.

    Args:
        each: A run.
        of: Changes from step to step, the values themselves, or means of two successive steps, which have no
            oscillations of two steps.

    Returns:
        Pearson's coefficient.
    """
    columns = [at_edge(each, name) for name in ("sharpness", "trace")]
    if len(columns[0]) < 4:
        return np.nan
    if of == "changes":
        columns = [np.diff(column) for column in columns]
    elif of == "slow":
        columns = [(column[1:] + column[:-1]) / 2 for column in columns]
    # oscillations below this size are rounding
    if min(np.ptp(column) for column in columns) < ROUNDING:
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
    steps = np.arange(start, len(each.arrays["sharpness"]))
    if len(steps) < 2 * NUM_WINDOWS:
        return None
    parts = np.array_split(steps, NUM_WINDOWS)
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
    return float(pearsonr(*pair).statistic) if min(np.ptp(column) for column in pair) >= ROUNDING else np.nan


def rises(each: Measured) -> bool:
    """Whether the sharpness begins below 2/eta and later exceeds it."""
    return bool(onset(each))


def end_of_sharpening(each: Measured) -> int:
    """The first step at which the sharpness exceeds 2/eta, or the one at which it is largest if it never does."""
    first = onset(each)
    return int(np.argmax(each.arrays["sharpness"])) if first is None else first


def growth(each: Measured, name: str) -> float:
    """A quantity at the end of progressive sharpening over its initial value; NaN if that is 0."""
    values = each.arrays[name]
    return float(values[end_of_sharpening(each)] / values[0]) if values[0] else np.nan


def increasing(each: Measured) -> float:
    """Share of the steps up to the end of progressive sharpening at which the sharpness grows; 0 without such steps."""
    changes = np.diff(each.arrays["sharpness"][: end_of_sharpening(each) + 1])
    return float((changes > 0).mean()) if len(changes) else 0.0


def loss_change(each: Measured, of: Literal["halves", "windows", "onset"] = "halves") -> float:
    """Decades by which the loss rises at the edge of stability; NaN unless the run settles.

    Args:
        each: A run.
        of: The mean of the second half of the steps against that of the first; that of the last of `NUM_WINDOWS`
            windows against that of the first; or that of the last window against the loss at the first step above
            2/eta.

    Returns:
        The logarithm to base 10 of the ratio.
    """
    loss = at_edge(each, "loss")
    if len(loss) < NUM_WINDOWS:
        return np.nan
    parts = np.array_split(loss, 2 if of == "halves" else NUM_WINDOWS)
    before = loss[0] if of == "onset" else parts[0].mean()
    return float(np.log10(parts[-1].mean() / before))


def loss_rises(each: Measured) -> float:
    """Share of the steps from the first one above 2/eta on at which the loss rises; NaN unless the run settles."""
    changes = np.diff(at_edge(each, "loss"))
    return float((changes > 0).mean()) if len(changes) else np.nan


def settles(each: Measured) -> bool:
    """Whether the mean of the second half is within 5 % of 2/eta, crossed at least twice, with a smaller amplitude."""
    return bool(abs(late_mean(each) - 1) < 0.05 and late_amplitude(each) < 0.1 and crossings(each) >= 2)


def behaviour(each: Measured) -> str:
    """What the sharpness does: diverges, oscillates with falling or constant amplitude, or stays below 2/eta."""
    if each.values["diverged_at"] is not None:
        return "diverges"
    if late_amplitude(each) < 1e-6:
        return "converges below 2/eta" if late_mean(each) < 1 else "converges at 2/eta"
    first, last = np.array_split(late(each, "sharpness"), 2)
    return "oscillates with constant amplitude" if last.std() > 0.98 * first.std() else "oscillates, amplitude falls"


MEASUREMENTS = {AttentionDescent: measure_attention_descent}
