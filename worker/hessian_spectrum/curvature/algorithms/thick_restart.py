"""Extreme eigenpairs by block Lanczos with thick restarts, full reorthogonalisation and a search for missed pairs."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import BREAKDOWN_ROUNDINGS
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.algorithms.ritz import RitzPairs, Which, largest_rest, order, spread
from hessian_spectrum.curvature.algorithms.subspace import LIMIT_SHARE, MAX_STAGES, SubspaceState
from hessian_spectrum.curvature.algorithms.top_pairs import summarise_search
from hessian_spectrum.curvature.iteration import Count
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, gaussian_vector, norm, orthogonalise, rotate
from hessian_spectrum.planning.work import Work, top_k_block, top_k_least_rows, top_k_rows, top_k_work
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import TopEigenpairs

# Pairs are locked when their residual is this much below the tolerance: within a cluster residuals add up later.
LOCKING_SHARE = 0.25

# What a residual adds to the error of the values that are locked together, as a share of their slack, at most.
SPREAD_SHARE = 0.6

# Share of the products after which pairs are locked though some have not converged.
SEARCH_SHARE = 0.8

# Share of the rows beside the requested ones that converged pairs from elsewhere may keep when pairs are locked.
KEPT_SHARE = 0.25
KEPT_GOAL = 0.1  # their largest residual, as a share of that required of requested pairs


@dataclass(frozen=True)
class ThickRestartLanczos(Method[SubspaceState, TopEigenpairs]):
    """Some eigenpairs from the ends of the spectrum; repeated eigenvalues are returned with their multiplicity.

    If k exceeds the number of eigenvalues of one kind the next ones follow, zeros included; k = P yields all of them. A
    pair has converged when its residual is within the tolerance and its value is within it of the requested eigenvalue:
    nothing better was missed, except with a probability of `MISS_PROBABILITY`, whatever the spectrum.

    Args:
        k: Number of eigenpairs.
        which: "largest", "smallest" (both signed), "both-ends" (half of each, one more of the largest if k is odd) or
            "magnitude".
        tolerance: Tolerance relative to the largest requested |eigenvalue| of the same end.
        absolute_tolerance: Tolerance in units of A; a pair within either tolerance has converged. Tolerances below the
            error of the products are never reached: pairs are then as accurate as possible, with the reason that they
            have not converged.
        max_products: Largest number of products; None means 100 for each eigenpair, at least 1,000. Pairs that have not
            converged by then are marked.
        memory_bytes: Memory limit of the basis and the products; None means 80 vectors beside the requested ones, at
            least 2 k.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
        InvalidProblemError: If k is not in 1 .. P, products are fewer than k, or the memory does not suffice for k + 4
            vectors.

    References:
        Wu & Simon, SIAM J. Matrix Anal. Appl. 22 (2000) 602-616, for thick restarts.
    """

    k: int
    which: Which
    tolerance: float
    _: KW_ONLY
    absolute_tolerance: float = 0.0
    max_products: int | None = None
    memory_bytes: int | None = None

    may_end_early: ClassVar[bool] = True

    def cost(self, num_parameters: int, *, rows: int | None = None, reduced: bool = False) -> Work:
        """Return the work with so many rows of a basis; None means the preferred number."""
        return top_k_work(num_parameters, self.k, self.max_products, rows=rows, reduced=reduced)

    def init(self, problem: SymmetricOperator, *, generator: torch.Generator) -> SubspaceState:
        """Return the state before the first product."""
        k, tolerance, dim = self.k, self.tolerance, problem.dim
        limit = max(1_000, 100 * k) if self.max_products is None else self.max_products
        if not 1 <= k <= dim or not 0 <= tolerance < math.inf or limit < k:
            message = f"invalid search: {k} of {dim} eigenpairs, tolerance {tolerance}, {limit} products"
            raise InvalidProblemError(message)
        if not 0 <= self.absolute_tolerance < math.inf:
            raise InvalidProblemError(f"the absolute tolerance must be 0 or more, not {self.absolute_tolerance}")
        num_rows, block_size = _rows_and_block(dim, k, itemsize=problem.dtype.itemsize, memory_bytes=self.memory_bytes)
        return SubspaceState(
            which=self.which,
            num_requested=k,
            tolerance=tolerance,
            absolute_tolerance=self.absolute_tolerance,
            block_size=block_size,
            max_products=limit,
            is_reduced=problem.unreduced is not problem,
            generator=generator,
            basis=torch.empty(num_rows, dim, dtype=problem.dtype, device=problem.device),
            projection=torch.zeros(num_rows, num_rows, dtype=torch.float64),
            defects=torch.zeros(num_rows, dtype=torch.float64),
            stages=torch.zeros(0, num_rows, 1 + 2 * block_size, dtype=torch.float64),
        )

    def is_finished(self, state: SubspaceState) -> bool:
        """Return whether the search has ended."""
        return state.phase == "finished"

    def step(self, problem: SymmetricOperator, state: SubspaceState) -> SubspaceState:
        """Multiply one block, in place, and decide how to continue."""
        if state.is_closed:
            _inject(problem, state)
        count = min(state.block_size, state.num_rows - state.num_processed, state.budget - state.num_products)
        if state.num_rows + count > len(state.basis) < problem.dim:
            _restart(state)
        first = state.num_processed
        products = problem.matmat(state.basis[first : first + count].T).T
        for column, product in enumerate(products, first):
            _absorb(problem, state, column=column, product=product)
        state.num_processed += count
        state.num_products += count
        _decide(state, problem.product_error)
        return state

    def count(self, state: SubspaceState) -> Count:
        """Return the number of products done, of max_products."""
        return Count(state.num_products, state.max_products)

    def result(self, problem: SymmetricOperator, state: SubspaceState) -> TopEigenpairs:
        """Return the requested pairs; the basis is overwritten."""
        return summarise_search(problem, state)


def _rows_and_block(dim: int, k: int, *, itemsize: int, memory_bytes: int | None) -> tuple[int, int]:
    """Return the number of rows of the basis, and block size; products take as much memory as a block."""
    rows, block_size = top_k_rows(dim, k), top_k_block(dim, k)
    if memory_bytes is None:
        return rows, block_size
    affordable = memory_bytes // (dim * itemsize)
    if affordable - block_size < min(dim, k + 4 * block_size):
        block_size = 1
    rows = min(rows, affordable - block_size)
    if rows < top_k_least_rows(dim, k):
        needed = (top_k_least_rows(dim, k) + 1) * dim * itemsize
        raise InvalidProblemError(f"{k} eigenpairs need at least {needed} bytes, but only {memory_bytes} are allowed")
    return rows, block_size


def _absorb(operator: SymmetricOperator, state: SubspaceState, *, column: int, product: Tensor) -> None:
    """Express a product in the basis, and append the remainder as a pending row."""
    length = norm(product)
    if not length < math.inf:
        raise NonFiniteError(f"the matrix-vector product {state.num_products + 1} holds NaN or infinity")
    state.scale = max(state.scale, length)
    rest = product.clone()  # the operator may have returned its argument
    rows = state.num_rows
    state.projection[:rows, column] = orthogonalise(rest, state.basis[:rows]).double().cpu()
    remainder = norm(rest)
    if remainder == 0 or rows == len(state.basis):
        state.dropped = math.hypot(state.dropped, remainder)
        return
    row = rest / remainder
    if remainder <= BREAKDOWN_ROUNDINGS * torch.finfo(operator.dtype).eps * state.scale:
        row = _orthonormal(row, state.basis[:rows])  # rounding, as good as a random row
    state.basis[rows] = row
    state.projection[rows, column] = remainder
    state.num_rows += 1


def _orthonormal(row: Tensor, basis: Tensor) -> Tensor:
    """Return the row (P,), which is overwritten, without its part in the span of the basis, and normalised."""
    # again after normalising: little may be left of a vector when the basis is nearly complete
    for _ in range(2):
        orthogonalise(row, basis)
        row = row / norm(row)
    return row


def _inject(operator: SymmetricOperator, state: SubspaceState) -> None:
    """Begin a run from random rows, in the complement of the present rows, which are locked."""
    count = min(state.block_size, len(state.basis) - state.num_rows)
    state.start_row, state.num_starts, state.run_width = state.num_rows, count, count
    state.stages, state.dropped = state.stages[:0], 0.0
    state.num_runs += 1
    for _ in range(count):
        row = gaussian_vector(operator.dim, state.generator).to(state.basis)
        state.basis[state.num_rows] = _orthonormal(row, state.basis[: state.num_rows])
        state.num_rows += 1


def _restart(state: SubspaceState) -> None:
    """Keep the locked rows, the preferred half of the other Ritz vectors, and all pending rows."""
    num_pending = state.num_rows - state.num_processed
    pairs = state.active_pairs()
    is_followed = state.num_starts > 0 and len(state.stages) < MAX_STAGES
    if is_followed:
        state.stages = state.stages_so_far(pairs)
    num_active = len(pairs.values)
    share = 0 if state.num_locked else min(state.num_requested, num_active)
    most = len(state.basis) - state.num_locked - num_pending - state.block_size
    chosen = order(pairs.values, state.which)[: min(share + (num_active - share) // 2, most)]
    _keep(state, state.num_locked, pairs=pairs, chosen=chosen, num_pending=num_pending)
    state.start_row, state.num_starts = state.num_processed, num_pending if is_followed else 0


def _keep(state: SubspaceState, start: int, *, pairs: RitzPairs, chosen: Tensor, num_pending: int) -> None:
    """Replace processed rows from `start` on by chosen Ritz vectors of their span, and keep some pending rows."""
    first, stop = state.num_processed, start + len(chosen)
    vectors = pairs.vectors[:, chosen]
    rotate(state.basis[start:first], vectors)
    for row in state.basis[start:stop]:
        row.div_(norm(row))  # or rounding adds up from restart to restart
    for row in range(num_pending):
        state.basis[stop + row] = state.basis[first + row]
    to_locked = state.projection[:start, start:first] @ vectors
    state.projection[:start, start:] = 0
    state.projection[start:] = 0
    state.projection[:start, start:stop] = to_locked
    state.projection[start:stop, start:stop] = torch.diag(pairs.values[chosen])
    state.projection[stop : stop + num_pending, start:stop] = pairs.couplings[chosen][:, :num_pending].T
    state.defects[start:stop] = pairs.defects[chosen]
    state.defects[stop:] = 0
    state.num_processed, state.num_rows = stop, stop + num_pending


def _decide(state: SubspaceState, product_error: float) -> None:
    """Finish, continue, or lock the requested pairs and search for better ones, or copies of them, from new vectors.

    A Krylov space contains as many copies of an eigenvalue as its block has vectors, and shows no others. When all
    requested pairs have converged they are therefore locked, and the search begins again in the complement. It ends
    when its random vectors would have revealed anything that is better than the locked pairs by more than the
    tolerance. If one eigenvalue of an end is requested, the first run suffices.

    Args:
        state: State of the search, which is changed.
        product_error: Error of the products, relative to ||A||.
    """
    pairs = state.pairs()
    requested = order(pairs.values, state.which)[: state.num_requested]
    if state.complete or state.num_products >= state.budget:
        state.phase = "finished"
        return
    if len(requested) < state.num_requested:
        if state.is_closed:
            _lock(state, pairs, order(pairs.values, state.which))
        return
    leading = pairs.values[requested]
    slack = state.slack(leading, product_error)
    residuals = state.relevant_residuals(leading, pairs.residuals[requested])
    norms = spread(residuals)
    converged = bool((residuals <= LOCKING_SHARE * slack).all() and (norms <= SPREAD_SHARE * slack).all())
    is_first = state.num_locked < state.num_requested and (state.needs_locking or state.num_locked > 0)
    is_blind = bool((state.tolerances(leading) <= 2 * product_error * state.norm(pairs.values)).any())
    if not is_first and (converged or state.num_locked) and _is_settled(state, leading, slack, is_blind=is_blind):
        state.phase = "finished"
    elif _has_more_to_lock(state, leading=leading, residuals=residuals, slack=slack, converged=converged):
        _lock(state, pairs, _worth_keeping(state, pairs, requested=requested, goal=LOCKING_SHARE * float(slack.min())))


def _has_more_to_lock(
    state: SubspaceState, *, leading: Tensor, residuals: Tensor, slack: Tensor, converged: bool
) -> bool:
    """Tell whether to lock pairs: all requested ones have converged and not all are locked, or few products remain.

    The remaining products are then best spent on verifying that the converged pairs are the right ones.

    Args:
        state: State of the search.
        leading: Requested values (k,), in order of preference.
        residuals: Their residuals.
        slack: Their accepted errors.
        converged: Whether all have converged.

    Returns:
        Whether to lock pairs now.
    """
    if state.num_locked >= state.num_requested:
        return converged and (state.is_closed or state.is_improved(leading, slack))
    is_late = state.num_products >= SEARCH_SHARE * state.budget
    any_converged = bool((residuals <= LOCKING_SHARE * slack).any())
    return (state.needs_locking and (converged or (is_late and any_converged))) or state.is_closed


def _is_settled(state: SubspaceState, leading: Tensor, slack: Tensor, *, is_blind: bool) -> bool:
    """Return whether no eigenvalue can have been missed that is better than the requested ones by more than the slack.

    Args:
        state: State of the search.
        leading: Requested values (k,), in order of preference.
        slack: Their accepted errors.
        is_blind: Whether the error of products hides what the tolerance requires; it then suffices that nothing but
            that error is left.

    Returns:
        Whether the search can end.
    """
    values, norms = leading, torch.zeros_like(leading)
    if state.num_locked:
        if state.is_improved(leading, slack):
            return False
        if is_blind and state.is_closed:
            return True
        values = state.locked_values()[: len(leading)]
        norms = spread(state.defects[: state.num_locked])[: len(leading)]
    active = state.active_pairs()
    ends = zip(state.ends, _limits(state, values=values, norms=norms, slack=slack), strict=True)
    return all(state.excludes(active, limit, end.side) for end, limit in ends)


def _limits(state: SubspaceState, *, values: Tensor, norms: Tensor, slack: Tensor) -> list[float]:
    """Return, for each end, the point from which eigenvalues of the complement would be too good to be missed.

    The points are as far out as is needed to know each value within its slack, but not so near that values within the
    slack of the worst one would have to be separated from it, which may take forever.

    Args:
        state: State of the search.
        values: Requested values (k,), in order of preference.
        norms: Norms of their couplings to the complement.
        slack: Their accepted errors.

    Returns:
        One point for each end.
    """
    scores, limits = state.scores(values), []
    for members in state.groups():
        own = slack[members]
        nearest = float(scores[members].min() + LIMIT_SHARE * own.max())
        limits.append(max(nearest, float(largest_rest(scores[members], norms[members], own).min())))
    if state.which == "magnitude":
        limits *= 2
    return [end.side * limit for end, limit in zip(state.ends, limits, strict=True)]


def _worth_keeping(state: SubspaceState, pairs: RitzPairs, *, requested: Tensor, goal: float) -> Tensor:
    """Return the requested pairs, and the best known of the others; distinct ones need not be found again."""
    room = len(state.basis) - state.num_requested
    room = room if len(state.basis) == state.basis.shape[1] else int(KEPT_SHARE * room)
    others = pairs.residuals.argsort()
    is_other = ~torch.isin(others, requested) & (pairs.residuals[others] <= KEPT_GOAL * goal)
    return torch.cat([requested, others[is_other][: 0 if state.is_reduced else room]])


def _lock(state: SubspaceState, pairs: RitzPairs, chosen: Tensor) -> None:
    """Keep the chosen pairs unchanged, and nothing else."""
    if state.num_locked == 0:
        state.far_ends = state.ends_of_rest()
    _keep(state, 0, pairs=pairs._replace(defects=pairs.residuals), chosen=chosen, num_pending=0)
    state.num_locked = len(chosen)
