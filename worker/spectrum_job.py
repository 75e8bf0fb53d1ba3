"""A spectrum job: train if wished, linearise, take the spectrum, say where it comes from."""

import math
import time
from dataclasses import dataclass

from api_schemas.spectrum import ExactMethod, LanczosMethod, SpectrumRequest, TopKMethod, TraceMethod
from api_schemas.spectrum_results import TrainingReport
from curvature.algorithms.exact import exact_spectrum
from curvature.algorithms.stochastic_lanczos import lanczos_spectrum
from curvature.algorithms.thick_restart import top_eigenpairs
from curvature.algorithms.trace import trace_estimate
from curvature.data.base import Dataset
from curvature.errors import NonFiniteError
from curvature.operators.base import SymmetricOperator
from curvature.operators.execution import Execution, Timings
from curvature.parameters import Parameters
from curvature.progress import Progress
from curvature.risk import EmpiricalRisk
from curvature.training import train
from jobs.estimate import JobEstimate, estimate
from worker.answer import Answer
from worker.hardware import Hardware
from worker.operators import build_operator
from worker.provenance import provenance
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
    """The risk, and the parameters at which its matrix is taken."""

    risk: EmpiricalRisk
    data: Dataset  # of all micro-batches
    parameters: Parameters
    loss: float
    training: TrainingReport | None


def run_spectrum_job(
    request: SpectrumRequest, hardware: Hardware, progress: Progress, sources: Sources = NO_SOURCES
) -> Answer:
    """Compute what the request asks; the same request on the same device gives the same numbers.

    Raises:  CurvatureError, CheckpointError, MemoryError, and whatever `progress` raises to stop.
    """
    started = time.perf_counter()
    plan = estimate(request, hardware.memory_bytes)
    point = _reach_point(request, plan.micro_batch_size, hardware, progress, sources)
    has_room = hardware.memory_bytes - plan.peak_bytes > COMPILER_BYTES
    execution = Execution(
        _num_runs(request, plan), "measured" if has_room else "interpreted", Timings(hardware.timings)
    )
    operator = build_operator(request, point.risk, point.parameters, execution, plan.recording_bytes, progress)
    spectrum = _spectrum(request, operator, plan, progress)
    if request.method.kind in ("top-k", "trace"):
        # they may end before the products that they were allowed
        progress("products", spectrum.num_products, spectrum.num_products)
    origin = provenance(
        request,
        hardware,
        operator,
        execution,
        plan.micro_batch_size,
        point.parameters.values(),
        (point.data.inputs, point.data.targets),
        spectrum.num_products,
        time.perf_counter() - started,
    )
    result = result_of(request, spectrum, point.loss, point.training, origin)
    return Answer(result, vectors_of(request, spectrum))


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
            return top_eigenpairs(operator, m.k, m.which, m.tolerance, generator, progress, m.max_products)
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
    risk = EmpiricalRisk(model, loss, dataset.split(micro_batch_size))
    initial_loss = float(risk.value(parameters))
    if not math.isfinite(initial_loss):
        raise NonFiniteError(f"the loss is {initial_loss} at the initial parameters")
    if request.train is None:
        return _Point(risk, dataset, parameters, initial_loss, None)
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
    return _Point(risk, dataset, trained.parameters, trained.loss, report)
