"""The points of an experiment, in groups of which each is computed by one worker."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, ClassVar

from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.api_schemas.experiments.kind import PointRequest
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, SpectrumResult
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.jobs.fingerprints import cache_key, result_version
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.quadrature.exceptions import CurvatureError
from hessian_spectrum.serialization.result_arrays import Arrays
from hessian_spectrum.storage.points import PointStore, StoredPoint
from hessian_spectrum.worker.builders import Inputs
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.failures import JobFailure, job_failure
from hessian_spectrum.worker.figures.measurement import Context, Measured, measure
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage
from hessian_spectrum.worker.sharding import CALIBRATED, LocalSharding, ShardedTask

MAX_GROUPS = 256
"""Largest number of groups into which the points of an experiment are divided; each is computed by one worker."""

_RESULT: TypeAdapter[AnySpectrumResult] = TypeAdapter(SpectrumResult)


@dataclass(frozen=True)
class PointOutcome:
    """What is saved of a computed point.

    Attributes:
        document: The result of a spectrum or the values of a measurement as JSON; a problem if there is none.
        arrays: The arrays that the document lacks.
        failed: Whether the document is a problem.
    """

    document: str
    arrays: Arrays
    failed: bool = False

    @property
    def result(self) -> AnySpectrumResult | Problem:
        """The result of a spectrum, or its problem."""
        return Problem.model_validate_json(self.document) if self.failed else _RESULT.validate_json(self.document)

    @property
    def measured(self) -> Measured:
        """The numbers of a measurement."""
        return Measured(json.loads(self.document), self.arrays)

    def saved(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return {"document": self.document, "arrays": self.arrays, "failed": self.failed}


@dataclass(frozen=True)
class PointList(ShardedTask):
    """The points of an experiment that are not known yet, in groups of which each is computed by one worker.

    Attributes:
        request: The experiment.
        plans: The plan of each of its points.
        groups: Indices of the points of each group.
        hardware: Device, threads and memory of the worker.
        inputs: Checkpoints and uploaded files.
        points: Where computed points are kept; None: nowhere.
    """

    phase: ClassVar[str] = "points"
    request: ExperimentRequest
    plans: Sequence[ComputationPlan]
    groups: Sequence[Sequence[int]]
    _: KW_ONLY
    hardware: Hardware
    inputs: Inputs
    store: PointStore | None

    @property
    def num_shards(self) -> int:
        """Number of groups."""
        return len(self.groups)

    @property
    def partition(self) -> Any:
        """The groups."""
        return [list(group) for group in self.groups]

    @property
    def total(self) -> int:
        """Number of points of all groups."""
        return sum(map(len, self.groups))

    def num_done(self, index: int, state: Any) -> int:
        """Return the number of points of a group that are in its state."""
        return len(state)

    def first_step(self) -> None:
        """Decide nothing: each group decides for itself."""

    def finished(self, index: int, progress: Progress, stage: Stage) -> list[dict[str, Any]]:
        """Compute the points of a group, one after the other."""
        group, outcomes = self.groups[index], []
        for number, point in enumerate(group):
            report = partial(self._report, progress, number, len(group))
            part = stage.part(f"point {point}")
            own = part.stage("outcome")
            if own.value is None:
                own.finish(self._outcome(point, report, part).saved())
            outcomes.append(own.value)
            progress(self.phase, number + 1, len(group))
        for point in group:
            stage.part(f"point {point}").forget_all()
        return outcomes

    def _report(self, progress: Progress, number: int, size: int, phase: str, done: int, total: int) -> None:
        """Report the points of a group that are done, whatever the present one reports of itself."""
        progress(self.phase, number, size)

    def _outcome(self, index: int, progress: Progress, job: JobCheckpointer) -> PointOutcome:
        """Compute a point and keep it by its content; a spectrum that cannot be computed is a problem."""
        computation, entry = self.request.computations[index], self.request.entry
        assert entry is not None
        job.notes[CALIBRATED] = True  # timings must not decide how a point is computed: another worker may repeat it
        try:
            outcome = self._computed(computation, self.plans[index], progress, job)
        except (CurvatureError, JobFailure) as error:
            if not entry.keeps_failures:
                raise
            return PointOutcome(job_failure(error).problem.model_dump_json(exclude_none=True), {}, failed=True)
        if self.store is not None:
            self.store.write(point_key(computation), StoredPoint(outcome.document, outcome.arrays))
        return outcome

    def _computed(
        self, computation: PointRequest, plan: ComputationPlan, progress: Progress, job: JobCheckpointer
    ) -> PointOutcome:
        if isinstance(computation, SpectrumRequest):
            output = run_spectrum_job(
                computation,
                self.hardware,
                progress,
                inputs=self.inputs,
                job=job,
                sharding=LocalSharding(job),
                plan=replace(plan, num_shards=1),
            )
            return PointOutcome(output.result.model_dump_json(), output.arrays)
        context = Context(
            hardware=self.hardware, progress=progress, stage=job.stage("measurement"), job=job, inputs=self.inputs
        )
        measured = measure(computation, context)
        values = {**measured.values, "wall_time_seconds": job.seconds}
        return PointOutcome(json.dumps(values, allow_nan=False), measured.arrays)


def point_key(computation: PointRequest) -> str:
    """Return the key under which a point is kept: a digest of what its numbers depend on, apart from the processor."""
    return hashlib.sha256(f"{cache_key(computation)} {result_version()}".encode()).hexdigest()


def groups_of(computations: Sequence[PointRequest], needed: Sequence[int]) -> list[list[int]]:
    """Divide points into groups of which each is computed by one worker.

    Args:
        computations: All points of the experiment.
        needed: Indices of the points that are not known yet.

    Returns:
        The indices of each group.
    """
    size = -(-len(needed) // MAX_GROUPS) or 1
    return [list(needed[start : start + size]) for start in range(0, len(needed), size)]
