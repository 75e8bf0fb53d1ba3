"""What a job takes, from its request alone: asked by the service before it accepts, by a worker before it begins."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from api_schemas.spectrum import ExactMethod, LanczosMethod, SpectrumRequest, TopKMethod, TraceMethod
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
_PARAMETER_COPIES = 10  # of the whole model where a block is taken: parameters, gradients, their traces
_TOP_K_ROWS = 88  # beside the wanted vectors: the rest of the basis, and blocks of products
_TRACE_BLOCK = 48  # vectors: probes, their products, and temporaries
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


def vector_bytes(request: SpectrumRequest, available_bytes: int) -> int:
    """What Lanczos may use of a worker's memory for its vectors: half of what the rest leaves, but what it needs."""
    spare = available_bytes - estimate(request).peak_bytes
    return _lanczos_vector_bytes(request) + max(0, spare) // 2


def _culprit(request: SpectrumRequest, available_bytes: int) -> Literal["model", "data", "method"]:
    """The first of data and method without which the job would fit, else the model."""
    cost = _method_cost(request)
    without_data = Size(_size(request).num_parameters, 0)
    if _estimate(request, without_data, 0, cost).peak_bytes <= available_bytes:
        return "data"
    if not isinstance(request.method, ExactMethod):
        least = lanczos_cost(_size(request), 2, 1, 2, _ITEM_BYTES[request.vector_precision])
        if least.peak_bytes + _data_bytes(request) <= available_bytes:
            return "method"
    return "model"


def _estimate(request: SpectrumRequest, size: Size, data_bytes: int, cost: Callable[[Size], Cost]) -> JobEstimate:
    """`size` is that of the whole model: its parameters and gradients are there beside those of a block."""
    taken = cost(Size(request.dim, size.num_activations))
    beside = _PARAMETER_COPIES * _ITEM_BYTES[request.vector_precision] * (size.num_parameters - request.dim)
    result_bytes = _RESULT_NUMBER_BYTES * _num_result_numbers(request)
    return JobEstimate(request.dim, taken.num_products, taken.peak_bytes + beside + data_bytes + result_bytes)


def _method_cost(request: SpectrumRequest) -> Callable[[Size], Cost]:
    itemsize, method = _ITEM_BYTES[request.vector_precision], request.method
    match method:
        case ExactMethod():
            return lambda size: _exact_cost(size, method, itemsize)
        case LanczosMethod():
            # full reorthogonalisation holds a basis; what does without one holds as much as two steps
            steps = method.num_steps if method.reorthogonalisation == "full" else 2
            return lambda size: replace(
                lanczos_cost(size, steps, method.num_probes, method.num_points, itemsize),
                num_products=min(method.num_steps, size.num_parameters) * method.num_probes,
            )
        case TopKMethod():
            rows = max(3 * method.k, method.k + _TOP_K_ROWS)
            products = method.max_products or max(1_000, 100 * method.k)
            return lambda size: replace(lanczos_cost(size, rows, 1, 0, itemsize), num_products=products)
        case TraceMethod():
            return lambda size: _trace_cost(size, method, itemsize)


def _trace_cost(size: Size, method: TraceMethod, itemsize: int) -> Cost:
    products = min(method.most_products, size.num_parameters)
    # two and four arrays of a third and a half of the vectors, and copies of those that grow
    sketch = {"hutchinson": 0, "hutch++": 4 * products // 3, "xtrace": 3 * products}[method.estimator]
    cost = lanczos_cost(size, 2, 1, 0, itemsize)
    # beside a block of probes and its products; a diagonal and its error in float64
    vectors = itemsize * (sketch + _TRACE_BLOCK) + (4 * _ITEM_BYTES["float64"] if method.diagonal else 0)
    return replace(cost, num_products=products, peak_bytes=cost.peak_bytes + vectors * size.num_parameters)


def _exact_cost(size: Size, method: ExactMethod, itemsize: int) -> Cost:
    cost = exact_cost(size, itemsize)
    if not method.eigenvectors:
        return cost
    # beside the matrix and LAPACK's copy of it the vectors, and their copy for the CPU
    return replace(cost, peak_bytes=cost.peak_bytes + 2 * _ITEM_BYTES["float64"] * size.num_parameters**2)


def _lanczos_vector_bytes(request: SpectrumRequest) -> int:
    """One probe: with reorthogonalisation its basis and a product, without it three vectors."""
    method = request.method
    assert isinstance(method, LanczosMethod)
    num_vectors = min(method.num_steps, request.dim) + 2 if method.reorthogonalisation == "full" else 3
    return num_vectors * request.dim * _ITEM_BYTES[request.vector_precision]


def _num_result_numbers(request: SpectrumRequest) -> int:
    method = request.method
    match method:
        case ExactMethod():
            return request.dim
        case LanczosMethod():
            return 3 * method.num_probes * min(method.num_steps, request.dim) + 15 * method.num_points
        case TopKMethod():
            return 3 * method.k
        case TraceMethod():
            return 0


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
