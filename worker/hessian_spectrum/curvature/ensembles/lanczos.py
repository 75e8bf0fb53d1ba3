"""Lanczos runs of all members of an ensemble in lockstep."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import (
    BREAKDOWN_ROUNDINGS,
    SHORT_BASIS,
    SLQState,
    deflation_of_runs,
    summarise_probes,
)
from hessian_spectrum.curvature.ensembles.operators import EnsembleOperator, MemberOperator
from hessian_spectrum.curvature.iteration import Count, Iteration
from hessian_spectrum.curvature.linear_algebra import (
    CHUNK,
    SAFE_NORMS,
    Tridiagonal,
    gauss_quadrature,
    gram,
    node_error,
)
from hessian_spectrum.curvature.serialization import UsedPart, serializable
from hessian_spectrum.quadrature.batches.rules import QuadratureBatch
from hessian_spectrum.quadrature.batches.summaries import summaries
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import Deflation, LanczosSpectrum, Reorthogonalisation


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
    result: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)
    smallest, largest = SAFE_NORMS
    is_safe = (result > smallest) & (result < largest)
    if bool(is_safe.all()):
        return result
    units = vectors.abs().amax(dim=-1).double()
    scaled = vectors.double() / torch.where(units > 0, units, 1.0).unsqueeze(-1)
    return torch.where(is_safe, result, units * torch.linalg.vector_norm(scaled, dim=-1))


def dots(one: Tensor, other: Tensor) -> Tensor:
    """Return v^T w (...,) in float64 for v and w (..., P), which are converted a few rows at a time."""
    rows, others = one.reshape(-1, one.shape[-1]), other.reshape(-1, one.shape[-1])
    width = max(1, CHUNK // one.shape[-1])
    parts = zip(torch.split(rows, width), torch.split(others, width), strict=True)
    found: Tensor = torch.cat([torch.linalg.vecdot(v.double(), w.double()) for v, w in parts])
    return found.reshape(one.shape[:-1])


def probes_of(dim: int, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Return unit vectors (k, N, P) in float64, the k of each member drawn in order from its own generator."""
    probes = torch.empty(count, len(generators), dim, dtype=torch.float64)
    for member, generator in enumerate(generators):
        for probe in probes[:, member]:
            torch.randn(dim, generator=generator, dtype=torch.float64, out=probe)
    return probes / norms(probes).unsqueeze(-1)


def tridiagonals(state: EnsembleLanczosState, num_steps: int, members: Sequence[int] | None = None) -> Tensor:
    """Return the dense tridiagonal matrices (k, N, m, m) of the first m steps; after the end of a run they are 0.

    Args:
        state: State of the runs.
        num_steps: m.
        members: Which members; None for all.
    """
    chosen = slice(None) if members is None else list(members)
    diagonal, off = state.diagonal[:, chosen, :num_steps], state.off_diagonal[:, chosen, : num_steps - 1]
    return torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)


@dataclass(frozen=True, eq=False)
class EnsembleLanczos(Iteration[EnsembleOperator, EnsembleLanczosState, EnsembleLanczosState]):
    """Lanczos runs of min(num_steps, P) steps from random probes of each member.

    Args:
        num_steps: Number of steps of each run.
        num_probes: Number of probes of each member.
        generators: Generator of the probes of each member, on the CPU.
        reorthogonalisation: Whether the whole basis is kept.
    """

    num_steps: int
    num_probes: int
    generators: Sequence[torch.Generator]
    reorthogonalisation: Reorthogonalisation = "full"

    phase: ClassVar[str] = "products"

    def init(self, problem: EnsembleOperator, *, generator: torch.Generator) -> EnsembleLanczosState:
        """Return the state before the first product; `generator` is not used, each member has its own."""
        probes = probes_of(problem.dim, self.num_probes, self.generators)
        return start(problem, probes, num_steps=self.num_steps, reorthogonalisation=self.reorthogonalisation)

    def is_finished(self, state: EnsembleLanczosState) -> bool:
        """Return whether every run has ended."""
        return state.is_finished

    def step(self, problem: EnsembleOperator, state: EnsembleLanczosState) -> EnsembleLanczosState:
        """Take one step of all runs."""
        advance(problem, state)
        return state

    def count(self, state: EnsembleLanczosState) -> Count:
        """Return the number of steps done, of those of the longest run."""
        return Count(state.step, state.limit)

    def result(self, problem: EnsembleOperator, state: EnsembleLanczosState) -> EnsembleLanczosState:
        """Return the state, which holds the tridiagonal matrices."""
        return state


@dataclass(frozen=True, eq=False)
class LanczosSummaries:
    """Converts the finished runs of all members to the results that each has alone.

    Args:
        operator: The matrices.
        smoothing: Settings of the curves.
    """

    operator: EnsembleOperator
    smoothing: Smoothing

    def spectra(self, state: EnsembleLanczosState) -> list[LanczosSpectrum | NonFiniteError]:
        """Return the spectrum of each member, or the reason why it has none."""
        found: list[LanczosSpectrum | NonFiniteError | None] = [None] * self.operator.size
        for member, step in enumerate(state.failed_at.amax(dim=0).tolist()):
            if step:
                message = f"the matrix-vector product of Lanczos step {step} holds NaN or infinity"
                found[member] = NonFiniteError(message)
        runs = {member: _runs_of(state, member) for member in range(len(found)) if found[member] is None}
        deflations = {member: self._deflation(member, own) for member, own in runs.items()}
        groups: dict[Hashable, list[int]] = {}
        remainders = self._remainders(state)
        for member, known in deflations.items():
            num_known = 0 if known is None else len(known.eigenvalues)
            key = (*state.num_done[:, member].tolist(), *(remainders[:, member] > 0).tolist(), num_known)
            groups.setdefault(key, []).append(member)
        for members in groups.values():
            spectra = self._group(state, {member: runs[member] for member in members}, deflations)
            found = [spectra.get(member, each) for member, each in enumerate(found)]
        return [each for each in found if each is not None]

    @staticmethod
    def _remainders(state: EnsembleLanczosState) -> Tensor:
        """Return the norm of what the last step of each run left (k, N)."""
        last = (state.num_done - 1).clamp(min=0).unsqueeze(2)
        return state.off_diagonal.gather(2, last).squeeze(2)

    def _deflation(self, member: int, runs: SLQState) -> Deflation | None:
        if runs.overlaps_with_first is None:
            return None
        error = self.operator.product_errors[member].item()
        mode = runs.reorthogonalisation
        first_two = [gauss_quadrature(each, node_error(each, error, mode)) for each in runs.tridiagonals[:2]]
        return deflation_of_runs(runs, first_two, self.operator.dim)

    def _group(
        self, state: EnsembleLanczosState, runs: Mapping[int, SLQState], deflations: Mapping[int, Deflation | None]
    ) -> dict[int, LanczosSpectrum]:
        """Return the spectra of members whose runs are of equal lengths, probe by probe, and know as much."""
        members = list(runs)
        counts = state.num_done[:, members[0]].tolist()
        remainders = self._remainders(state)[:, members]
        is_uniform = len(set(counts)) == 1 and len(set((remainders[:, 0] > 0).tolist())) == 1
        if not is_uniform:
            return {
                member: summarise_probes(MemberOperator(self.operator, member), own, self.smoothing)
                for member, own in runs.items()
            }
        known = [each for member in members if (each := deflations[member]) is not None]
        spectra = self._uniform(state, members, remainders, counts[0], known or None)
        return dict(zip(members, spectra, strict=True))

    def _uniform(
        self,
        state: EnsembleLanczosState,
        members: list[int],
        remainders: Tensor,
        num_nodes: int,
        deflations: list[Deflation] | None,
    ) -> list[LanczosSpectrum]:
        """Return the spectra of members all of whose runs have as many steps."""
        errors = self.operator.product_errors[members]
        mode = state.reorthogonalisation
        diagonals = state.diagonal[:, members, :num_nodes]
        nodes, vectors = torch.linalg.eigh(tridiagonals(state, num_nodes, members))
        signs = torch.where(vectors[..., 0, :] < 0, -1.0, 1.0)
        residuals = remainders.unsqueeze(2) * vectors[..., -1, :] * signs
        scales = state.scale[:, members]
        growth = 1.0 if mode == "full" else math.sqrt(num_nodes)
        node_errors = errors * growth * torch.maximum(scales, diagonals.abs().amax(dim=2))
        arrays = (nodes, vectors[..., 0, :].square(), residuals, node_errors, scales)
        batch = QuadratureBatch(*(each.transpose(0, 1).contiguous().numpy() for each in arrays))
        found = summaries(
            batch,
            self.smoothing,
            dim=self.operator.dim,
            num_steps=state.limit,
            rounding=torch.finfo(self.operator.dtype).eps,
            product_errors=errors.numpy(),
            reorthogonalisation=mode,
            deflations=deflations,
        )
        num_products = num_nodes * len(state.num_done)
        return [
            LanczosSpectrum(
                density=own.curves.density,
                log_density=own.curves.log_density,
                cumulative=own.curves.cumulative,
                quadrature=batch.quadratures(index),
                largest=own.largest,
                smallest=own.smallest,
                trace=own.trace,
                frobenius=own.frobenius,
                reorthogonalisation=mode,
                num_products=num_products,
                deflation=None if deflations is None else deflations[index],
            )
            for index, own in enumerate(found)
        ]


def _runs_of(state: EnsembleLanczosState, member: int) -> SLQState:
    """Return the finished runs of one member."""
    counts = state.num_done[:, member].tolist()
    finished = [
        Tridiagonal(
            diagonal=state.diagonal[probe, member, :count].clone(),
            off_diagonal=state.off_diagonal[probe, member, : count - 1].clone(),
            remainder=float(state.off_diagonal[probe, member, count - 1]),
            scale=float(state.scale[probe, member]),
        )
        for probe, count in enumerate(counts)
    ]
    has_overlaps = state.reorthogonalisation == "full" and len(counts) > 1
    basis = state.basis[:, member]
    return SLQState(
        num_steps=state.limit,
        num_probes=len(counts),
        group_size=len(counts),
        reorthogonalisation=state.reorthogonalisation,
        generator=torch.Generator(),
        first_generator=torch.Generator(),
        tridiagonals=finished,
        indices=list(range(len(counts))),
        overlaps_with_first=gram(basis[:, 0], basis[0, : counts[0]]) if has_overlaps else None,
        overlaps_with_second=gram(basis[:1, 0], basis[1, : counts[1]]) if has_overlaps else None,
    )
