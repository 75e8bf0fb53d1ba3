"""Plans of jobs of every kind: made by the service at admission, and by a worker only where its memory differs."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from hessian_spectrum.api_schemas.hessian_vs_ggn import MATRICES, ComparedMatrix, HessianVsGgnRequest
from hessian_spectrum.api_schemas.jobs import AnyJobRequest
from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.models.kind import parameter_shapes
from hessian_spectrum.api_schemas.problem import FieldError
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.estimate import ITEM_BYTES, culprit, estimate, gibibytes
from hessian_spectrum.jobs.spectrum_variants import eigenvalue_request
from hessian_spectrum.jobs.versions import protocol_version
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan

_MOMENTS = 2  # vectors that AdamW keeps beside the parameters; its gradient is dropped before a measurement
_TOKEN_BYTES = 8


def plan_job(request: AnyJobRequest, memory_bytes: int | None = None) -> JobPlan:
    """Plan a job for a worker.

    Args:
        request: The request, in its canonical form where the plan is stored, since workers compute that.
        memory_bytes: Memory of one job at the worker; None: without a limit.
    """
    if isinstance(request, SpectrumRequest):
        return JobPlan(memory_bytes, estimate(request, memory_bytes))
    points = tuple(_point_plan(request, model, matrix, memory_bytes) for model, matrix in _points(request))
    return JobPlan(memory_bytes, _comparison_plan(request, points), points)


def stored_plan(plan: JobPlan) -> str:
    """A plan as it is stored with its job."""
    return plan.to_json(protocol_version())


def plan_for_worker(request: AnyJobRequest, memory_bytes: int, stored: str | None) -> JobPlan:
    """The stored plan of a job, or another where it was made for other memory or by another version.

    Args:
        request: The request in its canonical form.
        memory_bytes: Memory of one job at this worker.
        stored: The plan that is stored with the job; None: none, as in jobs of earlier versions.
    """
    plan = None if stored is None else JobPlan.from_json(stored, protocol_version())
    return plan if plan is not None and plan.memory_bytes == memory_bytes else plan_job(request, memory_bytes)


def memory_error(request: AnyJobRequest, plan: JobPlan) -> FieldError | None:
    """None if the job fits into memory, with single samples as micro-batches if need be; else the field at fault."""
    if plan.memory_bytes is None or plan.fits:
        return None
    if isinstance(request, SpectrumRequest):
        message = (
            f"{plan.whole.num_parameters:,} parameters with these data and method {request.method.kind} take about "
            f"{gibibytes(plan.whole.peak_bytes)}, a worker has {gibibytes(plan.memory_bytes)}"
        )
        return FieldError(loc=["body", culprit(request, plan.memory_bytes)], msg=message)
    return _comparison_error(request, plan.points, plan.memory_bytes)


def _points(request: HessianVsGgnRequest) -> Iterator[tuple[Gpt2, ComparedMatrix]]:
    for model in request.models:
        for matrix in MATRICES:
            yield model, matrix


def _point_plan(
    request: HessianVsGgnRequest, model: Gpt2, matrix: ComparedMatrix, memory_bytes: int | None
) -> ComputationPlan:
    """Of one eigenvalue of one model, in the memory that training leaves."""
    beside = _training_bytes(request, model)
    spare = None if memory_bytes is None else memory_bytes - beside
    alone = estimate(eigenvalue_request(request, model, matrix), spare)
    return replace(alone, peak_bytes=alone.peak_bytes + beside)


def _comparison_plan(request: HessianVsGgnRequest, points: tuple[ComputationPlan, ...]) -> ComputationPlan:
    """Of all points, one after the other; training passes are over as many sequences as a point has."""
    num_points = request.num_measurements // len(request.models)
    training = request.pretrain
    num_sequences = 0 if training is None else request.num_runs * training.num_steps * training.batch_size
    return replace(
        max(points, key=lambda point: point.peak_bytes),
        num_products=num_points * sum(point.num_products for point in points),
        num_training_passes=num_sequences / request.data.num_sequences,
    )


def _comparison_error(
    request: HessianVsGgnRequest, points: tuple[ComputationPlan, ...], memory_bytes: int
) -> FieldError | None:
    """The field that makes the first point that does not fit too large."""
    for number, ((model, matrix), point) in enumerate(zip(_points(request), points, strict=True)):
        if point.peak_bytes > memory_bytes:
            spare = memory_bytes - _training_bytes(request, model)
            is_data = culprit(eigenvalue_request(request, model, matrix), spare) == "data"
            place = ["data"] if is_data else ["models", number // len(MATRICES)]
            message = (
                f"{point.num_parameters:,} parameters with these data take about "
                f"{gibibytes(point.peak_bytes)}, a worker has {gibibytes(memory_bytes)}"
            )
            return FieldError(loc=["body", *place], msg=message)
    return None


def _training_bytes(request: HessianVsGgnRequest, model: Gpt2) -> int:
    """Of what training holds beside a measurement: moments, and the tokens of a batch with one copy."""
    plan = request.pretrain
    if plan is None:
        return 0
    num_parameters = sum(prod(shape) for shape in parameter_shapes(model).values())
    tokens = 2 * plan.batch_size * (request.data.sequence_length + 1)
    return _MOMENTS * ITEM_BYTES[request.precision] * num_parameters + _TOKEN_BYTES * tokens
