"""Models, data, losses and training as requests describe them, and the stored inputs that they are built from."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, CheckpointVerdict
from hessian_spectrum.api_schemas.data import InlineData, TextData, TokenData, UploadedSamples
from hessian_spectrum.api_schemas.data import kind_of as data_kind_of
from hessian_spectrum.api_schemas.data.gaussian import GaussianData
from hessian_spectrum.api_schemas.data.targets import class_axis
from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn import Pretraining
from hessian_spectrum.api_schemas.jobs import AnyJobRequest
from hessian_spectrum.api_schemas.losses import LOSSES, loss_name
from hessian_spectrum.api_schemas.models import CausalLm as CausalLmSpec
from hessian_spectrum.api_schemas.models import Gpt2 as Gpt2Spec
from hessian_spectrum.api_schemas.models import Model as ModelSpec
from hessian_spectrum.api_schemas.models import kind_of
from hessian_spectrum.api_schemas.models.exported import Exported as ExportedSpec
from hessian_spectrum.api_schemas.models.kind import StoredWeights
from hessian_spectrum.api_schemas.models.quadratic import QuadraticForm
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.training import AdamWOptimizer, PlateauSchedule, WarmupCosineSchedule
from hessian_spectrum.api_schemas.training import Training as TrainingSpec
from hessian_spectrum.checkpoints.causal_lm import causal_lm_fields
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.stored import StoredDataset
from hessian_spectrum.curvature.data.text import Tokens, TokenStream, named_tokens, tokenize
from hessian_spectrum.curvature.losses import LOSS_CLASSES, Loss, OutputValue
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.causal_lm import CausalLm
from hessian_spectrum.curvature.models.class_axis import ClassesLast
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.registry import dataset_functions, model_classes
from hessian_spectrum.curvature.training import AdamW, Plateau, Sgd, TrainingPlan, WarmupCosine
from hessian_spectrum.programs.program import Program
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.storage.artifacts import UnknownArtifactError
from hessian_spectrum.storage.program_files import GRAPH
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck
from hessian_spectrum.worker.checkpoints import CHANGED, causal_lm, checkpoint_parameters
from hessian_spectrum.worker.samples import sample_dataset
from hessian_spectrum.worker.uploads import Artifacts, NoArtifacts, loaded_arrays, uploaded_arrays

_NUM_SHORT_BITS = 32
"""Number of low bits of a seed that PyTorch's Mersenne Twister uses on the CPU; it drops the others."""

_STATE_WORDS = slice(3, 627)
"""Position of the 624 words of the Mersenne Twister in a CPU generator's serialised state, in units of eight bytes."""

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Inputs:
    """Sources of the inputs of a job; empty by default.

    Attributes:
        check: tries checkpoints before they are computed with; None: they are not tried.
        fallback: how products of the request's models are computed if they must not be recorded.
    """

    models: ModelsDirectory = field(default_factory=lambda: ModelsDirectory(None))
    artifacts: Artifacts = field(default_factory=NoArtifacts)
    check: CheckpointCheck | None = None
    fallback: Fallback | None = None


NO_INPUTS = Inputs()


def generator_of(seed: int, *purpose: int) -> torch.Generator:
    """Make a generator whose numbers depend on every bit of the seed.

    It lives on the CPU, so that its numbers do not depend on the device of the computation. Seeds below 2^32 start the
    generator as `torch.manual_seed` does. Larger ones fill its whole state, as numpy seeds the same algorithm.

    Args:
        seed: At least 0.
        *purpose: What the numbers are for, so that generators of one seed are independent of each other.

    Returns:
        The generator in its first state.
    """
    if seed >> _NUM_SHORT_BITS:
        return _filled_generator(np.random.SeedSequence(seed, spawn_key=purpose))
    if purpose:
        seed = int(np.random.SeedSequence((seed, *purpose)).generate_state(1)[0])
    return torch.Generator().manual_seed(seed)


def _filled_generator(sequence: np.random.SeedSequence) -> torch.Generator:
    twister = np.random.MT19937(sequence).state["state"]
    generator = torch.Generator().manual_seed(0)  # in this state it draws new words before the first number
    state = generator.get_state()
    state.view(torch.int64)[_STATE_WORDS] = torch.from_numpy(twister["key"].astype(np.int64))
    generator.set_state(state)
    return generator


def checked_request(
    request: AnyJobRequest, inputs: Inputs, *, memory_bytes: int | None, look: Callable[[], object]
) -> tuple[AnyJobRequest, Inputs]:
    """Return the request with what transformers makes of its checkpoints, and how products are to be computed.

    Args:
        request: The request of the job.
        inputs: Where checkpoints are found, and what tries them.
        memory_bytes: Memory that the trial of a checkpoint may take.
        look: Called several times a second while a checkpoint is tried; what it raises ends the trial.

    Raises:
        CheckpointError: If a checkpoint is refused.
    """
    if isinstance(request, ExperimentRequest):
        for computation in request.computations:
            if isinstance(computation, SpectrumRequest):
                _, inputs = checked_request(computation, inputs, memory_bytes=memory_bytes, look=look)
        return request, inputs
    fallbacks: list[Fallback] = []
    models = [request.model] if isinstance(request, SpectrumRequest) else request.models
    for model in models if inputs.check is not None else ():
        if (
            not isinstance(model, Gpt2Spec | CausalLmSpec)
            or model.checkpoint is None
            or model.checkpoint_sha256 is None
        ):
            continue
        assert inputs.check is not None
        verdict = inputs.check.checked(
            model.checkpoint, model.checkpoint_sha256, model.kind, memory_bytes=memory_bytes, look=look
        )
        if verdict.state == "refused":
            raise CheckpointError(verdict.reason or "a worker could not load it")
        if verdict.fallback_method is not None:
            fallbacks.append(Fallback(verdict.fallback_method, verdict.fallback_reason or ""))
        if isinstance(model, CausalLmSpec) and isinstance(request, SpectrumRequest):
            request = request.model_copy(update={"model": _as_found(model, verdict, inputs.models)})
    return request, replace(inputs, fallback=fallbacks[0]) if fallbacks else inputs


def build_model(spec: ModelSpec, sources: Inputs = NO_INPUTS) -> Model:
    """Build the network of a request, without parameters and without an attention sink.

    Args:
        spec: Model of the request.
        sources: Checkpoints and uploaded files.

    Returns:
        The network.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
    """
    if isinstance(spec, CausalLmSpec):
        return causal_lm(spec, sources.models)
    if isinstance(spec, ExportedSpec):
        return _exported(spec, sources.artifacts)
    return model_classes()[spec.kind](**kind_of(spec).engine_arguments(spec))


def _exported(spec: ExportedSpec, artifacts: Artifacts) -> Exported:
    arrays = loaded_arrays(artifacts, spec.program.id)
    program = Program.from_json(arrays.pop(GRAPH).numpy().tobytes().decode())
    if spec.parameters is not None:
        shapes = {each.name: each.value.shape for each in program.parameters}
        arrays |= uploaded_arrays(artifacts, spec.parameters.id, shapes)
    return Exported(program, arrays, spec.trainable)


def build_parameters(
    spec: ModelSpec, model: Model, *, dtype: torch.dtype, device: torch.device, sources: Inputs = NO_INPUTS
) -> Parameters:
    """Load the parameters of a checkpoint or of the request, or draw them from its seed; a quadratic form has 0.

    Args:
        spec: Model of the request.
        model: The network, which knows names and shapes.
        dtype: Precision of the parameters.
        device: Device of the parameters.
        sources: Checkpoints and uploaded files.

    Returns:
        Parameters by name.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        InvalidProblemError: If uploaded weights are missing or do not fit.
        OSError: If a file cannot be read.
    """
    if isinstance(spec, CausalLmSpec) or (isinstance(spec, Gpt2Spec) and spec.checkpoint is not None):
        parameters = checkpoint_parameters(spec, model.parameter_shapes, sources.models, dtype=dtype, device=device)
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
    """Build the data in double precision: real numbers float64, labels and tokens int64, in memory or on disk.

    Args:
        request: Request, which names data and model.
        sources: Uploaded files.

    Returns:
        Inputs and targets.

    Raises:
        InvalidProblemError: If uploaded data are missing, or tokens are outside the vocabulary.
    """
    dataset, loss = _dataset(request, sources), request.effective_loss
    if loss is not None and not LOSSES[loss].needs_targets and not isinstance(dataset, StoredDataset):
        # the model returns the loss itself: targets only count the samples
        return Dataset(dataset.inputs, torch.zeros(len(dataset), 1, dtype=torch.float64))
    return dataset


def _dataset(request: SpectrumRequest, sources: Inputs) -> Dataset:
    match request.data:
        case None:
            return _matrix_dataset(request.model)
        case InlineData() | UploadedSamples() as spec:
            return sample_dataset(spec, request, sources.artifacts)
        case TextData() | TokenData() as spec:
            return _token_dataset(spec, request.model, sources)
        case spec:
            seed: int = getattr(spec, "seed", 0)
            arguments = data_kind_of(spec).engine_arguments(spec)
            if isinstance(spec, GaussianData) and spec.teacher_seed is not None:
                arguments["teacher_generator"] = generator_of(spec.teacher_seed)
            return dataset_functions()[spec.kind](generator=generator_of(seed), **arguments)


def build_token_stream(spec: TextData | TokenData, sources: Inputs = NO_INPUTS) -> TokenStream:
    """Build the stream of tokens of which the data are windows.

    Args:
        spec: Text or tokens of the request.
        sources: Uploaded files.

    Returns:
        The stream.

    Raises:
        InvalidProblemError: If uploaded tokens are missing, or are fewer than one window.
    """
    return TokenStream(_tokens(spec, sources), spec.sequence_length)


def build_loss(request: SpectrumRequest) -> Loss:
    """Build the loss of a request; a quadratic form's is the output of its model."""
    loss = request.loss_with_options
    if loss is None:
        return OutputValue()
    return LOSS_CLASSES[loss_name(loss)](**({} if isinstance(loss, str) else loss.engine_arguments()))


def classes_last(request: SpectrumRequest, model: Model) -> Model:
    """Return the model with its classes along the last axis of its outputs, where the loss states another axis."""
    axis = class_axis(request.loss_with_options)
    if axis is None or not isinstance(model, Exported):
        return model
    return ClassesLast(model, axis, tuple(model.program.output_value.shape[1:]))


def build_preconditioner(request: SpectrumRequest, sources: Inputs = NO_INPUTS) -> Parameters | None:
    """Load the diagonal D of a preconditioned matrix.

    Args:
        request: Request, which names the uploaded file.
        sources: Uploaded files.

    Returns:
        D by parameter name; None if the request has no preconditioner.

    Raises:
        InvalidProblemError: If the file is missing or damaged, or a number is not positive.
    """
    if request.preconditioner is None:
        return None
    return uploaded_arrays(sources.artifacts, request.preconditioner.id, request.matrix_parameters)


def build_plan(spec: TrainingSpec, micro_batch_size: int | None = None) -> TrainingPlan:
    """Build the training of a request.

    Args:
        spec: Training of the request.
        micro_batch_size: Samples whose activations are held at once; None: all of a batch.

    Returns:
        Optimizer, schedule and steps.
    """
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
    """Build the pretraining of a comparison.

    Args:
        spec: Pretraining of the request.
        micro_batch_size: Sequences whose activations are held at once; None: all of a batch.

    Returns:
        Optimizer, schedule and steps.
    """
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
    """Return the matrix of a quadratic form as the one sample of its model."""
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


def _real(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _as_found(model: CausalLmSpec, verdict: CheckpointVerdict, models: ModelsDirectory) -> CausalLmSpec:
    """Return the model with the sizes that transformers found, which config.json alone may not have given."""
    if verdict.sizes is None:
        return model
    checkpoint = models.open(model.checkpoint)
    found = causal_lm_fields(checkpoint, verdict.sizes)
    if found.checkpoint_sha256 != model.checkpoint_sha256:
        raise CheckpointError(CHANGED)
    return model.model_copy(update=found.model_dump())
