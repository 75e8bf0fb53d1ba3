"""A spectrum job: train where the request says so, then take a spectrum for each attention sink and each block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from typing import Any

from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.spectrum import ExactMethod, SpectrumRequest, TopKMethod, TraceMethod
from hessian_spectrum.api_schemas.spectrum_results import (
    AnySpectrumResult,
    SinkReport,
    SpectrumResult,
    SpectrumSetResult,
)
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.operators.execution import Execution
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.operators.submatrix import Submatrix
from hessian_spectrum.jobs.plans import block_variants, estimate, sink_variants
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.worker.builders import build_loss
from hessian_spectrum.worker.experiments.methods import Spectrum, result_of, vectors_of
from hessian_spectrum.worker.experiments.operators import build_operator
from hessian_spectrum.worker.experiments.outcome import JobOutput
from hessian_spectrum.worker.experiments.points import (
    UNUSED_PRODUCTS,
    Experiment,
    Point,
    PointRunner,
    SpectrumTask,
    execution_of,
)
from hessian_spectrum.worker.experiments.preparation import Preparation, finite_loss, prepare
from hessian_spectrum.worker.experiments.provenance import provenance
from hessian_spectrum.worker.experiments.sink_variant import with_sink
from hessian_spectrum.worker.generators import generator_of
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.inputs import NO_INPUTS, Inputs
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.sharding.shards import LocalSharding, Sharding

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
        request: What is asked.
        hardware: What the worker computes on.
        progress: Called after every step; what it raises ends the job.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints; None: nothing is saved.
        sharding: Who computes the shards of a job that is long enough; None: this worker.
        plan: How the spectra are taken within the worker's memory; None: it is made here.

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


@dataclass(frozen=True)
class SpectrumExperiment(Experiment):
    """All spectra of one request, at one place in parameter space: a point for each attention sink."""

    request: SpectrumRequest
    plan: ComputationPlan
    hardware: Hardware
    progress: Progress
    inputs: Inputs
    job: JobCheckpointer
    sharding: Sharding

    @cached_property
    def preparation(self) -> Preparation:
        """Model, data and parameters; the first access trains."""
        return prepare(
            self.request,
            micro_batch_size=self.plan.micro_batch_size,
            hardware=self.hardware,
            progress=self.progress,
            inputs=self.inputs,
            stage=self.job.stage("training"),
        )

    @cached_property
    def execution(self) -> Execution:
        """How products run."""
        num_runs = _num_runs(self.request, self.plan)
        return execution_of(self.hardware, self.job, num_runs=num_runs, peak_bytes=self.plan.peak_bytes)

    def points(self) -> Iterator["SinkPoint"]:
        """Yield a point for each attention sink, or one."""
        indices = count()
        for index, variant in enumerate(sink_variants(self.request)):
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
        index: Among the points of the experiment.
        tasks: One for each block, or one.
        execution: How products run.
        experiment: Of which this is a point.
        request: The experiment's, for one attention sink.
    """

    index: int
    tasks: Sequence[SpectrumTask]
    execution: Execution
    experiment: SpectrumExperiment
    request: SpectrumRequest
    _current: SpectrumTask | None = field(default=None, init=False)  # task under way

    def report(self, task: SpectrumTask, phase: str, done: int, total: int) -> None:
        """Pass on the progress of a spectrum as that of all spectra."""
        num_spectra = self.experiment.request.num_spectra
        self.experiment.progress(phase, task.index * total + done, num_spectra * total)

    def operator(self, task: SpectrumTask) -> RiskOperator:
        """Return one operator for all blocks, or one for each where the matrix is assembled."""
        self._current = task
        if self.request.blocks is None or isinstance(self.request.method, ExactMethod):
            # the columns of a dense matrix are recorded group by group: blocks have nothing to share
            return self._linearised(task.request)
        return self._whole

    def record(
        self, task: SpectrumTask, spectrum: Spectrum, whole: RiskOperator, operator: RiskOperator | Submatrix
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
        model, report = with_sink(self.request.model, preparation.model, preparation.parameters, batches)
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
        self.report(self._current, phase, done, total)


def _num_runs(request: SpectrumRequest, plan: ComputationPlan) -> int:
    """How often recordings will run, at least: compiling must pay."""
    match request.method:
        case TopKMethod() | TraceMethod(tolerance=float()):
            return plan.num_products // (UNUSED_PRODUCTS * plan.work.num_columns)
        case _:
            return plan.num_products // plan.work.num_columns
