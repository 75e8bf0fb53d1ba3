"""Operations, memory and time of each algorithm, and the numbers of vectors and samples that are processed at once."""

from dataclasses import dataclass
from typing import Literal

from hessian_spectrum.planning.size import Size

# How many vectors go through a recording at once: as many as fit, up to a number that keeps the processor busy.
BLOCK_BYTES = 64 * 2**20
BLOCK_COLUMNS = 128
TANGENT_COPIES = 4  # of the activations, for each of them
OUTPUTS_BYTES = 2**27
"""Bytes of the outputs that an output layer computes together; with a large vocabulary it has far more in all."""

# Of the outputs of all layers, where a dense matrix is assembled layer by layer: once, and for each unit that is moved
LAYERED_COPIES = 10
LAYERED_UNIT_COPIES = 11

FLOAT64_BYTES = 8

DENSE_COPIES = 1  # the matrix, in whose memory LAPACK works
DENSE_COPIES_WITH_VECTORS = 4  # the vectors, and the workspace of dsyevd
TRIDIAGONAL_COPIES = 4  # of the order squared: the same for Lanczos, one probe after the other
DENSITY_COPIES = 4  # of the densities of all probes while mean and error are taken

TOP_K_BLOCK = 4
"""Vectors that a search for eigenpairs multiplies at once, so copies of an eigenvalue that one run finds."""

TOP_K_SINGLE_DIM = 10**6
"""Rows of a matrix from which a vector costs as much in a block as alone; a block takes more products."""

TOP_K_ROWS = 80
"""Rows of the basis of such a search in addition to the requested vectors."""

TOP_K_LEAST_ROWS = 3
"""The least of them; with fewer, no vectors are left for a restart."""

FOLDED_VECTORS = 8  # for each eigenpair: k vectors, twice as many rows and products, their selection and copies
PROBE_BLOCK = 16  # as in `algorithms.sketch`

HELD_ROWS_BYTES = 2**28
"""Bytes of the rows of the factor of a Gauss-Newton matrix that are held while the others pass by them."""

LARGEST_LIST = 100_000
"""Largest order of a matrix of which every eigenvalue is listed, also those that are known to be equal."""

TRIANGLE_SHARE = 0.7  # of the products of all columns, where rows beyond the diagonal are not computed
LAYERED_SHARE = 0.15  # of the same, where they are assembled by way of pre-activations
EIGENVALUE_ORDER = 320
EIGENVALUE_EXPONENT = 2.6  # of the order, in time: larger blocks make better use of a processor
EIGENVECTORS_FACTOR = 3.0  # in time

Estimator = Literal["hutchinson", "hutch++", "xtrace"]
Reorthogonalisation = Literal["none", "full"]


@dataclass(frozen=True)
class Work:
    """The operations of an algorithm, and the memory that it takes beside the operator."""

    num_products: int
    num_columns: int = 1  # multiplied at once
    first_vectors: float = 0.0  # of length P, beside the block that is multiplied, while the gradient is recorded
    vectors: float = 0.0  # the most of them
    dense_bytes: int = 0  # of a dense matrix while it is filled
    last_bytes: int = 0  # after the products
    moved_numbers: int = 0  # read or written for orthogonality
    dense_order: int = 0  # of the float64 eigenvalue problem
    eigenvectors: bool = False  # of it
    holds_recordings: bool = True
    layered: bool = False  # assembled by way of pre-activations, not from products
    corrected: bool = False  # a few products at the end are not reduced, and not recorded


def exact_work(num_parameters: int, eigenvectors: bool = False, layered: bool = False) -> Work:
    """Return the work of `DenseEigensolver`: products in blocks, recorded anew each, then a dense eigenvalue problem.

    Args:
        num_parameters: Rows of the matrix, P.
        eigenvectors: Whether eigenvectors are computed, too.
        layered: Whether the model is an `Mlp` whose products are not reduced.

    Returns:
        The work.
    """
    square = FLOAT64_BYTES * num_parameters**2
    copies = DENSE_COPIES_WITH_VECTORS if eigenvectors else DENSE_COPIES
    return Work(
        num_products=num_parameters,
        num_columns=min(num_parameters, BLOCK_COLUMNS),
        dense_bytes=square,
        last_bytes=copies * square,
        dense_order=num_parameters,
        eigenvectors=eigenvectors,
        holds_recordings=False,
        layered=layered,
    )


def gram_work(num_parameters: int, order: int, layered: bool = False) -> Work:
    """Return the work of `DenseEigensolver` for a matrix B^T B with few rows of B, by way of B B^T.

    Args:
        num_parameters: Rows of the matrix, P.
        order: Rows of B, m.
        layered: Whether the model is an `Mlp`, of which no row of B is assembled.

    Returns:
        The work: m vector-Jacobian products and an eigenvalue problem of order m.
    """
    square, rows = FLOAT64_BYTES * order**2, FLOAT64_BYTES * order * num_parameters
    beside = min(BLOCK_BYTES, square) if layered else min(HELD_ROWS_BYTES, rows) + 2 * min(BLOCK_BYTES, rows)
    return Work(
        num_products=order,
        dense_bytes=square + beside,
        last_bytes=DENSE_COPIES * square,
        dense_order=order,
        holds_recordings=False,
        layered=layered,
    )


def lanczos_work(
    num_parameters: int,
    num_steps: int,
    num_probes: int,
    *,
    num_points: int = 0,
    reorthogonalisation: Reorthogonalisation = "full",
    group: int | None = None,
) -> Work:
    """Return the work of `StochasticLanczosQuadrature` with `group` probes in lockstep.

    A basis of m + 1 vectors, m = min(num_steps, P), for each probe (or two), and of several probes a copy of the
    vectors that are multiplied. After them a tridiagonal eigenproblem for each, as a dense one, and curves.

    Args:
        num_parameters: Rows of the matrix, P.
        num_steps: Lanczos steps per probe.
        num_probes: Random start vectors.
        num_points: Points of the grid of the curves.
        reorthogonalisation: Whether Lanczos vectors are reorthogonalised.
        group: Probes in lockstep; None: all of them.

    Returns:
        The work.
    """
    steps = min(num_steps, num_parameters)
    group = num_probes if group is None else group
    full = reorthogonalisation == "full"
    basis = steps + 1 if full else 2
    copies = group if group > 1 else 0
    summary = TRIDIAGONAL_COPIES * steps**2 + num_probes * (2 * steps + 2 * DENSITY_COPIES * num_points)
    return Work(
        num_products=steps * num_probes,
        num_columns=group,
        first_vectors=copies,
        vectors=group * basis - group + copies,
        last_bytes=FLOAT64_BYTES * summary,
        # two passes of orthogonalisation, of two products with the basis each
        moved_numbers=num_probes * num_parameters * (2 * steps**2 if full else 6 * steps),
        dense_order=steps,
    )


def top_k_work(
    num_parameters: int,
    k: int,
    max_products: int | None = None,
    *,
    rows: int | None = None,
    reduced: bool = False,
    folded: bool = False,
) -> Work:
    """Return the work of `ThickRestartLanczos` with a basis of `rows` rows, if it restarts, or of `NearestLanczos`.

    Args:
        num_parameters: Rows of the matrix, P.
        k: Eigenpairs.
        max_products: Largest number of products; None: the default limit.
        rows: Rows of the basis; None: as many as it likes.
        reduced: Whether products are of a reduced precision.
        folded: Whether the work is that of `NearestLanczos`, with two products for each row.

    Returns:
        The work.
    """
    rows = top_k_rows(num_parameters, k) if rows is None else rows
    products = max_products or max(1_000, 100 * k)
    block = min(top_k_block(num_parameters, k), rows)
    vectors = rows - block + 1 + k  # at the end, products of the wanted vectors lie beside the basis
    if folded:  # a block between its two products; at the end k vectors are taken apart into 2 k, with their products
        vectors = max(vectors + block, FOLDED_VECTORS * k + 2)
    return Work(
        num_products=products,
        num_columns=block,
        first_vectors=1,
        vectors=vectors,
        moved_numbers=products * num_parameters * (2 if folded else 4) * rows,
        dense_order=rows,
        corrected=reduced,
    )


def top_k_block(num_parameters: int, k: int) -> int:
    """Return the number of vectors that `ThickRestartLanczos` multiplies at once where memory does not matter."""
    return 1 if num_parameters >= TOP_K_SINGLE_DIM else min(k, TOP_K_BLOCK)


def top_k_rows(num_parameters: int, k: int) -> int:
    """Return the number of rows of the basis of `ThickRestartLanczos` where memory does not matter."""
    return min(num_parameters, max(3 * k, k + TOP_K_ROWS))


def top_k_least_rows(num_parameters: int, k: int) -> int:
    """Return the smallest number of rows of the basis with which `ThickRestartLanczos` can restart."""
    return min(num_parameters, k + TOP_K_LEAST_ROWS)


def trace_work(num_parameters: int, estimator: Estimator, num_products: int, *, diagonal: bool = False) -> Work:
    """Return the work of `TraceEstimator`, whose sketches are copied while they grow."""
    products = min(num_products, num_parameters)
    sketch = {"hutchinson": 0.0, "hutch++": products / 3, "xtrace": products / 2}[estimator]
    held = {"hutchinson": 0.0, "hutch++": 3 * sketch, "xtrace": 5 * sketch}[estimator]
    return Work(
        num_products=products,
        num_columns=min(products, PROBE_BLOCK),
        # blocks of probes and products beside those in the sketch; a probe in float64, and of a diagonal eight vectors
        vectors=held + 3 * PROBE_BLOCK + 2 + (16 if diagonal else 0),
        moved_numbers=int(products * num_parameters * (4 + 4 * sketch)),
    )


def probe_bytes(num_parameters: int, num_steps: int, *, itemsize: int, reorthogonalisation: Reorthogonalisation) -> int:
    """Return the bytes of the vectors of one Lanczos probe and of its product."""
    vectors = min(num_steps, num_parameters) + 2 if reorthogonalisation == "full" else 3
    return vectors * num_parameters * itemsize


def training_passes(num_steps: int, batch_size: int | None, num_samples: int) -> float:
    """Return the number of passes over all data, forward and back, in `num_steps` steps of training."""
    return num_steps * min(1.0, (batch_size or num_samples) / num_samples)


def columns_at_once(size: Size, itemsize: int) -> int:
    """Return how many vectors go through a recording of these samples together."""
    column_bytes = itemsize * (4 * size.num_parameters + TANGENT_COPIES * size.num_activations)
    return max(1, min(BLOCK_COLUMNS, BLOCK_BYTES // column_bytes))


def layered_samples(num_parameters: int, num_units: int, itemsize: int) -> int:
    """Return how many samples of a fully connected network with `num_units` units in all are assembled together."""
    return max(1, BLOCK_BYTES // (itemsize * max(num_parameters, (LAYERED_COPIES + LAYERED_UNIT_COPIES) * num_units)))


def layered_units(num_units: int, num_samples: int, itemsize: int) -> int:
    """Return how many units of a layer are moved together."""
    return max(1, BLOCK_BYTES // (itemsize * LAYERED_UNIT_COPIES * num_units * num_samples))


@dataclass(frozen=True)
class Rates:
    """Times and bandwidth that were measured on a machine."""

    recording_seconds: float  # of the first product, beyond what later ones take
    seconds_per_product: float  # one vector of a block
    bytes_per_second: float  # of a basis in memory
    eigenvalue_seconds: float  # of a dense matrix of order EIGENVALUE_ORDER


def predicted_seconds(work: Work, rates: Rates, itemsize: int, *, all_held: bool = True) -> float:
    """Return the seconds for recording, products, orthogonality and the dense eigenvalue problem, at measured rates."""
    share = 1.0 if work.holds_recordings else LAYERED_SHARE if work.layered else TRIANGLE_SHARE
    sweeps = 1 if all_held else -(-work.num_products // work.num_columns)
    recording = 0.0 if work.layered else rates.recording_seconds * sweeps
    products = work.num_products * rates.seconds_per_product * share
    return recording + products + moving_seconds(work, rates, itemsize) + dense_seconds(work, rates)


def moving_seconds(work: Work, rates: Rates, itemsize: int) -> float:
    """Return the seconds that orthogonalisation takes."""
    return work.moved_numbers * itemsize / rates.bytes_per_second


def dense_seconds(work: Work, rates: Rates) -> float:
    """Return the seconds that the dense eigenvalue problem takes."""
    factor = EIGENVECTORS_FACTOR if work.eigenvectors else 1.0
    orders: float = (work.dense_order / EIGENVALUE_ORDER) ** EIGENVALUE_EXPONENT
    return factor * rates.eigenvalue_seconds * orders
