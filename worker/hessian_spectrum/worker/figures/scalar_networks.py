"""Spectra of two-layer networks of one variable, by closed form and by dense differentiation."""

from collections.abc import Sequence
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian_spectrum.api_schemas.figures.results import Choice, Panel, Verdict
from hessian_spectrum.api_schemas.figures.scalar_networks import (
    CellParameters,
    CellSpectrum,
    VarianceParameters,
    VarianceSpectra,
    has_dense_check,
)
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import DenseOperator
from hessian_spectrum.curvature.losses import LOSS_CLASSES
from hessian_spectrum.curvature.models.closed_form import NeuronNetwork
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate, unknown
from hessian_spectrum.theory.closed_form.homogeneous import relu_spectrum
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Spectrum
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.claims import Range, curve, exact, share, thinned, verdict
from hessian_spectrum.worker.figures.closed_forms import number, statistic
from hessian_spectrum.worker.figures.measurement import Context, FigureContent, Measured

Array = NDArray[np.float64]

WEIGHTS, DATA = 1, 2
"""Purposes of random numbers."""

ROW_NUMBERS = 2**22
"""Largest number of hidden values of all rows of a dense Hessian that are computed at once."""

CELL_NAMES = ("positive", "negative")

ROUNDING = 1e-9
"""Difference, relative to the largest eigenvalue, up to which two computations of a spectrum agree."""


def initial_neurons(width: int, initialization: str, generator: torch.Generator) -> dict[str, Array]:
    """Draw the weights w (second layer, fan-in m) and v (first layer, fan-in 1) of a network of one variable.

    Args:
        width: Number m of hidden neurons.
        initialization: `uniform`, PyTorch's default of linear layers, U(-1/sqrt(fan-in), 1/sqrt(fan-in)); `normal`,
            with the same variance 1/(3 fan-in); `unit`, N(0, 1).
        generator: CPU generator, which advances.

    Returns:
        Arrays w and v of shape (m,).
    """
    neurons = {}
    for name, fan_in in (("w", width), ("v", 1)):
        if initialization == "uniform":
            values = (2 * torch.rand(width, generator=generator, dtype=torch.float64) - 1) / sqrt(fan_in)
        else:
            values = torch.randn(width, generator=generator, dtype=torch.float64)
            values = values / sqrt(3 * fan_in) if initialization == "normal" else values
        neurons[name] = values.numpy()
    return neurons


def wedge(x: Array, slopes: Sequence[float]) -> Array:
    """Targets of one slope for x > 0 and another one for x < 0."""
    return np.where(x > 0, slopes[0], slopes[1]) * x


def dense_hessian(activation: str, w: Array, v: Array, *, x: Array, y: Array) -> Tensor:
    """Hessian (2m, 2m) of half the mean squared error by automatic differentiation, for parameters in the order w, v.

    Args:
        activation: Activation function.
        w: Outgoing weights of shape (m,).
        v: Incoming weights of shape (m,).
        x: Inputs of shape (n,).
        y: Targets of shape (n,).

    Returns:
        The matrix, in float64.
    """
    width = len(w)
    model, loss = NeuronNetwork(width, activation), LOSS_CLASSES["mse"]()
    data = Dataset(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None])

    def value(flat: Tensor) -> Tensor:
        outputs = model({"w": flat[:width], "v": flat[width:]}, data.inputs)
        return loss.total(outputs, data.targets) / len(x)

    chunk = max(1, ROW_NUMBERS // (width * len(x)))
    rows = torch.func.jacrev(torch.func.jacrev(value), chunk_size=chunk)
    hessian: Tensor = rows(torch.from_numpy(np.concatenate([w, v])))
    return (hessian + hessian.T) / 2


class PairedSpectrum(NamedTuple):
    """Eigenvalues of a group of neurons, read as a pair of outliers and a bulk of signed pairs."""

    large: float
    small: float
    bulk: float  # mean magnitude of the others; NaN if there are none
    departure: float  # largest difference of the others from -bulk and bulk, each equally often

    def is_outside(self, tolerance: float) -> bool:
        """Whether neither outlier is an eigenvalue of the bulk."""
        return bool(min(abs(self.large - self.bulk), abs(abs(self.small) - self.bulk)) > tolerance)


def paired_spectrum(eigenvalues: Array) -> PairedSpectrum:
    """Find the eigenvalue beside the largest one that leaves the others closest to signed pairs of one magnitude.

    Args:
        eigenvalues: Eigenvalues of shape (2q,), ascending, without knowledge of any closed form.

    Returns:
        The outliers and the bulk.
    """
    large, found = float(eigenvalues[-1]), []
    for index, small in enumerate(eigenvalues[:-1]):
        others = np.delete(eigenvalues[:-1], index)
        bulk = float(np.abs(others).mean()) if len(others) else np.nan
        signed = np.where(np.arange(len(others)) < len(others) / 2, -bulk, bulk)
        found.append(PairedSpectrum(large, float(small), bulk, float(np.abs(others - signed).max(initial=0.0))))
    return min(found, key=lambda each: each.departure)


def cell_eigenvalues(hessian: Array, v: Array) -> dict[str, Array]:
    """Eigenvalues, ascending, of the diagonal blocks of the dense Hessian, by cell, for each cell with neurons."""
    is_positive = np.concatenate([v > 0, v > 0])
    masks = {"positive": is_positive, "negative": ~is_positive}
    return {name: np.linalg.eigvalsh(hessian[np.ix_(mask, mask)]) for name, mask in masks.items() if mask.any()}


def measure_cells(measurement: CellSpectrum, context: Context) -> Measured:
    """Compute a ReLU spectrum by Theorem 3.4, and compare it with the dense Hessian.

    Args:
        measurement: The network and its data.
        context: Not used, as the computation takes milliseconds.

    Returns:
        Arrays of all 2m eigenvalues, ascending, whether each is of the positive cell, and whether each is bulk. Values:
        `dense_difference`, the largest difference to dense eigenvalues over the largest eigenvalue;
        `coupling`, the largest entry of the dense Hessian between parameters of different cells, likewise;
        `impurity`, the largest share of an eigenvector of the dense Hessian outside its cell; `dense_largest`, and for
        each cell with neurons `dense_<cell>_<field>` with the fields of `PairedSpectrum`.
    """
    m = measurement
    x = torch.randn(m.num_samples, generator=generator_of(m.seed, DATA), dtype=torch.float64)
    noise = torch.randn(m.num_samples, generator=generator_of(m.seed, DATA, 1), dtype=torch.float64)
    inputs = x.numpy()
    targets = wedge(inputs, m.slopes) if m.data == "wedge" else noise.numpy()
    neurons = initial_neurons(m.width, m.initialization, generator_of(m.seed, WEIGHTS))
    spectrum = relu_spectrum(**neurons, x=inputs, y=targets)
    entries = [entry for entry in spectrum.eigenvalues[::-1] for _ in range(entry.multiplicity)]
    arrays = {
        "eigenvalues": np.array([entry.value for entry in entries]),
        "is_positive_cell": np.array([entry.group == "+" for entry in entries]),
        "is_bulk": np.array([entry.role == "bulk" for entry in entries]),
    }
    values = _cell_values(spectrum, neurons["v"])
    if has_dense_check(m.width, m.num_samples):
        hessian = dense_hessian("relu", **neurons, x=inputs, y=targets)
        values |= _dense_values(hessian, arrays["eigenvalues"], neurons["v"])
    return Measured(values, arrays)


def _cell_values(spectrum: Spectrum, v: Array) -> dict[str, float | int | None]:
    """Counts, outliers and bulk of each cell, and the sharpness that the Poster's formula gives."""
    values: dict[str, float | int | None] = {"num_positive": int((v > 0).sum()), "width": len(v)}
    for sign, name in zip("+-", CELL_NAMES, strict=True):
        of_cell = [entry for entry in spectrum.eigenvalues if entry.group == sign]
        outliers = [entry.value for entry in of_cell if entry.role == "outlier"]
        bulk = [entry for entry in of_cell if entry.role == "bulk"]
        values[f"{name}_large"], values[f"{name}_small"] = outliers if len(outliers) == 2 else (None, None)
        values[f"{name}_bulk"] = abs(bulk[0].value) if bulk else None
        values[f"{name}_num_bulk"] = sum(entry.multiplicity for entry in bulk)
        values[f"{name}_poster"] = _poster_outlier(spectrum, sign)
    values["largest"] = spectrum.sharpness
    return values


def _poster_outlier(spectrum: Spectrum, sign: str) -> float | None:
    """The larger outlier of a cell with the last square as the Poster prints it, without the variance."""
    suffix = {"+": "_plus", "-": "_minus"}[sign]
    if statistic(spectrum, "c" + suffix) is None:
        return None
    names = ("c", "mean_yx", "trace_w", "trace_v", "fraction", "imbalance", "non_collinearity")
    numbers = {name: number(spectrum, name + suffix) for name in names}
    squares = numbers["imbalance"] + numbers["non_collinearity"]
    root = sqrt(squares + 4 * (2 * numbers["c"] - numbers["mean_yx"]) ** 2)
    return numbers["fraction"] * (numbers["trace_w"] + numbers["trace_v"] + root) / 2


def _dense_values(hessian: Tensor, eigenvalues: Array, v: Array) -> dict[str, float | None]:
    result = run(DenseEigensolver(eigenvectors=True), DenseOperator(hessian), generator=torch.Generator())
    assert result.eigenvectors is not None
    scale = float(np.abs(result.eigenvalues).max())
    is_positive = np.concatenate([v > 0, v > 0])
    inside = (result.eigenvectors**2 * is_positive).sum(axis=1)
    crossing = hessian.numpy()[np.ix_(is_positive, ~is_positive)]
    # eigenvectors of equal eigenvalues of both cells may mix; those of distinct ones may not
    gaps = np.abs(result.eigenvalues[:, None] - result.eigenvalues) + scale * np.eye(len(v) * 2)
    distinct = gaps.min(axis=1) > 1e-6 * scale
    cells = cell_eigenvalues(hessian.numpy(), v)
    of_cells: dict[str, float | None] = {}
    for name in CELL_NAMES:
        pair = paired_spectrum(cells[name]) if name in cells else PairedSpectrum(*[np.nan] * 4)
        of_cells |= {f"dense_{name}_{k}": x if np.isfinite(x) else None for k, x in pair._asdict().items()}
    return {
        "dense_largest": float(result.eigenvalues[-1]),
        "dense_difference": float(np.abs(result.eigenvalues - eigenvalues).max()) / scale,
        "coupling": float(np.abs(crossing).max(initial=0.0)) / scale,
        "impurity": float(np.minimum(inside, 1 - inside)[distinct].max(initial=0.0)),
        **of_cells,
    }


def measure_variances(measurement: VarianceSpectra, context: Context) -> Measured:
    """Compute the two outliers and the bulk of a linear network for inputs of growing variance.

    Args:
        measurement: The network and its data.
        context: Progress.

    Returns:
        Arrays over the variances: `s2`, the mean square of the inputs drawn; `large` and `small`, the outliers; `bulk`,
        the magnitude of the bulk. Values at the first variance: `dense_difference`, as of `measure_cells`, and
        `is_paired`, whether the dense spectrum consists of two outliers and a bulk of signed pairs of one magnitude.
    """
    m, rows = measurement, []
    values: dict[str, float | bool | None] = {"dense_difference": None, "is_paired": None}
    for index, variance in enumerate(m.variances):
        # the same weights for all variances, or others for each
        weights = generator_of(m.seed, WEIGHTS, *([] if m.shares_weights else [index]))
        neurons = initial_neurons(m.width, m.initialization, weights)
        draws = torch.randn((2, m.num_samples), generator=generator_of(m.seed, DATA, index), dtype=torch.float64)
        x, y = sqrt(variance) * draws[0].numpy(), draws[1].numpy()
        spectrum = linear_spectrum(**neurons, x=x, y=y)
        large, small = [entry.value for entry in spectrum.eigenvalues if entry.role == "outlier"]
        bulk = next(entry.value for entry in spectrum.eigenvalues if entry.role == "bulk")
        rows.append((number(spectrum, "s2"), large, small, abs(bulk)))
        if index == 0 and has_dense_check(m.width, m.num_samples):
            dense = torch.linalg.eigvalsh(dense_hessian("linear", **neurons, x=x, y=y)).numpy()
            pair, scale = paired_spectrum(dense), spectrum.scale
            values["dense_difference"] = float(np.abs(dense - spectrum.dense()).max()) / scale
            values["is_paired"] = pair.departure <= ROUNDING * scale and pair.is_outside(ROUNDING * scale)
        context.progress("spectra", index + 1, len(m.variances))
    columns = np.array(rows, dtype=np.float64).T
    return Measured(values, dict(zip(("s2", "large", "small", "bulk"), columns, strict=True)))


MEASUREMENTS = {CellSpectrum: measure_cells, VarianceSpectra: measure_variances}


def _values(measured: Sequence[Measured], name: str) -> Array:
    """One value of each measurement, NaN where there is none."""
    found = [each.values.get(name) for each in measured]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _worst(measured: Sequence[Measured], name: str) -> Estimate:
    """The largest of one value over all measurements that have it."""
    found = _values(measured, name)
    return (
        exact(float(np.nanmax(found))) if np.isfinite(found).any() else unknown("networks of this size have no check")
    )


def _agreement(measured: Sequence[Measured]) -> Verdict:
    return verdict(
        "The closed form is the whole Hessian spectrum.",
        quantity="largest difference to dense automatic differentiation over the largest eigenvalue, over all seeds",
        estimate=_worst(measured, "dense_difference"),
        holds_for=Range(below=ROUNDING),
    )


def _pair_of(each: Measured, cell: str) -> PairedSpectrum | None:
    """Dense outliers and bulk of a cell; None for a cell without neurons, or a network without a dense check."""
    fields = [_values([each], f"dense_{cell}_{field}")[0] for field in PairedSpectrum._fields]
    return PairedSpectrum(*fields) if np.isfinite(fields[0]) else None


def _is_paired(each: Measured) -> bool | None:
    """Whether each cell has one outlying pair beside signed pairs ±d, densely; None if a cell has no neurons."""
    pairs = [_pair_of(each, cell) for cell in CELL_NAMES]
    if any(pair is None for pair in pairs):
        return None
    tolerance = ROUNDING * float(each.values["dense_largest"])
    return all(
        pair.departure <= tolerance and (np.isnan(pair.bulk) or pair.is_outside(tolerance))
        for pair in pairs
        if pair is not None
    )


def _decoupling(measured: Sequence[Measured]) -> list[Verdict]:
    return [
        verdict(
            "The Hessian undergoes a cell-wise decomposition, which is fully decoupled.",
            quantity="largest Hessian entry between parameters of different cells over the largest eigenvalue",
            estimate=_worst(measured, "coupling"),
            holds_for=Range(below=ROUNDING),
            note="from dense automatic differentiation, over all seeds",
        ),
        verdict(
            "Each eigenvalue belongs to one cell.",
            quantity="largest share of a dense eigenvector outside its cell",
            estimate=_worst(measured, "impurity"),
            holds_for=Range(below=ROUNDING),
            note="over simple eigenvalues of all seeds; the others belong to one cell by the decomposition",
        ),
        verdict(
            "The bulk of the cells consists of q - 1 and m - q - 1 signed pairs, and each cell has one outlying pair.",
            quantity="share of networks with neurons in both cells in which each dense spectrum is of this form",
            estimate=share([is_paired for each in measured if (is_paired := _is_paired(each)) is not None]),
            holds_for=Range(above=0.8),
            note="a network that has a cell without neurons has no eigenvalues of that cell",
        ),
    ]


def _cell_panel(first: Measured, parameters: CellParameters) -> Panel:
    values, positive = first.arrays["eigenvalues"], first.arrays["is_positive_cell"]
    rank, num_negative = np.arange(1, len(values) + 1), int((values < 0).sum())
    return Panel(
        title=f"ReLU network, width m = {parameters.width}",
        x_label="rank of the eigenvalue",
        y_label="eigenvalue",
        curves=[
            curve("positive cell", rank[positive], values[positive], style="markers"),
            curve("negative cell", rank[~positive], values[~positive], style="markers"),
            curve("sign change", [num_negative + 0.5], [], style="vertical"),
        ],
    )


def _cell_rows(measured: Sequence[Measured], parameters: CellParameters) -> list[dict[str, float | int | None]]:
    return [{"seed": parameters.seed + index, **each.values} for index, each in enumerate(measured)]


def _cell_choices(parameters: CellParameters) -> list[Choice]:
    return [
        Choice(
            name="data",
            value=f"{parameters.data}, {parameters.num_samples} normal inputs",
            reason="The source does not state the data.",
        ),
        Choice(name="initialization", value=parameters.initialization, reason="The source does not state the weights."),
        Choice(
            name="activation",
            value="max(a, 0)",
            reason="Section 3.2 prints (a)+ = 1{a > 0}, the derivative; a 1{a > 0} is meant.",
        ),
    ]


def figure_1(parameters: CellParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 1: eigenvalues of a ReLU network by cell.

    Args:
        parameters: Parameters of the figure.
        measured: One spectrum for each seed.

    Returns:
        The content.
    """
    largest = _values(measured, "dense_largest")
    cells = np.fmax(_values(measured, "dense_positive_large"), _values(measured, "dense_negative_large"))
    is_outside = [_largest_is_outside(each) for each in measured]
    known = np.isfinite(largest)
    top = verdict(
        "The largest eigenvalue is the larger one of the outliers of the two cells.",
        quantity="share of networks in which the largest dense eigenvalue is, and does not belong to a bulk",
        estimate=share(((np.abs(largest - cells) <= ROUNDING * largest) & is_outside)[known]),
        holds_for=Range(above=0.8),
        note="in each cell the larger outlier is at least |d|, as the pair interlaces with the bulk ±d",
    )
    return FigureContent(
        points=_cell_rows(measured, parameters),
        panels=[_cell_panel(measured[0], parameters)],
        verdicts=[_agreement(measured), *_decoupling(measured), top],
        choices=_cell_choices(parameters),
    )


def _largest_is_outside(each: Measured) -> bool:
    """Whether the largest dense eigenvalue exceeds the bulk of each cell by more than rounding."""
    bulks = np.concatenate([_values([each], f"dense_{cell}_bulk") for cell in CELL_NAMES])
    return bool(np.nanmax(bulks, initial=0.0) < _values([each], "dense_largest")[0] * (1 - ROUNDING))


def _outside(measured: Sequence[Measured], which: Sequence[Literal["large", "small"]]) -> list[bool]:
    """Whether each of these outliers exceeds the bulk in magnitude, for each cell with a bulk, densely."""
    pairs = [_pair_of(each, cell) for each in measured for cell in CELL_NAMES]
    return [
        all(abs(getattr(pair, name)) > pair.bulk for name in which)
        for pair in pairs
        if pair is not None and np.isfinite(pair.bulk)
    ]


def _poster_error(measured: Sequence[Measured]) -> Array:
    """Relative error of the larger outlier by the Poster's formula, for all cells."""
    errors = []
    for name in CELL_NAMES:
        right, printed = _values(measured, f"{name}_large"), _values(measured, f"{name}_poster")
        errors.append(np.abs(printed / right - 1)[np.isfinite(right) & np.isfinite(printed)])
    return np.concatenate(errors)


def poster_bulk(parameters: CellParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make the Poster's picture of bulk and outliers.

    Args:
        parameters: Parameters of the figure.
        measured: One spectrum for each seed.

    Returns:
        The content.
    """
    first = measured[0]
    values, is_bulk = first.arrays["eigenvalues"], first.arrays["is_bulk"]
    rank = np.arange(1, len(values) + 1)
    panel = Panel(
        title=f"Bulk and outliers, width {parameters.width}",
        x_label="rank of the eigenvalue",
        y_label="eigenvalue",
        curves=[
            curve("bulk", rank[is_bulk], values[is_bulk], style="markers"),
            curve("outliers", rank[~is_bulk], values[~is_bulk], style="markers"),
            curve("", [], [0.0], style="horizontal"),
        ],
    )
    verdicts = [
        _agreement(measured),
        *_decoupling(measured),
        verdict(
            "The pair of outliers lies outside the bulk.",
            quantity="share of cells whose outliers both exceed the bulk in magnitude, from dense spectra",
            estimate=share(_outside(measured, ("large", "small"))),
            holds_for=Range(above=0.9),
            variants={
                "the larger outlier of the pair alone": share(_outside(measured, ("large",))),
                "the smaller outlier of the pair alone": share(_outside(measured, ("small",))),
            },
            note="section 3.1 says that the smaller one may be hidden within the bulk. It always is: the pair are the "
            "eigenvalues of diag(d, -d) plus a positive semidefinite matrix of rank one, which interlace with ±d; so "
            "the larger one never is",
        ),
        verdict(
            "The outliers are given by the Poster's formula, whose last square is 4 (2 <w, v> - mean(yx))^2.",
            quantity="median relative error of the larger outlier of a cell",
            estimate=estimates.median(_poster_error(measured)),
            holds_for=Range(below=ROUNDING),
            note="the square lacks the variance of the inputs; with it, the formula is exact",
        ),
    ]
    return FigureContent(_cell_rows(measured, parameters), [panel], verdicts, _cell_choices(parameters))


def _exponents(measured: Sequence[Measured], name: str) -> Array:
    """Slope of log |eigenvalue| against log variance, one for each seed; 1 where they are proportional."""
    slopes = []
    for each in measured:
        values = np.abs(each.arrays[name])
        known = values > 0
        slopes.append(np.polyfit(np.log(each.arrays["s2"][known]), np.log(values[known]), 1)[0])
    return np.array(slopes)


def _rank_panel(first: Measured, width: int) -> Panel:
    """All eigenvalues, from the most negative to the most positive, for a few variances."""
    curves, rank = [], np.arange(1, 2 * width + 1)
    for index in thinned(len(first.arrays["s2"]), 4):
        large, small, bulk = (float(first.arrays[name][index]) for name in ("large", "small", "bulk"))
        values = np.sort([large, small, *[bulk] * (width - 1), *[-bulk] * (width - 1)])
        curves.append(curve(f"variance {first.arrays['s2'][index]:.3g}", rank, values))
    title = "Eigenvalues in ascending order"
    return Panel(title=title, x_label="rank of the eigenvalue", y_label="eigenvalue", curves=curves)


def _variance_panel(first: Measured) -> Panel:
    s2, bulk = first.arrays["s2"], first.arrays["bulk"]
    return Panel(
        title="Spectrum at initialization",
        x_label="variance of the inputs",
        y_label="eigenvalue",
        curves=[
            curve("larger outlier", s2, first.arrays["large"]),
            curve("smaller outlier", s2, first.arrays["small"]),
            curve("bulk", s2, bulk, group=2),
            curve("", s2, -bulk, group=2),
        ],
    )


def figure_7(parameters: VarianceParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 7: the spectrum of a linear network against the variance of its inputs.

    Args:
        parameters: Parameters of the figure.
        measured: One measurement for each seed, under both choices of the weights.

    Returns:
        The content.
    """
    chosen, other = measured[: parameters.num_seeds], measured[parameters.num_seeds :]
    names = ("other weights for each variance", "the same weights for all variances")
    choice = names[0] if parameters.shares_weights else names[1]
    verdicts = [_agreement(measured)]
    for name, label in (("large", "larger outlier"), ("small", "smaller outlier"), ("bulk", "bulk")):
        verdicts.append(
            verdict(
                f"Eigenvalues scale in proportion to the variance of the inputs: the {label}.",
                quantity="mean exponent of the magnitude as a power of the variance",
                estimate=estimates.mean(_exponents(chosen, name)),
                holds_for=Range(above=0.95, below=1.05),
                variants={choice: estimates.mean(_exponents(other, name))},
                note="exact where mean(yx) = 0; for random targets it vanishes like 1/sqrt(n)",
            )
        )
    verdicts.append(
        verdict(
            "Two outliers are distinguished from the bulk.",
            quantity="share of dense spectra that are two outliers and m - 1 pairs of one other magnitude",
            estimate=share([each.values["is_paired"] for each in chosen if each.values["is_paired"] is not None]),
            holds_for=Range(above=0.5),
            note="at the first variance; the smaller outlier lies between -d and d, within the bulk",
        )
    )
    rows = [
        {"seed": parameters.seed + index, "variance": variance, **{k: float(v[i]) for k, v in each.arrays.items()}}
        for index, each in enumerate(chosen)
        for i, variance in enumerate(parameters.variances)
    ]
    choices = [
        Choice(name="width", value=str(parameters.width), reason="The source does not state the width."),
        Choice(
            name="initialization",
            value=parameters.initialization,
            reason="Gaussian with the variance of the standard parametrisation, which is 1/(3 fan-in) in PyTorch.",
        ),
        Choice(
            name="shares_weights",
            value=str(parameters.shares_weights).lower(),
            reason="The source does not say whether weights are drawn anew for each variance; the other choice is a "
            "variant.",
        ),
    ]
    panels = [_rank_panel(chosen[0], parameters.width), _variance_panel(chosen[0])]
    return FigureContent(rows, panels, verdicts, choices)


FIGURE_CONTENTS = {"cracking-1": figure_1, "cracking-7": figure_7, "poster-bulk": poster_bulk}
