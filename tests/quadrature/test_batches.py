"""Summaries of many matrices together equal those of one matrix after the other."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.quadrature.batches.rules import QuadratureBatch
from hessian_spectrum.quadrature.batches.summaries import summaries
from hessian_spectrum.quadrature.curves import Smoothing, spectral_curves
from hessian_spectrum.quadrature.estimates import extreme_ritz_values, trace_and_frobenius
from hessian_spectrum.quadrature.results import Reorthogonalisation

DIM = 60
SIZE = 7
TOLERANCE = 1e-10
TOLERANCE_OF_LOGARITHMS = 1e-7
"""Roundings of the largest eigenvalue, 10, are 1e-10 of the number 1e-5 that is added to small ones."""


def _batch(
    num_probes: int, num_nodes: int, *, node_error: float = 1e-12, seed: int = 0, invariant: bool = False
) -> QuadratureBatch:
    """Quadratures of random matrices with an outlier, a cluster, and tiny and negative eigenvalues."""
    generator = np.random.default_rng(seed)
    shape = (SIZE, num_probes, num_nodes)
    nodes = np.sort(generator.standard_normal(shape) * 10.0 ** generator.uniform(-6, 1, shape), axis=-1)
    weights = generator.dirichlet(np.ones(num_nodes), shape[:2])
    residuals = generator.standard_normal(shape) * 10.0 ** generator.uniform(-14, 0, shape)
    if invariant:
        residuals = np.zeros(shape)
    scales = np.abs(nodes).max(axis=-1) * generator.uniform(0.5, 1.5, shape[:2])
    return QuadratureBatch(nodes, weights, residuals, np.full(shape[:2], node_error), scales)


def _difference(one: Any, other: Any) -> float:
    """Largest difference between two results, relative to the largest number of each array; unknown ends agree."""
    if is_dataclass(one):
        return max(_difference(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    if one is None or isinstance(one, str):
        assert one == other
        return 0.0
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    assert one.shape == other.shape
    return float(np.abs(one - other).max()) / max(float(np.abs(one).max()), 1e-300)


@pytest.mark.parametrize(
    ("num_probes", "num_nodes", "options"),
    [
        (1, 10, {}),
        (3, 12, {}),
        (18, 6, {}),
        (2, 9, {"node_error": 1e-4}),
        (2, 4, {"invariant": True}),
        (1, 1, {}),
        (2, 2, {}),
        (1, 1, {"invariant": True}),
    ],
)
@pytest.mark.parametrize("reorthogonalisation", ["full", "none"])
def test_summaries_of_a_batch_equal_those_of_each_matrix(
    num_probes: int, num_nodes: int, options: dict[str, Any], reorthogonalisation: Reorthogonalisation
) -> None:
    batch = _batch(num_probes, num_nodes, **options)
    smoothing = Smoothing(num_points=40, kappa=3.0)
    errors = np.geomspace(1e-15, 1e-7, SIZE)
    found = summaries(
        batch,
        smoothing,
        dim=DIM,
        num_steps=num_nodes,
        rounding=1e-16,
        product_errors=errors,
        reorthogonalisation=reorthogonalisation,
    )
    assert len(found) == SIZE
    for member, (own, error) in enumerate(zip(found, errors.tolist(), strict=True)):
        quadratures = batch.quadratures(member)
        curves = spectral_curves(quadratures, smoothing, dim=DIM, num_steps=num_nodes, rounding=1e-16)
        assert _difference(curves.density, own.curves.density) < TOLERANCE
        assert _difference(curves.cumulative, own.curves.cumulative) < TOLERANCE
        assert _difference(curves.log_density, own.curves.log_density) < TOLERANCE_OF_LOGARITHMS
        assert max(map(_difference, trace_and_frobenius(quadratures, DIM, error), (own.trace, own.frobenius))) < (
            TOLERANCE
        )
        ends = extreme_ritz_values(
            quadratures,
            batch.scales[member].tolist(),
            product_error=error,
            reorthogonalisation=reorthogonalisation,
            dim=DIM,
        )
        assert max(map(_difference, ends, (own.smallest, own.largest))) < TOLERANCE


def test_zero_matrices_have_exact_moments() -> None:
    batch = QuadratureBatch(*np.zeros((3, SIZE, 2, 1)), *np.zeros((2, SIZE, 2)))
    batch.weights[:] = 1
    (first, *_) = summaries(
        batch,
        Smoothing(num_points=20, kappa=3.0),
        dim=DIM,
        num_steps=5,
        rounding=1e-16,
        product_errors=np.zeros(SIZE),
        reorthogonalisation="full",
    )
    assert (first.trace.value, first.frobenius.value, first.largest.value) == (0.0, 0.0, 0.0)
    assert (first.trace.interval.lower, first.trace.interval.upper) == (0.0, 0.0)
