"""From the messages of a request to the objects of `curvature`."""

from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.api_schemas.data import ArrayData, InlineData, SampleData, TextData, TokenData
from hessian_spectrum.api_schemas.data import kind_of as data_kind_of
from hessian_spectrum.api_schemas.hessian_vs_ggn import Pretraining
from hessian_spectrum.api_schemas.losses import LOSSES
from hessian_spectrum.api_schemas.models import CausalLm as CausalLmSpec
from hessian_spectrum.api_schemas.models import Gpt2 as Gpt2Spec
from hessian_spectrum.api_schemas.models import Model as ModelSpec
from hessian_spectrum.api_schemas.models import kind_of
from hessian_spectrum.api_schemas.models.kind import StoredWeights
from hessian_spectrum.api_schemas.models.quadratic import QuadraticForm
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.training import AdamWOptimizer, PlateauSchedule, WarmupCosineSchedule
from hessian_spectrum.api_schemas.training import Training as TrainingSpec
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.text import Tokens, TokenStream, named_tokens, tokenize
from hessian_spectrum.curvature.losses import LOSS_CLASSES, Loss, OutputValue
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.causal_lm import CausalLm
from hessian_spectrum.curvature.registry import dataset_functions, model_classes
from hessian_spectrum.curvature.training import AdamW, Plateau, Sgd, TrainingPlan, WarmupCosine
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.storage.artifacts import UnknownArtifactError
from hessian_spectrum.worker.checkpoints import causal_lm, checkpoint_parameters
from hessian_spectrum.worker.generators import generator_of
from hessian_spectrum.worker.inputs import NO_INPUTS, Inputs
from hessian_spectrum.worker.uploaded_arrays import uploaded_arrays

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def build_model(spec: ModelSpec, sources: Inputs = NO_INPUTS) -> Model:
    """The network, without parameters, and without an attention sink.

    Raises:
        CheckpointError: The checkpoint cannot be used.
    """
    if isinstance(spec, CausalLmSpec):
        return causal_lm(spec, sources.models)
    return model_classes()[spec.kind](**kind_of(spec).engine_arguments(spec))


def build_parameters(
    spec: ModelSpec, model: Model, dtype: torch.dtype, device: torch.device, sources: Inputs = NO_INPUTS
) -> Parameters:
    """Those of a checkpoint, of the request, or drawn from its seed; a quadratic form's critical point 0.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InvalidProblemError: Model, data or options do not fit together.
        OSError: A file cannot be read or written.
    """
    if isinstance(spec, CausalLmSpec) or (isinstance(spec, Gpt2Spec) and spec.checkpoint is not None):
        parameters = checkpoint_parameters(spec, model.parameter_shapes, sources.models, dtype, device)
        if isinstance(model, CausalLm):
            model.check_causal(parameters)
        return parameters
    given: Any = kind_of(spec).given_weights(spec)
    if given is None:
        seed: int = getattr(spec, "seed", 0)
        return model.initial_parameters(generator_of(seed), dtype, device)
    if isinstance(given, StoredWeights):
        given = uploaded_arrays(sources.artifacts, given.id, model.parameter_shapes)
    return {name: _real(given[name]).to(dtype=dtype, device=device) for name in model.parameter_shapes}


def build_dataset(request: SpectrumRequest, sources: Inputs = NO_INPUTS) -> Dataset:
    """The data in double precision on the CPU: real numbers float64, labels and tokens int64.

    Raises:
        InvalidProblemError: Model, data or options do not fit together.
    """
    match request.data:
        case None:
            return _matrix_dataset(request.model)
        case InlineData() | ArrayData() as spec:
            return _sample_dataset(*_samples(spec, sources), request)
        case TextData() | TokenData() as spec:
            return _token_dataset(spec, request.model, sources)
        case spec:
            seed: int = getattr(spec, "seed", 0)
            arguments = data_kind_of(spec).engine_arguments(spec)
            return dataset_functions()[spec.kind](generator=generator_of(seed), **arguments)


def build_token_stream(spec: TextData | TokenData, sources: Inputs = NO_INPUTS) -> TokenStream:
    """The tokens of which the data are windows.

    Raises:
        InvalidProblemError: Model, data or options do not fit together.
    """
    return TokenStream(_tokens(spec, sources), spec.sequence_length)


def build_loss(request: SpectrumRequest) -> Loss:
    """The loss."""
    loss = request.effective_loss
    return OutputValue() if loss is None else LOSS_CLASSES[loss]()


def build_plan(spec: TrainingSpec, micro_batch_size: int | None = None) -> TrainingPlan:
    """How to train, with the activations of so many samples at once."""
    schedule: Plateau | WarmupCosine | None = None
    match spec.schedule:
        case PlateauSchedule() as rule:
            schedule = Plateau(
                factor=rule.factor,
                patience=rule.patience,
                threshold=rule.threshold,
                min_learning_rate=rule.min_learning_rate,
            )
        case WarmupCosineSchedule() as rule:
            decay_steps = rule.decay_steps or max(spec.num_steps, rule.warmup_steps)
            schedule = WarmupCosine(rule.warmup_steps, decay_steps, rule.min_learning_rate)
    optimizer: Sgd | AdamW = Sgd(spec.momentum, spec.nesterov)
    if isinstance(chosen := spec.optimizer, AdamWOptimizer):
        optimizer = AdamW(
            beta1=chosen.beta1, beta2=chosen.beta2, epsilon=chosen.epsilon, weight_decay=chosen.weight_decay
        )
    return TrainingPlan(
        spec.num_steps,
        spec.learning_rate,
        batch_size=spec.batch_size,
        optimizer=optimizer,
        schedule=schedule,
        max_gradient_norm=spec.gradient_clip,
        micro_batch_size=micro_batch_size,
    )


def build_pretraining_plan(spec: Pretraining, micro_batch_size: int | None = None) -> TrainingPlan:
    """How to pretrain, with the activations of so many sequences at once."""
    return TrainingPlan(
        spec.num_steps,
        spec.learning_rate,
        batch_size=spec.batch_size,
        optimizer=AdamW(beta1=spec.beta1, beta2=spec.beta2, weight_decay=spec.weight_decay),
        schedule=WarmupCosine(spec.warmup_steps, spec.last_decay_step, spec.min_learning_rate),
        max_gradient_norm=spec.gradient_clip,
        micro_batch_size=micro_batch_size,
    )


def _matrix_dataset(spec: ModelSpec) -> Dataset:
    """The matrix of a quadratic form as the one sample of its model."""
    assert isinstance(spec, QuadraticForm)
    return Dataset(_real(spec.matrix).reshape(1, -1), torch.zeros(1, 1, dtype=torch.float64))


def _token_dataset(spec: TextData | TokenData, model: ModelSpec, sources: Inputs) -> Dataset:
    windows = build_token_stream(spec, sources).windows(spec.num_sequences, generator_of(spec.seed))
    largest = max(int(windows.inputs.max()), int(windows.targets.max()))
    vocab_size: int = getattr(model, "vocab_size", largest + 1)
    if largest >= vocab_size:
        raise InvalidProblemError(f"tokens outside the vocabulary: token {largest}, vocab_size {vocab_size}")
    return windows


def _tokens(spec: TextData | TokenData, sources: Inputs) -> Tokens:
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


def _samples(spec: SampleData, sources: Inputs) -> tuple[Any, Any]:
    """Inputs and targets as nested lists or as tensors."""
    if isinstance(spec, InlineData):
        return spec.x, spec.y
    arrays = uploaded_arrays(sources.artifacts, spec.id, {"x": tuple(spec.x.shape), "y": tuple(spec.y.shape)})
    return arrays["x"], arrays["y"]


def _sample_dataset(x: Any, y: Any, request: SpectrumRequest) -> Dataset:
    reads = kind_of(request.model).samples
    if reads == "tokens":
        return Dataset(_integers(x), _integers(y))
    # a sample is a vector, or a sequence of vectors; one number may stand for a vector of length 1
    num_axes = 3 if reads == "sequences" else 2
    inputs = _vectors(x, num_axes)
    loss = request.effective_loss
    if loss is not None and LOSSES[loss].needs_labels:
        return Dataset(inputs, _integers(y))
    return Dataset(inputs, _vectors(y, num_axes))


def _vectors(values: Any, num_axes: int) -> Tensor:
    tensor = _real(values)
    return tensor if tensor.ndim == num_axes else tensor.unsqueeze(-1)


def _real(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _integers(values: Any) -> Tensor:
    return _real(values).to(torch.int64)
