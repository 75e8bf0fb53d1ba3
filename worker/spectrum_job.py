"""A spectrum job: train if wished, linearise, take the spectrum, say where it comes from."""

import math
import time
from dataclasses import dataclass

from api_schemas.spectrum import ExactMethod, LanczosMethod, SpectrumRequest, TopKMethod, TraceMethod
from api_schemas.spectrum_results import SinkReport, SpectrumSetResult, TrainingReport
from curvature.algorithms.exact import exact_spectrum
from curvature.algorithms.stochastic_lanczos import lanczos_spectrum
from curvature.algorithms.thick_restart import top_eigenpairs
from curvature.algorithms.trace import trace_estimate
from curvature.data.base import Dataset
from curvature.errors import NonFiniteError
from curvature.models.base import Model
from curvature.operators.base import SymmetricOperator
from curvature.operators.execution import Execution, Timings
from curvature.operators.risk_operator import RiskOperator
from curvature.operators.submatrix import Submatrix
from curvature.parameters import Parameters
from curvature.progress import Progress
from curvature.risk import EmpiricalRisk
from curvature.training import train
from jobs.estimate import JobEstimate, estimate
from worker.answer import Answer, SpectrumAnswer
from worker.hardware import Hardware
from worker.operators import build_operator
from worker.provenance import provenance
from worker.sinks import with_sink
from worker.sources import NO_SOURCES, Sources
from worker.spectrum_results import Spectrum, result_of, vectors_of
from worker.translation import (
    PRECISIONS,
    build_dataset,
    build_loss,
    build_model,
    build_parameters,
    build_plan,
    generator_of,
)

UNUSED_PRODUCTS = 10  # as many are allowed for each that is mostly needed, where a tolerance decides
COMPILER_BYTES = 2**29  # that compiling takes, at most, and estimates leave out


@dataclass(frozen=True)
class _Point:
    """Where the matrix is taken."""

    model: Model  # without an attention sink
    data: Dataset
    parameters: Parameters
    training: TrainingReport | None


@dataclass(frozen=True)
class _Sunk:
    """The risk of the model with one attention sink, or none."""

    risk: EmpiricalRisk
    loss: float
    sink: SinkReport | None


def run_spectrum_job(
    request: SpectrumRequest, hardware: Hardware, progress: Progress, sources: Sources = NO_SOURCES
) -> Answer:
    """Compute what the request asks; the same request on the same device gives the same numbers.

    Raises:  CurvatureError, CheckpointError, MemoryError, and whatever `progress` raises to stop.
    """
    job = _SpectrumJob(request, hardware, progress, sources)
    answers = job.answers()
    if len(answers) == 1 and request.blocks is None and not request.varies_sink:
        return answers[0]
    spectra = [answer.result for answer in answers]
    vectors = {
        f"spectrum_{index}_{name}": array
        for index, answer in enumerate(answers)
        for name, array in answer.vectors.items()
    }
    return Answer(SpectrumSetResult(spectra=spectra), vectors)


class _SpectrumJob:
    """All spectra of one request, at one point."""

    def __init__(self, request: SpectrumRequest, hardware: Hardware, progress: Progress, sources: Sources) -> None:
        self._started = time.perf_counter()
        self._request, self._hardware, self._progress = request, hardware, progress
        self._num_spectra, self._num_done = len(request.parts), 0
        self._plan = estimate(request, hardware.memory_bytes)
        self._point = _reach_point(request, self._plan.micro_batch_size, hardware, progress, sources)
        has_room = hardware.memory_bytes - self._plan.peak_bytes > COMPILER_BYTES
        self._execution = Execution(
            _num_runs(request, self._plan), "measured" if has_room else "interpreted", Timings(hardware.timings)
        )

    def answers(self) -> list[SpectrumAnswer]:
        """One for each part of the request, in its order."""
        return [answer for sunk in self._request.sunk for answer in self._answers_with_sink(sunk)]

    def _answers_with_sink(self, request: SpectrumRequest) -> list[SpectrumAnswer]:
        sunk = self._sunk(request)
        if request.blocks is None or isinstance(request.method, ExactMethod):
            # the columns of a dense matrix are recorded group by group: blocks have nothing to share
            return [self._answer(part, self._operator(part, sunk), sunk) for part in request.by_block]
        whole = self._operator(request, sunk)
        return [self._answer(part, whole, sunk) for part in request.by_block]

    def _sunk(self, request: SpectrumRequest) -> _Sunk:
        point, batches = self._point, self._point.data.split(self._plan.micro_batch_size)
        model, report = with_sink(request.model, point.model, point.parameters, batches)
        risk = EmpiricalRisk(model, build_loss(request), batches)
        return _Sunk(risk, _finite_loss(risk, point.parameters), report)

    def _operator(self, request: SpectrumRequest, sunk: _Sunk) -> RiskOperator:
        options = (self._execution, self._plan.recording_bytes, self._tell)
        return build_operator(request, sunk.risk, self._point.parameters, *options)

    def _answer(self, part: SpectrumRequest, whole: RiskOperator, sunk: _Sunk) -> SpectrumAnswer:
        operator = whole if part.dim == whole.dim else Submatrix(whole, part.block)
        spectrum = _spectrum(part, operator, self._plan, self._tell)
        if part.method.kind in ("top-k", "trace"):
            # they may end before the products that they were allowed
            self._tell("products", spectrum.num_products, spectrum.num_products)
        self._num_done += 1
        origin = provenance(
            part,
            self._hardware,
            whole,
            self._execution,
            self._plan.micro_batch_size,
            self._point.parameters.values(),
            (self._point.data.inputs, self._point.data.targets),
            spectrum.num_products,
            self._seconds(),
        )
        result = result_of(part, spectrum, sunk.loss, self._point.training, origin, sunk.sink)
        return SpectrumAnswer(result, vectors_of(part, spectrum))

    def _seconds(self) -> float:
        """Since the last spectrum ended, or the job began."""
        started, self._started = self._started, time.perf_counter()
        return self._started - started

    def _tell(self, phase: str, done: int, total: int) -> None:
        """Progress of the spectrum that is computed, as that of all of them."""
        self._progress(phase, self._num_done * total + done, self._num_spectra * total)


def _num_runs(request: SpectrumRequest, plan: JobEstimate) -> int:
    """How often recordings will run, at least: compiling must pay."""
    match request.method:
        case TopKMethod() | TraceMethod(tolerance=float()):
            return plan.num_products // (UNUSED_PRODUCTS * plan.work.num_columns)
        case _:
            return plan.num_products // plan.work.num_columns


def _spectrum(request: SpectrumRequest, operator: SymmetricOperator, plan: JobEstimate, progress: Progress) -> Spectrum:
    generator = generator_of(request.seed)
    match request.method:
        case ExactMethod() as m:
            return exact_spectrum(operator, m.eigenvectors, progress)
        case LanczosMethod() as m:
            counts = (m.num_steps, m.num_probes, m.num_points)
            options = (m.margin, m.reorthogonalisation, plan.vector_bytes)
            return lanczos_spectrum(operator, *counts, m.kappa, generator, progress, *options)
        case TopKMethod() as m:
            limits = (m.max_products, plan.vector_bytes)
            return top_eigenpairs(operator, m.k, m.which, m.tolerance, generator, progress, *limits)
        case TraceMethod() as m:
            ends = (m.fixed_products, m.tolerance, m.most_products)
            return trace_estimate(operator, m.estimator, generator, progress, *ends, m.diagonal)


def _reach_point(
    request: SpectrumRequest, micro_batch_size: int, hardware: Hardware, progress: Progress, sources: Sources
) -> _Point:
    dtype = PRECISIONS[request.vector_precision]
    model, loss = build_model(request.model, sources), build_loss(request)
    dataset = build_dataset(request, sources).to(dtype, hardware.device)
    parameters = build_parameters(request.model, model, dtype, hardware.device, sources)
    initial_loss = _finite_loss(EmpiricalRisk(model, loss, dataset.split(micro_batch_size)), parameters)
    if request.train is None:
        return _Point(model, dataset, parameters, None)
    plan = build_plan(request.train, micro_batch_size)
    trained = train(model, loss, dataset, parameters, plan, generator_of(request.train.seed), progress)
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
    )
    return _Point(model, dataset, trained.parameters, report)


def _finite_loss(risk: EmpiricalRisk, parameters: Parameters) -> float:
    loss = float(risk.value(parameters))
    if not math.isfinite(loss):
        raise NonFiniteError(f"the loss is {loss} at these parameters")
    return loss
