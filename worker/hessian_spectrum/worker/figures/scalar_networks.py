"""Spectra of two-layer networks of one variable, by closed form and by dense differentiation."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian_spectrum.api_schemas.figures.scalar_networks import (
    CellSpectrum,
    VarianceSpectra,
    has_dense_check,
)
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import DenseOperator
from hessian_spectrum.curvature.losses import LOSS_CLASSES
from hessian_spectrum.curvature.models.closed_form import NeuronNetwork
from hessian_spectrum.theory.closed_form.homogeneous import relu_spectrum
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Spectrum
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.closed_forms import number, statistic
from hessian_spectrum.worker.figures.measurement import Context, Measured

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
