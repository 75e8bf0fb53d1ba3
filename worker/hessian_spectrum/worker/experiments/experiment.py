"""Experiments: the points that are not known yet are computed, by as many workers as there are, and then combined."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.jobs.plans import plan_job
from hessian_spectrum.planning.job_plan import JobPlan
from hessian_spectrum.storage.points import PointStore
from hessian_spectrum.worker.builders import NO_INPUTS, Inputs
from hessian_spectrum.worker.experiments.outputs import experiment_output
from hessian_spectrum.worker.experiments.point_list import PointList, PointOutcome, groups_of, point_key
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.sharding import LocalSharding, Sharding


@dataclass(frozen=True)
class _Run:
    """The computation of an experiment by one worker, alone or with others."""

    request: ExperimentRequest
    plan: JobPlan
    _: KW_ONLY
    hardware: Hardware
    progress: Progress
    inputs: Inputs
    job: JobCheckpointer
    store: PointStore | None

    @cached_property
    def keys(self) -> list[str]:
        """The key of each point in the store."""
        return [point_key(each) for each in self.request.computations]

    @cached_property
    def known(self) -> list[int]:
        """Indices of the points that were kept when the job began; what is computed together depends on them."""
        if "known" not in self.job.notes:
            held = set() if self.store is None else self.store.held(self.keys)
            self.job.notes["known"] = [index for index, key in enumerate(self.keys) if key in held]
            self.job.save()
        known: list[int] = self.job.notes["known"]
        return known

    def outcomes(self, sharding: Sharding) -> list[PointOutcome]:
        """Return all points in their order."""
        count, known = len(self.keys), set(self.known)
        needed = [index for index in range(count) if index not in known]
        done = self._computed(needed, sharding, before=len(known)) if needed else {}
        for index, kept in zip(self.known, self._kept(), strict=True):
            # One that is gone by now is a list of its own: names of stages must not depend on what else is gone.
            done |= {index: kept} if kept else self._computed([index], LocalSharding(self.job), before=count - 1)
        return [done[index] for index in range(count)]

    def _computed(self, indices: Sequence[int], sharding: Sharding, *, before: int) -> dict[int, PointOutcome]:
        task = PointList(
            self.request,
            self.plan.points,
            groups_of(self.request.computations, indices),
            hardware=self.hardware,
            inputs=self.inputs,
            store=self.store,
        )

        def report(phase: str, done: int, total: int) -> None:
            self.progress(phase, before + done, len(self.keys))

        stage = self.job.stage(f"points from {indices[0]}")
        states = sharding.states(task, None, progress=report, stage=stage)
        order = [index for group in task.groups for index in group]
        return dict(zip(order, (PointOutcome(**saved) for state in states for saved in state), strict=True))

    def _kept(self) -> list[PointOutcome | None]:
        """Return the points that were kept, in order; None for those that are gone by now."""
        found = [] if self.store is None else self.store.read_all([self.keys[index] for index in self.known])
        return [None if point is None else PointOutcome(point.document, point.arrays) for point in found]


def run_experiment(
    request: ExperimentRequest,
    hardware: Hardware,
    progress: Progress,
    *,
    inputs: Inputs = NO_INPUTS,
    job: JobCheckpointer | None = None,
    sharding: Sharding | None = None,
    plan: JobPlan | None = None,
    store: PointStore | None = None,
) -> JobOutput:
    """Compute the points of an experiment that are not known yet, and combine all of them into its result.

    Args:
        request: The request of the job.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step with the number of points that are done; what it raises ends the job.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints; None: nothing is saved.
        sharding: Who computes the groups of points; None: this worker.
        plan: How each point is computed within the worker's memory; None: it is made here.
        store: Where points are kept for later experiments; None: nowhere.

    Returns:
        The result, and the arrays of all points.

    Raises:
        CurvatureError: If a point cannot be computed, unless the experiment keeps failures.
        CheckpointError: If a checkpoint cannot be loaded.
        MemoryError: If memory does not suffice.
    """
    job, plan = job or JobCheckpointer(), plan or plan_job(request, hardware.memory_bytes)
    run = _Run(request, plan, hardware=hardware, progress=progress, inputs=inputs, job=job, store=store)
    return experiment_output(request, run.outcomes(sharding or LocalSharding(job)))
