"""The points of an experiment, in groups of which each is computed by one worker."""

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, ClassVar

from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.api_schemas.experiments.kind import PointRequest
from hessian_spectrum.api_schemas.figures import Measurement
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, SpectrumResult
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.jobs.fingerprints import cache_key, result_version
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.quadrature.exceptions import CurvatureError
from hessian_spectrum.results.arrays import Arrays
from hessian_spectrum.storage.points import PointStore, StoredPoint
from hessian_spectrum.worker.builders import Inputs
from hessian_spectrum.worker.ensembles import measure as measure_ensemble
from hessian_spectrum.worker.ensembles import shape_key
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.failures import job_failure
from hessian_spectrum.worker.figures.measurement import Context, Measured, measure
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage
from hessian_spectrum.worker.sharding import CALIBRATED, LocalSharding, ShardedTask

MAX_GROUPS = 256
"""Largest number of groups into which points that are computed one after the other are divided."""

GROUPS_OF_A_SHAPE = 8
"""Number of groups into which networks of one shape are divided, so that several workers have something to do."""

MIN_GROUP_SIZE, MAX_GROUP_SIZE = 16, 128
"""Smallest and largest number of networks in such a group."""

_RESULT: TypeAdapter[AnySpectrumResult] = TypeAdapter(SpectrumResult)

_DURATION = "wall_time_seconds"
"""Name of the duration of a measurement beside its values in a document."""


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
        """The numbers of a measurement, without its duration, which no computation repeats."""
        values = json.loads(self.document)
        return Measured({name: value for name, value in values.items() if name != _DURATION}, self.arrays)

    @property
    def wall_time_seconds(self) -> float:
        """Time that a measurement took."""
        return float(json.loads(self.document)[_DURATION])

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
        """Compute the points of a group: networks of one shape together, others one after the other."""
        group = self.groups[index]
        if len(group) > 1 and _shape(self.request.computations[group[0]]) is not None:
            outcomes = self._together(group, partial(self._report, progress, 0, len(group)), stage.part("ensemble"))
        else:
            outcomes = [
                self._kept(point, partial(self._report, progress, number, len(group)), stage.part(f"point {point}"))
                for number, point in enumerate(group)
            ]
        progress(self.phase, len(group), len(group))
        for name in ("ensemble", *(f"point {point}" for point in group)):
            stage.part(name).forget_all()
        return outcomes

    def _report(self, progress: Progress, number: int, size: int, phase: str, done: int, total: int) -> None:
        """Report the points of a group that are done, whatever the present one reports of itself."""
        progress(self.phase, number, size)

    def _together(self, group: Sequence[int], progress: Progress, job: JobCheckpointer) -> list[dict[str, Any]]:
        """Compute spectra of networks of one shape, which are trained and measured as an ensemble."""
        requests = [each for index in group if isinstance(each := self.request.computations[index], SpectrumRequest)]
        job.notes[CALIBRATED] = True
        plan = self.plans[group[0]]
        found = measure_ensemble(requests, self.hardware, progress, plan=plan, inputs=self.inputs, job=job)
        return self._stored(dict(zip(group, found, strict=True)))

    def _kept(self, index: int, progress: Progress, job: JobCheckpointer) -> dict[str, Any]:
        """Compute one point, unless an earlier attempt has."""
        stage = job.stage("outcome")
        if stage.value is None:
            job.notes[CALIBRATED] = True  # timings must not decide how a point is computed: another may repeat it
            found: JobOutput | PointOutcome | Exception
            try:
                found = self._computed(self.request.computations[index], self.plans[index], progress, job)
            except CurvatureError as error:
                found = error
            stage.finish(self._stored({index: found})[0])
        outcome: dict[str, Any] = stage.value
        return outcome

    def _stored(self, found: Mapping[int, JobOutput | PointOutcome | Exception]) -> list[dict[str, Any]]:
        """Store points by their content, and return what checkpoints hold of them."""
        outcomes = {index: self._outcome(each) for index, each in found.items()}
        if self.store is not None:
            points = {
                point_key(self.request.computations[index]): StoredPoint(each.document, each.arrays)
                for index, each in outcomes.items()
                if not each.failed
            }
            self.store.write_all(points)
        return [outcome.saved() for outcome in outcomes.values()]

    def _outcome(self, found: JobOutput | PointOutcome | Exception) -> PointOutcome:
        """Return the outcome of a point; a spectrum that cannot be computed is a problem, or fails the experiment."""
        assert self.request.entry is not None
        if isinstance(found, Exception):
            if not self.request.entry.keeps_failures:
                raise found
            return PointOutcome(job_failure(found).problem.model_dump_json(exclude_none=True), {}, failed=True)
        return PointOutcome(found.result.model_dump_json(), found.arrays) if isinstance(found, JobOutput) else found

    def _computed(
        self, computation: PointRequest, plan: ComputationPlan, progress: Progress, job: JobCheckpointer
    ) -> JobOutput | PointOutcome:
        if isinstance(computation, SpectrumRequest):
            return run_spectrum_job(
                computation,
                self.hardware,
                progress,
                inputs=self.inputs,
                job=job,
                sharding=LocalSharding(job),
                plan=replace(plan, num_shards=1),
            )
        context = Context(
            hardware=self.hardware, progress=progress, stage=job.stage("measurement"), job=job, inputs=self.inputs
        )
        measured = measure(computation, context)
        values = {**measured.values, _DURATION: job.seconds}
        return PointOutcome(json.dumps(values, allow_nan=False), measured.arrays)


def point_key(computation: PointRequest) -> str:
    """Return the key under which a point is kept: a digest of what its numbers depend on, apart from the processor."""
    return hashlib.sha256(f"{cache_key(computation)} {result_version()}".encode()).hexdigest()


def groups_of(computations: Sequence[PointRequest], needed: Sequence[int]) -> list[list[int]]:
    """Divide points into groups of which each is computed by one worker: networks of one shape, or other points.

    Args:
        computations: All points of the experiment.
        needed: Indices of the points that are not known yet.

    Returns:
        The indices of each group. Measurements that are predicted to take longest come first, lest one worker be left
        with them while the others have nothing to do.
    """
    shapes: dict[Hashable, list[int]] = {}
    for index in needed:
        shapes.setdefault(_shape(computations[index]), []).append(index)
    others = shapes.pop(None, [])
    if len(others) <= MAX_GROUPS:
        others.sort(key=lambda index: _seconds(computations[index]), reverse=True)
    groups = []
    for indices in shapes.values():
        groups += _divided(indices, min(MAX_GROUP_SIZE, max(MIN_GROUP_SIZE, -(-len(indices) // GROUPS_OF_A_SHAPE))))
    return groups + _divided(others, -(-len(others) // MAX_GROUPS) or 1)


def _seconds(computation: PointRequest) -> float:
    return computation.cost.seconds if isinstance(computation, Measurement) else 0.0


def _shape(computation: PointRequest) -> Hashable | None:
    """Return a key that networks of one shape share; None for other points."""
    return shape_key(computation) if isinstance(computation, SpectrumRequest) else None


def _divided(indices: Sequence[int], size: int) -> list[list[int]]:
    """Divide indices into groups of so many, the last of which may be smaller."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]
