"""Pairs of Hessian eigenvalues whose sum is closest to a fraction of the trace, network by network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.api_schemas.figures.pairs import Activation, EigenvaluePairs
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.gaussian import gaussian_dataset
from hessian_spectrum.curvature.ensembles.pairs import closest_pairs, distinct_eigenvalues
from hessian_spectrum.curvature.ensembles.single_output import (
    CompressedHessian,
    deep_linear_hessian,
    two_layer_relu_hessian,
)
from hessian_spectrum.curvature.iteration import Count, Iteration, run
from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.measurement import Context, Measured

WEIGHTS, DATA = 1, 2
"""Purposes of the random numbers of a network."""

_ACTIVATIONS = get_args(Activation)

NOISE = {"none": 1.0, "linear": 0.1}
"""Standard deviation of the noise of targets, by teacher, before they are standardised."""

Weights = list[Tensor]
Compress = Callable[[Weights, Tensor, Tensor], CompressedHessian]


def measure_pairs(measurement: EigenvaluePairs, context: Context) -> Measured:
    """Find the pairs of every network of a measurement.

    Args:
        measurement: The networks.
        context: Progress and checkpoints.

    Returns:
        Arrays (num_networks,): the gap, the eigenvalues, their positions and the number of copies of the best pair,
        the gap of the second best, the fraction tr/D, the mean eigenvalue, the ends of the spectrum, the number of
        distinct eigenvalues, and the pair that the theory predicts, where it does. `control_gap` (num_networks,
        number of control factors) is the gap of the best pair for each wrong target.
    """
    networks = _Networks(measurement)
    rows = run(
        networks,
        None,
        generator=torch.Generator(),
        progress=context.progress,
        checkpointer=context.stage,
    )
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Measured({"num_parameters": measurement.num_parameters}, arrays)


@serializable()
@dataclass(eq=False)
class PairRows:
    """The numbers of the networks that are done, by name."""

    rows: list[dict[str, float | list[float]]] = field(default_factory=list)


class _Networks(Iteration[None, PairRows, list[dict[str, float | list[float]]]]):
    """One network after the other; each has random numbers of its own, so that the order does not matter."""

    phase: ClassVar[str] = "networks"

    def __init__(self, measurement: EigenvaluePairs) -> None:
        self._measurement = measurement

    def init(self, problem: None, *, generator: torch.Generator) -> PairRows:
        return PairRows()

    def is_finished(self, state: PairRows) -> bool:
        return len(state.rows) >= self._measurement.num_networks

    def step(self, problem: None, state: PairRows) -> PairRows:
        index = len(state.rows)
        weights, data = initial_weights(self._measurement, index), self._data(index)
        return PairRows([*state.rows, _numbers(self._measurement, weights, data)])

    def count(self, state: PairRows) -> Count:
        return Count(len(state.rows), self._measurement.num_networks)

    def result(self, problem: None, state: PairRows) -> list[dict[str, float | list[float]]]:
        return state.rows

    def _data(self, index: int) -> Dataset:
        return self._shared_data if self._measurement.shares_data else data_set(self._measurement, index)

    @cached_property
    def _shared_data(self) -> Dataset:
        return data_set(self._measurement, 0)


def _generator(measurement: EigenvaluePairs, purpose: int, index: int) -> torch.Generator:
    """Make a generator for a network; those of other shapes have other numbers, so that points are independent."""
    kinds = _ACTIVATIONS.index(measurement.activation), measurement.num_layers
    return generator_of(measurement.seed, purpose, index, *kinds, measurement.width, measurement.input_dim)


def initial_weights(measurement: EigenvaluePairs, index: int) -> Weights:
    """Draw the weights of a network: PyTorch's default, the first matrix with orthonormal columns where requested."""
    generator = _generator(measurement, WEIGHTS, index)
    model = _model(measurement)
    parameters = model.initial_parameters(generator, torch.float64, torch.device("cpu"))
    weights = list(parameters.values())
    if measurement.initialization == "orthonormal":
        torch.nn.init.orthogonal_(weights[0], generator=generator)
    return weights


def data_set(measurement: EigenvaluePairs, index: int) -> Dataset:
    """Draw the data of a network."""
    return gaussian_dataset(
        num_samples=measurement.num_samples,
        input_dim=measurement.input_dim,
        output_dim=1,
        teacher=measurement.teacher,
        noise=NOISE[measurement.teacher],
        transform=measurement.data,
        generator=_generator(measurement, DATA, index),
    )


def _model(measurement: EigenvaluePairs) -> Mlp:
    widths = (measurement.input_dim, *[measurement.width] * (measurement.num_layers - 1), 1)
    return Mlp(widths, measurement.activation, False)


def hessian_of(activation: str, weights: Weights, data: Dataset) -> CompressedHessian:
    """Compute the Hessian of half the mean squared error, in the smallest form that is known.

    Args:
        activation: "linear" or "relu".
        weights: The weight matrices, first layer first; the last has one row.
        data: Inputs (n, D) and targets (n, 1).

    Returns:
        The Hessian, which for ReLU networks of more than two layers is the dense matrix.
    """
    compress: Compress = _dense_relu_hessian
    if activation == "linear":
        compress = deep_linear_hessian
    elif len(weights) == 2:
        compress = two_layer_relu_hessian
    return compress(weights, data.inputs, data.targets)


def _dense_relu_hessian(weights: Weights, inputs: Tensor, targets: Tensor) -> CompressedHessian:
    widths = (weights[0].shape[1], *map(len, weights))
    model = Mlp(widths, "relu", False)
    layout = ParameterLayout.of(model.parameter_shapes)

    def half_mean_square(point: Tensor) -> Tensor:
        return ((model(layout.unflatten(point), inputs) - targets) ** 2).sum() / (2 * len(inputs))

    point = torch.cat([weight.flatten() for weight in weights])
    matrix = torch.func.hessian(half_mean_square)(point)
    return CompressedHessian((matrix + matrix.T) / 2, len(point))


def _numbers(measurement: EigenvaluePairs, weights: Weights, data: Dataset) -> dict[str, float | list[float]]:
    hessian = hessian_of(measurement.activation, weights, data)
    spectrum = distinct_eigenvalues(hessian.eigenvalues().numpy(), num_zeros=hessian.num_zeros)
    trace = float(hessian.matrix.trace())
    fraction = trace / measurement.input_dim
    best, second = closest_pairs(spectrum, fraction)
    controls = [closest_pairs(spectrum, factor * fraction)[0].gap for factor in measurement.control_factors]
    return {
        "gap": best.gap,
        "low": best.low,
        "high": best.high,
        "low_index": float(best.low_index),
        "high_index": float(best.high_index),
        "num_copies": float(best.num_copies),
        "second_gap": np.inf if second is None else second.gap,
        "fraction": fraction,
        "mean_eigenvalue": trace / hessian.num_parameters,
        "smallest": float(spectrum.values[0]),
        "largest": float(spectrum.values[-1]),
        "num_distinct": float(len(spectrum.values)),
        "control_gap": controls,
        **_predicted_pair(measurement, weights),
    }


def _predicted_pair(measurement: EigenvaluePairs, weights: Sequence[Tensor]) -> Mapping[str, float]:
    """Return the pair with the sum tr/D where the first layer is orthonormal and the data are decorrelated."""
    # With N = |w|^2 + 1 and u = W1^T w / |W1^T w| the span of (dW1, dw) = (w u^T, 0), (W1 u u^T, 0), (0, w), (0, W1 u)
    # is invariant, and has the eigenvalues (N +- sqrt(N^2 + 12 |W1^T w|^2)) / 2; the trace is D N.
    is_predicted = (measurement.activation, measurement.num_layers, measurement.initialization, measurement.data) == (
        "linear",
        2,
        "orthonormal",
        "decorrelated",
    )
    if not is_predicted:
        return {}
    first, (last,) = weights
    total = float(last @ last) + 1
    root = (total**2 + 12 * float((first.T @ last).norm()) ** 2) ** 0.5
    return {"predicted_low": (total - root) / 2, "predicted_high": (total + root) / 2}


def gap_resolution(measured: Measured) -> np.ndarray:
    """Smallest gap (num_networks,) that float64 can tell from zero: 64 epsilons of the largest magnitude."""
    largest = np.maximum(np.abs(measured.arrays["smallest"]), np.abs(measured.arrays["largest"]))
    resolution: np.ndarray = 64 * np.finfo(np.float64).eps * largest
    return resolution


MEASUREMENTS = {EigenvaluePairs: measure_pairs}
