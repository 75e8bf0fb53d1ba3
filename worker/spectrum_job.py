"""A spectrum job: train if wished, linearise, take the spectrum, say where it comes from."""

import math
import time
from dataclasses import dataclass

from api_schemas.closed_form import Inertia
from api_schemas.spectrum import (
    Density,
    Estimate,
    ExactMethod,
    ExactResult,
    LanczosMethod,
    LanczosResult,
    Provenance,
    Quadrature,
    RitzValue,
    SpectrumRequest,
    TrainingReport,
)
from curvature.algorithms.exact import exact_spectrum
from curvature.algorithms.stochastic_lanczos import lanczos_spectrum
from curvature.errors import NonFiniteError
from curvature.operators.hessian import HessianOperator
from curvature.parameters import Parameters
from curvature.progress import Progress
from curvature.results import ExactSpectrum, LanczosSpectrum
from curvature.risk import EmpiricalRisk
from curvature.training import train
from worker.hardware import Hardware
from worker.provenance import provenance
from worker.translation import (
    PRECISIONS,
    build_dataset,
    build_loss,
    build_model,
    build_parameters,
    build_plan,
    generator_of,
)


@dataclass(frozen=True)
class _Point:
    """The risk, and the parameters at which its matrix is taken."""

    risk: EmpiricalRisk
    parameters: Parameters
    loss: float
    training: TrainingReport | None


def run_spectrum_job(request: SpectrumRequest, hardware: Hardware, progress: Progress) -> ExactResult | LanczosResult:
    """Compute what the request asks; the same request on the same device gives the same numbers.

    Raises:  CurvatureError, MemoryError, and whatever `progress` raises to stop.
    """
    started = time.perf_counter()
    point = _reach_point(request, hardware, progress)
    operator = HessianOperator(point.risk, point.parameters, progress=progress)
    match request.method:
        case ExactMethod():
            spectrum: ExactSpectrum | LanczosSpectrum = exact_spectrum(operator, progress=progress)
        case LanczosMethod() as m:
            generator = generator_of(request.seed)
            spectrum = lanczos_spectrum(operator, m.num_steps, m.num_probes, m.num_points, m.kappa, generator, progress)
    origin = provenance(
        hardware,
        request.product_precision,
        request.seed,
        point.parameters.values(),
        (tensor for batch in point.risk.batches for tensor in (batch.inputs, batch.targets)),
        spectrum.num_products,
        operator.fallback_reason,
        time.perf_counter() - started,
    )
    if isinstance(spectrum, ExactSpectrum):
        return _exact_result(request, point, spectrum, origin)
    return _lanczos_result(request, point, spectrum, operator.dim, origin)


def _reach_point(request: SpectrumRequest, hardware: Hardware, progress: Progress) -> _Point:
    dtype = PRECISIONS[request.product_precision]
    model, loss = build_model(request.model), build_loss(request)
    dataset = build_dataset(request).to(dtype, hardware.device)
    parameters = build_parameters(request.model, model, dtype, hardware.device)
    risk = EmpiricalRisk(model, loss, [dataset])
    initial_loss = float(risk.value(parameters))
    if not math.isfinite(initial_loss):
        raise NonFiniteError(f"the loss is {initial_loss} at the initial parameters")
    if request.train is None:
        return _Point(risk, parameters, initial_loss, None)
    plan = build_plan(request.train)
    trained = train(model, loss, dataset, parameters, plan, generator_of(request.train.seed), progress)
    report = TrainingReport(
        num_steps=trained.num_steps,
        initial_loss=initial_loss,
        final_loss=trained.loss,
        gradient_norm=trained.gradient_norm,
        momentum=plan.momentum,
        final_learning_rate=trained.learning_rate,
        learning_rate_cuts=trained.learning_rate_cuts,
        stopped=trained.stopped,
    )
    return _Point(risk, trained.parameters, trained.loss, report)


def _exact_result(request: SpectrumRequest, point: _Point, spectrum: ExactSpectrum, origin: Provenance) -> ExactResult:
    inertia = spectrum.inertia
    return ExactResult(
        num_parameters=len(spectrum.eigenvalues),
        matrix=request.matrix,
        loss=point.loss,
        training=point.training,
        trace=Estimate(value=float(spectrum.eigenvalues.sum()), standard_error=0.0),
        eigenvalues=spectrum.eigenvalues.tolist(),
        inertia=Inertia(negative=inertia.negative, zero=inertia.zero, positive=inertia.positive),
        zero_threshold=spectrum.zero_threshold,
        provenance=origin,
    )


def _lanczos_result(
    request: SpectrumRequest, point: _Point, spectrum: LanczosSpectrum, num_parameters: int, origin: Provenance
) -> LanczosResult:
    density, largest, smallest = spectrum.density, spectrum.largest, spectrum.smallest
    error = density.standard_error
    return LanczosResult(
        num_parameters=num_parameters,
        matrix=request.matrix,
        loss=point.loss,
        training=point.training,
        trace=Estimate(value=spectrum.trace.value, standard_error=spectrum.trace.standard_error),
        density=Density(
            grid=density.grid.tolist(),
            values=density.values.tolist(),
            standard_error=None if error is None else error.tolist(),
        ),
        quadrature=[Quadrature(nodes=q.nodes.tolist(), weights=q.weights.tolist()) for q in spectrum.quadrature],
        largest=RitzValue(value=largest.value, residual=largest.residual),
        smallest=RitzValue(value=smallest.value, residual=smallest.residual),
        provenance=origin,
    )
