"""Gauss quadrature: exact moments; Ritz values: honest residuals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from curvature.algorithms.lanczos import Tridiagonal, advance, start, tridiagonal
from curvature.algorithms.quadrature import extreme_ritz_values, gauss_quadrature
from curvature.errors import NonFiniteError
from curvature.operators.dense import DenseOperator

F64 = torch.float64
EPS = float(np.finfo(np.float64).eps)


def tridiagonalise(A: Tensor, probe: Tensor, num_steps: int) -> Tridiagonal:
    operator = DenseOperator(A)
    state = start(operator, probe, num_steps)
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
    nodes, weights = gauss_quadrature(T.diagonal, T.off_diagonal)
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
    nodes, weights = gauss_quadrature(torch.zeros(9, dtype=F64), off)
    expected_nodes, expected_weights = np.polynomial.hermite.hermgauss(9)
    np.testing.assert_allclose(nodes, expected_nodes, atol=1e-13)
    np.testing.assert_allclose(weights, expected_weights / math.sqrt(math.pi), atol=1e-14)


def test_not_finite_tridiagonal_is_an_error() -> None:
    with pytest.raises(NonFiniteError):
        gauss_quadrature(torch.tensor([1.0, math.nan], dtype=F64), torch.tensor([1.0], dtype=F64))


@pytest.mark.parametrize("num_steps", [2, 5, 10, 40])
def test_an_eigenvalue_lies_within_each_residual(num_steps: int) -> None:
    generator = torch.Generator().manual_seed(num_steps)
    A = torch.randn(60, 60, generator=generator, dtype=F64)
    A = (A + A.T) / 2
    eigenvalues = torch.linalg.eigvalsh(A)
    runs = [tridiagonalise(A, torch.randn(60, generator=generator, dtype=F64), num_steps) for _ in range(3)]
    smallest, largest = extreme_ritz_values(runs, EPS)
    for ritz in (smallest, largest):
        assert float((eigenvalues - ritz.value).abs().min()) <= ritz.residual
        assert ritz.residual > 0
    assert float(eigenvalues[0]) - 1e-12 <= smallest.value < largest.value <= float(eigenvalues[-1]) + 1e-12


def test_residual_is_the_norm_of_the_defect() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(30, 30, generator=generator, dtype=F64)
    A = (A + A.T) / 2
    operator = DenseOperator(A)
    state = start(operator, torch.randn(30, generator=generator, dtype=F64), 6)
    while not state.finished:
        advance(operator, state)
    T = tridiagonal(state)
    matrix = torch.diag(T.diagonal) + torch.diag(T.off_diagonal, 1) + torch.diag(T.off_diagonal, -1)
    values, vectors = torch.linalg.eigh(matrix)
    ritz_vector = state.basis[:6].T @ vectors[:, -1]
    _, largest = extreme_ritz_values([T], EPS)
    assert_close(largest.residual, float((A @ ritz_vector - values[-1] * ritz_vector).norm()), rtol=1e-10, atol=0.0)


def test_extremes_are_taken_over_all_probes() -> None:
    def single(value: float, remainder: float) -> Tridiagonal:
        diagonal = torch.tensor([value], dtype=F64)
        return Tridiagonal(diagonal, torch.zeros(0, dtype=F64), remainder, scale=4.0)

    smallest, largest = extreme_ritz_values([single(1.0, 0.5), single(-2.0, 0.25), single(3.0, 0.125)], 2.0**-10)
    assert (smallest.value, smallest.residual) == (-2.0, 0.25 + 10 * 2.0**-8)
    assert (largest.value, largest.residual) == (3.0, 0.125 + 10 * 2.0**-8)
