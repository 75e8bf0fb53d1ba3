"""From the messages of a request to the objects of `curvature`."""

import torch
from torch import Tensor

from api_schemas.data import DigitsData, GaussianData, InlineData, TextData
from api_schemas.models import Gpt2 as Gpt2Spec
from api_schemas.models import Mlp as MlpSpec
from api_schemas.models import Model as ModelSpec
from api_schemas.spectrum import SpectrumRequest
from curvature.data.base import Dataset
from curvature.data.digits import digits
from curvature.data.gaussian import gaussian
from curvature.data.text import named_text, text_windows, tokenize
from curvature.losses.base import Loss
from curvature.losses.cross_entropy import CrossEntropy
from curvature.losses.mse import Mse
from curvature.models.base import Model
from curvature.models.gpt2 import AttentionSink, Gpt2
from curvature.models.mlp import Mlp

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def build_model(spec: ModelSpec) -> Model:
    """The network, without parameters."""
    if isinstance(spec, MlpSpec):
        return Mlp(tuple(spec.widths), spec.activation, spec.bias)
    return Gpt2(spec.n_layer, spec.n_head, spec.n_embd, spec.n_positions, spec.vocab_size, _sink(spec))


def build_dataset(request: SpectrumRequest) -> Dataset:
    """The data in double precision on the CPU: real numbers float64, labels and tokens int64.

    Raises:  InvalidProblemError.
    """
    match request.data:
        case GaussianData() as spec:
            generator = generator_of(spec.seed)
            return gaussian(spec.num_samples, spec.input_dim, spec.output_dim, spec.teacher, spec.noise, generator)
        case DigitsData() as spec:
            return digits(spec.num_samples, generator_of(spec.seed))
        case TextData() as spec:
            text = spec.text if spec.text is not None else named_text(spec.name or "")
            tokens = tokenize(text, spec.tokenizer)
            return text_windows(tokens, spec.num_sequences, spec.sequence_length, generator_of(spec.seed))
        case InlineData() as spec:
            return _inline_dataset(spec, request)


def build_loss(request: SpectrumRequest) -> Loss:
    """The loss."""
    return Mse() if request.loss == "mse" else CrossEntropy()


def generator_of(seed: int) -> torch.Generator:
    """A CPU generator: its numbers do not depend on the device of the computation."""
    return torch.Generator().manual_seed(seed)


def _sink(spec: Gpt2Spec) -> AttentionSink | None:
    sink = spec.attention_sink
    if sink is None:
        return None
    return AttentionSink(sink.bias, tuple(sink.heads), None if sink.blocks is None else tuple(sink.blocks))


def _inline_dataset(spec: InlineData, request: SpectrumRequest) -> Dataset:
    if isinstance(request.model, Gpt2Spec):
        return Dataset(_integers(spec.x), _integers(spec.y))
    inputs = _column(torch.tensor(spec.x, dtype=torch.float64))
    if request.loss == "cross-entropy":
        return Dataset(inputs, _integers(spec.y))
    return Dataset(inputs, _column(torch.tensor(spec.y, dtype=torch.float64)))


def _column(values: Tensor) -> Tensor:
    return values if values.ndim == 2 else values.unsqueeze(-1)


def _integers(values: list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(torch.int64)
