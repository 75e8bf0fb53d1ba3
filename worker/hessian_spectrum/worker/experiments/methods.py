"""Methods of the engine as requests name them, and their results as messages."""

from dataclasses import asdict
from typing import Any

from hessian_spectrum.api_schemas.closed_form import Inertia, Parameter
from hessian_spectrum.api_schemas.spectrum import ExactMethod, LanczosMethod, SpectrumRequest, TopKMethod, TraceMethod
from hessian_spectrum.api_schemas.spectrum_results import (
    AnySpectrumResult,
    Eigenpair,
    Estimate,
    ExactResult,
    LanczosResult,
    Provenance,
    RitzValue,
    SinkReport,
    Smoothing,
    TopKResult,
    TraceEstimate,
    TraceResult,
    TrainingReport,
)
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.algorithms.trace import TraceEstimator
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.quadrature import results as found
from hessian_spectrum.quadrature.curves import Smoothing as CurveSmoothing
from hessian_spectrum.serialization.curves import curve_messages, quadrature_message
from hessian_spectrum.serialization.result_arrays import Arrays

Spectrum = found.ExactSpectrum | found.LanczosSpectrum | found.TopEigenpairs | found.StochasticTrace


def method_of(request: SpectrumRequest, plan: ComputationPlan) -> Method[Any, Any]:
    """Return the method that a request names, within the memory of its plan."""
    match request.method:
        case ExactMethod(eigenvectors=eigenvectors):
            return DenseEigensolver(eigenvectors)
        case LanczosMethod() as m:
            return StochasticLanczosQuadrature(
                m.num_steps,
                m.num_probes,
                CurveSmoothing(m.num_points, m.kappa, m.margin),
                reorthogonalisation=m.reorthogonalisation,
                memory_bytes=plan.vector_bytes,
            )
        case TopKMethod() as m:
            return ThickRestartLanczos(
                m.k,
                m.which,
                m.tolerance,
                absolute_tolerance=m.absolute_tolerance or 0.0,
                max_products=m.max_products,
                memory_bytes=plan.vector_bytes,
            )
        case TraceMethod() as m:
            return TraceEstimator(
                m.estimator,
                num_probes=m.fixed_products,
                tolerance=m.tolerance,
                max_products=m.most_products,
                diagonal=m.diagonal,
            )


def result_of(
    request: SpectrumRequest,
    spectrum: Spectrum,
    *,
    loss: float,
    training: TrainingReport | None,
    provenance: Provenance,
    sink: SinkReport | None = None,
) -> AnySpectrumResult:
    """The answer, without the arrays that only npz holds.

    Raises:
        ValidationError: If a number is NaN or infinite.
    """
    common = {
        "num_parameters": request.dim,
        "parameters": [Parameter(name=n, shape=list(s)) for n, s in request.matrix_parameters.items()],
        "matrix": request.matrix,
        "block": request.block,
        "loss": loss,
        "attention_sink": sink,
        "training": training,
        "provenance": provenance,
    }
    match spectrum, request.method:
        case found.LanczosSpectrum(), LanczosMethod() as method:
            return _lanczos_result(spectrum, method, common)
        case found.TopEigenpairs(), TopKMethod() as method:
            return _top_k_result(spectrum, method, common)
        case found.StochasticTrace(), TraceMethod() as method:
            return _trace_result(spectrum, method, common)
        case found.ExactSpectrum(), _:
            return _exact_result(spectrum, common)
        case _:
            raise TypeError(f"{type(spectrum).__name__} is no answer to {request.method.kind}")


def vectors_of(request: SpectrumRequest, spectrum: Spectrum) -> Arrays:
    """Arrays as long as the parameter vector, which only npz holds, where the request asks for them.

    exact: eigenvectors (P, P) and residuals (P,); top-k: eigenvectors (k, P); both in rows, in the order of the
    eigenvalues. trace: diagonal, diagonal_standard_error, diagonal_lower and diagonal_upper (P,).
    """
    match spectrum, request.method:
        case found.TopEigenpairs(eigenvectors=vectors), TopKMethod(eigenvectors=True):
            return {"eigenvectors": vectors}
        case found.ExactSpectrum(eigenvectors=vectors, residuals=residuals), _ if vectors is not None:
            assert residuals is not None
            return {"eigenvectors": vectors, "residuals": residuals}
        case found.StochasticTrace(diagonal=diagonal), _ if diagonal is not None:
            return _diagonal_arrays(diagonal)
        case _:
            return {}


def _exact_result(spectrum: found.ExactSpectrum, common: dict[str, Any]) -> ExactResult:
    inertia = spectrum.inertia
    return ExactResult(
        **common,
        trace=_estimate(spectrum.trace),
        eigenvalues=spectrum.eigenvalues.tolist(),
        inertia=Inertia(negative=inertia.negative, zero=inertia.zero, positive=inertia.positive),
        zero_threshold=spectrum.zero_threshold,
    )


def _lanczos_result(spectrum: found.LanczosSpectrum, method: LanczosMethod, common: dict[str, Any]) -> LanczosResult:
    return LanczosResult(
        **common,
        **curve_messages(spectrum),
        quadrature=[quadrature_message(each) for each in spectrum.quadrature],
        largest=_ritz_value(spectrum.largest),
        smallest=_ritz_value(spectrum.smallest),
        trace=_estimate(spectrum.trace),
        frobenius=_estimate(spectrum.frobenius),
        reorthogonalisation=spectrum.reorthogonalisation,
        num_steps=min(method.num_steps, common["num_parameters"]),
        smoothing=Smoothing(num_points=method.num_points, kappa=method.kappa, margin=method.margin),
    )


def _top_k_result(spectrum: found.TopEigenpairs, method: TopKMethod, common: dict[str, Any]) -> TopKResult:
    columns = (
        spectrum.eigenvalues.tolist(),
        spectrum.residuals.tolist(),
        spectrum.converged.tolist(),
        map(asdict, spectrum.intervals),
    )
    return TopKResult(
        **common,
        which=method.which,
        tolerance=method.tolerance,
        absolute_tolerance=method.absolute_tolerance,
        eigenpairs=[
            Eigenpair(value=v, residual=r, converged=c, **interval) for v, r, c, interval in zip(*columns, strict=True)
        ],
    )


def _trace_result(spectrum: found.StochasticTrace, method: TraceMethod, common: dict[str, Any]) -> TraceResult:
    return TraceResult(
        **common,
        estimator=method.estimator,
        trace=TraceEstimate(
            **_estimate(spectrum.trace).model_dump(),
            num_products=spectrum.num_products,
            converged=spectrum.converged,
        ),
        frobenius=_estimate(spectrum.frobenius),
    )


def _diagonal_arrays(diagonal: found.DiagonalEstimate) -> Arrays:
    return {
        "diagonal": diagonal.values,
        "diagonal_standard_error": diagonal.standard_error,
        "diagonal_lower": diagonal.lower,
        "diagonal_upper": diagonal.upper,
    }


def _ritz_value(ritz: found.RitzValue) -> RitzValue:
    return RitzValue(value=ritz.value, residual=ritz.residual, **asdict(ritz.interval))


def _estimate(estimate: found.Estimate) -> Estimate:
    fields = asdict(estimate.interval)
    return Estimate(value=estimate.value, standard_error=estimate.standard_error, **fields)
