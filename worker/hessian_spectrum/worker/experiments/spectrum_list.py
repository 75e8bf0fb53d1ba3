"""Experiments that are lists of spectra, computed one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, partial
from typing import Any

from hessian_spectrum.api_schemas.experiments import EXPERIMENTS, ExperimentRequest
from hessian_spectrum.api_schemas.spectrum_results import MethodResult
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.jobs.plans import plan_job
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan
from hessian_spectrum.worker.builders import NO_INPUTS, Inputs
from hessian_spectrum.worker.experiments.points import Experiment, PointRunner
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.experiments.spectrum import SinkPoint, SpectrumExperiment
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.sharding import LocalSharding


def run_experiment(
    request: ExperimentRequest,
    hardware: Hardware,
    progress: Progress,
    *,
    inputs: Inputs = NO_INPUTS,
    job: JobCheckpointer | None = None,
    plan: JobPlan | None = None,
) -> JobOutput:
    """Compute the spectra of an experiment, one after the other, and combine them into its result.

    Args:
        request: The request of the job.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step; what it raises ends the job.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints; None: nothing is saved.
        plan: How each spectrum is computed within the worker's memory; None: it is made here.

    Returns:
        The result, and the arrays of all spectra.

    Raises:
        CurvatureError: If a spectrum cannot be computed.
        CheckpointError: If a checkpoint cannot be loaded.
        MemoryError: If memory does not suffice.
    """
    job, plan = job or JobCheckpointer(), plan or plan_job(request, hardware.memory_bytes)
    experiment = SpectrumList(request, plan.points, hardware, progress, inputs=inputs, job=job)
    return PointRunner(job, LocalSharding(job)).run(experiment)


@dataclass(frozen=True)
class SpectrumList(Experiment):
    """The spectra of an experiment, each a point.

    Attributes:
        request: The experiment.
        plans: The plan of each spectrum.
        hardware: Device, threads and memory of the worker.
        progress: Called with the number of finished spectra, after every step of the next one.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints.
    """

    request: ExperimentRequest
    plans: Sequence[ComputationPlan]
    hardware: Hardware
    progress: Progress
    _: KW_ONLY
    inputs: Inputs
    job: JobCheckpointer

    @cached_property
    def spectra(self) -> list[SpectrumExperiment]:
        """The spectra; one worker computes all shards of each."""
        return [
            SpectrumExperiment(
                request=request,
                plan=replace(plan, num_shards=1),
                hardware=self.hardware,
                progress=partial(self._report, index),
                inputs=self.inputs,
                job=self.job,
                sharding=LocalSharding(self.job),
                index=index,
            )
            for index, (request, plan) in enumerate(zip(self.request.points, self.plans, strict=True))
        ]

    def points(self) -> Iterator[SinkPoint]:
        """Yield the point of each spectrum."""
        for each in self.spectra:
            yield from each.points()

    def output(self, summaries: list[Any]) -> JobOutput:
        """Return the experiment's result, and the arrays of its spectra with `point_<index>_` before their names."""
        outputs = [each.output([summary]) for each, summary in zip(self.spectra, summaries, strict=True)]
        results = [output.result for output in outputs if isinstance(output.result, MethodResult)]
        arrays = {
            f"point_{index}_{name}": array
            for index, output in enumerate(outputs)
            for name, array in output.arrays.items()
        }
        return JobOutput(EXPERIMENTS[self.request.kind].result_of(self.request, results), arrays)

    def _report(self, index: int, _phase: str, _done: int, _total: int) -> None:
        self.progress("measurements", index, len(self.plans))
