"""Lanczos runs of all members of an ensemble in lockstep."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import BREAKDOWN_ROUNDINGS, SHORT_BASIS
from hessian_spectrum.curvature.ensembles.operators import EnsembleOperator
from hessian_spectrum.curvature.linear_algebra import SAFE_NORMS
from hessian_spectrum.curvature.serialization import UsedPart, serializable
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.quadrature.results import Reorthogonalisation


@serializable(basis=UsedPart(2, "num_vectors"))
@dataclass(kw_only=True)
class EnsembleLanczosState:
    """State of Lanczos runs from k probes of each of N members; as `LanczosState`, with numbers of all runs in tensors.

    A run that has ended, because its subspace is invariant or its products are not finite, continues with vectors of
    zeros, which cost the others nothing.
    """

    reorthogonalisation: Reorthogonalisation
    basis: Tensor  # (k, N, rows, P): rows as of `LanczosState`
    diagonal: Tensor  # (k, N, limit) float64
    off_diagonal: Tensor  # (k, N, limit) float64
    num_done: Tensor  # (k, N) int64
    scale: Tensor  # (k, N) float64: largest ||A q_j|| so far
    has_ended: Tensor  # (k, N) bool
    failed_at: Tensor  # (k, N) int64: the step whose product is not finite, 0 if there is none
    step: int = 0

    @property
    def limit(self) -> int:
        """Largest number of steps."""
        return self.diagonal.shape[2]

    @property
    def num_vectors(self) -> int:
        """Number of rows of the basis in use."""
        return min(self.step + 1, self.basis.shape[2]) if self.reorthogonalisation == "full" else SHORT_BASIS

    @property
    def is_finished(self) -> bool:
        """Whether no run has a further step to take."""
        return self.step >= self.limit or bool(self.has_ended.all())


def start(
    operator: EnsembleOperator, probes: Tensor, *, num_steps: int, reorthogonalisation: Reorthogonalisation = "full"
) -> EnsembleLanczosState:
    """Return the state before the first of min(num_steps, P) steps.

    Args:
        operator: Matrices of the members.
        probes: Start vectors (k, N, P) of any length, in float64.
        num_steps: Number of steps of each run.
        reorthogonalisation: Whether to keep the whole basis and orthogonalise against it.

    Raises:
        InvalidProblemError: If a count is below 1.
    """
    count = len(probes)
    if min(num_steps, count) < 1:
        raise InvalidProblemError(f"{num_steps} steps of {count} probes: both must be at least 1")
    limit = min(num_steps, operator.dim)
    rows = limit + 1 if reorthogonalisation == "full" else SHORT_BASIS
    basis = torch.empty(count, operator.size, rows, operator.dim, dtype=operator.dtype, device=operator.device)
    basis[:, :, 0] = (probes / norms(probes).unsqueeze(-1)).to(basis)
    # in the operator's precision, which may be less than the probe's
    basis[:, :, 0] /= norms(basis[:, :, 0]).unsqueeze(-1).to(basis)
    if reorthogonalisation == "none":
        basis[:, :, 1] = 0
    shape = (count, operator.size)
    diagonal, off_diagonal = torch.zeros(2, *shape, limit, dtype=torch.float64)
    return EnsembleLanczosState(
        reorthogonalisation=reorthogonalisation,
        basis=basis,
        diagonal=diagonal,
        off_diagonal=off_diagonal,
        num_done=torch.zeros(shape, dtype=torch.int64),
        scale=torch.zeros(shape, dtype=torch.float64),
        has_ended=torch.zeros(shape, dtype=torch.bool),
        failed_at=torch.zeros(shape, dtype=torch.int64),
    )


def advance(operator: EnsembleOperator, state: EnsembleLanczosState) -> None:
    """Take one step of every run, in place, as `lanczos.advance` does for one member."""
    step, rows = state.step, state.basis.shape[2]
    products = operator.products(state.basis[:, :, step % rows].contiguous())
    lengths = norms(products).cpu()
    lost = ~state.has_ended & ~(lengths < torch.inf)
    if bool(lost.any()):
        state.failed_at[lost] = step + 1
        state.has_ended |= lost
        products[lost.to(products.device)] = 0
    going = ~state.has_ended
    state.scale = torch.where(going, torch.maximum(state.scale, lengths), state.scale)
    extend = _reorthogonalised if state.reorthogonalisation == "full" else _three_terms
    following = extend(state, products)
    remainder = norms(following).cpu()
    threshold = BREAKDOWN_ROUNDINGS * torch.finfo(operator.dtype).eps * state.scale
    is_invariant = remainder <= threshold
    ends = is_invariant | ~going
    state.off_diagonal[:, :, step] = torch.where(ends, 0.0, remainder)
    factors = torch.where(ends, 0.0, 1 / remainder)
    following.mul_(factors.to(following).unsqueeze(-1))
    if bool(ends.any()):
        following[ends.to(following.device)] = 0
    state.num_done += going.long()
    state.has_ended = ends
    state.step += 1


def _reorthogonalised(state: EnsembleLanczosState, products: Tensor) -> Tensor:
    """Store alpha; return the next row of each basis, A q orthogonalised against all rows before."""
    rows = state.basis[:, :, : state.step + 1]
    state.diagonal[:, :, state.step] = dots(rows[:, :, -1], products).cpu()
    following = state.basis[:, :, state.step + 1]
    following.copy_(products)
    for _ in range(2):  # twice is enough
        coefficients = rows @ following.unsqueeze(-1)
        following.sub_((rows.mT @ coefficients).squeeze(-1))
    return following


def _three_terms(state: EnsembleLanczosState, products: Tensor) -> Tensor:
    """Store alpha = q^T (A q - beta p); return A q - beta p - alpha q in the memory of p, the vector before q."""
    step = state.step
    current, following = state.basis[:, :, step % SHORT_BASIS], state.basis[:, :, (step + 1) % SHORT_BASIS]
    if step > 0:
        following.mul_(-state.off_diagonal[:, :, step - 1].to(following).unsqueeze(-1))
    following.add_(products)
    alpha = dots(current, following)
    following.addcmul_(current, alpha.to(following).unsqueeze(-1), value=-1)
    state.diagonal[:, :, step] = alpha.cpu()
    return following


def norms(vectors: Tensor) -> Tensor:
    """Return ||v|| (...,) in float64 for v (..., P), which neither overflows nor underflows."""
    result = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)
    smallest, largest = SAFE_NORMS
    is_safe = (result > smallest) & (result < largest)
    if bool(is_safe.all()):
        return result
    units = vectors.abs().amax(dim=-1).double()
    scaled = vectors.double() / torch.where(units > 0, units, 1.0).unsqueeze(-1)
    return torch.where(is_safe, result, units * torch.linalg.vector_norm(scaled, dim=-1))


def dots(one: Tensor, other: Tensor) -> Tensor:
    """Return v^T w (...,) in float64 for v and w (..., P)."""
    return torch.linalg.vecdot(one.double(), other.double())


def probes_of(dim: int, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Return unit vectors (k, N, P) in float64, the k of each member drawn in order from its own generator."""
    probes = torch.empty(count, len(generators), dim, dtype=torch.float64)
    for member, generator in enumerate(generators):
        for probe in probes[:, member]:
            torch.randn(dim, generator=generator, dtype=torch.float64, out=probe)
    return probes / norms(probes).unsqueeze(-1)


def tridiagonals(state: EnsembleLanczosState, num_steps: int) -> Tensor:
    """Return the dense tridiagonal matrices (k, N, m, m) of the first m steps; after the end of a run they are 0."""
    diagonal, off = state.diagonal[..., :num_steps], state.off_diagonal[..., : num_steps - 1]
    return torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
