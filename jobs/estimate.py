"""What a job takes, from its request alone: asked by the service before it accepts, by a worker before it begins."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from api_schemas.data import DigitsData, GaussianData, InlineData, TextData
from api_schemas.message import row_width
from api_schemas.models import Mlp
from api_schemas.problem import FieldError
from api_schemas.spectrum import LanczosMethod, SpectrumRequest
from curvature.cost import Cost, Size, exact_cost, gpt2_size, lanczos_cost, mlp_size

_ITEM_BYTES = {"float32": 4, "float64": 8}
_DATA_COPIES = 3  # as drawn in float64 with temporaries, as used
_RESULT_NUMBER_BYTES = 100  # of a number as a Python object and as text


@dataclass(frozen=True)
class JobEstimate:
    """Upper bounds."""

    num_parameters: int
    num_products: int
    peak_bytes: int


def estimate(request: SpectrumRequest) -> JobEstimate:
    """What the job takes."""
    return _estimate(request, _size(request), _data_bytes(request), _method_cost(request))


def memory_error(request: SpectrumRequest, available_bytes: int) -> FieldError | None:
    """None if the job fits, else the field that makes it too large, with the estimate."""
    whole = estimate(request)
    if whole.peak_bytes <= available_bytes:
        return None
    message = (
        f"{whole.num_parameters:,} parameters with these data and method {request.method.kind} take about "
        f"{_gibibytes(whole.peak_bytes)}, a worker has {_gibibytes(available_bytes)}"
    )
    return FieldError(loc=["body", _culprit(request, available_bytes)], msg=message)


def _culprit(request: SpectrumRequest, available_bytes: int) -> Literal["model", "data", "method"]:
    """The first of data and method without which the job would fit, else the model."""
    cost = _method_cost(request)
    without_data = Size(_size(request).num_parameters, 0)
    if _estimate(request, without_data, 0, cost).peak_bytes <= available_bytes:
        return "data"
    if isinstance(request.method, LanczosMethod):
        least = lanczos_cost(_size(request), 2, 1, 2, _ITEM_BYTES[request.product_precision])
        if least.peak_bytes + _data_bytes(request) <= available_bytes:
            return "method"
    return "model"


def _estimate(request: SpectrumRequest, size: Size, data_bytes: int, cost: Callable[[Size], Cost]) -> JobEstimate:
    taken = cost(size)
    result_bytes = _RESULT_NUMBER_BYTES * _num_result_numbers(request, size.num_parameters)
    return JobEstimate(taken.num_parameters, taken.num_products, taken.peak_bytes + data_bytes + result_bytes)


def _method_cost(request: SpectrumRequest) -> Callable[[Size], Cost]:
    itemsize, method = _ITEM_BYTES[request.product_precision], request.method
    if isinstance(method, LanczosMethod):
        return lambda size: lanczos_cost(size, method.num_steps, method.num_probes, method.num_points, itemsize)
    return lambda size: exact_cost(size, itemsize)


def _num_result_numbers(request: SpectrumRequest, num_parameters: int) -> int:
    method = request.method
    if isinstance(method, LanczosMethod):
        return 2 * method.num_probes * min(method.num_steps, num_parameters) + 3 * method.num_points
    return num_parameters


def _size(request: SpectrumRequest) -> Size:
    model, num_samples = request.model, _num_samples(request)
    if isinstance(model, Mlp):
        return mlp_size(model.widths, model.bias, num_samples)
    length = _sequence_length(request)
    return gpt2_size(
        model.n_layer, model.n_head, model.n_embd, model.n_positions, model.vocab_size, num_samples, length
    )


def _data_bytes(request: SpectrumRequest) -> int:
    match request.data:
        case GaussianData() as data:
            teacher = data.input_dim * data.output_dim
            numbers = teacher + data.num_samples * (data.input_dim + 2 * data.output_dim)
        case TextData() as data:
            numbers = data.num_sequences * 2 * (data.sequence_length + 1) + len(data.text or "")
        case InlineData() as data:
            numbers = len(data.x) * (row_width(data.x) or 1) + len(data.y) * (row_width(data.y) or 1)
        case DigitsData() as data:
            numbers = data.num_samples * 65
    return 8 * _DATA_COPIES * numbers


def _num_samples(request: SpectrumRequest) -> int:
    match request.data:
        case InlineData(x=x):
            return len(x)
        case TextData(num_sequences=num_sequences):
            return num_sequences
        case GaussianData(num_samples=num_samples) | DigitsData(num_samples=num_samples):
            return num_samples


def _sequence_length(request: SpectrumRequest) -> int:
    if isinstance(request.data, TextData):
        return request.data.sequence_length
    return row_width(request.data.x) or 1 if isinstance(request.data, InlineData) else 1


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
