"""What a job of any kind takes: asked by the service before it accepts, by a worker before it begins."""

from hessian_spectrum.api_schemas.job_requests import AnyJobRequest
from hessian_spectrum.api_schemas.problem import FieldError
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.estimate import JobEstimate, estimate, memory_error
from hessian_spectrum.jobs.hessian_vs_ggn_estimate import comparison_estimate, comparison_memory_error


def job_estimate(request: AnyJobRequest, available_bytes: int | None = None) -> JobEstimate:
    """What the job takes on a worker with so much memory; None: with as much as it likes."""
    if isinstance(request, SpectrumRequest):
        return estimate(request, available_bytes)
    return comparison_estimate(request, available_bytes)


def job_memory_error(request: AnyJobRequest, available_bytes: int) -> FieldError | None:
    """None if the job fits; else the field that makes it too large."""
    if isinstance(request, SpectrumRequest):
        return memory_error(request, available_bytes)
    return comparison_memory_error(request, available_bytes)
