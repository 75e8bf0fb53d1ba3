"""What a computation will take, from plain numbers; imports no torch, so that a web service can ask before it queues.

Peak bytes are those of the parameters and of all that is computed from them, without the data: what a process grows by,
on a GPU what tensors hold. Predicted within 20 % where they are above 100 MiB: `benchmarks.cost`.
"""

from dataclasses import dataclass
from typing import Literal

from curvature.footprints import OVERHEAD_BYTES, Footprint, Matrix, footprint
from curvature.size import Size

FLOAT64_BYTES = 8

# How many vectors go through a recording at once: as many as fit, up to a number that keeps the processor busy.
BLOCK_BYTES = 64 * 2**20
BLOCK_COLUMNS = 128
TANGENT_COPIES = 4  # of the activations, for each of them

# Of what one vector takes: each further one that goes with it, while it is recorded and later.
RECORDING_COLUMN_SHARE = 0.5
RUNNING_COLUMN_SHARE = 0.9

LAYERED_COPIES = 8  # of all units of the samples, for each unit that is moved: tangents, cotangents, theirs

GRADIENT_COPIES = 4  # of parameters outside of the block: themselves, their gradient and its terms

DENSE_COPIES = 2  # the matrix, and LAPACK's copy of it
DENSE_COPIES_WITH_VECTORS = 4  # the vectors, and the workspace of dsyevd
TRIDIAGONAL_COPIES = 4  # of the order squared: the same for Lanczos, one probe after the other
DENSITY_COPIES = 4  # of the densities of all probes while mean and error are taken

# As in `algorithms.thick_restart`, `algorithms.sketch`
TOP_K_BLOCK = 4
TOP_K_ROWS = 80
PROBE_BLOCK = 16

Estimator = Literal["hutchinson", "hutch++", "xtrace"]
Reorthogonalisation = Literal["none", "full"]


@dataclass(frozen=True)
class Work:
    """What an algorithm does, and what it holds beside the operator."""

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


@dataclass(frozen=True)
class MicroBatches:
    """How data are split, and what that takes."""

    num_samples: int  # of a micro-batch
    num_batches: int
    recording_bytes: int | None  # that recordings may hold, the others are recorded in every sweep; None: all are held
    peak_bytes: int


@dataclass(frozen=True)
class Rates:
    """What was measured on a machine."""

    recording_seconds: float  # of the first product, beyond what later ones take
    seconds_per_product: float  # one vector of a block
    bytes_per_second: float  # of a basis in memory
    eigenvalue_seconds: float  # of a dense matrix of order EIGENVALUE_ORDER


TRIANGLE_SHARE = 0.7  # of the products of all columns, where rows beyond the diagonal are not computed
LAYERED_SHARE = 0.15  # of the same, where they are assembled by way of pre-activations
EIGENVALUE_ORDER = 320
EIGENVALUE_EXPONENT = 2.6  # of the order, in time: larger blocks make better use of a processor
EIGENVECTORS_FACTOR = 3.0  # in time


def exact_work(num_parameters: int, eigenvectors: bool = False, layered: bool = False) -> Work:
    """Of `exact_spectrum`: columns block by block, each group recorded anew, then a dense eigenvalue problem.

    Args:  layered, whether the model is an `Mlp` whose products are not reduced.
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


def lanczos_work(
    num_parameters: int,
    num_steps: int,
    num_probes: int,
    num_points: int = 0,
    reorthogonalisation: Reorthogonalisation = "full",
    group: int | None = None,
) -> Work:
    """Of `lanczos_spectrum`, with `group` probes in lockstep; None: all of them.

    A basis of m + 1 vectors, m = min(num_steps, P), for each probe (or two), and of several probes a copy of the
    vectors that are multiplied. After them a tridiagonal eigenproblem for each, as a dense one, and curves.
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


def top_k_work(num_parameters: int, k: int, max_products: int | None = None) -> Work:
    """Of `top_eigenpairs`, if it restarts."""
    rows = min(num_parameters, max(3 * k, k + TOP_K_ROWS))
    products = max_products or max(1_000, 100 * k)
    block = min(k, TOP_K_BLOCK)
    return Work(
        num_products=products,
        num_columns=block,
        first_vectors=1,
        vectors=rows - block + 1,
        moved_numbers=products * num_parameters * 4 * rows,
        dense_order=rows,
    )


def trace_work(num_parameters: int, estimator: Estimator, num_products: int, diagonal: bool = False) -> Work:
    """Of `trace_estimate`; sketches are copied while they grow."""
    products = min(num_products, num_parameters)
    sketch = {"hutchinson": 0.0, "hutch++": products / 3, "xtrace": products / 2}[estimator]
    held = {"hutchinson": 0.0, "hutch++": 3 * sketch, "xtrace": 5 * sketch}[estimator]
    return Work(
        num_products=products,
        num_columns=min(products, PROBE_BLOCK),
        # blocks of probes and products beside those in the sketch; a probe in float64, and of a diagonal six vectors
        vectors=held + 3 * PROBE_BLOCK + 2 + (12 if diagonal else 0),
        moved_numbers=int(products * num_parameters * (4 + 4 * sketch)),
    )


def columns_at_once(size: Size, itemsize: int) -> int:
    """How many vectors go through a recording of these samples together."""
    column_bytes = itemsize * (4 * size.num_parameters + TANGENT_COPIES * size.num_activations)
    return max(1, min(BLOCK_COLUMNS, BLOCK_BYTES // column_bytes))


def layered_samples(num_parameters: int, itemsize: int) -> int:
    """How many samples of a fully connected network are assembled together."""
    return max(1, BLOCK_BYTES // (itemsize * num_parameters))


def layered_units(num_units: int, num_samples: int, itemsize: int) -> int:
    """How many units of a layer are moved together, of `num_units` in the whole network."""
    return max(1, BLOCK_BYTES // (itemsize * LAYERED_COPIES * num_units * num_samples))


def peak_bytes(
    size: Size,
    work: Work,
    matrix: Matrix,
    itemsize: int,
    batch: int | None = None,
    recording_bytes: int | None = None,
) -> int:
    """The most that is held at once: while micro-batches of `batch` samples are recorded, multiplied, or after that."""
    parts = _Parts(size, work, matrix, itemsize, batch or size.num_samples)
    held = parts.held if recording_bytes is None else min(parts.held, recording_bytes)
    others = max(0, held - parts.held_by_one)
    recording = others + parts.recording + parts.vectors(work.first_vectors)
    running = held + parts.running + parts.vectors(work.vectors)
    if recording_bytes is not None and held < parts.held:  # recorded again in every sweep
        recording = held + parts.recording + parts.vectors(work.vectors)
    last = held + parts.vectors(2) + work.last_bytes
    peak = max(recording + work.dense_bytes, running + work.dense_bytes, last)
    others_of_model = GRADIENT_COPIES * itemsize * size.num_other_parameters
    return int(peak + parts.vectors(1) + others_of_model) + OVERHEAD_BYTES


class _Parts:
    """Bytes of the operator's parts."""

    def __init__(self, size: Size, work: Work, matrix: Matrix, itemsize: int, batch: int) -> None:
        self._size, self._itemsize = size, itemsize
        part = size.part(min(batch, size.num_samples))
        copies: Footprint = footprint(size.family, matrix)
        columns = min(work.num_columns, columns_at_once(part, itemsize)) - 1
        self.held_by_one = self._bytes(copies.held, part) if work.holds_recordings else 0
        self.held = self._bytes(copies.held, size) if work.holds_recordings else 0
        recording, running = self._bytes(copies.recording, part), self._bytes(copies.running, part)
        transient = max(0, running - self._bytes(copies.held, part))
        self.recording = recording + columns * RECORDING_COLUMN_SHARE * recording
        self.running = transient + columns * RUNNING_COLUMN_SHARE * transient
        if not work.holds_recordings:
            self.running += self._bytes(copies.held, part)
        # columns that do not pass together: themselves, their products, and these put together
        self.waiting = max(0, work.num_columns - columns - 1) * 3 * self.vectors(1) if work.holds_recordings else 0
        self.recording += self.waiting
        self.running += self.waiting
        if work.layered:
            self.recording, self.running = 0.0, self._layered(part)

    def vectors(self, number: float) -> float:
        return number * self._itemsize * self._size.num_parameters

    def _layered(self, part: Size) -> float:
        """Of the gradient and its activations, or of each sample's terms beside moved units."""
        samples = min(part.num_samples, layered_samples(self._size.num_parameters, self._itemsize))
        units = -(-part.num_activations // part.num_samples)
        width = layered_units(units, samples, self._itemsize)
        moved = LAYERED_COPIES * (1 + min(width, units)) * units * samples
        gradient = GRADIENT_COPIES * part.num_activations
        return self._itemsize * max(gradient, samples * self._size.num_parameters + moved)

    def _bytes(self, copies: tuple[float, ...], size: Size) -> float:
        counts = (*size.activations, size.num_parameters)
        return self._itemsize * sum(copy * count for copy, count in zip(copies, counts, strict=True))


def micro_batches(size: Size, work: Work, matrix: Matrix, itemsize: int, memory_bytes: int | None) -> MicroBatches:
    """The largest micro-batches that keep within `memory_bytes`, all recordings held if that fits.

    Else recordings hold half of what the rest leaves, at most; single samples, if nothing fits.
    """
    sizes = _batch_sizes(size.num_samples)
    for batch in sizes:
        peak = peak_bytes(size, work, matrix, itemsize, batch)
        if memory_bytes is None or peak <= memory_bytes:
            return MicroBatches(batch, -(-size.num_samples // batch), None, peak)
    assert memory_bytes is not None
    for batch in sizes:
        spare = memory_bytes - peak_bytes(size, work, matrix, itemsize, batch, 0)
        if spare >= 0 and work.holds_recordings:
            # smaller micro-batches would leave more for recordings, but not all of them
            peak = peak_bytes(size, work, matrix, itemsize, batch, spare)
            return MicroBatches(batch, -(-size.num_samples // batch), spare, peak)
    least = peak_bytes(size, work, matrix, itemsize, 1, 0)
    return MicroBatches(1, size.num_samples, 0, least)


def _batch_sizes(num_samples: int) -> list[int]:
    """Samples of a micro-batch for 1, 2, 3, 4, 6, 8, 12 ... micro-batches, the largest first."""
    sizes, count = [num_samples], 1
    while sizes[-1] > 1:
        for splits in (2 * count, 3 * count):
            batch = -(-num_samples // splits)
            if batch < sizes[-1]:
                sizes.append(batch)
        count *= 2
    return sizes


def predicted_seconds(work: Work, rates: Rates, itemsize: int, all_held: bool = True) -> float:
    """Recording, products, orthogonality and the dense eigenvalue problem; `rates` are measured."""
    share = 1.0 if work.holds_recordings else LAYERED_SHARE if work.layered else TRIANGLE_SHARE
    sweeps = 1 if all_held else -(-work.num_products // work.num_columns)
    recording = 0.0 if work.layered else rates.recording_seconds * sweeps
    products = work.num_products * rates.seconds_per_product * share
    return recording + products + moving_seconds(work, rates, itemsize) + dense_seconds(work, rates)


def moving_seconds(work: Work, rates: Rates, itemsize: int) -> float:
    """Of orthogonality."""
    return work.moved_numbers * itemsize / rates.bytes_per_second


def dense_seconds(work: Work, rates: Rates) -> float:
    """Of the dense eigenvalue problem."""
    factor = EIGENVECTORS_FACTOR if work.eigenvectors else 1.0
    orders: float = (work.dense_order / EIGENVALUE_ORDER) ** EIGENVALUE_EXPONENT
    return factor * rates.eigenvalue_seconds * orders


def probe_bytes(num_parameters: int, num_steps: int, itemsize: int, reorthogonalisation: Reorthogonalisation) -> int:
    """Of the vectors of one Lanczos probe and its product, as `algorithms.memory` counts them."""
    vectors = min(num_steps, num_parameters) + 2 if reorthogonalisation == "full" else 3
    return vectors * num_parameters * itemsize


def training_passes(num_steps: int, batch_size: int | None, num_samples: int) -> float:
    """Passes over all data, forward and back, of so many steps."""
    return num_steps * min(1.0, (batch_size or num_samples) / num_samples)
