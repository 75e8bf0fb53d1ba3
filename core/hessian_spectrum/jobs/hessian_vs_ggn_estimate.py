"""What a comparison of Hessian and GGN takes: that of its points, one after the other, and of training between them."""

from dataclasses import replace
from math import prod

from hessian_spectrum.api_schemas.hessian_vs_ggn import MATRICES, ComparedMatrix, HessianVsGgnRequest
from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.parameter_shapes import parameter_shapes
from hessian_spectrum.api_schemas.problem import FieldError
from hessian_spectrum.jobs.estimate import JobEstimate, estimate, gibibytes, memory_error
from hessian_spectrum.jobs.spectrum_variants import eigenvalue_request

_ITEM_BYTES = {"float32": 4, "float64": 8}
_MOMENTS = 2  # vectors that AdamW keeps beside the parameters; its gradient is dropped before a measurement
_TOKEN_BYTES = 8


def point_estimate(
    request: HessianVsGgnRequest, model: Gpt2, matrix: ComparedMatrix, available_bytes: int | None = None
) -> JobEstimate:
    """Of one eigenvalue of one model, on a worker with so much memory."""
    beside = _training_bytes(request, model)
    spare = None if available_bytes is None else available_bytes - beside
    alone = estimate(eigenvalue_request(request, model, matrix), spare)
    return replace(alone, peak_bytes=alone.peak_bytes + beside)


def comparison_estimate(request: HessianVsGgnRequest, available_bytes: int | None = None) -> JobEstimate:
    """Of the whole job; sizes are those of the point that takes the most memory.

    Training passes are those over as many sequences as a point has.
    """
    parts = [point_estimate(request, model, matrix, available_bytes) for model in request.models for matrix in MATRICES]
    num_points = request.num_measurements // len(request.models)
    plan = request.pretrain
    num_sequences = 0 if plan is None else request.num_runs * plan.num_steps * plan.batch_size
    return replace(
        max(parts, key=lambda part: part.peak_bytes),
        num_products=num_points * sum(part.num_products for part in parts),
        num_training_passes=num_sequences / request.data.num_sequences,
    )


def comparison_memory_error(request: HessianVsGgnRequest, available_bytes: int) -> FieldError | None:
    """None if every point fits; else the field that makes one too large."""
    for index, model in enumerate(request.models):
        beside = _training_bytes(request, model)
        for matrix in MATRICES:
            error = memory_error(eigenvalue_request(request, model, matrix), available_bytes - beside)
            if error is not None:
                needed = point_estimate(request, model, matrix, available_bytes)
                message = (
                    f"{needed.num_parameters:,} parameters with these data take about "
                    f"{gibibytes(needed.peak_bytes)}, a worker has {gibibytes(available_bytes)}"
                )
                place = ["data"] if error.loc[1] == "data" else ["models", index]
                return FieldError(loc=["body", *place], msg=message)
    return None


def _training_bytes(request: HessianVsGgnRequest, model: Gpt2) -> int:
    """Held beside a measurement while a model is trained: moments, and the tokens of a batch, which are copied once."""
    plan = request.pretrain
    if plan is None:
        return 0
    num_parameters = sum(prod(shape) for shape in parameter_shapes(model).values())
    tokens = 2 * plan.batch_size * (request.data.sequence_length + 1)
    return _MOMENTS * _ITEM_BYTES[request.precision] * num_parameters + _TOKEN_BYTES * tokens
