"""Lanczos: the identities of the decomposition, on matrices of every kind."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from curvature.algorithms.lanczos import LanczosState, Tridiagonal, advance, start, tridiagonal
from curvature.errors import InvalidProblemError, NonFiniteError
from curvature.operators.base import SymmetricOperator
from curvature.operators.dense import DenseOperator

F64 = torch.float64


def symmetric(eigenvalues: Sequence[float] | Tensor, generator: torch.Generator) -> Tensor:
    eigenvalues = torch.as_tensor(eigenvalues, dtype=F64)
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=F64))
    matrix = basis * eigenvalues @ basis.T
    return (matrix + matrix.T) / 2


def run(operator: SymmetricOperator, probe: Tensor, num_steps: int) -> LanczosState:
    state = start(operator, probe, num_steps)
    while not state.finished:
        advance(operator, state)
    return state


def dense_tridiagonal(coefficients: Tridiagonal) -> Tensor:
    off = coefficients.off_diagonal
    return torch.diag(coefficients.diagonal) + torch.diag(off, 1) + torch.diag(off, -1)


@settings(max_examples=40, deadline=None)
@given(dim=st.integers(1, 40), num_steps=st.integers(1, 50), exponent=st.integers(-12, 12), seed=st.integers(0, 99))
def test_decomposition(dim: int, num_steps: int, exponent: int, seed: int) -> None:
    """A Q = Q T + r e^T, Q^T Q = I, Q^T r = 0, at any scale of A."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0**exponent
    A = symmetric(torch.randn(dim, generator=generator, dtype=F64) * scale, generator)
    state = run(DenseOperator(A), torch.randn(dim, generator=generator, dtype=F64), num_steps)
    T = tridiagonal(state)
    m = state.num_done
    assert m <= min(dim, num_steps)
    Q = state.basis[:m].T
    left = A @ Q - Q @ dense_tridiagonal(T)
    assert_close(Q.T @ Q, torch.eye(m, dtype=F64), rtol=0, atol=1e-13)
    remainder = torch.zeros_like(left)
    remainder[:, -1] = T.remainder * state.basis[m]
    assert_close(left, remainder, rtol=0, atol=1e-13 * scale * math.sqrt(dim))
    assert float((Q.T @ state.basis[m]).abs().max()) < 1e-12 or T.remainder < 1e-10 * scale
    assert float(A.norm(p=2)) * (1 + 1e-12) >= T.scale


def test_no_ghosts_after_convergence() -> None:
    """Outliers converge within ten steps; without reorthogonalisation they would come back as copies."""
    generator = torch.Generator().manual_seed(0)
    A = symmetric(
        torch.cat([torch.tensor([1e4, 5e3], dtype=F64), torch.rand(98, generator=generator, dtype=F64)]), generator
    )
    state = run(DenseOperator(A), torch.randn(100, generator=generator, dtype=F64), 60)
    ritz = torch.linalg.eigvalsh(dense_tridiagonal(tridiagonal(state)))
    assert int((ritz > 2).sum()) == 2
    Q = state.basis[:60]
    assert_close(Q @ Q.T, torch.eye(60, dtype=F64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("factor", [1.0, 1e-9, 1e9])
def test_invariant_subspace_ends_the_run_at_any_scale(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    A = symmetric([3.0] * 10 + [-1.0] * 15 + [0.5] * 5, generator) * factor
    state = run(DenseOperator((A + A.T) / 2), torch.randn(30, generator=generator, dtype=F64), 20)
    assert state.num_done == 3
    assert state.invariant
    T = tridiagonal(state)
    assert T.remainder == 0
    expected = torch.tensor([-1.0, 0.5, 3.0], dtype=F64) * factor
    assert_close(torch.linalg.eigvalsh(dense_tridiagonal(T)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_bulk_below_a_large_outlier_is_not_taken_for_rounding(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    bulk = torch.linspace(-1, 1, 49, dtype=F64) * (1e-4 if dtype == torch.float32 else 1e-12)
    A = symmetric(torch.cat([torch.ones(1, dtype=F64), bulk]), generator).to(dtype)
    state = run(DenseOperator(A), torch.randn(50, generator=generator, dtype=F64), 20)
    assert state.num_done == 20


def test_float32_products_keep_float64_scalars() -> None:
    generator = torch.Generator().manual_seed(0)
    A = symmetric(torch.randn(80, generator=generator, dtype=F64), generator)
    probe = torch.randn(80, generator=generator, dtype=F64)
    single, double = (tridiagonal(run(DenseOperator(A.to(dtype)), probe, 15)) for dtype in (torch.float32, F64))
    assert single.diagonal.dtype == F64
    assert_close(single.diagonal, double.diagonal, rtol=0, atol=2e-5)
    assert not torch.equal(single.diagonal, single.diagonal.float().double())


def test_a_copied_state_goes_on_to_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    operator = DenseOperator(symmetric(torch.randn(30, generator=generator, dtype=F64), generator))
    probe = torch.randn(30, generator=generator, dtype=F64)
    whole = run(operator, probe, 12)
    half = start(operator, probe, 12)
    for _ in range(5):
        advance(operator, half)
    resumed = type(half)(half.basis.clone(), half.diagonal.clone(), half.off_diagonal.clone(), 5, half.scale, False)
    while not resumed.finished:
        advance(operator, resumed)
    assert torch.equal(resumed.diagonal, whole.diagonal)
    assert torch.equal(resumed.off_diagonal, whole.off_diagonal)
    assert torch.equal(resumed.basis, whole.basis)


def test_bad_probes_and_products_are_errors() -> None:
    operator = DenseOperator(torch.eye(3, dtype=F64))
    for probe in (torch.zeros(3), torch.ones(4), torch.tensor([1.0, math.nan, 0.0])):
        with pytest.raises(InvalidProblemError):
            start(operator, probe, 2)
    with pytest.raises(InvalidProblemError):
        start(operator, torch.ones(3), 0)
    with pytest.raises(InvalidProblemError):
        tridiagonal(start(operator, torch.ones(3), 2))
    broken = DenseOperator(torch.full((3, 3), math.inf, dtype=F64))
    with pytest.raises(NonFiniteError):
        advance(broken, start(broken, torch.ones(3), 2))
