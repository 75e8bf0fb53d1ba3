"""From the messages of a request to the objects of `curvature`."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.api_schemas.arrays import shape
from hessian_spectrum.api_schemas.closed_form_models import (
    LeakyReluNetwork,
    LinearBiasNetwork,
    LinearNetwork,
    MultiInputNetwork,
    MultiOutputNetwork,
    ReluNetwork,
    TwoLayerLinearNetwork,
)
from hessian_spectrum.api_schemas.closed_form_models import QuadraticForm as QuadraticFormSpec
from hessian_spectrum.api_schemas.closed_form_models import SelfAttention as SelfAttentionSpec
from hessian_spectrum.api_schemas.data import (
    ArrayData,
    DigitsData,
    GaussianData,
    GaussianSequences,
    InlineData,
    SampleData,
    TextData,
    TokenData,
)
from hessian_spectrum.api_schemas.hessian_vs_ggn import Pretraining
from hessian_spectrum.api_schemas.message import RequestMessage
from hessian_spectrum.api_schemas.models import AttentionLayer as AttentionLayerSpec
from hessian_spectrum.api_schemas.models import CausalLm as CausalLmSpec
from hessian_spectrum.api_schemas.models import Conv as ConvSpec
from hessian_spectrum.api_schemas.models import Gpt2 as Gpt2Spec
from hessian_spectrum.api_schemas.models import Mlp as MlpSpec
from hessian_spectrum.api_schemas.models import MlpLayer, StoredWeights, TokenModel
from hessian_spectrum.api_schemas.models import Model as ModelSpec
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.training import AdamWOptimizer, PlateauSchedule, WarmupCosineSchedule
from hessian_spectrum.api_schemas.training import Training as TrainingSpec
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.data.gaussian import gaussian, gaussian_sequences
from hessian_spectrum.curvature.data.text import Tokens, named_tokens, tokenize
from hessian_spectrum.curvature.data.token_stream import TokenStream
from hessian_spectrum.curvature.data.transforms import decorrelated, standardised, standardised_pixels
from hessian_spectrum.curvature.losses.base import Loss
from hessian_spectrum.curvature.losses.cross_entropy import CrossEntropy
from hessian_spectrum.curvature.losses.mse import Mse
from hessian_spectrum.curvature.losses.output_value import OutputValue
from hessian_spectrum.curvature.models.attention_layer import AttentionLayer
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.curvature.models.causal_lm import CausalLm
from hessian_spectrum.curvature.models.closed_form.coordinates import MultiInput, MultiOutput
from hessian_spectrum.curvature.models.closed_form.neurons import NeuronNetwork
from hessian_spectrum.curvature.models.closed_form.quadratic import QuadraticForm
from hessian_spectrum.curvature.models.closed_form.self_attention import SelfAttention
from hessian_spectrum.curvature.models.closed_form.two_layer_linear import TwoLayerLinear
from hessian_spectrum.curvature.models.conv import Conv
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.parameters import Parameters
from hessian_spectrum.curvature.training import AdamW, Plateau, Sgd, TrainingPlan, WarmupCosine
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.storage.artifacts import UnknownArtifactError
from hessian_spectrum.worker.checkpoints import causal_lm, checkpoint_parameters
from hessian_spectrum.worker.generators import generator_of
from hessian_spectrum.worker.sources import NO_SOURCES, Sources
from hessian_spectrum.worker.uploaded_arrays import uploaded_arrays

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def build_model(spec: ModelSpec, sources: Sources = NO_SOURCES) -> Model:
    """The network, without parameters, and without an attention sink.

    Raises:
        CheckpointError: The checkpoint cannot be used.
    """
    return causal_lm(spec, sources.models) if isinstance(spec, CausalLmSpec) else _MODELS[type(spec)](spec)


def build_parameters(
    spec: ModelSpec, model: Model, dtype: torch.dtype, device: torch.device, sources: Sources = NO_SOURCES
) -> Parameters:
    """Those of a checkpoint, of the request, or drawn from its seed; a quadratic form's critical point 0.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InvalidProblemError: Model, data or options do not fit together.
        OSError: A file cannot be read or written.
    """
    arrays: dict[str, Any]
    match spec:
        case Gpt2Spec(checkpoint=str()) | CausalLmSpec():
            parameters = checkpoint_parameters(spec, model.parameter_shapes, sources.models, dtype, device)
            if isinstance(model, CausalLm):
                model.check_causal(parameters)
            return parameters
        case MlpSpec(weights=None) | ConvSpec() | AttentionLayerSpec() | Gpt2Spec():
            return model.initial_parameters(generator_of(spec.seed), dtype, device)
        case MlpSpec(weights=StoredWeights(id=artifact_id)):
            arrays = uploaded_arrays(sources.artifacts, artifact_id, model.parameter_shapes)
        case MlpSpec(weights=list() as layers):
            arrays = _layer_arrays(layers)
        case QuadraticFormSpec():
            arrays = {"z": [0.0] * len(spec.matrix)}
        case _:
            arrays = {name: getattr(spec, name) for name in model.parameter_shapes}
    return {name: _real(arrays[name]).to(dtype=dtype, device=device) for name in model.parameter_shapes}


def build_dataset(request: SpectrumRequest, sources: Sources = NO_SOURCES) -> Dataset:
    """The data in double precision on the CPU: real numbers float64, labels and tokens int64.

    Raises:
        InvalidProblemError: Model, data or options do not fit together.
    """
    match request.data:
        case GaussianData() as spec:
            return _gaussian_dataset(spec)
        case GaussianSequences() as spec:
            sizes = (spec.num_sequences, spec.sequence_length, spec.embedding_dim)
            return gaussian_sequences(*sizes, spec.task, spec.noise, generator_of(spec.seed), spec.input_std)
        case DigitsData() as spec:
            drawn = digits(spec.num_samples, generator_of(spec.seed))
            return drawn if spec.transform == "none" else standardised_pixels(drawn)
        case TextData() | TokenData() as spec:
            return _token_dataset(spec, request.model, sources)
        case InlineData() | ArrayData() as spec:
            return _sample_dataset(*_samples(spec, sources), request)
        case None:
            return _matrix_dataset(request.model)


def build_token_stream(spec: TextData | TokenData, sources: Sources = NO_SOURCES) -> TokenStream:
    """The tokens of which the data are windows.

    Raises:
        InvalidProblemError: Model, data or options do not fit together.
    """
    return TokenStream(_tokens(spec, sources), spec.sequence_length)


def build_loss(request: SpectrumRequest) -> Loss:
    """The loss."""
    match request.effective_loss:
        case "mse":
            return Mse()
        case "cross-entropy":
            return CrossEntropy()
        case None:
            return OutputValue()


def build_plan(spec: TrainingSpec, micro_batch_size: int | None = None) -> TrainingPlan:
    """How to train, with the activations of so many samples at once."""
    schedule: Plateau | WarmupCosine | None = None
    match spec.schedule:
        case PlateauSchedule() as rule:
            schedule = Plateau(rule.factor, rule.patience, rule.threshold, rule.min_learning_rate)
        case WarmupCosineSchedule() as rule:
            decay_steps = rule.decay_steps or max(spec.num_steps, rule.warmup_steps)
            schedule = WarmupCosine(rule.warmup_steps, decay_steps, rule.min_learning_rate)
    optimizer: Sgd | AdamW = Sgd(spec.momentum, spec.nesterov)
    if isinstance(chosen := spec.optimizer, AdamWOptimizer):
        optimizer = AdamW(chosen.beta1, chosen.beta2, chosen.epsilon, chosen.weight_decay)
    options = (optimizer, schedule, spec.gradient_clip, micro_batch_size)
    return TrainingPlan(spec.num_steps, spec.learning_rate, spec.batch_size, *options)


def build_pretraining_plan(spec: Pretraining, micro_batch_size: int | None = None) -> TrainingPlan:
    """How to pretrain, with the activations of so many sequences at once."""
    return TrainingPlan(
        spec.num_steps,
        spec.learning_rate,
        spec.batch_size,
        AdamW(spec.beta1, spec.beta2, weight_decay=spec.weight_decay),
        WarmupCosine(spec.warmup_steps, spec.last_decay_step, spec.min_learning_rate),
        spec.gradient_clip,
        micro_batch_size,
    )


def _mlp(spec: MlpSpec) -> Model:
    widths = tuple(spec.layer_widths)
    return Mlp(widths, spec.activation, spec.has_bias, spec.parametrization, spec.negative_slope)


def _conv(spec: ConvSpec) -> Model:
    pooling = spec.pooling == "mean"
    options = (spec.kernel_size, spec.stride, pooling, spec.activation, spec.bias, spec.negative_slope)
    return Conv(tuple(spec.channels), *options)


def _attention_layer(spec: AttentionLayerSpec) -> Model:
    dims = (spec.embedding_dim, spec.key_dim, spec.num_outputs)
    return AttentionLayer(*dims, spec.sink_bias, spec.activation, spec.initial_std)


def _gpt2(spec: Gpt2Spec) -> Model:
    """Without its attention sink, which `sinks` puts in."""
    sizes = (spec.n_layer, spec.n_head, spec.n_embd, spec.n_positions, spec.vocab_size)
    return Gpt2(*sizes, bias=spec.bias, activation=spec.activation, attention=spec.attention)


def _two_layer_linear(spec: TwoLayerLinearNetwork) -> Model:
    width, num_inputs = shape(spec.W1)
    return TwoLayerLinear(num_inputs, width, len(spec.W2))


_MODELS: dict[type[RequestMessage], Callable[[Any], Model]] = {
    MlpSpec: _mlp,
    ConvSpec: _conv,
    AttentionLayerSpec: _attention_layer,
    Gpt2Spec: _gpt2,
    LinearNetwork: lambda spec: NeuronNetwork(len(spec.w)),
    ReluNetwork: lambda spec: NeuronNetwork(len(spec.w), "relu"),
    LeakyReluNetwork: lambda spec: NeuronNetwork(len(spec.w), "leaky-relu", spec.negative_slope),
    LinearBiasNetwork: lambda spec: NeuronNetwork(len(spec.w), bias=True),
    MultiInputNetwork: lambda spec: MultiInput(*shape(spec.w)),
    MultiOutputNetwork: lambda spec: MultiOutput(*shape(spec.w)),
    TwoLayerLinearNetwork: _two_layer_linear,
    SelfAttentionSpec: lambda spec: SelfAttention(len(spec.w_q), spec.sink_bias, spec.activation),
    QuadraticFormSpec: lambda spec: QuadraticForm(len(spec.matrix)),
}


def _layer_arrays(layers: Iterable[MlpLayer]) -> dict[str, list[list[float]] | list[float] | None]:
    arrays: dict[str, list[list[float]] | list[float] | None] = {}
    for index, layer in enumerate(layers):
        arrays[f"layers.{index}.weight"], arrays[f"layers.{index}.bias"] = layer.weight, layer.bias
    return arrays


def _gaussian_dataset(spec: GaussianData) -> Dataset:
    sizes = (spec.num_samples, spec.input_dim, spec.output_dim)
    drawn = gaussian(*sizes, spec.teacher, spec.noise, generator_of(spec.seed), spec.input_std)
    match spec.transform:
        case "none":
            return drawn
        case "standardised":
            return standardised(drawn)
        case "decorrelated":
            return decorrelated(drawn)


def _matrix_dataset(spec: ModelSpec) -> Dataset:
    """The matrix of a quadratic form as the one sample of its model."""
    assert isinstance(spec, QuadraticFormSpec)
    return Dataset(_real(spec.matrix).reshape(1, -1), torch.zeros(1, 1, dtype=torch.float64))


def _token_dataset(spec: TextData | TokenData, model: ModelSpec, sources: Sources) -> Dataset:
    windows = build_token_stream(spec, sources).windows(spec.num_sequences, generator_of(spec.seed))
    largest = max(int(windows.inputs.max()), int(windows.targets.max()))
    if isinstance(model, TokenModel) and largest >= model.vocab_size:
        raise InvalidProblemError(f"tokens outside the vocabulary: token {largest}, vocab_size {model.vocab_size}")
    return windows


def _tokens(spec: TextData | TokenData, sources: Sources) -> Tokens:
    match spec:
        case TokenData():
            try:
                return sources.artifacts.tokens(spec.id)
            except UnknownArtifactError:
                raise InvalidProblemError(f"the uploaded tokens {spec.id} are not there any more") from None
        case TextData(text=str() as text):
            return tokenize(text, spec.tokenizer)
        case TextData():
            return named_tokens(spec.name or "", spec.tokenizer)


def _samples(spec: SampleData, sources: Sources) -> tuple[Any, Any]:
    """Inputs and targets as nested lists or as tensors."""
    if isinstance(spec, InlineData):
        return spec.x, spec.y
    arrays = uploaded_arrays(sources.artifacts, spec.id, {"x": tuple(spec.x.shape), "y": tuple(spec.y.shape)})
    return arrays["x"], arrays["y"]


def _sample_dataset(x: Any, y: Any, request: SpectrumRequest) -> Dataset:
    if isinstance(request.model, TokenModel):
        return Dataset(_integers(x), _integers(y))
    # a sample is a vector, or a sequence of vectors; one number may stand for a vector of length 1
    num_axes = 3 if isinstance(request.model, AttentionLayerSpec | SelfAttentionSpec) else 2
    inputs = _vectors(x, num_axes)
    if request.effective_loss == "cross-entropy":
        return Dataset(inputs, _integers(y))
    return Dataset(inputs, _vectors(y, num_axes))


def _vectors(values: Any, num_axes: int) -> Tensor:
    tensor = _real(values)
    return tensor if tensor.ndim == num_axes else tensor.unsqueeze(-1)


def _real(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _integers(values: Any) -> Tensor:
    return _real(values).to(torch.int64)
