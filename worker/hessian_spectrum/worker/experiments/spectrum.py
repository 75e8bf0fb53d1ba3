"""A spectrum job: train where the request says so, then take a spectrum for each attention sink and each block."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from typing import Any

from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, LanczosResult, SpectrumResult
from hessian_spectrum.api_schemas.models import AttentionSink as SinkSpec
from hessian_spectrum.api_schemas.models import Gpt2 as Gpt2Spec
from hessian_spectrum.api_schemas.models import Model as ModelSpec
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import LossCurve as LossCurveReport
from hessian_spectrum.api_schemas.spectrum_results import SinkReport, SinkScore, TrainingReport
from hessian_spectrum.curvature.algorithms.method import Spectrum
from hessian_spectrum.curvature.attention_sinks import sink_scores, sink_with_mean_score
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import Progress, run
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.models.gpt2 import AttentionSink, Gpt2
from hessian_spectrum.curvature.models.program_sizes import check_sizes
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.operators.programs import Execution
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.operators.self_check import check_independence
from hessian_spectrum.curvature.training import LossCurve, Training, TrainingResult
from hessian_spectrum.jobs.plans import block_variants, estimate, sink_variants
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.quadrature.exceptions import NonFiniteError
from hessian_spectrum.quadrature.results import LanczosSpectrum
from hessian_spectrum.worker.builders import (
    NO_INPUTS,
    PRECISIONS,
    Inputs,
    build_dataset,
    build_loss,
    build_model,
    build_parameters,
    build_plan,
    build_preconditioner,
    classes_last,
    generator_of,
)
from hessian_spectrum.worker.experiments.points import (
    UNUSED_PRODUCTS,
    Experiment,
    Point,
    PointRunner,
    SpectrumTask,
    build_operator,
    execution_of,
    measured_deviation,
)
from hessian_spectrum.worker.experiments.product_check import checked_fallback
from hessian_spectrum.worker.experiments.results import JobOutput, provenance, result_of, vectors_of
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.interim import OfferInterim, ignore_interim
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage
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
    offer_interim: OfferInterim = ignore_interim,
) -> JobOutput:
    """Compute what the request asks; the same request on the same device gives the same numbers, resumed or not.

    Args:
        request: The request of the job.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step; what it raises ends the job.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints; None: nothing is saved.
        sharding: Who computes the shards of a job that is long enough; None: this worker.
        plan: How the spectra are computed within the worker's memory; None: it is made here.
        offer_interim: Takes interim results of the spectrum under way.

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
    return PointRunner(job, sharding, offer_interim).run(experiment)


@dataclass(frozen=True)
class Preparation:
    """The model, data and parameters whose spectrum is computed."""

    model: Model  # without an attention sink
    data: Dataset
    parameters: Parameters
    training: TrainingReport | None


def prepare(
    request: SpectrumRequest,
    *,
    micro_batch_size: int,
    hardware: Hardware,
    progress: Progress,
    inputs: Inputs,
    stage: Stage,
) -> Preparation:
    """Build model and data, and train the parameters if the request says so.

    Args:
        request: The request.
        micro_batch_size: Samples whose activations are held at once.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step of training.
        inputs: Checkpoints and uploaded files.
        stage: Saves the states of training.

    Returns:
        Model, data, parameters and the summary of the training.

    Raises:
        CurvatureError: If the loss is not finite, for one.
        CheckpointError: If a checkpoint cannot be loaded.
    """
    dtype = PRECISIONS[request.vector_precision]
    network = build_model(request.model, inputs)
    model, loss = classes_last(request, network), build_loss(request)
    weight_decay = request.weight_decay or 0.0
    dataset = build_dataset(request, inputs).to(dtype, hardware.device)
    batches = dataset.split(micro_batch_size)
    if isinstance(network, Exported):
        limit_bytes = hardware.memory_limit_bytes or hardware.memory_bytes
        check_sizes(network, batches[0].in_memory().inputs, dtype=dtype, limit_bytes=limit_bytes)
    parameters = build_parameters(request.model, model, dtype=dtype, device=hardware.device, sources=inputs)
    risk = EmpiricalRisk(model, loss, batches, weight_decay=weight_decay)
    initial_loss = finite_loss(risk, parameters)
    if isinstance(network, Exported):
        check_independence(risk, parameters)
    if request.train is None:
        return Preparation(model, dataset, parameters, None)
    if stage.value is None:
        plan = build_plan(request.train, micro_batch_size)
        training = Training(model, loss, dataset, plan=plan, weight_decay=weight_decay)
        generator = generator_of(request.train.seed)
        stage.finish(run(training, parameters, generator=generator, progress=progress, checkpointer=stage))
    trained: TrainingResult = stage.value
    report = TrainingReport(
        num_steps=trained.num_steps,
        initial_loss=initial_loss,
        final_loss=trained.loss,
        gradient_norm=trained.gradient_norm,
        optimizer="sgd" if request.train.optimizer is None else request.train.optimizer.kind,
        momentum=request.train.momentum,
        final_learning_rate=trained.learning_rate,
        learning_rate_cuts=trained.learning_rate_cuts,
        stopped=trained.stopped,
        loss_curve=loss_curve_report(trained.loss_curve),
    )
    return Preparation(model, dataset, trained.parameters, report)


def loss_curve_report(curve: LossCurve) -> LossCurveReport:
    """Return the message of a curve."""
    steps, losses = curve.points()
    return LossCurveReport(steps=steps, losses=losses)


def finite_loss(risk: EmpiricalRisk, parameters: Parameters) -> float:
    """Return the loss.

    Raises:
        NonFiniteError: If it is NaN or infinite.
    """
    loss = float(risk.value(parameters))
    if not math.isfinite(loss):
        raise NonFiniteError(f"the loss is {loss} at these parameters")
    return loss


def with_sink(
    spec: ModelSpec, model: Model, *, parameters: Parameters, batches: Sequence[Dataset]
) -> tuple[Model, SinkReport | None]:
    """Insert the attention sink of a request into its model, with a bias that is solved for where none is given.

    Args:
        spec: Model of the request, with one sink at most.
        model: The network without a sink.
        parameters: Where scores are measured.
        batches: Data on which scores are measured.

    Returns:
        The model with its sink, and the effect of the sink; without a sink the model itself and None.

    Raises:
        InvalidProblemError: If no bias reaches the mean score.
    """
    if not (isinstance(model, Gpt2) and isinstance(spec, Gpt2Spec) and spec.attention_sink is not None):
        return model, None
    sink = _solved(spec.attention_sink, model, parameters=parameters, batches=batches)
    before = sink_scores(model, parameters, batches, sink=replace(sink, bias=0.0))
    after = sink_scores(model, parameters, batches, sink=sink)
    by_block = zip(after.blocks, before.by_block, after.by_block, strict=True)
    report = SinkReport(
        bias=sink.bias,
        heads=list(sink.heads),
        mean_score_before=before.mean,
        mean_score_after=after.mean,
        blocks=[SinkScore(block=block, before=old, after=new) for block, old, new in by_block],
    )
    return replace(model, sink=sink), report


def _solved(spec: SinkSpec, model: Gpt2, *, parameters: Parameters, batches: Sequence[Dataset]) -> AttentionSink:
    blocks = None if spec.blocks is None else tuple(spec.blocks)
    if isinstance(spec.mean_score, float):
        return sink_with_mean_score(
            model, parameters, batches, sink=AttentionSink(0.0, tuple(spec.heads), blocks), mean_score=spec.mean_score
        )
    assert isinstance(spec.bias, float)
    return AttentionSink(spec.bias, tuple(spec.heads), blocks)


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
        return self.job.seconds - started

    def end_spectrum(self) -> None:
        """Note that a spectrum ends now."""
        self.job.notes["last_spectrum"] = self.job.seconds


@dataclass(frozen=True)
class _SinkRisk:
    """The risk of the model with one attention sink, or none."""

    risk: EmpiricalRisk
    loss: float
    sink: SinkReport | None
    fallback: Fallback | None  # how products are computed


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

    def report(self, phase: str, done: int, total: int, *, task: SpectrumTask) -> None:
        """Pass on the progress of a spectrum as that of all spectra."""
        num_spectra = self.experiment.request.num_spectra
        index = task.index - (self.experiment.index or 0)
        self.experiment.progress(phase, index * total + done, num_spectra * total)

    def operator(self, task: SpectrumTask) -> RiskOperator:
        """Return the matrix of a block: its products cost what its own tangents and cotangents do."""
        plan = self.experiment.plan
        return build_operator(
            task.request,
            self._sink_risk.risk,
            self.experiment.preparation.parameters,
            execution=self.execution,
            recording_bytes=plan.recording_bytes,
            progress=partial(self.report, task=task),
            num_columns=plan.work.num_columns,
            fallback=self._sink_risk.fallback,
            preconditioner=build_preconditioner(task.request, self.experiment.inputs),
        )

    def record(self, task: SpectrumTask, spectrum: Spectrum, operator: RiskOperator) -> dict[str, Any]:
        """Return the result as JSON, and the arrays that go with it."""
        result = self._result(task.request, spectrum, operator)
        self.experiment.end_spectrum()
        return {"result": result.model_dump_json(), "arrays": vectors_of(task.request, spectrum)}

    def interim(self, task: SpectrumTask, spectrum: Spectrum, operator: RiskOperator) -> AnySpectrumResult | None:
        """Return the result of a Lanczos spectrum under way, with the steps and points that its curves have."""
        assert isinstance(spectrum, LanczosSpectrum)
        result = self._result(task.request, spectrum, operator)
        assert isinstance(result, LanczosResult)
        num_points = len(spectrum.density.grid)
        changes = {
            "interim": True,
            "num_steps": max(len(each.nodes) for each in spectrum.quadrature),
            "smoothing": result.smoothing.model_copy(update={"num_points": num_points}),
        }
        return result.model_copy(update=changes)

    def _result(self, request: SpectrumRequest, spectrum: Spectrum, operator: RiskOperator) -> AnySpectrumResult:
        experiment, preparation = self.experiment, self.experiment.preparation
        # the first of all: this may be the first product, which says whether products are recorded
        deviation = measured_deviation(request, operator)
        origin = provenance(
            request,
            hardware=experiment.hardware,
            operator=operator,
            execution=self.execution,
            micro_batch_size=experiment.plan.micro_batch_size,
            parameters=preparation.parameters.values(),
            data=preparation.data.numbers,
            num_products=spectrum.num_products,
            wall_time_seconds=experiment.seconds(),
            precision_deviation=deviation,
            num_shards=experiment.plan.num_shards,
            num_workers=len(experiment.sharding.workers),
        )
        return result_of(
            request,
            spectrum,
            loss=self._sink_risk.loss,
            training=preparation.training,
            provenance=origin,
            sink=self._sink_risk.sink,
        )

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
        weight_decay = self.request.weight_decay or 0.0
        risk = EmpiricalRisk(model, build_loss(self.request), batches, weight_decay=weight_decay)
        loss = finite_loss(risk, preparation.parameters)
        fallback = checked_fallback(
            self.request,
            risk,
            preparation.parameters,
            plan=experiment.plan,
            hardware=experiment.hardware,
            fallback=experiment.inputs.fallback,
        )
        return _SinkRisk(risk, loss, report, fallback)


def _num_runs(request: SpectrumRequest, plan: ComputationPlan) -> int:
    """Return how often the recordings of one spectrum will run at least, by which compiling must pay off."""
    has_fixed_products = request.method.method_kind.has_fixed_products
    is_fixed = has_fixed_products is None or has_fixed_products(request.method)
    num_products = plan.num_products // request.num_spectra
    return num_products // (plan.work.num_columns * (1 if is_fixed else UNUSED_PRODUCTS))
