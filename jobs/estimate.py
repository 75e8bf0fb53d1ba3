"""What a job takes, from its request alone: asked by the service before it accepts, by a worker before it begins."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal

from api_schemas.arrays import shape
from api_schemas.closed_form_models import (
    LinearBiasNetwork,
    MultiInputNetwork,
    MultiOutputNetwork,
    QuadraticForm,
    SelfAttention,
    TwoLayerLinearNetwork,
)
from api_schemas.data import DigitsData, GaussianData, GaussianSequences, InlineData, TextData, sample_shape
from api_schemas.models import IMAGE_EDGE, NUM_CLASSES, AttentionLayer, Conv, Gpt2, Mlp, RowNetwork
from api_schemas.problem import FieldError
from api_schemas.spectrum import LanczosMethod, SpectrumRequest
from curvature.cost import (
    Cost,
    Size,
    attention_size,
    conv_size,
    coordinate_network_size,
    exact_cost,
    gpt2_size,
    lanczos_cost,
    mlp_size,
    neuron_network_size,
    quadratic_size,
)

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
    match model:
        case Mlp():
            return mlp_size(model.layer_widths, model.has_bias, num_samples)
        case Conv():
            pooling = model.pooling == "mean"
            layers = (model.channels, model.kernel_size, model.stride, pooling)
            return conv_size(IMAGE_EDGE, *layers, NUM_CLASSES, model.bias, num_samples)
        case AttentionLayer():
            dims = (model.embedding_dim, model.key_dim, model.num_outputs)
            return attention_size(*dims, num_samples, _sequence_length(request))
        case Gpt2():
            sizes = (model.n_layer, model.n_head, model.n_embd, model.n_positions, model.vocab_size)
            return gpt2_size(*sizes, num_samples, _sequence_length(request))
        case _:
            return _closed_form_size(model, num_samples, _sequence_length(request))


def _closed_form_size(model: RowNetwork | SelfAttention | QuadraticForm, num_samples: int, length: int) -> Size:
    match model:
        case MultiInputNetwork():
            return coordinate_network_size(len(model.w), 1, shape(model.w)[1], num_samples)
        case MultiOutputNetwork():
            return coordinate_network_size(1, len(model.w), shape(model.w)[1], num_samples)
        case TwoLayerLinearNetwork():
            width, num_inputs = shape(model.W1)
            return mlp_size((num_inputs, width, len(model.W2)), False, num_samples)
        case SelfAttention():
            return attention_size(1, len(model.w_q), 1, num_samples, length)
        case QuadraticForm():
            return quadratic_size(len(model.matrix))
        case _:
            return neuron_network_size(len(model.w), isinstance(model, LinearBiasNetwork), num_samples)


def _data_bytes(request: SpectrumRequest) -> int:
    match request.data:
        case GaussianData() as data:
            teacher = data.input_dim * data.output_dim
            numbers = teacher + data.num_samples * (data.input_dim + 2 * data.output_dim)
        case GaussianSequences() as data:
            positions = data.num_sequences * data.sequence_length
            numbers = data.embedding_dim**2 + 3 * positions * data.embedding_dim
        case TextData() as data:
            numbers = data.num_sequences * 2 * (data.sequence_length + 1) + len(data.text or "")
        case InlineData() as data:
            numbers = sum(len(values) * prod(sample_shape(values)) for values in (data.x, data.y))
        case DigitsData() as data:
            numbers = data.num_samples * 65
        case None:
            numbers = _num_matrix_entries(request)
    return 8 * _DATA_COPIES * numbers


def _num_matrix_entries(request: SpectrumRequest) -> int:
    return len(request.model.matrix) ** 2 if isinstance(request.model, QuadraticForm) else 0


def _num_samples(request: SpectrumRequest) -> int:
    match request.data:
        case InlineData(x=x):
            return len(x)
        case TextData(num_sequences=num_sequences) | GaussianSequences(num_sequences=num_sequences):
            return num_sequences
        case GaussianData(num_samples=num_samples) | DigitsData(num_samples=num_samples):
            return num_samples
        case None:
            return 1


def _sequence_length(request: SpectrumRequest) -> int:
    match request.data:
        case TextData(sequence_length=length) | GaussianSequences(sequence_length=length):
            return length
        case InlineData(x=x):
            return (sample_shape(x) or (1,))[0]
        case _:
            return 1


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
