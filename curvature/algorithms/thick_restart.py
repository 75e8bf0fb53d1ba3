"""Extreme eigenpairs by block Lanczos with thick restarts, full reorthogonalisation and a search for missed copies."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from curvature.algorithms.lanczos import BREAKDOWN_ROUNDINGS
from curvature.algorithms.ritz import RitzPairs, Which, order, ritz_pairs, steps_to_exclude
from curvature.algorithms.vectors import gaussian_vector, norm, orthogonalise, rotate
from curvature.errors import InvalidProblemError, NonFiniteError
from curvature.operators.base import SymmetricOperator
from curvature.progress import FROM_THE_START, Continuation, Progress, ignore_progress
from curvature.results import TopEigenpairs

Phase: TypeAlias = Literal["search", "verify", "finished"]

BLOCK_SIZE = 4  # vectors multiplied at once, so copies of an eigenvalue that one search finds
DEFAULT_ROWS = 80  # of the basis beside the wanted vectors
LEAST_ROWS = 3  # beside the wanted vectors: with fewer a restart has nothing to restart from

# Pairs are locked when their residual is this much below the tolerance: within a cluster residuals add up later.
LOCKING_SHARE = 0.25

# Residuals of the recurrence below this many roundings mean nothing.
LEAST_ROUNDINGS = 2


@dataclass
class SubspaceState:
    """A run that stopped between two products: all that `advance_search` needs, so all that a checkpoint must hold.

    Rows of the basis are orthonormal. The first num_processed were multiplied: A b_j = sum_i projection[i, j] b_i,
    up to defects[j]; the rest are pending.
    """

    which: Which
    num_wanted: int  # k
    tolerance: float  # of residuals, relative to the scale
    block_size: int
    max_products: int
    generator: torch.Generator  # on the CPU, of the start vectors
    basis: Tensor  # (rows, P), in the operator's precision; rows from num_rows on undefined
    projection: Tensor  # (rows, rows) float64, on the CPU; 0 beyond num_rows and num_processed
    defects: Tensor  # (rows,) float64, on the CPU: what is left of the products of locked rows, in units of A
    num_rows: int = 0
    num_processed: int = 0
    num_products: int = 0
    scale: float = 0.0  # largest ||A b|| so far
    phase: Phase = "search"
    locked: Tensor | None = None  # (k,) the wanted values when verification began
    num_fresh_steps: int = 0  # since then

    @property
    def budget(self) -> int:
        """Products at most before the residuals of locked pairs are measured, by one for each of them."""
        return self.max_products - (0 if self.locked is None else self.num_wanted)

    @property
    def complete(self) -> bool:
        """Whether the subspace is the whole space."""
        return self.num_processed == self.basis.shape[1]


def start_search(
    operator: SymmetricOperator,
    k: int,
    which: Which,
    tolerance: float,
    generator: torch.Generator,
    max_products: int | None = None,
    memory_bytes: int | None = None,
) -> SubspaceState:
    """State before the first product; arguments as of `top_eigenpairs`.

    Raises:  InvalidProblemError as `top_eigenpairs`.
    """
    dim = operator.dim
    limit = max(1_000, 100 * k) if max_products is None else max_products
    if not 1 <= k <= dim or not 0 <= tolerance < math.inf or limit < k:
        raise InvalidProblemError(f"{k} of {dim} eigenpairs, tolerance {tolerance}, {limit} products: that cannot be")
    num_rows, block_size = _rows_and_block(dim, k, operator.dtype.itemsize, memory_bytes)
    basis = torch.empty(num_rows, dim, dtype=operator.dtype, device=operator.device)
    projection = torch.zeros(num_rows, num_rows, dtype=torch.float64)
    defects = torch.zeros(num_rows, dtype=torch.float64)
    return SubspaceState(which, k, tolerance, block_size, limit, generator, basis, projection, defects)


def _rows_and_block(dim: int, k: int, itemsize: int, memory_bytes: int | None) -> tuple[int, int]:
    """Rows of the basis, and the block size; products take as much memory as a block."""
    rows, block_size = min(dim, max(3 * k, k + DEFAULT_ROWS)), min(k, BLOCK_SIZE)
    if memory_bytes is None:
        return rows, block_size
    affordable = memory_bytes // (dim * itemsize)
    if affordable - block_size < min(dim, k + 4 * block_size):
        block_size = 1
    rows = min(rows, affordable - block_size)
    if rows < min(dim, k + LEAST_ROWS):
        needed = (min(dim, k + LEAST_ROWS) + 1) * dim * itemsize
        raise InvalidProblemError(f"{k} eigenpairs take at least {needed} bytes, and {memory_bytes} are allowed")
    return rows, block_size


def advance_search(operator: SymmetricOperator, state: SubspaceState) -> None:
    """Multiply one block, in place, and decide how to go on; an unfinished state only.

    Raises:  NonFiniteError if a product holds NaN or infinity.
    """
    if state.num_rows == state.num_processed:
        _inject(operator, state)
    count = min(state.block_size, state.num_rows - state.num_processed, state.budget - state.num_products)
    if state.num_rows + count > len(state.basis) < operator.dim:
        _restart(state)
    first = state.num_processed
    products = operator.matmat(state.basis[first : first + count].T).T
    for column, product in enumerate(products, first):
        _absorb(operator, state, column, product)
    state.num_processed += count
    state.num_products += count
    state.num_fresh_steps += 1
    _decide(state, torch.finfo(operator.dtype).eps, operator.product_error)


def _absorb(operator: SymmetricOperator, state: SubspaceState, column: int, product: Tensor) -> None:
    """Write a product in terms of the basis, and append what is left of it as a pending row."""
    length = norm(product)
    if not length < math.inf:
        raise NonFiniteError(f"the matrix-vector product {state.num_products + 1} holds NaN or infinity")
    state.scale = max(state.scale, length)
    rest = product.clone()  # the operator may have returned its argument
    rows = state.num_rows
    state.projection[:rows, column] = orthogonalise(rest, state.basis[:rows]).double().cpu()
    remainder = norm(rest)
    if remainder <= BREAKDOWN_ROUNDINGS * torch.finfo(operator.dtype).eps * state.scale or rows == len(state.basis):
        return
    state.basis[rows] = rest / remainder
    state.projection[rows, column] = remainder
    state.num_rows += 1


def _inject(operator: SymmetricOperator, state: SubspaceState) -> None:
    """Append random rows: nothing is pending, because the run begins, its subspace is invariant or was locked."""
    if state.num_rows + state.block_size > len(state.basis) < operator.dim:
        _restart(state)
    count = min(state.block_size, len(state.basis) - state.num_rows)
    for _ in range(count):
        row = gaussian_vector(operator.dim, state.generator).to(state.basis)
        # again after normalising: little may be left of a vector when the basis is nearly complete
        for _ in range(2):
            orthogonalise(row, state.basis[: state.num_rows])
            row = row / norm(row)
        state.basis[state.num_rows] = row
        state.num_rows += 1


def _restart(state: SubspaceState) -> None:
    """Keep the most wanted half of what is not wanted, in Ritz vectors, and all that is pending."""
    num_pending = state.num_rows - state.num_processed
    most = len(state.basis) - num_pending - state.block_size
    keep = min(state.num_wanted + (state.num_processed - state.num_wanted) // 2, most)
    pairs = ritz_pairs(state.projection, state.num_processed, state.num_rows, state.defects, state.scale)
    chosen = order(pairs.values, state.which)[:keep]
    _keep(state, pairs, chosen, num_pending)


def _keep(state: SubspaceState, pairs: RitzPairs, chosen: Tensor, num_pending: int) -> None:
    """Make the chosen Ritz vectors the processed rows, followed by the first num_pending of the pending rows."""
    first, keep = state.num_processed, len(chosen)
    vectors = pairs.vectors[:, chosen]
    coupling = state.projection[first : first + num_pending, :first] @ vectors
    rotate(state.basis[:first], vectors)
    for row in state.basis[:keep]:
        row.div_(norm(row))  # or rounding adds up from restart to restart
    for row in range(num_pending):
        state.basis[keep + row] = state.basis[first + row]
    state.projection.zero_()
    state.projection[:keep, :keep] = torch.diag(pairs.values[chosen])
    state.projection[keep : keep + num_pending, :keep] = coupling
    state.defects[:keep] = pairs.defects[chosen]
    state.defects[keep:] = 0
    state.num_processed, state.num_rows = keep, keep + num_pending


def _decide(state: SubspaceState, eps: float, product_error: float) -> None:
    """Finish, go on, or lock the wanted pairs and look for copies of them from fresh vectors.

    A Krylov space holds as many copies of an eigenvalue as its block has vectors, and shows nothing of the others. So
    when all wanted pairs have converged they are locked, and the search begins anew in the complement. It ends when
    its best pair has converged, too, or after so many steps that a copy would have been seen.
    """
    exhausted = state.num_products >= state.budget
    if state.num_processed < state.num_wanted:
        return
    pairs = ritz_pairs(state.projection, state.num_processed, state.num_rows, state.defects, state.scale)
    ranking = order(pairs.values, state.which)
    wanted, others = ranking[: state.num_wanted], ranking[state.num_wanted :]
    goal = state.scale * max(LOCKING_SHARE * (state.tolerance - product_error), LEAST_ROUNDINGS * eps)
    converged = bool((pairs.residuals[wanted] <= goal).all())
    dim = state.basis.shape[1]
    needed = steps_to_exclude(pairs.values, state.num_wanted, state.which, 2 * goal, dim) if converged else math.inf
    seen = False
    if converged and state.phase == "verify":
        ends = others[: 2 if state.which == "both-ends" else 1]
        seen = len(ends) > 0 and bool((pairs.residuals[ends] <= goal).all())
        seen = seen or state.num_fresh_steps >= needed
    unchanged = state.locked is not None and bool(((pairs.values[wanted] - state.locked).abs() <= 2 * goal).all())
    if exhausted or state.complete or (converged and needed == 0) or (seen and unchanged):
        state.phase = "finished"
    elif converged and (state.phase == "search" or seen):
        _lock(state, pairs, wanted)


def _lock(state: SubspaceState, pairs: RitzPairs, wanted: Tensor) -> None:
    """Keep the wanted pairs and nothing else, and begin anew; finish if too few products are left for that."""
    if state.num_products + state.num_wanted >= state.max_products:
        state.phase = "finished"
        return
    state.locked = pairs.values[wanted]
    locked = RitzPairs(pairs.values, pairs.vectors, pairs.residuals, defects=pairs.residuals)
    _keep(state, locked, wanted, num_pending=0)
    state.phase, state.num_fresh_steps = "verify", 0


def summarise_search(operator: SymmetricOperator, state: SubspaceState) -> TopEigenpairs:
    """The wanted pairs as they are; the basis is overwritten, so that the state cannot go on.

    Residuals of pairs that were locked are measured, by k more products.

    Raises:  InvalidProblemError if fewer than k products were done.
    """
    if state.num_processed < state.num_wanted:
        raise InvalidProblemError(f"{state.num_processed} products are too few for {state.num_wanted} eigenpairs")
    pairs = ritz_pairs(state.projection, state.num_processed, state.num_rows, state.defects, state.scale)
    wanted = order(pairs.values, state.which)[: state.num_wanted]
    if state.which == "both-ends":
        wanted = wanted[pairs.values[wanted].argsort(descending=True)]
    values = pairs.values[wanted]
    residuals = pairs.residuals[wanted]
    rotate(state.basis[: state.num_processed], pairs.vectors[:, wanted])
    vectors = state.basis[: state.num_wanted]
    if state.complete:
        residuals = torch.zeros_like(residuals)
    elif state.locked is not None:
        # of what locking cut off the recurrence knows no more than an estimate
        residuals = _measured_residuals(operator, state, values, vectors)
    norm_of_operator = max(state.scale, float(pairs.values.abs().max()))
    residuals = residuals + operator.product_error * norm_of_operator
    return TopEigenpairs(
        eigenvalues=values.numpy(),
        residuals=residuals.numpy(),
        converged=(residuals <= state.tolerance * norm_of_operator).numpy(),
        eigenvectors=vectors.cpu().numpy(),
        num_products=state.num_products,
    )


def _measured_residuals(operator: SymmetricOperator, state: SubspaceState, values: Tensor, vectors: Tensor) -> Tensor:
    """||A x - value x|| (k,), float64, for rows x (k, P)."""
    found = []
    for start_row in range(0, len(vectors), state.block_size):
        block = vectors[start_row : start_row + state.block_size]
        for row, product in enumerate(operator.matmat(block.T).T):
            found.append(norm(product - float(values[start_row + row]) * block[row]))
        state.num_products += len(block)
    return torch.tensor(found, dtype=torch.float64)


def top_eigenpairs(
    operator: SymmetricOperator,
    k: int,
    which: Which,
    tolerance: float,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
    max_products: int | None = None,
    memory_bytes: int | None = None,
    continuation: Continuation = FROM_THE_START,
) -> TopEigenpairs:
    """k eigenpairs from the ends of the spectrum, each eigenvalue as often as it is repeated.

    Where k exceeds the number of eigenvalues of one kind the next ones follow, zeros included; k = P gives them all.

    Args:
        which: "largest", "smallest" (both signed), "both-ends" (half of each, one more of the largest if k is odd) or
            "magnitude".
        tolerance: of the residuals, relative to the largest ||A v|| seen; what is below the rounding of the products
            is never reached, and pairs are then as good as they can be but not called converged.
        generator: a CPU generator for the start vectors, which moves on.
        progress: told as "products" after each block, of max_products.
        max_products: None: 100 for each eigenpair, at least 1,000. What has not converged then says so.
        memory_bytes: of the basis and the products, at most; None: 80 vectors beside the wanted ones, at least 2 k.
        continuation: a `SubspaceState` to go on from, and who keeps later ones.
    Raises:  NonFiniteError if a product holds NaN or infinity; InvalidProblemError if k is not in 1 .. P, products are
        fewer than k, or the memory does not hold k + 4 vectors.
    Source:  Wu & Simon, SIAM J. Matrix Anal. Appl. 22 (2000) 602-616, for thick restarts.
    """
    state: SubspaceState = continuation.state or start_search(
        operator, k, which, tolerance, generator, max_products, memory_bytes
    )
    while state.phase != "finished":
        advance_search(operator, state)
        progress("products", state.num_products, state.max_products)
        continuation.offer(lambda: state)
    return summarise_search(operator, state)
