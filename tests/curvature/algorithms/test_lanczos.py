"""Lanczos: the identities of the decomposition, on matrices of every kind."""

import copy
import math
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.algorithms.lanczos import LanczosState, advance, start, tridiagonal
from hessian_spectrum.curvature.linear_algebra import DenseOperator, SymmetricOperator, Tridiagonal, gauss_quadrature
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import Reorthogonalisation

F64 = torch.float64


def symmetric(eigenvalues: Sequence[float] | Tensor, generator: torch.Generator) -> Tensor:
    eigenvalues = torch.as_tensor(eigenvalues, dtype=F64)
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=F64))
    matrix = basis * eigenvalues @ basis.T
    return (matrix + matrix.T) / 2


def run(
    operator: SymmetricOperator, probe: Tensor, num_steps: int, *, reorthogonalisation: Reorthogonalisation = "full"
) -> LanczosState:
    state = start(operator, [probe], num_probes=1, num_steps=num_steps, reorthogonalisation=reorthogonalisation)
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
    m = state.num_done[0]
    assert m <= min(dim, num_steps)
    Q = state.basis[0, :m].T
    left = A @ Q - Q @ dense_tridiagonal(T)
    assert_close(Q.T @ Q, torch.eye(m, dtype=F64), rtol=0, atol=1e-13)
    remainder = torch.zeros_like(left)
    remainder[:, -1] = T.remainder * state.basis[0, m]
    assert_close(left, remainder, rtol=0, atol=1e-13 * scale * math.sqrt(dim))
    assert float((Q.T @ state.basis[0, m]).abs().max()) < 1e-12 or T.remainder < 1e-10 * scale
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
    Q = state.basis[0, :60]
    assert_close(Q @ Q.T, torch.eye(60, dtype=F64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("factor", [1.0, 1e-9, 1e9])
def test_invariant_subspace_ends_the_run_at_any_scale(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    A = symmetric([3.0] * 10 + [-1.0] * 15 + [0.5] * 5, generator) * factor
    state = run(DenseOperator((A + A.T) / 2), torch.randn(30, generator=generator, dtype=F64), 20)
    assert state.num_done[0] == 3
    assert state.invariant[0]
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
    assert state.num_done[0] == 20


def test_float32_products_keep_float64_scalars() -> None:
    generator = torch.Generator().manual_seed(0)
    A = symmetric(torch.randn(80, generator=generator, dtype=F64), generator)
    probe = torch.randn(80, generator=generator, dtype=F64)
    single, double = (tridiagonal(run(DenseOperator(A.to(dtype)), probe, 15)) for dtype in (torch.float32, F64))
    assert single.diagonal.dtype == F64
    assert_close(single.diagonal, double.diagonal, rtol=0, atol=2e-5)
    assert not torch.equal(single.diagonal, single.diagonal.float().double())


@pytest.mark.parametrize("factor", [1e-200, 1e-160, 1e160, 1e200])
@pytest.mark.parametrize("reorthogonalisation", ["none", "full"])
def test_norms_neither_overflow_nor_underflow(factor: float, reorthogonalisation: Reorthogonalisation) -> None:
    generator = torch.Generator().manual_seed(0)
    A = symmetric([3.0] * 10 + [-1.0] * 15 + [0.5] * 5, generator)
    probe = torch.randn(30, generator=generator, dtype=F64)
    plain, scaled = (
        run(DenseOperator(matrix), probe, 20, reorthogonalisation=reorthogonalisation) for matrix in (A, A * factor)
    )
    assert plain.num_done == scaled.num_done == [3]
    assert scaled.invariant == [True]
    assert_close(scaled.diagonal / factor, plain.diagonal, rtol=1e-12, atol=1e-12)
    assert_close(scaled.off_diagonal / factor, plain.off_diagonal, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("reorthogonalisation", ["none", "full"])
def test_float32_at_the_ends_of_its_range(factor: float, reorthogonalisation: Reorthogonalisation) -> None:
    generator = torch.Generator().manual_seed(0)
    A = symmetric(torch.randn(40, generator=generator, dtype=F64), generator)
    probe = torch.randn(40, generator=generator, dtype=F64)
    single = run(DenseOperator((A * factor).float()), probe, 12, reorthogonalisation=reorthogonalisation)
    double = run(DenseOperator(A), probe, 12, reorthogonalisation=reorthogonalisation)
    assert single.num_done == [12]
    assert_close(single.diagonal / factor, double.diagonal, rtol=0, atol=1e-4)
    assert_close(single.off_diagonal / factor, double.off_diagonal, rtol=0, atol=1e-4)


@pytest.mark.parametrize("reorthogonalisation", ["none", "full"])
def test_zero_matrix_and_one_parameter(reorthogonalisation: Reorthogonalisation) -> None:
    zero = run(DenseOperator(torch.zeros(5, 5, dtype=F64)), torch.ones(5), 4, reorthogonalisation=reorthogonalisation)
    assert (zero.num_done, zero.invariant) == ([1], [True])
    one = run(
        DenseOperator(torch.full((1, 1), -3.0, dtype=F64)), torch.ones(1), 4, reorthogonalisation=reorthogonalisation
    )
    assert one.num_done == [1]
    assert float(one.diagonal[0, 0]) == -3


@settings(max_examples=25, deadline=None)
@given(reorthogonalisation=st.sampled_from(["none", "full"]), num_probes=st.integers(1, 5), seed=st.integers(0, 99))
def test_lockstep_is_each_probe_alone(reorthogonalisation: Reorthogonalisation, num_probes: int, seed: int) -> None:
    """A probe inside an eigenspace stops after its first step, and the others go on."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.block_diag(symmetric(torch.randn(20, generator=generator, dtype=F64), generator), 2 * torch.eye(4))
    A = A.double()
    probes = list(torch.randn(num_probes, 24, generator=generator, dtype=F64))
    probes[seed % num_probes][:20] = 0
    state = start(DenseOperator(A), probes, num_probes=num_probes, num_steps=8, reorthogonalisation=reorthogonalisation)
    while not state.finished:
        advance(DenseOperator(A), state)
    assert state.num_done == [1 if j == seed % num_probes else 8 for j in range(num_probes)]
    for j, probe in enumerate(probes):
        alone = tridiagonal(run(DenseOperator(A), probe, 8, reorthogonalisation=reorthogonalisation))
        together = tridiagonal(state, j)
        assert_close(together.diagonal, alone.diagonal, rtol=0, atol=1e-10)
        assert_close(together.off_diagonal, alone.off_diagonal, rtol=0, atol=1e-10)
        assert together.scale == pytest.approx(alone.scale)


def test_one_call_of_the_operator_per_step() -> None:
    class Counting(DenseOperator):
        calls: ClassVar[list[int]] = []

        def matmat(self, matrix: Tensor) -> Tensor:
            self.calls.append(matrix.shape[1])
            return super().matmat(matrix)

    generator = torch.Generator().manual_seed(0)
    operator = Counting(symmetric(torch.randn(20, generator=generator, dtype=F64), generator))
    state = start(operator, torch.randn(3, 20, generator=generator, dtype=F64), num_probes=3, num_steps=6)
    while not state.finished:
        advance(operator, state)
    assert Counting.calls == [3] * 6


def test_products_are_not_overwritten() -> None:
    """The product of the identity may be the vector itself."""

    class Identity(DenseOperator):
        def matmat(self, matrix: Tensor) -> Tensor:
            return matrix

    for reorthogonalisation in ("none", "full"):
        state = run(Identity(torch.eye(6, dtype=F64)), torch.randn(6), 4, reorthogonalisation=reorthogonalisation)
        assert state.num_done == [1]
        assert tridiagonal(state).diagonal.item() == pytest.approx(1)


def test_without_reorthogonalisation_ghosts_appear_and_share_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    bulk = torch.rand(98, generator=generator, dtype=F64)
    A = symmetric(torch.cat([torch.tensor([1e4, 5e3], dtype=F64), bulk]), generator)
    probe = torch.randn(100, generator=generator, dtype=F64)
    with_ghosts, without = (
        gauss_quadrature(tridiagonal(run(DenseOperator(A), probe, 60, reorthogonalisation=mode)))
        for mode in ("none", "full")
    )
    assert (with_ghosts.nodes > 9999).sum() > 1
    assert (without.nodes > 9999).sum() == 1
    for lower, upper in ((4999, 5001), (9999, 10001)):
        shares = [q.weights[(q.nodes > lower) & (q.nodes < upper)].sum() for q in (with_ghosts, without)]
        assert shares[0] == pytest.approx(shares[1], rel=1e-8)


@pytest.mark.parametrize("reorthogonalisation", ["none", "full"])
def test_a_copied_state_goes_on_to_the_same_bits(reorthogonalisation: Reorthogonalisation) -> None:
    generator = torch.Generator().manual_seed(0)
    operator = DenseOperator(symmetric(torch.randn(30, generator=generator, dtype=F64), generator))
    probes = torch.randn(2, 30, generator=generator, dtype=F64)
    whole, half = (
        start(operator, probes, num_probes=2, num_steps=12, reorthogonalisation=reorthogonalisation) for _ in range(2)
    )
    while not whole.finished:
        advance(operator, whole)
    for _ in range(5):
        advance(operator, half)
    resumed = LanczosState(**copy.deepcopy(vars(half)))
    while not resumed.finished:
        advance(operator, resumed)
    assert torch.equal(resumed.diagonal, whole.diagonal)
    assert torch.equal(resumed.off_diagonal, whole.off_diagonal)
    assert torch.equal(resumed.basis, whole.basis)


def test_bad_probes_and_products_are_errors() -> None:
    operator = DenseOperator(torch.eye(3, dtype=F64))
    for probe in (torch.zeros(3), torch.ones(4), torch.tensor([1.0, math.nan, 0.0])):
        with pytest.raises(InvalidProblemError):
            start(operator, [probe], num_probes=1, num_steps=2)
    for num_probes, num_steps in ((0, 1), (1, 0)):
        with pytest.raises(InvalidProblemError):
            start(operator, [torch.ones(3)], num_probes=num_probes, num_steps=num_steps)
    with pytest.raises(InvalidProblemError):
        tridiagonal(start(operator, [torch.ones(3)], num_probes=1, num_steps=2))
    broken = DenseOperator(torch.full((3, 3), math.inf, dtype=F64))
    with pytest.raises(NonFiniteError):
        advance(broken, start(broken, [torch.ones(3)], num_probes=1, num_steps=2))
