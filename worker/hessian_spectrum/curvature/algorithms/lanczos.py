"""Lanczos tridiagonalisation of several probes in lockstep, one product at a time."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.vectors import dot, norm, orthogonalise
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.curvature.serialization import UsedPart, serializable
from hessian_spectrum.quadrature.errors import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import Reorthogonalisation

# A remainder below this many roundings of the largest product is rounding: the subspace is invariant.
BREAKDOWN_ROUNDINGS = 10

# Without reorthogonalisation: the vector under way and the one before it.
SHORT_BASIS = 2


@serializable()
@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """T (m, m) of A Q = Q T + remainder q e_m^T; T = Q^T A Q with full reorthogonalisation."""

    diagonal: Tensor  # (m,) float64, on the CPU, in units of A
    off_diagonal: Tensor  # (m - 1,) float64, on the CPU, >= 0, in units of A
    remainder: float  # ||A Q - Q T||, all of it in the last column; 0 for an invariant subspace
    scale: float  # largest ||A q_j||, a lower bound of ||A||


@serializable(basis=UsedPart(1, "num_vectors"))
@dataclass
class LanczosState:
    """k probes between two steps, with everything that `advance` needs and a checkpoint must store.

    A probe whose subspace is invariant takes no further step; the others continue.
    """

    reorthogonalisation: Reorthogonalisation
    # (k, limit + 1, P) if full: rows 0 .. num_done of each probe orthonormal, in the operator's precision, later rows
    # undefined; (k, 2, P) if none: row step % 2 is the vector of that step, the other row the one before
    basis: Tensor
    diagonal: Tensor  # (k, limit) float64, on the CPU, first num_done of each row set
    off_diagonal: Tensor  # (k, limit) float64, on the CPU, first num_done set; the last one set is the remainder
    num_done: list[int]  # (k,)
    scale: list[float]  # (k,) largest ||A q_j|| so far
    invariant: list[bool]  # (k,) the subspace is closed under A, within rounding
    step: int  # of the probes that go on

    @property
    def limit(self) -> int:
        """Largest number of steps, min(num_steps, P)."""
        return self.diagonal.shape[1]

    @property
    def num_vectors(self) -> int:
        """Number of rows of the basis in use."""
        return min(self.step + 1, self.basis.shape[1]) if self.reorthogonalisation == "full" else SHORT_BASIS

    @property
    def active(self) -> list[int]:
        """Probes with a further step to take."""
        return [j for j, ended in enumerate(self.invariant) if not ended] if self.step < self.limit else []

    @property
    def finished(self) -> bool:
        """Whether no further step remains."""
        return not self.active


def start(
    operator: SymmetricOperator,
    probes: Iterable[Tensor],
    num_probes: int,
    num_steps: int,
    reorthogonalisation: Reorthogonalisation = "full",
) -> LanczosState:
    """State before the first of min(num_steps, P) steps from each probe.

    Args:
        operator: The matrix A.
        probes: Start vectors of shape (P,), of any non-zero length, device and precision; taken one by one.
        num_probes: Number of probes.
        num_steps: Number of steps per probe.
        reorthogonalisation: Whether to keep the whole basis and orthogonalise against it.

    Returns:
        The state.

    Raises:
        InvalidProblemError: If a count is below 1, or a probe has another dimension or is zero or not finite.
    """
    if min(num_steps, num_probes) < 1:
        raise InvalidProblemError(f"{num_steps} steps of {num_probes} probes: both must be at least 1")
    limit = min(num_steps, operator.dim)
    rows = limit + 1 if reorthogonalisation == "full" else SHORT_BASIS
    basis = torch.empty(num_probes, rows, operator.dim, dtype=operator.dtype, device=operator.device)
    for own, probe in zip(basis, probes, strict=True):
        length = norm(probe)
        if probe.shape != (operator.dim,) or not 0 < length < math.inf:
            raise InvalidProblemError(f"a finite, non-zero probe ({operator.dim},) is needed, not {tuple(probe.shape)}")
        # divided first: a long probe may overflow, and a short one vanish, in the operator's precision
        own[0] = probe if 0.5 < length < 2 else probe.div(length)
        # in the operator's precision, which may be more than the probe's
        own[0].div_(norm(own[0]))
        if reorthogonalisation == "none":
            own[1] = 0
    diagonal, off_diagonal = torch.zeros(2, num_probes, limit, dtype=torch.float64)
    return LanczosState(
        reorthogonalisation,
        basis,
        diagonal,
        off_diagonal,
        num_done=[0] * num_probes,
        scale=[0.0] * num_probes,
        invariant=[False] * num_probes,
        step=0,
    )


def advance(operator: SymmetricOperator, state: LanczosState) -> None:
    """Take one step of every unfinished probe, by one `matmat`, in place.

    This differs from the textbook form: coefficients and norms are float64 sums whatever the precision of products, and
    norms neither overflow nor underflow; the test for an invariant subspace is relative to the largest product, so that
    A and 10^-9 A stop at the same step; with full reorthogonalisation there are no ghost eigenvalues.

    Args:
        operator: The matrix A.
        state: State of the run, which is changed.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.

    References:
        Paige, J. Inst. Math. Appl. 10 (1972) 373-381, for the order of the subtractions without reorthogonalisation.
    """
    active, step = state.active, state.step
    current = state.basis[:, step % state.basis.shape[1]]
    # all probes in one view where possible: indexing by a list copies
    columns = current if len(active) == len(current) else current[active]
    products = operator.matmat(columns.T).T
    for product, probe in zip(products, active, strict=True):
        length = norm(product)
        if not length < math.inf:
            raise NonFiniteError(f"the matrix-vector product of Lanczos step {step + 1} holds NaN or infinity")
        state.scale[probe] = max(state.scale[probe], length)
        extend = _extend_fully if state.reorthogonalisation == "full" else _extend_shortly
        following = extend(state, probe, product)
        remainder = norm(following)
        invariant = remainder <= BREAKDOWN_ROUNDINGS * torch.finfo(operator.dtype).eps * state.scale[probe]
        state.off_diagonal[probe, step] = 0.0 if invariant else remainder
        state.invariant[probe] = invariant
        following.zero_() if invariant else following.div_(remainder)
        state.num_done[probe] += 1
    state.step += 1


def _extend_fully(state: LanczosState, probe: int, product: Tensor) -> Tensor:
    """Store alpha; return the next row of the basis, A q orthogonalised against all rows before."""
    rows = state.basis[probe, : state.step + 1]
    state.diagonal[probe, state.step] = dot(rows[-1], product)
    following = state.basis[probe, state.step + 1]
    # a copy: the product is the operator's, which may have returned its argument or keep it
    following.copy_(product)
    orthogonalise(following, rows)
    return following


def _extend_shortly(state: LanczosState, probe: int, product: Tensor) -> Tensor:
    """Store alpha = q^T (A q - beta p); return A q - beta p - alpha q in the memory of p, the vector before q."""
    step = state.step
    current, following = state.basis[probe, step % SHORT_BASIS], state.basis[probe, (step + 1) % SHORT_BASIS]
    beta = float(state.off_diagonal[probe, step - 1]) if step > 0 else 0.0
    following.mul_(-beta).add_(product)
    alpha = dot(current, following)
    following.add_(current, alpha=-alpha)
    state.diagonal[probe, step] = alpha
    return following


def tridiagonal(state: LanczosState, probe: int = 0) -> Tridiagonal:
    """Coefficients of the steps done so far from one probe.

    Args:
        state: State of the run.
        probe: Index of the probe.

    Returns:
        The tridiagonal matrix.

    Raises:
        InvalidProblemError: If no step was done.
    """
    num_done = state.num_done[probe]
    if num_done == 0:
        raise InvalidProblemError("no Lanczos step was done yet")
    return Tridiagonal(
        diagonal=state.diagonal[probe, :num_done].clone(),
        off_diagonal=state.off_diagonal[probe, : num_done - 1].clone(),
        remainder=float(state.off_diagonal[probe, num_done - 1]),
        scale=state.scale[probe],
    )
