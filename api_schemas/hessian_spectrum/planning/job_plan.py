"""The plan of a job: its peak memory, the micro-batches that make it fit, and how it is computed within a worker."""

import json
from dataclasses import KW_ONLY, asdict, dataclass
from functools import cached_property, partial
from typing import Any, Self

from hessian_spectrum.planning.memory_coefficients import (
    OVERHEAD_BYTES,
    CoefficientTable,
    Matrix,
    Quantity,
    memory_coefficients,
)
from hessian_spectrum.planning.size import SORTS, Size
from hessian_spectrum.planning.work import (
    LAYERED_COPIES,
    LAYERED_UNIT_COPIES,
    OUTPUTS_BYTES,
    Work,
    columns_at_once,
    layered_samples,
    layered_units,
)

# Of what one vector takes: each further one that goes with it, while it is recorded and later.
RECORDING_COLUMN_SHARE = 0.5
RUNNING_COLUMN_SHARE = 0.9

GRADIENT_COPIES = 4  # of parameters outside of the block: themselves, their gradient and its terms

MAX_SHARDS = 16
"""Largest number of shards of a job; further workers would find no shard to compute."""

MIN_SHARD_SECONDS = 5.0
"""Estimated time of a shard on one core; another worker needs one to two seconds until its first product."""

MIN_BLOCK_OPERATIONS = 2e7
"""Operations of one product with a block of vectors; in smaller blocks, call overhead dominates."""

_OPERATIONS_PER_SECOND = 3e9
"""Parameter-input pairs that one core processes per second in a product with the Hessian."""

_NUMBERS_PER_SECOND = 1e9
"""Numbers that one core reads or writes per second."""


@dataclass(frozen=True)
class ComputationPlan:
    """Cost of one computation, and how it is split to fit into memory.

    Attributes:
        num_parameters: Rows of the matrix.
        num_products: Matrix-vector products; an upper bound if a tolerance decides.
        num_training_passes: Forward and backward passes over all data during training.
        peak_bytes: Peak memory in bytes.
        micro_batch_size: Samples that pass through the model at once.
        recording_bytes: Memory in bytes that recorded products may take; None if all are recorded at once.
        vector_bytes: Memory in bytes for the probes of Lanczos or the basis of top-k; None: without a limit.
        work: Operations and memory of the algorithm.
        num_batches: Micro-batches into which the data are split.
        num_shards: Parts into which the probes of a long Lanczos job are split, each computed by one worker.
    """

    num_parameters: int
    num_products: int
    num_training_passes: float
    peak_bytes: int
    micro_batch_size: int
    recording_bytes: int | None
    vector_bytes: int | None
    work: Work
    num_batches: int
    num_shards: int = 1


@dataclass(frozen=True)
class JobPlan:
    """The plan of a whole job, made once at admission and stored with the job until it ends.

    Attributes:
        memory_bytes: Memory of a worker for which the plan was made; None: without a limit.
        whole: The whole job; sizes are those of its largest computation.
        points: For a comparison of Hessian and GGN, each model with each matrix, in this order. For an experiment, each
            spectrum. Else empty.
    """

    memory_bytes: int | None
    whole: ComputationPlan
    points: tuple[ComputationPlan, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the job fits into the memory that the plan was made for."""
        return self.memory_bytes is None or self.whole.peak_bytes <= self.memory_bytes

    def to_json(self, planner_version: str) -> str:
        """The plan as stored with a job.

        Args:
            planner_version: Version of the software that made the plan.

        Returns:
            A JSON document.
        """
        return json.dumps({"planner_version": planner_version, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, planner_version: str) -> Self | None:
        """Read a stored plan.

        Args:
            text: The JSON document that `to_json` wrote.
            planner_version: Version of the software that reads it.

        Returns:
            The plan; None if another version made it, which may plan the same job differently.
        """
        document = json.loads(text)
        if document.pop("planner_version") != planner_version:
            return None
        return cls(
            memory_bytes=document["memory_bytes"],
            whole=_computation(document["whole"]),
            points=tuple(_computation(fields) for fields in document["points"]),
        )


def _computation(fields: dict[str, Any]) -> ComputationPlan:
    return ComputationPlan(**{**fields, "work": Work(**fields["work"])})


@dataclass(frozen=True)
class MicroBatches:
    """The split of the data into micro-batches, and the memory that it takes.

    Attributes:
        num_samples: Samples of a micro-batch.
        num_batches: Number of micro-batches.
        recording_bytes: Memory in bytes for recordings that are kept, the others being recorded anew in every sweep;
            None if all are kept.
        peak_bytes: Peak memory in bytes.
    """

    num_samples: int
    num_batches: int
    recording_bytes: int | None
    peak_bytes: int


def peak_bytes(
    size: Size,
    work: Work,
    matrix: Matrix,
    *,
    itemsize: int,
    batch: int | None = None,
    recording_bytes: int | None = None,
) -> int:
    """Peak memory of a computation: while micro-batches are recorded, while they are multiplied, or after that.

    Args:
        size: Size of model and data.
        work: Operations and memory of the algorithm.
        matrix: Matrix whose products are computed.
        itemsize: Bytes of one number.
        batch: Samples of a micro-batch; None: all of them.
        recording_bytes: Memory in bytes for recordings that are kept; None: all are kept.

    Returns:
        The peak in bytes.
    """
    part = size.part(min(batch or size.num_samples, size.num_samples))
    coefficients = memory_coefficients(matrix)
    parts = _Parts(size, part, work, coefficients=coefficients, itemsize=itemsize)
    held = parts.held if recording_bytes is None else min(parts.held, recording_bytes)
    others = max(0, held - parts.held_by_one)
    recording = others + parts.recording + parts.vectors(work.first_vectors)
    running = held + parts.running + parts.vectors(work.vectors)
    if recording_bytes is not None and held < parts.held:  # recorded again in every sweep
        recording = held + parts.recording + parts.vectors(work.vectors)
    if work.corrected:
        running = max(running, held + parts.direct + parts.vectors(work.vectors))
    last = held + parts.vectors(2) + work.last_bytes
    peak = max(recording + work.dense_bytes, running + work.dense_bytes, last)
    others_of_model = GRADIENT_COPIES * itemsize * size.num_other_parameters
    return int(peak + parts.vectors(1) + others_of_model) + OVERHEAD_BYTES


@dataclass(eq=False)
class _Parts:
    """Memory in bytes of the operator's parts, for a micro-batch of `part` out of `size`."""

    size: Size
    part: Size
    work: Work
    _: KW_ONLY
    coefficients: CoefficientTable
    itemsize: int

    @property
    def held_by_one(self) -> float:
        return self._bytes("held", self.part) if self.work.holds_recordings else 0

    @cached_property
    def held(self) -> float:
        return self._bytes("held", self.size) if self.work.holds_recordings else 0

    @cached_property
    def direct(self) -> float:
        """The bytes of one column through one micro-batch without a recording: as much as it takes to record it."""
        return self._bytes("held", self.part) + self._beside("recording")

    @property
    def recording(self) -> float:
        """The bytes while a micro-batch is recorded, beside what is held."""
        if self.work.layered:
            return 0.0
        recording = self.direct
        recording += self._further_columns * RECORDING_COLUMN_SHARE * recording
        return recording if not self.work.holds_recordings else recording + self._waiting

    @property
    def running(self) -> float:
        """The bytes while a recording runs, beside what is held."""
        if self.work.layered:
            return self._layered
        transient = self._beside("running")
        running = transient + self._further_columns * RUNNING_COLUMN_SHARE * transient
        if not self.work.holds_recordings:
            return running + self._bytes("held", self.part)
        return running + self._waiting

    @cached_property
    def _further_columns(self) -> int:
        """The number of columns that pass together with the first one."""
        return min(self.work.num_columns, columns_at_once(self.part, self.itemsize)) - 1

    @cached_property
    def _waiting(self) -> float:
        """The bytes of columns that do not pass together: themselves, their products, and these put together."""
        return max(0, self.work.num_columns - self._further_columns - 1) * 3 * self.vectors(1)

    def vectors(self, number: float) -> float:
        return number * self.itemsize * self.size.num_parameters

    @property
    def _layered(self) -> float:
        """Return the larger of the bytes of the gradient's activations and of each sample's terms with moved units."""
        part = self.part
        outputs = part.number("linear", "outputs", "logits")
        units = max(1, -(-outputs // part.num_samples))
        samples = min(part.num_samples, layered_samples(self.size.num_parameters, units, self.itemsize))
        width = min(units, layered_units(units, samples, self.itemsize))
        moved = (LAYERED_COPIES + LAYERED_UNIT_COPIES * width) * units * samples
        gradient = GRADIENT_COPIES * outputs
        return self.itemsize * max(gradient, samples * self.size.num_parameters + moved)

    def _beside(self, quantity: Quantity) -> float:
        """Return the bytes of all copies beside those that are held; only a piece of the logits exists at once."""
        at_once = self.part.at_once(OUTPUTS_BYTES // self.itemsize)
        return max(0, self._bytes(quantity, at_once) - self._bytes("held", at_once))

    def _bytes(self, quantity: Quantity, size: Size) -> float:
        copies: float = getattr(self.coefficients["parameters"], quantity) * size.num_parameters
        for sort, number in zip(SORTS, size.activations, strict=True):
            copies += getattr(self.coefficients[sort], quantity) * number
        return self.itemsize * copies


def micro_batches(
    size: Size,
    work: Work,
    matrix: Matrix,
    *,
    itemsize: int,
    memory_bytes: int | None,
    samples_at_once: int | None = None,
) -> MicroBatches:
    """Choose the largest micro-batches that fit into memory.

    All recordings are kept if that fits, otherwise as many as fit beside everything else. If nothing fits,
    micro-batches are as small as they can be.

    Args:
        size: Size of model and data.
        work: Operations and memory of the algorithm.
        matrix: Matrix whose products are computed.
        itemsize: Bytes of one number.
        memory_bytes: Memory in bytes; None: without a limit.
        samples_at_once: Samples of every micro-batch, for a model that is defined on no other number; None: any.

    Returns:
        The micro-batches with their peak memory.
    """
    peak_of = partial(peak_bytes, size, work, matrix, itemsize=itemsize)
    if size.mixes_samples:
        samples_at_once = size.num_samples
    sizes = _batch_sizes(size.num_samples) if samples_at_once is None else [samples_at_once]
    for batch in sizes:
        peak = peak_of(batch=batch)
        if memory_bytes is None or peak <= memory_bytes:
            return MicroBatches(batch, -(-size.num_samples // batch), None, peak)
    assert memory_bytes is not None
    for batch in sizes:
        spare = memory_bytes - peak_of(batch=batch, recording_bytes=0)
        if spare >= 0 and work.holds_recordings:
            # smaller micro-batches would leave more for recordings, but not all of them
            peak = peak_of(batch=batch, recording_bytes=spare)
            return MicroBatches(batch, -(-size.num_samples // batch), spare, peak)
    smallest = sizes[-1]
    least = peak_of(batch=smallest, recording_bytes=0)
    return MicroBatches(smallest, -(-size.num_samples // smallest), 0, least)


def _batch_sizes(num_samples: int) -> list[int]:
    """Return the samples of a micro-batch for 1, 2, 3, 4, 6, 8, 12 ... micro-batches, the largest first."""
    sizes, count = [num_samples], 1
    while sizes[-1] > 1:
        for splits in (2 * count, 3 * count):
            batch = -(-num_samples // splits)
            if batch < sizes[-1]:
                sizes.append(batch)
        count *= 2
    return sizes


def num_shards(*, num_probes: int, num_steps: int, product_operations: float, moved_numbers: float) -> int:
    """Choose the number of shards of a Lanczos job.

    Only the request and its plan decide how probes are split, never the number of workers: vectors that are multiplied
    together round differently from vectors that are multiplied alone, and a result must not depend on who computed it.

    Args:
        num_probes: Probes of the job.
        num_steps: Lanczos steps of each probe.
        product_operations: Parameter-input pairs in one matrix-vector product.
        moved_numbers: Numbers that orthogonalisation reads or writes in the whole job.

    Returns:
        The number; 1 if the job is not worth splitting.
    """
    operations = num_probes * num_steps * product_operations
    seconds = operations / _OPERATIONS_PER_SECOND + moved_numbers / _NUMBERS_PER_SECOND
    probes_at_once = max(1, -(-int(MIN_BLOCK_OPERATIONS) // max(1, int(product_operations))))
    return max(1, min(MAX_SHARDS, num_probes // probes_at_once, int(seconds / MIN_SHARD_SECONDS)))
