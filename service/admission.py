"""Whether a job can be computed here at all, before anything is queued."""

import redis

from api_schemas.data import DigitsData, GaussianData, InlineData, TextData
from api_schemas.message import row_width
from api_schemas.models import Mlp
from api_schemas.problem import FieldError
from api_schemas.spectrum import LanczosMethod, SpectrumRequest
from curvature.cost import Cost, Size, exact_cost, gpt2_size, lanczos_cost, mlp_size
from jobs.presence import present_workers
from service.problems import ProblemError, invalid_request

_ITEM_BYTES = {"float32": 4, "float64": 8}


class Admission:
    """Compares what a job takes with what the workers have."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def check(self, request: SpectrumRequest) -> None:
        """Let a job pass that fits the largest worker; without any worker it passes and waits for one.

        Raises:  ProblemError 422 at `model` with the estimate; RedisError.
        """
        workers = present_workers(self._client)
        if not workers:
            return
        cost, available = estimate(request), max(worker.memory_bytes for worker in workers)
        if cost.peak_bytes > available:
            message = (
                f"{cost.num_parameters:,} parameters with method {request.method.kind} take about "
                f"{_gibibytes(cost.peak_bytes)}, the largest worker has {_gibibytes(available)}"
            )
            raise ProblemError(invalid_request([FieldError(loc=["body", "model"], msg=message)]))


def estimate(request: SpectrumRequest) -> Cost:
    """What a job takes, from the numbers of its request."""
    itemsize = _ITEM_BYTES[request.product_precision]
    size = _size(request)
    if isinstance(request.method, LanczosMethod):
        return lanczos_cost(size, request.method.num_steps, request.method.num_probes, itemsize)
    return exact_cost(size, itemsize)


def _size(request: SpectrumRequest) -> Size:
    model, num_samples = request.model, _num_samples(request)
    if isinstance(model, Mlp):
        return mlp_size(model.widths, model.bias, num_samples)
    length = _sequence_length(request)
    return gpt2_size(
        model.n_layer, model.n_head, model.n_embd, model.n_positions, model.vocab_size, num_samples, length
    )


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
