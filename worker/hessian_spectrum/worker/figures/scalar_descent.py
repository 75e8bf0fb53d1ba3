"""The outlier pairs of two-layer networks of one variable at every step of gradient descent."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.figures.results import Choice, Panel, Verdict
from hessian_spectrum.api_schemas.figures.scalar_descent import EvolutionParameters, NeuronDescent
from hessian_spectrum.api_schemas.figures.scalar_networks import has_dense_check
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.dynamics.descent_path import DescentPath, descent_path
from hessian_spectrum.curvature.models.closed_form import NeuronNetwork
from hessian_spectrum.statistics.estimates import Estimate, unknown
from hessian_spectrum.theory.closed_form.homogeneous import relu_spectrum
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Spectrum
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.claims import EVERY, Range, curve, exact, in_every, share, thinned, verdict
from hessian_spectrum.worker.figures.closed_forms import number
from hessian_spectrum.worker.figures.measurement import Context, FigureContent, Measured
from hessian_spectrum.worker.figures.scalar_networks import (
    ROUNDING,
    WEIGHTS,
    cell_eigenvalues,
    dense_hessian,
    initial_neurons,
    paired_spectrum,
    wedge,
)

Array = NDArray[np.float64]

CELLS = {"linear": (None,), "relu": ("+", "-")}
"""Groups of neurons of each network, in the order of the columns of arrays."""

_SIGNS = {"all": None, "positive": "+", "negative": "-"}

NUM_DENSE = 20
"""Number of steps at which a spectrum is compared with the dense Hessian."""

CONVERGED = 1e-6
"""Magnitude, relative to the trace, up to which eigenvalues count as gone."""

STEADY = 1e-12
"""Change of the loss in the last tenth of a run, relative to its initial value, up to which the run has converged."""


def measure_descent(measurement: NeuronDescent, context: Context) -> Measured:
    """Train a network, and compute its spectrum at every step with the cells that its neurons then belong to.

    Args:
        measurement: The network, its data and its training.
        context: Progress.

    Returns:
        Arrays over the points: `loss`; `large` and `small`, the outliers, and `bulk`, its magnitude, and `trace`, each
        (points, cells), NaN where a cell has no neurons; `num_neurons` (points, cells); `changed`, whether a neuron has
        changed cells since the start; of a linear network also `is_late`, whether <w, v> is between a third of the
        solution and the solution. Values: `diverged_at`; from dense Hessians at some points, all over the largest
        eigenvalue: `dense_difference`, the largest difference to their eigenvalues, and `frozen_difference`, likewise
        with the cells of the start; `pair_departure`, by how much the eigenvalues of a cell beside the best pair differ
        from a bulk of signed pairs; `pair_gap`, by how much those two differ from the trace of the cell in their sum.
    """
    m = measurement
    x = np.linspace(-1, 1, m.num_samples)
    y = wedge(x, m.slopes)
    neurons = initial_neurons(m.width, m.initialization, generator_of(m.seed, WEIGHTS))
    path = descent_path(
        NeuronNetwork(m.width, m.activation),
        Dataset(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None]),
        {name: torch.from_numpy(values) for name, values in neurons.items()},
        learning_rate=m.learning_rate,
        momentum=m.momentum,
        num_steps=m.num_steps,
        progress=context.progress,
    )
    spectra = [_spectrum(m.activation, path, step, x, y) for step in range(path.num_points)]
    arrays = _columns(spectra, CELLS[m.activation])
    signs = np.sign(path.parameters["v"])
    arrays["changed"] = (signs != signs[0]).any(axis=1)
    values: dict[str, float | int | None] = {"diverged_at": path.diverged_at}
    return Measured(values | _differences(m.activation, path, spectra, x=x, y=y), arrays)


def _spectrum(activation: str, path: DescentPath, step: int, x: Array, y: Array) -> Spectrum:
    of = linear_spectrum if activation == "linear" else relu_spectrum
    return of(w=path.parameters["w"][step], v=path.parameters["v"][step], x=x, y=y)


def _columns(spectra: Sequence[Spectrum], cells: Sequence[str | None]) -> dict[str, Array]:
    arrays = {name: np.full((len(spectra), len(cells)), np.nan) for name in ("large", "small", "bulk", "trace")}
    counts = np.zeros((len(spectra), len(cells)))
    for step, spectrum in enumerate(spectra):
        for column, cell in enumerate(cells):
            of_cell = [entry for entry in spectrum.eigenvalues if entry.group == cell]
            outliers = [entry.value for entry in of_cell if entry.role == "outlier"]
            counts[step, column] = sum(entry.multiplicity for entry in of_cell) / 2
            if len(outliers) != 2:
                continue
            arrays["large"][step, column], arrays["small"][step, column] = outliers
            arrays["bulk"][step, column] = max((abs(e.value) for e in of_cell if e.role == "bulk"), default=np.nan)
            arrays["trace"][step, column] = _cell_trace(spectrum, cell)
    loss = [number(spectrum, "mean_loss") for spectrum in spectra]
    arrays |= {"num_neurons": counts, "loss": np.array(loss)}
    if cells == CELLS["linear"]:
        arrays["is_late"] = np.array([spectrum.statistics["phase"] == "late" for spectrum in spectra])
    return arrays


def _cell_trace(spectrum: Spectrum, cell: str | None) -> float:
    """Trace of the Hessian of one cell, from norms of its weights."""
    if cell is None:
        return spectrum.trace
    suffix = {"+": "_plus", "-": "_minus"}[cell]
    trace_w, trace_v, fraction = (number(spectrum, name + suffix) for name in ("trace_w", "trace_v", "fraction"))
    return fraction * (trace_w + trace_v)


def _differences(
    activation: str, path: DescentPath, spectra: Sequence[Spectrum], *, x: Array, y: Array
) -> dict[str, float]:
    """Largest differences to dense eigenvalues, and departures of these from pairs; none for large networks."""
    if not has_dense_check(path.parameters["w"].shape[1], len(x)):
        return {}
    rows = []
    for step in thinned(path.num_points, NUM_DENSE):
        w, v = path.parameters["w"][step], path.parameters["v"][step]
        hessian = dense_hessian(activation, w, v, x=x, y=y).numpy()
        dense = np.linalg.eigvalsh(hessian)
        scale = float(np.abs(dense).max())
        first = path.parameters["v"][0] > 0
        frozen = _frozen_spectrum(w, v, first, x=x, y=y) if activation == "relu" else dense
        found = {
            "dense_difference": float(np.abs(spectra[step].dense() - dense).max()),
            "frozen_difference": float(np.abs(frozen - dense).max()),
        }
        cells = {"all": dense} if activation == "linear" else cell_eigenvalues(hessian, v)
        pairs = {_SIGNS[name]: paired_spectrum(values) for name, values in cells.items()}
        found["pair_departure"] = max(pair.departure for pair in pairs.values())
        found["pair_gap"] = max(
            abs(pair.large + pair.small - _cell_trace(spectra[step], sign)) for sign, pair in pairs.items()
        )
        rows.append({name: value / scale for name, value in found.items()})
    return {name: max(row[name] for row in rows) for name in rows[0]}


def _frozen_spectrum(w: Array, v: Array, is_positive: NDArray[np.bool_], *, x: Array, y: Array) -> Array:
    """Eigenvalues, ascending, that follow if each neuron stays in a given cell, whatever the sign of its weight."""
    values = []
    for neurons, samples in ((is_positive, x > 0), (~is_positive, x < 0)):
        if neurons.any():
            spectrum = linear_spectrum(w=w[neurons], v=v[neurons], x=x[samples], y=y[samples])
            values.append(spectrum.dense() * samples.mean())
    return np.sort(np.concatenate(values))


MEASUREMENTS = {NeuronDescent: measure_descent}


def _end_ratio(each: Measured, name: str) -> Array:
    """Magnitude of an eigenvalue over the trace of its cell at the last point, NaN where a cell does not have it."""
    ratio: Array = np.abs(each.arrays[name][-1]) / each.arrays["trace"][-1]
    return ratio


def _has_converged(each: Measured) -> bool:
    """Whether the loss no longer changes."""
    loss = each.arrays["loss"]
    return each.values["diverged_at"] is None and bool(np.ptp(loss[-max(2, len(loss) // 10) :]) <= STEADY * loss[0])


def _one_remains(measured: Sequence[Measured]) -> list[bool]:
    """Whether all eigenvalues of all cells but the larger outliers are gone, for each run that has converged."""
    ends = [np.fmax(_end_ratio(each, "small"), _end_ratio(each, "bulk")) for each in measured if _has_converged(each)]
    return [bool(np.nanmax(end) <= CONVERGED) for end in ends]


def _worst(measured: Sequence[Measured], name: str) -> Estimate:
    """The largest of one value over all runs that have it."""
    found = [float(each.values[name]) for each in measured if name in each.values]
    return exact(max(found)) if found else unknown("networks of this size have no dense check")


class _Runs:
    """The runs of a figure, by activation and data."""

    def __init__(
        self, parameters: EvolutionParameters, measured: Sequence[Measured], activations: Sequence[str]
    ) -> None:
        keys = [(each, tuple(wedge)) for wedge in parameters.wedges for each in activations]
        count = parameters.num_seeds
        self.by_key = {key: measured[i * count : (i + 1) * count] for i, key in enumerate(keys)}
        self.slopes = tuple(parameters.slopes)
        self.activations = activations

    def of(self, activation: str) -> Sequence[Measured]:
        """Runs on the chosen data."""
        return self.by_key[activation, self.slopes]

    def others(self, activation: str) -> Mapping[str, Sequence[Measured]]:
        """Runs on other data, by their name."""
        return {
            f"wedge of slopes {slopes[0]:g} and {slopes[1]:g}": runs
            for (each, slopes), runs in self.by_key.items()
            if each == activation and slopes != self.slopes
        }


def _verdicts(runs: _Runs, activation: str) -> list[Verdict]:
    chosen, name = runs.of(activation), f"{activation} network"

    def check(claim: str, quantity: str, of: Callable[[Sequence[Measured]], Estimate], holds_for: Range) -> Verdict:
        return verdict(
            f"{claim} ({name})",
            quantity=quantity,
            estimate=of(chosen),
            holds_for=holds_for,
            variants={choice: of(others) for choice, others in runs.others(activation).items()},
        )

    return [
        check(
            "Outlier eigenvalues exist as pairs throughout training.",
            "largest distance of the dense eigenvalues of a cell, apart from its outlier pair, from signed pairs ±d, "
            f"over the largest eigenvalue, at {NUM_DENSE} points a run",
            lambda of: _worst(of, "pair_departure"),
            Range(below=ROUNDING),
        ),
        check(
            "The two outliers sum to the trace of their cell at every step.",
            f"largest difference for dense eigenvalues, over the largest of them, at {NUM_DENSE} points a run",
            lambda of: _worst(of, "pair_gap"),
            Range(below=ROUNDING),
        ),
        check(
            "Only one of the outliers remains at convergence, where the Hessian of each cell has rank one.",
            f"share of the runs whose loss has converged in which all other eigenvalues of each cell are at most "
            f"{CONVERGED:g} of its trace at the end",
            lambda of: in_every(_one_remains(of)),
            EVERY,
        ),
    ]


def _dense_verdicts(runs: _Runs) -> list[Verdict]:
    every = [each for of in runs.by_key.values() for each in of if "dense_difference" in each.values]
    if not every:
        return []
    relu = [each for (activation, _), of in runs.by_key.items() if activation == "relu" for each in of]
    moved = share([bool(each.arrays["changed"].any()) for each in relu])
    return [
        verdict(
            "The closed form describes the spectrum at every point of training.",
            quantity=f"largest difference to the dense spectrum over the largest eigenvalue, {NUM_DENSE} points a run",
            estimate=exact(max(float(each.values["dense_difference"]) for each in every)),
            holds_for=Range(below=ROUNDING),
            variants={
                "cells of the start kept": exact(max(float(each.values["frozen_difference"]) for each in relu)),
            },
            note=f"neurons change cells in {moved.value:.0%} of the runs of ReLU networks, so cells are computed anew",
        )
    ]


def _phase_verdict(runs: _Runs) -> Verdict:
    """Appendix C: in the early and divergent phases the larger outlier is at least the trace, else at most."""
    agrees = []
    for each in runs.of("linear"):
        large, trace = each.arrays["large"][:, 0], each.arrays["trace"][:, 0]
        excess = (large - trace) / trace
        late = each.arrays["is_late"]
        agrees.append(float(np.where(late, excess <= 1e-12, excess >= -1e-12).mean()))
    return verdict(
        "In the early and divergent phases the larger outlier is at least the trace, in the late one at most.",
        quantity="smallest share of the points of a run at which this is so (linear network)",
        estimate=exact(min(agrees)),
        holds_for=Range(above=0.99),
        note="phases of appendix C, from <w, v> and the solution alone",
    )


def _outlier_panel(first: Measured, column: int, title: str) -> Panel:
    steps = thinned(len(first.arrays["loss"]), 400)
    large, small = first.arrays["large"][steps, column], first.arrays["small"][steps, column]
    bulk = first.arrays["bulk"][steps, column]
    return Panel(
        title=title,
        x_label="step",
        y_label="eigenvalue",
        curves=[
            curve("larger outlier", steps, large, style="line"),
            curve("smaller outlier", steps, small, style="line"),
            curve("trace", steps, first.arrays["trace"][steps, column], style="dashed"),
            curve("bulk", steps, bulk, style="line", group=3),
            curve("", steps, -bulk, style="line", group=3),
        ],
    )


def _ratio_panel(runs: _Runs) -> Panel:
    """Magnitude of the smaller outlier over the larger one, without exact zeros, which have no logarithm."""
    curves = []
    for activation in runs.activations:
        first = runs.of(activation)[0]
        steps = thinned(len(first.arrays["loss"]), 400)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(first.arrays["small"][steps, 0] / first.arrays["large"][steps, 0])
        curves.append(curve(activation, steps, np.where(ratio > 0, ratio, np.nan), style="line"))
    return Panel(
        title="Only one outlier remains",
        x_label="step",
        y_label="|smaller outlier| / larger outlier",
        y_scale="log",
        curves=curves,
    )


def _rows(runs: _Runs) -> list[dict[str, float | int | str | None]]:
    rows = []
    for (activation, slopes), of in runs.by_key.items():
        for index, each in enumerate(of):
            for column, cell in enumerate(CELLS[activation]):
                values = {name: each.arrays[name] for name in ("large", "small", "bulk", "trace", "num_neurons")}
                numbers = {
                    f"{name}_{place}": _number(array[at, column])
                    for name, array in values.items()
                    for place, at in (("first", 0), ("last", -1))
                }
                rows.append(
                    {
                        "activation": activation,
                        "slopes": f"{slopes[0]:g}, {slopes[1]:g}",
                        "run": index,
                        "cell": cell or "",
                        **numbers,
                        "loss_last": _number(each.arrays["loss"][-1]),
                        "diverged_at": each.values["diverged_at"],
                    }
                )
    return rows


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _choices(parameters: EvolutionParameters) -> list[Choice]:
    return [
        Choice(
            name="slopes",
            value=f"{parameters.slopes[0]:g} for x > 0 and {parameters.slopes[1]:g} for x < 0, x evenly in [-1, 1]",
            reason="The source calls the data a synthetic wedge and does not define it. With the wedge |x|, a "
            "variant, the linear network has nothing to learn: mean(yx) = 0.",
        ),
        Choice(
            name="initialization",
            value=parameters.initialization,
            reason=f"Not stated; PyTorch's default has variance 1/(3 fan-in), here 1/{3 * parameters.width} for w.",
        ),
        Choice(name="num_steps", value=str(parameters.num_steps), reason="The source does not state it."),
        Choice(
            name="loss",
            value="half the mean squared error",
            reason="As in Theorem 3.1. Without the factor 1/2, eigenvalues and effective learning rate double.",
        ),
    ]


def figure_8(parameters: EvolutionParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 8: the outlier pair along the training of a linear and of a ReLU network.

    Args:
        parameters: Parameters of the figure.
        measured: Runs by data, activation and seed.

    Returns:
        The content.
    """
    runs = _Runs(parameters, measured, ("linear", "relu"))
    panels = [
        _outlier_panel(runs.of("linear")[0], 0, "Linear network"),
        _outlier_panel(runs.of("relu")[0], 0, "ReLU network, positive cell"),
        _ratio_panel(runs),
    ]
    verdicts = [*_verdicts(runs, "linear"), *_verdicts(runs, "relu"), *_dense_verdicts(runs), _phase_verdict(runs)]
    return FigureContent(_rows(runs), panels, verdicts, _choices(parameters))


def poster_evolution(parameters: EvolutionParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make the Poster's evolution of the outlier pairs of both cells of a ReLU network.

    Args:
        parameters: Parameters of the figure.
        measured: Runs by data and seed.

    Returns:
        The content.
    """
    runs = _Runs(parameters, measured, ("relu",))
    first = runs.of("relu")[0]
    panels = [
        _outlier_panel(first, 0, "Positive cell"),
        _outlier_panel(first, 1, "Negative cell"),
        _ratio_panel(runs),
    ]
    verdicts = [*_verdicts(runs, "relu"), *_dense_verdicts(runs)]
    return FigureContent(_rows(runs), panels, verdicts, _choices(parameters))


FIGURE_CONTENTS = {"cracking-8": figure_8, "poster-evolution": poster_evolution}
