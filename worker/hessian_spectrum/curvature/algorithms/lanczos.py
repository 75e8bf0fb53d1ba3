"""Lanczos tridiagonalisation of several probes in lockstep, and stochastic Lanczos quadrature."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.iteration import Count
from hessian_spectrum.curvature.linear_algebra import (
    SymmetricOperator,
    Tridiagonal,
    dot,
    eigenpairs,
    gauss_quadrature,
    gaussian_vector,
    gram,
    node_error,
    norm,
    orthogonalise,
    sphere_probe,
)
from hessian_spectrum.curvature.serialization import UsedPart, serializable
from hessian_spectrum.planning.work import Work, lanczos_work, probe_bytes
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.quadrature.deflation import (
    deflated_curves,
    deflated_moments,
    deflation_of,
    known_eigenvalues,
    known_nodes,
)
from hessian_spectrum.quadrature.estimates import extreme_ritz_values
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import Deflation, LanczosSpectrum, Quadrature, Reorthogonalisation

# A remainder below this many roundings of the largest product is rounding: the subspace is invariant.
BREAKDOWN_ROUNDINGS = 10

LEAST_INTERIM_STEPS = 3
"""Steps from which on unfinished probes are shown: with fewer, the trace has no interval."""

MOST_INTERIM_POINTS, MOST_INTERIM_STEPS, MOST_INTERIM_WORK = 512, 128, 2**18
"""Largest numbers of points, steps, and probes times squared steps, for curves that are made while probes are under
way, and are to cost little."""

# Without reorthogonalisation: the vector under way and the one before it.
SHORT_BASIS = 2


@serializable(basis=UsedPart(1, "num_vectors"))
@dataclass(kw_only=True)
class LanczosState:
    """The state of Lanczos runs from k probes between two steps: all that `advance` needs and a checkpoint must store.

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
    step: int  # number of steps done by the probes that continue

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
    *,
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
            raise InvalidProblemError(
                f"probes must be finite, non-zero and of shape ({operator.dim},), not {tuple(probe.shape)}"
            )
        # divided first: a long probe may overflow, and a short one vanish, in the operator's precision
        own[0] = probe if 0.5 < length < 2 else probe.div(length)
        # in the operator's precision, which may be more than the probe's
        own[0].div_(norm(own[0]))
        if reorthogonalisation == "none":
            own[1] = 0
    diagonal, off_diagonal = torch.zeros(2, num_probes, limit, dtype=torch.float64)
    return LanczosState(
        reorthogonalisation=reorthogonalisation,
        basis=basis,
        diagonal=diagonal,
        off_diagonal=off_diagonal,
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
        extend = _reorthogonalised_step if state.reorthogonalisation == "full" else _three_term_step
        following = extend(state, probe, product)
        remainder = norm(following)
        invariant = remainder <= BREAKDOWN_ROUNDINGS * torch.finfo(operator.dtype).eps * state.scale[probe]
        state.off_diagonal[probe, step] = 0.0 if invariant else remainder
        state.invariant[probe] = invariant
        following.zero_() if invariant else following.div_(remainder)
        state.num_done[probe] += 1
    state.step += 1


def _reorthogonalised_step(state: LanczosState, probe: int, product: Tensor) -> Tensor:
    """Store alpha; return the next row of the basis, A q orthogonalised against all rows before."""
    rows = state.basis[probe, : state.step + 1]
    state.diagonal[probe, state.step] = dot(rows[-1], product)
    following = state.basis[probe, state.step + 1]
    # a copy: the product is the operator's, which may have returned its argument or keep it
    following.copy_(product)
    orthogonalise(following, rows)
    return following


def _three_term_step(state: LanczosState, probe: int, product: Tensor) -> Tensor:
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
    """Return the coefficients of the steps done so far from one probe.

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
        raise InvalidProblemError("no Lanczos step has been taken yet")
    return Tridiagonal(
        diagonal=state.diagonal[probe, :num_done].clone(),
        off_diagonal=state.off_diagonal[probe, : num_done - 1].clone(),
        remainder=float(state.off_diagonal[probe, num_done - 1]),
        scale=state.scale[probe],
    )


@serializable()
@dataclass(kw_only=True)
class SLQState:
    """The state of Lanczos runs of one group of probes after another: all that a checkpoint must store."""

    num_steps: int  # per probe, at most P
    num_probes: int
    group_size: int  # probes in lockstep
    reorthogonalisation: Reorthogonalisation
    generator: torch.Generator  # on the CPU; its state is that before the next group is drawn
    first_generator: torch.Generator  # on the CPU; its state is that before the first probe of all is drawn
    tridiagonals: list[Tridiagonal] = field(default_factory=list)  # one for each probe of the finished groups
    indices: list[int] = field(default_factory=list)  # which of all probes these are
    # (n, m): products of all n probes with the basis of the first one; of the first probe with that of the second
    overlaps_with_first: Tensor | None = None
    overlaps_with_second: Tensor | None = None
    current: LanczosState | None = None  # state of the current group

    @property
    def finished(self) -> bool:
        """Whether every probe is done."""
        return len(self.tridiagonals) == self.num_probes

    @property
    def num_products(self) -> int:
        """Number of products done so far."""
        under_way = sum(self.current.num_done) if self.current is not None else 0
        return under_way + sum(len(each.diagonal) for each in self.tridiagonals)

    @property
    def num_products_accounted(self) -> int:
        """Number of products done so far, plus those that probes with an invariant subspace will not need."""
        under_way = self.current.step * len(self.current.num_done) if self.current is not None else 0
        return under_way + len(self.tridiagonals) * self.num_steps


@dataclass(frozen=True)
class StochasticLanczosQuadrature(Method[SLQState, LanczosSpectrum]):
    """A spectral density from num_probes Lanczos runs of min(num_steps, P) steps with random probes.

    A run is shorter if its subspace is invariant. As many probes as fit in `memory_bytes` advance in lockstep, with one
    `matmat` for a step of all of them; the result depends on that only up to rounding.

    Args:
        num_steps: Number of Lanczos steps per probe.
        num_probes: Number of random start vectors.
        smoothing: Settings of the curves.
        reorthogonalisation: "full" keeps a basis of num_steps + 1 vectors per probe; "none" keeps two vectors, at the
            price of ghosts: converged eigenvalues reappear as further nodes, which share the weight of the first, so
            that curves stay right but need more steps. None means "full" if that fits in `memory_bytes` for one probe.
        memory_bytes: Memory limit of the vectors of probes and their products; None for no limit.
        num_probes_before: Number of probes that the generator yields first, which are drawn but belong to other shards.
        num_probes_after: Number of probes of the shards that follow.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
        InvalidProblemError: If a count is below 1, kappa <= 1, or the memory does not suffice for one probe.

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010; Papyan, JMLR 21 (2020) 1-64.
    """

    num_steps: int
    num_probes: int
    smoothing: Smoothing
    _: KW_ONLY
    reorthogonalisation: Reorthogonalisation | None = None
    memory_bytes: int | None = None
    num_probes_before: int = 0
    num_probes_after: int = 0

    def cost(self, num_parameters: int, *, group: int | None = None) -> Work:
        """Return the work with `group` probes in lockstep; None means all."""
        mode = self.reorthogonalisation or "full"
        points = self.smoothing.num_points
        return lanczos_work(
            num_parameters, self.num_steps, self.num_probes, num_points=points, reorthogonalisation=mode, group=group
        )

    def init(self, problem: SymmetricOperator, *, generator: torch.Generator) -> SLQState:
        """Return the state before the first product."""
        self.smoothing.check()  # before the products are spent
        if min(self.num_steps, self.num_probes) < 1:
            raise InvalidProblemError(f"{self.num_steps} steps of {self.num_probes} probes: both must be at least 1")
        first_generator = _copy(generator)
        for _ in range(self.num_probes_before):
            gaussian_vector(problem.dim, generator)
        num_steps = min(self.num_steps, problem.dim)
        mode, group_size = lockstep(
            problem.dim,
            num_steps,
            self.num_probes,
            itemsize=problem.dtype.itemsize,
            reorthogonalisation=self.reorthogonalisation,
            memory_bytes=self.memory_bytes,
        )
        return SLQState(
            num_steps=num_steps,
            num_probes=self.num_probes,
            group_size=group_size,
            reorthogonalisation=mode,
            generator=generator,
            first_generator=first_generator,
        )

    def is_finished(self, state: SLQState) -> bool:
        """Return whether every probe is done."""
        return state.finished

    def step(self, problem: SymmetricOperator, state: SLQState) -> SLQState:
        """Take one Lanczos step of a group of probes, by one `matmat`."""
        if state.current is None:
            count = min(state.group_size, state.num_probes - len(state.tridiagonals))
            probes = (sphere_probe(problem.dim, state.generator) for _ in range(count))
            state.current = start(
                problem,
                probes,
                num_probes=count,
                num_steps=state.num_steps,
                reorthogonalisation=state.reorthogonalisation,
            )
        advance(problem, state.current)
        if state.current.finished:
            self._finish_group(problem, state, state.current)
            # released before the next group starts: two bases at once would double the memory
            state.current = None
        return state

    def _finish_group(self, problem: SymmetricOperator, state: SLQState, group: LanczosState) -> None:
        first = self.num_probes_before + len(state.tridiagonals)
        indices = range(first, first + len(group.num_done))
        state.tridiagonals += [tridiagonal(group, probe) for probe in range(len(indices))]
        state.indices += indices
        num_probes = self.num_probes_before + self.num_probes + self.num_probes_after
        if group.reorthogonalisation == "none" or num_probes == 1:
            return
        for index, num_done, basis in zip(indices, group.num_done, group.basis, strict=True):
            if index == 0:
                state.overlaps_with_first = _overlaps(basis[:num_done], _copy(state.first_generator), num_probes)
            elif index == 1:
                state.overlaps_with_second = _overlaps(basis[:num_done], _copy(state.first_generator), 1)

    def count(self, state: SLQState) -> Count:
        """Return the number of products accounted for; a probe that stops early counts in full."""
        return Count(state.num_products_accounted, state.num_steps * state.num_probes)

    def result(self, problem: SymmetricOperator, state: SLQState) -> LanczosSpectrum:
        """Return curves, extremes and moments from the finished probes."""
        return summarise_probes(problem, state, self.smoothing)

    def interim(self, problem: SymmetricOperator, states: Sequence[SLQState]) -> LanczosSpectrum | None:
        """Return the spectrum from the finished probes or, before there is one, from the steps of those under way.

        Of many probes or steps the first are used. Curves are smoothed for the number of steps that is used.
        """
        joined = self.join(states)
        tridiagonals = joined.tridiagonals
        if not tridiagonals:
            under_way = [state.current for state in states if state.current is not None]
            tridiagonals = [
                tridiagonal(current, probe)
                for current in under_way
                if current.step >= LEAST_INTERIM_STEPS
                for probe in range(len(current.num_done))
            ]
        if not tridiagonals:
            return None
        tridiagonals = [each.first(MOST_INTERIM_STEPS) for each in tridiagonals]
        num_steps = max(len(each.diagonal) for each in tridiagonals)
        tridiagonals = tridiagonals[: max(1, MOST_INTERIM_WORK // num_steps**2)]
        return summarise_probes(
            problem,
            replace(joined, num_steps=num_steps, tridiagonals=tridiagonals, current=None),
            replace(self.smoothing, num_points=min(self.smoothing.num_points, MOST_INTERIM_POINTS)),
        )

    def split(self, num_shards: int) -> Sequence[Self]:
        """Return methods for consecutive probes; the first shards have one more if the number is not divisible."""
        size, rest = divmod(self.num_probes, num_shards)
        if not 1 <= num_shards <= self.num_probes:
            raise InvalidProblemError(f"{self.num_probes} probes cannot be split into {num_shards} shards")
        counts = [size + (index < rest) for index in range(num_shards)]
        firsts = accumulate(counts, initial=self.num_probes_before)
        end = self.num_probes_before + self.num_probes + self.num_probes_after
        return [
            replace(self, num_probes=count, num_probes_before=first, num_probes_after=end - first - count)
            for count, first in zip(counts, firsts, strict=False)
        ]

    def join(self, states: Sequence[SLQState]) -> SLQState:
        """Return the finished state of all their probes, in this order."""
        tridiagonals = [each for state in states for each in state.tridiagonals]
        overlaps = [
            next((found for state in states if (found := getattr(state, name)) is not None), None)
            for name in ("overlaps_with_first", "overlaps_with_second")
        ]
        return replace(
            states[-1],
            num_probes=len(tridiagonals),
            tridiagonals=tridiagonals,
            indices=[each for state in states for each in state.indices],
            overlaps_with_first=overlaps[0],
            overlaps_with_second=overlaps[1],
        )


def _copy(generator: torch.Generator) -> torch.Generator:
    return torch.Generator().set_state(generator.get_state())


def _overlaps(basis: Tensor, generator: torch.Generator, num_probes: int) -> Tensor:
    """Return the products (n, m), float64, on the CPU, of the next n probes with the rows (m, P) of a basis."""
    probes = (sphere_probe(basis.shape[1], generator).to(basis) for _ in range(num_probes))
    return torch.cat([gram(probe.unsqueeze(0), basis) for probe in probes])


def summarise_probes(operator: SymmetricOperator, state: SLQState, smoothing: Smoothing) -> LanczosSpectrum:
    """Curves, extremes and moments from the finished probes.

    Args:
        operator: The matrix A.
        state: State whose finished probes are used.
        smoothing: Settings of the curves.

    Returns:
        The spectrum.

    Raises:
        InvalidProblemError: If no probe is finished, or as for `spectral_density`.
    """
    rounding, dim = torch.finfo(operator.dtype).eps, operator.dim
    mode, error = state.reorthogonalisation, operator.product_error
    quadratures = tuple(gauss_quadrature(each, node_error(each, error, mode)) for each in state.tridiagonals)
    deflation = deflation_of_runs(state, quadratures, dim)
    curves = deflated_curves(quadratures, deflation, smoothing, dim=dim, num_steps=state.num_steps, rounding=rounding)
    scales = [each.scale for each in state.tridiagonals]
    smallest, largest = extreme_ritz_values(
        quadratures, scales, product_error=error, reorthogonalisation=state.reorthogonalisation, dim=dim
    )
    trace, frobenius = deflated_moments(quadratures, deflation, dim, error)
    return LanczosSpectrum(
        density=curves.density,
        log_density=curves.log_density,
        cumulative=curves.cumulative,
        quadrature=quadratures,
        largest=largest,
        smallest=smallest,
        trace=trace,
        frobenius=frobenius,
        reorthogonalisation=state.reorthogonalisation,
        num_products=state.num_products,
        deflation=deflation,
    )


def deflation_of_runs(state: SLQState, quadratures: Sequence[Quadrature], dim: int) -> Deflation | None:
    """Return what the first two runs know of the matrix and of all probes; None if nothing.

    Args:
        state: State whose finished probes are used.
        quadratures: Quadratures of its finished probes, of the first two at least.
        dim: Number of parameters P.
    """
    first, second = state.overlaps_with_first, state.overlaps_with_second
    if first is None or second is None or state.indices[:2] != [0, 1]:
        return None
    ones, others = quadratures[:2]
    counts = known_eigenvalues(ones, others, dim)
    if not any(counts):
        return None
    products = []
    for each, overlaps in zip(state.tridiagonals[:2], (first, second), strict=True):
        vectors = eigenpairs(each)[1][:, known_nodes(len(each.diagonal), counts)]
        products.append(overlaps[:, : len(vectors)] @ vectors)
    weights = torch.cat([products[1], products[0][state.indices[1 : len(state.tridiagonals)]]]).square().numpy()
    return deflation_of(ones, others, counts, weights)


def lockstep(
    dim: int,
    num_steps: int,
    num_probes: int,
    *,
    itemsize: int,
    reorthogonalisation: Reorthogonalisation | None,
    memory_bytes: int | None,
) -> tuple[Reorthogonalisation, int]:
    """Choose reorthogonalisation and number of probes in lockstep such that Lanczos stays within `memory_bytes`.

    Args:
        dim: Number of parameters P.
        num_steps: Number of Lanczos steps.
        num_probes: Number of probes.
        itemsize: Bytes per number in the precision of the products.
        reorthogonalisation: Whether the basis is kept; None keeps it if it fits for one probe.
        memory_bytes: Memory limit; None for no limit.

    Returns:
        Reorthogonalisation, and number of probes in lockstep.

    Raises:
        InvalidProblemError: If a single probe does not fit.
    """
    if memory_bytes is None:
        return reorthogonalisation or "full", num_probes
    if reorthogonalisation is None:
        fits = probe_bytes(dim, num_steps, itemsize=itemsize, reorthogonalisation="full") <= memory_bytes
        reorthogonalisation = "full" if fits else "none"
    needed = probe_bytes(dim, num_steps, itemsize=itemsize, reorthogonalisation=reorthogonalisation)
    if needed > memory_bytes:
        raise InvalidProblemError(
            f"a Lanczos probe with reorthogonalisation {reorthogonalisation!r} needs {needed} bytes, "
            f"but only {memory_bytes} are allowed"
        )
    return reorthogonalisation, min(num_probes, memory_bytes // needed)


def _with_smoothing(*, num_points: int, kappa: float, margin: float, **settings: Any) -> StochasticLanczosQuadrature:
    return StochasticLanczosQuadrature(smoothing=Smoothing(num_points, kappa, margin), **settings)


METHODS = {"lanczos": _with_smoothing}
