"""The plan of a job: what it takes, and how it is computed within the memory of a worker."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from hessian_spectrum.planning.work import Work


@dataclass(frozen=True)
class ComputationPlan:
    """What one computation takes, and how it is split to fit into memory."""

    num_parameters: int
    num_products: int
    num_training_passes: float  # over all data, forward and back
    peak_bytes: int
    micro_batch_size: int
    recording_bytes: int | None  # that recorded products may take; None: all are recorded at once
    vector_bytes: int | None  # that Lanczos may use for its probes, top-k for its basis; None: no limit
    work: Work
    num_batches: int
    num_shards: int = 1  # into which the probes of a long Lanczos job are split; one worker computes each


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
        """
        return json.dumps({"planner_version": planner_version, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, planner_version: str) -> Self | None:
        """A stored plan; None if another version made it, which may plan the same job differently."""
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
