"""Gauss quadrature: exact moments; Ritz values: honest residuals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.algorithms.lanczos import advance, start, tridiagonal
from hessian_spectrum.curvature.linear_algebra import DenseOperator, Tridiagonal, gauss_quadrature, sphere_probe
from hessian_spectrum.quadrature.estimates import extreme_ritz_values
from hessian_spectrum.quadrature.exceptions import NonFiniteError
from hessian_spectrum.quadrature.results import Quadrature, Reorthogonalisation, RitzValue
from tests.fixtures.longer import long, pairs

F64 = torch.float64
EPS = float(np.finfo(np.float64).eps)


def tridiagonalise(A: Tensor, probe: Tensor, num_steps: int, *, mode: Reorthogonalisation = "full") -> Tridiagonal:
    operator = DenseOperator(A)
    state = start(operator, [probe], num_probes=1, num_steps=num_steps, reorthogonalisation=mode)
    while not state.finished:
        advance(operator, state)
    return tridiagonal(state)


@settings(max_examples=30, deadline=None)
@given(num_steps=st.integers(1, 8), seed=st.integers(0, 99))
def test_moments_below_twice_the_steps_are_exact(num_steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(25, 25, generator=generator, dtype=F64)
    A = (A + A.T) / 2
    A = A / torch.linalg.matrix_norm(A, 2)
    v = torch.randn(25, generator=generator, dtype=F64)
    v = v / v.norm()
    T = tridiagonalise(A, v, num_steps)
    rule = gauss_quadrature(T)
    nodes, weights = torch.from_numpy(rule.nodes), torch.from_numpy(rule.weights)
    for degree in range(2 * num_steps):
        expected = v @ torch.linalg.matrix_power(A, degree) @ v
        assert abs(float((weights * nodes**degree).sum() - expected)) < 1e-13
    over = v @ torch.linalg.matrix_power(A, 2 * num_steps) @ v
    # the error of degree 2m is the product of all off-diagonals squared, so the rule is no better than Gauss
    gap = float(torch.cat([T.off_diagonal, torch.tensor([T.remainder], dtype=F64)]).square().prod())
    assert abs(float(over - (weights * nodes ** (2 * num_steps)).sum()) - gap) < 1e-13


def test_gauss_hermite_against_numpy() -> None:
    """The Jacobi matrix of Hermite polynomials: diagonal 0, off-diagonal sqrt(k / 2)."""
    off = torch.sqrt(torch.arange(1, 9, dtype=F64) / 2)
    rule = gauss_quadrature(Tridiagonal(diagonal=torch.zeros(9, dtype=F64), off_diagonal=off, remainder=0.0, scale=1.0))
    expected_nodes, expected_weights = np.polynomial.hermite.hermgauss(9)
    np.testing.assert_allclose(rule.nodes, expected_nodes, atol=1e-13)
    np.testing.assert_allclose(rule.weights, expected_weights / math.sqrt(math.pi), atol=1e-14)


def test_not_finite_tridiagonal_is_an_error() -> None:
    with pytest.raises(NonFiniteError):
        gauss_quadrature(
            Tridiagonal(
                diagonal=torch.tensor([1.0, math.nan], dtype=F64),
                off_diagonal=torch.ones(1, dtype=F64),
                remainder=0.0,
                scale=1.0,
            )
        )


def extremes(
    runs: list[Tridiagonal], mode: Reorthogonalisation = "full", dim: int = 200
) -> tuple[RitzValue, RitzValue]:
    rules = [gauss_quadrature(each) for each in runs]
    return extreme_ritz_values(
        rules, [each.scale for each in runs], product_error=10 * EPS, reorthogonalisation=mode, dim=dim
    )


def refined_eigenvalues(A: Tensor) -> Tensor:
    """Rayleigh quotients in extended precision: LAPACK's values are off by as much as 30 roundings on some machines."""
    vectors = torch.linalg.eigh(A)[1].numpy().astype(np.longdouble)
    quotients = (vectors * (A.numpy().astype(np.longdouble) @ vectors)).sum(axis=0) / np.square(vectors).sum(axis=0)
    return torch.from_numpy(quotients.astype(np.float64))


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("num_steps", [2, 5, 10, 40, 150])
def test_an_eigenvalue_lies_within_each_residual(num_steps: int, mode: Reorthogonalisation) -> None:
    generator = torch.Generator().manual_seed(num_steps)
    A = torch.randn(200, 200, generator=generator, dtype=F64)
    A = (A + A.T) / 2
    eigenvalues = refined_eigenvalues(A)
    probes = torch.randn(3, 200, generator=generator, dtype=F64)
    runs = [tridiagonalise(A, probe, num_steps, mode=mode) for probe in probes]
    smallest, largest = extremes(runs, mode)
    for ritz in (smallest, largest):
        assert float((eigenvalues - ritz.value).abs().min()) <= ritz.residual
        assert ritz.residual > 0
    assert float(eigenvalues[0]) - 1e-12 <= smallest.value < largest.value <= float(eigenvalues[-1]) + 1e-12


def test_residuals_are_the_norms_of_the_defects() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(30, 30, generator=generator, dtype=F64)
    A = (A + A.T) / 2
    operator = DenseOperator(A)
    state = start(operator, [torch.randn(30, generator=generator, dtype=F64)], num_probes=1, num_steps=6)
    while not state.finished:
        advance(operator, state)
    T = tridiagonal(state)
    matrix = torch.diag(T.diagonal) + torch.diag(T.off_diagonal, 1) + torch.diag(T.off_diagonal, -1)
    values, vectors = torch.linalg.eigh(matrix)
    ritz_vectors = state.basis[0, :6].T @ vectors
    defects = (A @ ritz_vectors - ritz_vectors * values).norm(dim=0)
    assert_close(torch.from_numpy(gauss_quadrature(T).residuals).abs(), defects, rtol=1e-10, atol=0.0)
    _, largest = extremes([T])
    assert largest.residual == pytest.approx(float(defects[-1]), rel=1e-10)


def test_extremes_are_taken_over_all_probes() -> None:
    def single(value: float, residual: float) -> Quadrature:
        return Quadrature(np.array([value]), np.ones(1), np.array([residual]))

    three = [single(1.0, 0.5), single(-2.0, -0.25), single(3.0, 0.125)]
    smallest, largest = extreme_ritz_values(
        three, [4.0] * 3, product_error=10 * 2.0**-10, reorthogonalisation="full", dim=100
    )
    assert (smallest.value, smallest.residual) == (-2.0, 0.25 + 10 * 2.0**-8)
    assert (largest.value, largest.residual) == (3.0, 0.125 + 10 * 2.0**-8)


@pytest.mark.parametrize("order", [1, -1])
def test_of_ritz_values_that_differ_by_rounding_the_most_converged_one_counts(order: int) -> None:
    def double(outer: float, residual: float) -> Quadrature:
        return Quadrature(np.array([-outer, outer]), np.full(2, 0.5), np.array([residual, residual]))

    several = [double(3.0, 1e-8), double(3.0 + 4 * EPS, 1e-3), double(2.0, 1e-12)][::order]
    smallest, largest = extreme_ritz_values(several, [4.0] * 3, product_error=0.0, reorthogonalisation="full", dim=100)
    assert (smallest.value, smallest.residual) == (-3.0 - 4 * EPS, 1e-8)
    assert (largest.value, largest.residual) == (3.0 + 4 * EPS, 1e-8)


def outliers_and(bulk: Tensor, *outliers: float) -> Tensor:
    return torch.cat([torch.tensor(outliers, dtype=F64), bulk[len(outliers) :]])


BULK = torch.randn(120, generator=torch.Generator().manual_seed(1), dtype=F64)
SPECTRA = {
    "outlier 1e3": outliers_and(BULK, 1e3),
    "outlier 1e6": outliers_and(BULK, 1e6),
    "1 / i^2": torch.arange(1, 121, dtype=F64) ** -2,
    "rank 1": outliers_and(0 * BULK, 1.0),
    "rank 3": outliers_and(0 * BULK, 3.0, -2.0, 1.0),
    "+-100": outliers_and(1e-3 * BULK, 100.0, -100.0),
    "identity": torch.ones(120, dtype=F64),
    "clusters": torch.tensor([0.0, 1.0, 10.0], dtype=F64).repeat(40) + 1e-3 * BULK,
    "a hidden end": outliers_and(BULK.abs() - 1, -1.02),
}


class DiagonalOperator(DenseOperator):
    """A matrix that is diagonal, by its diagonal."""

    def __init__(self, diagonal: Tensor) -> None:
        self._matrix = diagonal

    def matmat(self, matrix: Tensor) -> Tensor:
        return self._matrix.unsqueeze(1) * matrix


@pytest.mark.parametrize(("num_seeds", "most_missed"), [(30, 3), long(300, 8)])
@pytest.mark.parametrize(("name", "mode"), pairs(SPECTRA, ["none", "full"]))
def test_the_ends_of_the_spectrum_lie_in_their_intervals(
    name: str, mode: Reorthogonalisation, num_seeds: int, most_missed: int
) -> None:
    """With a chance of 97.5 %, so in 292 of 300 runs; 2, 4 and 12 steps of 1, 2 and 4 probes."""
    diagonal, missed = SPECTRA[name], np.zeros(2, dtype=int)
    dim, operator = len(diagonal), DiagonalOperator(diagonal)
    for seed in range(num_seeds):
        generator = torch.Generator().manual_seed(seed)
        count, num_steps = ((1, 2), (2, 4), (4, 12))[seed % 3]
        state = start(
            operator,
            [sphere_probe(dim, generator) for _ in range(count)],
            num_probes=count,
            num_steps=num_steps,
            reorthogonalisation=mode,
        )
        while not state.finished:
            advance(operator, state)
        ritz = extremes([tridiagonal(state, probe) for probe in range(count)], mode, dim)
        for end, (each, exact) in enumerate(zip(ritz, (float(diagonal.min()), float(diagonal.max())), strict=True)):
            assert each.interval.lower is not None
            assert each.interval.upper is not None
            assert each.interval.lower <= each.value <= each.interval.upper
            missed[end] += not each.interval.lower <= exact <= each.interval.upper
    assert (missed <= most_missed).all(), missed


def test_the_interval_of_an_end_is_narrow_once_it_is_found() -> None:
    diagonal = SPECTRA["outlier 1e3"]
    operator = DiagonalOperator(diagonal)
    state = start(operator, [sphere_probe(120, torch.Generator().manual_seed(0))], num_probes=1, num_steps=20)
    while not state.finished:
        advance(operator, state)
    _, largest = extremes([tridiagonal(state)], dim=120)
    assert largest.interval.lower is not None
    assert largest.interval.upper is not None
    assert largest.interval.upper - largest.interval.lower < 1e-6 * 1e3
