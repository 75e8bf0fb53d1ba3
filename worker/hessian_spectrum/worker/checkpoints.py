"""Models and parameters from a checkpoint, as it was when the job was accepted."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, DecoderSizes
from hessian_spectrum.api_schemas.models import CausalLm as CausalLmSpec
from hessian_spectrum.api_schemas.models import Gpt2 as Gpt2Spec
from hessian_spectrum.checkpoints.causal_lm import is_buffer
from hessian_spectrum.checkpoints.checkpoint import Checkpoint, StoredTensor
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.checkpoints.file_cache import identity
from hessian_spectrum.checkpoints.gpt2 import OUTPUT_LAYER, gpt2_tensors
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.models.causal_lm import CausalLm
from hessian_spectrum.curvature.models.decoder_architecture import DecoderArchitecture, decoder_architecture
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

CHANGED = "the checkpoint changed since the job was accepted"

Reader = Callable[[StoredTensor], Tensor]


def causal_lm(spec: CausalLmSpec, models: ModelsDirectory) -> CausalLm:
    """Build the model of a checkpoint, without parameters.

    Args:
        spec: Model of the request.
        models: The models directory.

    Returns:
        The model.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
    """
    checkpoint = _accepted(spec, models)
    architecture = _architecture(checkpoint)
    if architecture.parameters.keys() != spec.parameters.keys():
        raise CheckpointError(f"the checkpoint has {len(architecture.parameters)} parameters by transformers' account")
    with ExitStack() as files:
        read = _reader(files)
        for name, original in architecture.copies.items():
            _check_copy(name, copy=checkpoint.tensors[name], original=checkpoint.tensors[original], read=read)
        tables = {own: read(checkpoint.tensors[name]) for name, own in architecture.tables.items()}
    shapes = {name: tuple(shape) for name, shape in spec.parameters.items()}
    return CausalLm(
        configuration=checkpoint.configuration,
        shapes=shapes,
        n_layer=spec.n_layer,
        n_head=spec.n_head,
        n_embd=spec.n_embd,
        n_inner=spec.n_inner,
        n_positions=spec.n_positions,
        vocab_size=spec.vocab_size,
        tables=tables,
    )


def _architecture(checkpoint: Checkpoint) -> DecoderArchitecture:
    """Build the architecture of a checkpoint by transformers.

    Args:
        checkpoint: The checkpoint.

    Returns:
        The architecture.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
    """
    stored = {name: each.shape for name, each in checkpoint.tensors.items() if not is_buffer(name, each.shape)}
    try:
        return decoder_architecture(checkpoint.configuration, stored)
    except InvalidProblemError as error:
        raise CheckpointError(str(error)) from error


def decoder_sizes(checkpoint: Checkpoint) -> DecoderSizes:
    """Return the sizes that transformers gives a checkpoint.

    Args:
        checkpoint: The checkpoint.

    Returns:
        Sizes and shapes of parameters.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
    """
    found = _architecture(checkpoint)
    names = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size")
    left_out = [name for name in checkpoint.tensors if name not in found.parameters]
    num_parameters = sum(prod(checkpoint.tensors[name].shape) for name in found.parameters)
    sizes = {name: getattr(found, name) for name in names}
    return DecoderSizes(**sizes, num_parameters=num_parameters, left_out=left_out)


def checkpoint_parameters(
    spec: Gpt2Spec | CausalLmSpec,
    shapes: Mapping[str, tuple[int, ...]],
    models: ModelsDirectory,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Parameters:
    """Load parameters from a checkpoint.

    Args:
        spec: Model of the request, which names the checkpoint.
        shapes: Shapes of the parameters by name.
        models: The models directory.
        dtype: Precision of the parameters.
        device: Device of the parameters.

    Returns:
        Parameters by name.

    Raises:
        CheckpointError: If the checkpoint is not the one that the job was accepted with, a number is NaN or infinite in
            this precision, or an output layer differs from the embedding that it is tied to.
        OSError: If a file cannot be read.
    """
    checkpoint = _accepted(spec, models)
    digested = {path: identity(path) for path in {tensor.file for tensor in checkpoint.tensors.values()}}
    found = gpt2_tensors(checkpoint) if isinstance(spec, Gpt2Spec) else checkpoint.tensors
    if any(name not in found or found[name].shape != tuple(shape) for name, shape in shapes.items()):
        raise CheckpointError(CHANGED)
    try:
        with ExitStack() as files:
            read = _reader(files)
            if isinstance(spec, Gpt2Spec) and OUTPUT_LAYER in found:
                _check_copy(OUTPUT_LAYER, copy=found[OUTPUT_LAYER], original=found["wte.weight"], read=read)
            parameters = {name: _finite(name, read(found[name]).to(device, dtype)) for name in shapes}
    except SafetensorError:
        raise CheckpointError(CHANGED) from None
    if {path: identity(path) for path in digested} != digested:
        raise CheckpointError(CHANGED)
    return parameters


def _accepted(spec: Gpt2Spec | CausalLmSpec, models: ModelsDirectory) -> Checkpoint:
    checkpoint = models.open(spec.checkpoint or "")
    if checkpoint.sha256 != spec.checkpoint_sha256:
        raise CheckpointError(CHANGED)
    return checkpoint


def _reader(files: ExitStack) -> Reader:
    """Return a function that reads from files which stay open as long as `files`."""
    handles: dict[Path, Any] = {}

    def read(tensor: StoredTensor) -> Tensor:
        if tensor.file not in handles:
            handles[tensor.file] = files.enter_context(safe_open(tensor.file, framework="pt"))
        return handles[tensor.file].get_tensor(tensor.name)  # type: ignore[no-any-return]

    return read


def _check_copy(name: str, *, copy: StoredTensor, original: StoredTensor, read: Reader) -> None:
    """Raise a CheckpointError if a tensor that is tied to a parameter holds other numbers."""
    if not torch.equal(read(copy), read(original)):
        raise CheckpointError(f"{name} is no copy of the embedding, to which the model ties it")


def _finite(name: str, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise CheckpointError(f"{name:.100} holds NaN or infinity in {values.dtype}")
    return values
