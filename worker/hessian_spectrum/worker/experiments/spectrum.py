"""A spectrum job: train where the request says so, then take a spectrum for each attention sink and each block."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from typing import Any

from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.experiments import EXPERIMENTS, ExperimentRequest
from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, SpectrumResult, method_kind
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import MethodResult, SinkReport
from hessian_spectrum.curvature.algorithms.method import Spectrum
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.operators.execution import Execution
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.operators.submatrix import Submatrix
from hessian_spectrum.jobs.plans import block_variants, estimate, plan_job, sink_variants
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan
from hessian_spectrum.worker.builders import NO_INPUTS, Inputs, build_loss, generator_of
from hessian_spectrum.worker.experiments.points import (
    UNUSED_PRODUCTS,
    Experiment,
    Point,
    PointRunner,
    SpectrumTask,
    execution_of,
)
from hessian_spectrum.worker.experiments.preparation import Preparation, build_operator, finite_loss, prepare, with_sink
from hessian_spectrum.worker.experiments.results import JobOutput, provenance, result_of, vectors_of
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.sharding import LocalSharding, Sharding

_RESULT: TypeAdapter[AnySpectrumResult] = TypeAdapter(SpectrumResult)


def run_spectrum_job(
    request: SpectrumRequest,
    hardware: Hardware,
    progress: Progress,
    *,
    inputs: Inputs = NO_INPUTS,
    job: JobCheckpointer | None = None,
    sharding: Sharding | None = None,
    plan: ComputationPlan | None = None,
) -> JobOutput:
    """Compute what the request asks; the same request on the same device gives the same numbers, resumed or not.

    Args:
        request: The request of the job.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step; what it raises ends the job.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints; None: nothing is saved.
        sharding: Who computes the shards of a job that is long enough; None: this worker.
        plan: How the spectra are taken within the worker's memory; None: it is made here.

    Returns:
        The result, and the arrays that only the npz file holds.

    Raises:
        CurvatureError: If a spectrum cannot be computed.
        CheckpointError: If a checkpoint cannot be loaded.
        MemoryError: If memory does not suffice.
    """
    job = job or JobCheckpointer()
    sharding = sharding or LocalSharding(job)
    experiment = SpectrumExperiment(
        request=request,
        plan=plan or estimate(request, hardware.memory_bytes),
        hardware=hardware,
        progress=progress,
        inputs=inputs,
        job=job,
        sharding=sharding,
    )
    return PointRunner(job, sharding).run(experiment)


def run_experiment(
    request: ExperimentRequest,
    hardware: Hardware,
    progress: Progress,
    *,
    inputs: Inputs = NO_INPUTS,
    job: JobCheckpointer | None = None,
    plan: JobPlan | None = None,
) -> JobOutput:
    """Take the spectra of an experiment, one after the other, and make its result of them.

    Args:
        request: The request of the job.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step; what it raises ends the job.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints; None: nothing is saved.
        plan: How each spectrum is taken within the worker's memory; None: it is made here.

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
        plans: The way in which each of its spectra is computed.
        hardware: Device, threads and memory of the worker.
        progress: Called with the number of spectra that have been taken, after every step of one.
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
    def spectra(self) -> list["SpectrumExperiment"]:
        """The spectra, one worker taking all shards of each."""
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

    def points(self) -> Iterator["SinkPoint"]:
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


@dataclass(frozen=True)
class SpectrumExperiment(Experiment):
    """All spectra of one request, at one place in parameter space, with a point for each attention sink.

    Attributes:
        request: The request.
        plan: The way in which its spectra are computed.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints.
        sharding: Assignment of shards to workers.
        index: Position in an experiment of several requests, each for one spectrum; None: the job has no other request.
    """

    request: SpectrumRequest
    plan: ComputationPlan
    hardware: Hardware
    progress: Progress
    inputs: Inputs
    job: JobCheckpointer
    sharding: Sharding
    index: int | None = None

    @cached_property
    def preparation(self) -> Preparation:
        """Model, data and parameters; the first access trains."""
        return prepare(
            self.request,
            micro_batch_size=self.plan.micro_batch_size,
            hardware=self.hardware,
            progress=self.progress,
            inputs=self.inputs,
            stage=self.job.stage("training" if self.index is None else f"training {self.index}"),
        )

    @cached_property
    def execution(self) -> Execution:
        """The way in which products are executed."""
        num_runs = _num_runs(self.request, self.plan)
        return execution_of(self.hardware, self.job, num_runs=num_runs, peak_bytes=self.plan.peak_bytes)

    def points(self) -> Iterator["SinkPoint"]:
        """Yield a point for each attention sink, or one."""
        first = self.index or 0
        indices = count(first)
        for index, variant in enumerate(sink_variants(self.request), first):
            new_generator = partial(generator_of, variant.seed)
            tasks = [SpectrumTask(next(indices), each, self.plan, new_generator) for each in block_variants(variant)]
            yield SinkPoint(index, tasks, self.execution, self, variant)

    def output(self, summaries: list[Any]) -> JobOutput:
        """Return the one spectrum, or all of them as a set."""
        records = [record for summary in summaries for record in summary]
        outputs = [(_RESULT.validate_json(record["result"]), record["arrays"]) for record in records]
        request = self.request
        if len(outputs) == 1 and request.blocks is None and not request.varies_sink:
            ((result, arrays),) = outputs
            return JobOutput(result, arrays)
        every = {
            f"spectrum_{index}_{name}": array for index, (_, own) in enumerate(outputs) for name, array in own.items()
        }
        return JobOutput(SpectrumSetResult(spectra=[result for result, _ in outputs]), every)

    def seconds(self) -> float:
        """Return the time since the last spectrum ended, or the job began."""
        started: float = self.job.notes.get("last_spectrum", 0.0)
        self.job.notes["last_spectrum"] = self.job.seconds
        return self.job.seconds - started


@dataclass(frozen=True)
class _SinkRisk:
    """The risk of the model with one attention sink, or none."""

    risk: EmpiricalRisk
    loss: float
    sink: SinkReport | None


@dataclass
class SinkPoint(Point):
    """The spectra of all blocks for one attention sink, or for none.

    Args:
        index: Position among the points of the experiment.
        tasks: One for each block, or one.
        execution: The way in which products are executed.
        experiment: The experiment of which this is a point.
        request: The experiment's, for one attention sink.
    """

    index: int
    tasks: Sequence[SpectrumTask]
    execution: Execution
    experiment: SpectrumExperiment
    request: SpectrumRequest
    _current: SpectrumTask | None = field(default=None, init=False)  # task under way

    def report(self, phase: str, done: int, total: int, *, task: SpectrumTask) -> None:
        """Pass on the progress of a spectrum as that of all spectra."""
        num_spectra = self.experiment.request.num_spectra
        index = task.index - (self.experiment.index or 0)
        self.experiment.progress(phase, index * total + done, num_spectra * total)

    def operator(self, task: SpectrumTask) -> RiskOperator:
        """Return one operator for all blocks, or one for each where the matrix is assembled."""
        self._current = task
        if self.request.blocks is None or method_kind(self.request.method).assembles_matrix:
            # the columns of a dense matrix are recorded group by group: blocks have nothing to share
            return self._linearised(task.request)
        return self._whole

    def record(
        self, task: SpectrumTask, spectrum: Spectrum, *, whole: RiskOperator, operator: RiskOperator | Submatrix
    ) -> dict[str, Any]:
        """Return the result as JSON, and the arrays that go with it."""
        experiment, request, preparation = self.experiment, task.request, self.experiment.preparation
        origin = provenance(
            request,
            hardware=experiment.hardware,
            operator=whole,
            execution=self.execution,
            micro_batch_size=experiment.plan.micro_batch_size,
            parameters=preparation.parameters.values(),
            data=(preparation.data.inputs, preparation.data.targets),
            num_products=spectrum.num_products,
            wall_time_seconds=experiment.seconds(),
            num_shards=experiment.plan.num_shards,
            num_workers=len(experiment.sharding.workers),
        )
        if isinstance(operator, Submatrix):
            origin = origin.model_copy(update={"precision_deviation": operator.precision_deviation})
        result = result_of(
            request,
            spectrum,
            loss=self._sink_risk.loss,
            training=preparation.training,
            provenance=origin,
            sink=self._sink_risk.sink,
        )
        return {"result": result.model_dump_json(), "arrays": vectors_of(request, spectrum)}

    def summary(self, records: list[Any]) -> list[Any]:
        """Return all records."""
        return records

    @cached_property
    def _sink_risk(self) -> _SinkRisk:
        experiment, preparation = self.experiment, self.experiment.preparation
        batches = preparation.data.split(experiment.plan.micro_batch_size)
        model, report = with_sink(
            self.request.model, preparation.model, parameters=preparation.parameters, batches=batches
        )
        risk = EmpiricalRisk(model, build_loss(self.request), batches)
        return _SinkRisk(risk, finite_loss(risk, preparation.parameters), report)

    @cached_property
    def _whole(self) -> RiskOperator:
        return self._linearised(self.request)

    def _linearised(self, request: SpectrumRequest) -> RiskOperator:
        plan, risk = self.experiment.plan, self._sink_risk.risk
        return build_operator(
            request,
            risk,
            self.experiment.preparation.parameters,
            execution=self.execution,
            recording_bytes=plan.recording_bytes,
            progress=self._report_current,
            num_columns=plan.work.num_columns,
            fallback=self.experiment.inputs.fallback,
        )

    def _report_current(self, phase: str, done: int, total: int) -> None:
        assert self._current is not None
        self.report(phase, done, total, task=self._current)


def _num_runs(request: SpectrumRequest, plan: ComputationPlan) -> int:
    """Return the least number of times that recordings will run, by which compiling must pay off."""
    is_fixed = method_kind(request.method).has_fixed_products(request.method)
    return plan.num_products // (plan.work.num_columns * (1 if is_fixed else UNUSED_PRODUCTS))
