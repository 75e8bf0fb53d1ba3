"""Lanczos tridiagonalisation with full reorthogonalisation, one step at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.errors import InvalidProblemError, NonFiniteError
from curvature.operators.base import SymmetricOperator

# A remainder below this many roundings of the largest product is rounding: the subspace is invariant.
BREAKDOWN_ROUNDINGS = 10


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """T (m, m) = Q^T A Q, and what is left of A Q - Q T."""

    diagonal: Tensor  # (m,) float64, on the CPU, in units of A
    off_diagonal: Tensor  # (m - 1,) float64, on the CPU, >= 0, in units of A
    remainder: float  # ||A Q - Q T||, all of it in the last column; 0 for an invariant subspace
    scale: float  # largest ||A q_j||, a lower bound of ||A||


@dataclass
class LanczosState:
    """A run that stopped between two steps; all that `advance` needs to go on, so all that a checkpoint must hold."""

    basis: Tensor  # (limit + 1, P), rows 0 .. num_done orthonormal, in the operator's precision; later rows undefined
    diagonal: Tensor  # (limit,) float64, on the CPU, first num_done set
    off_diagonal: Tensor  # (limit,) float64, on the CPU, first num_done set; the last one set is the remainder
    num_done: int
    scale: float  # largest ||A q_j|| so far
    invariant: bool  # the subspace is closed under A, within rounding

    @property
    def limit(self) -> int:
        """Steps at most: min(num_steps, P)."""
        return len(self.diagonal)

    @property
    def finished(self) -> bool:
        """Whether there is no further step to take."""
        return self.invariant or self.num_done == self.limit


def start(operator: SymmetricOperator, probe: Tensor, num_steps: int) -> LanczosState:
    """State before the first step of min(num_steps, P) steps from `probe`.

    Args:  probe (P,), any non-zero length, on any device in any precision.
    Raises:  InvalidProblemError if num_steps < 1, or the probe has another dimension or is zero or not finite.
    """
    if num_steps < 1:
        raise InvalidProblemError(f"Lanczos needs at least one step, not {num_steps}")
    probe = probe.to(torch.float64)
    length = float(probe.norm())
    if probe.shape != (operator.dim,) or not 0 < length < float("inf"):
        raise InvalidProblemError(f"a finite, non-zero probe ({operator.dim},) is needed, not {tuple(probe.shape)}")
    limit = min(num_steps, operator.dim)
    basis = torch.empty(limit + 1, operator.dim, dtype=operator.dtype, device=operator.device)
    basis[0] = (probe / length).to(basis)
    diagonal, off_diagonal = torch.zeros(2, limit, dtype=torch.float64)
    return LanczosState(basis, diagonal, off_diagonal, num_done=0, scale=0.0, invariant=False)


def advance(operator: SymmetricOperator, state: LanczosState) -> None:
    """Take one step, one product, in place.

    Differs from the textbook: the new vector is orthogonalised twice against the whole basis (twice is enough), so
    there are no ghost eigenvalues; coefficients are float64 sums whatever the precision of products; the test for an
    invariant subspace is relative to the largest product, so that A and 10^-9 A stop at the same step.

    Raises:  NonFiniteError if the product holds NaN or infinity.
    Source:  Giraud, Langou & Rozloznik, Comput. Math. Appl. 50 (2005) 1069-1075, for the two passes.
    """
    step = state.num_done
    current = state.basis[step]
    vector = operator.matvec(current)
    length = float(vector.norm(dtype=torch.float64))
    if not length < float("inf"):
        raise NonFiniteError(f"the matrix-vector product of Lanczos step {step + 1} holds NaN or infinity")
    state.diagonal[step] = torch.dot(current.double(), vector.double()).cpu()
    basis = state.basis[: step + 1]
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    remainder = float(vector.norm(dtype=torch.float64))
    state.scale = max(state.scale, length)
    state.invariant = remainder <= BREAKDOWN_ROUNDINGS * torch.finfo(operator.dtype).eps * state.scale
    state.off_diagonal[step] = 0.0 if state.invariant else remainder
    state.basis[step + 1] = 0 if state.invariant else vector / remainder
    state.num_done += 1


def tridiagonal(state: LanczosState) -> Tridiagonal:
    """The coefficients of the steps done so far.

    Raises:  InvalidProblemError if no step was done.
    """
    if state.num_done == 0:
        raise InvalidProblemError("no Lanczos step was done yet")
    return Tridiagonal(
        diagonal=state.diagonal[: state.num_done].clone(),
        off_diagonal=state.off_diagonal[: state.num_done - 1].clone(),
        remainder=float(state.off_diagonal[state.num_done - 1]),
        scale=state.scale,
    )
