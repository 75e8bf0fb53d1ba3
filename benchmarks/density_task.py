"""Errors of Lanczos densities of trained networks, in whatever build `ahead_tasks` measures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import DenseOperator, assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.quadrature.curves import Smoothing, width_of_gaussians

NUM_SEEDS, NUM_STEPS, NUM_PROBES, KAPPA = 20, 60, 2, 3.0
NUM_SAMPLES, NUM_TRAINING_STEPS, LEARNING_RATE = 1000, 200, 3e-3
CPU = torch.device("cpu")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Root mean squares over seeds.

    Attributes:
        trace: Relative error of the trace.
        wasserstein: Wasserstein distance of the spectra, in units of the eigenvalues.
        l1: Integral of the absolute error of the smoothed density.
    """

    trace: float
    wasserstein: float
    l1: float


def trained_hessian(widths: tuple[int, ...]) -> Tensor:
    """Hessian (P, P) of a classifier of the digits after full-batch training by Adam."""
    generator = torch.Generator().manual_seed(0)
    drawn = digits(NUM_SAMPLES, generator)
    data, model = Dataset(drawn.inputs.double(), drawn.targets), Mlp(widths, "tanh")
    parameters = model.initial_parameters(generator, torch.float64, CPU)
    leaves = {name: each.clone().requires_grad_() for name, each in parameters.items()}
    optimizer = torch.optim.Adam(leaves.values(), LEARNING_RATE)
    for _ in range(NUM_TRAINING_STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(leaves, data.inputs), data.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    trained = {name: each.detach() for name, each in leaves.items()}
    return assemble(HessianOperator(EmpiricalRisk(model, CrossEntropy(), [data]), trained))


def errors_of(matrix: Tensor) -> Errors:
    """Errors of the densities of all seeds, with the exact spectrum as truth."""
    exact = torch.linalg.eigvalsh(matrix).numpy()
    operator, method = DenseOperator(matrix), StochasticLanczosQuadrature(NUM_STEPS, NUM_PROBES, Smoothing(1024, KAPPA))
    found = [run(method, operator, generator=torch.Generator().manual_seed(seed)) for seed in range(NUM_SEEDS)]
    rows = [(_trace_error(each, exact), _distance(each, exact), _l1(each, exact)) for each in found]
    return Errors(*np.sqrt(np.mean(np.square(rows), axis=0)).tolist())


def _trace_error(found: Any, exact: Floats) -> float:
    return float(found.trace.value / exact.sum() - 1)


def _distance(found: Any, exact: Floats) -> float:
    """Wasserstein distance of the nodes of all probes, those that are known eigenvalues in place of their part."""
    known = getattr(found, "deflation", None)
    rules, values = found.quadrature, np.empty(0)
    if known is not None:
        from hessian_spectrum.quadrature.deflation import deflated  # noqa: PLC0415 - earlier builds have none

        rules, values = deflated(rules, known, len(exact)), known.eigenvalues
    rest = (len(exact) - len(values)) / len(rules)
    nodes = np.concatenate([*(each.nodes for each in rules), values])
    weights = np.concatenate([*(rest * each.weights for each in rules), np.ones_like(values)])
    return float(wasserstein_distance(nodes, exact, np.maximum(weights, 0)))


def _l1(found: Any, exact: Floats) -> float:
    grid = found.density.grid
    sigma = width_of_gaussians(NUM_STEPS, KAPPA) * (grid[-1] - grid[0]) / 2
    true = np.exp(-(((grid[:, None] - exact) / sigma) ** 2) / 2).mean(axis=1) / (sigma * np.sqrt(2 * np.pi))
    return float(np.abs(found.density.values - true).sum() * (grid[1] - grid[0]))
