"""Models and parameters from a checkpoint, as it was when the job was accepted."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from api_schemas.checkpoints import CheckpointError
from api_schemas.models import CausalLm as CausalLmSpec
from api_schemas.models import Gpt2 as Gpt2Spec
from checkpoints.causal_lm import OUTPUT_LAYERS, causal_lm_tensors
from checkpoints.checkpoint import Checkpoint
from checkpoints.digest import identity
from checkpoints.directory import ModelsDirectory
from checkpoints.gpt2 import gpt2_tensors
from checkpoints.weights import StoredTensor, Tensors
from curvature.errors import InvalidProblemError
from curvature.models.causal_lm import CausalLm
from curvature.parameters import Parameters

CHANGED = "the checkpoint changed since the job was accepted"

Reader = Callable[[StoredTensor], Tensor]


def causal_lm(spec: CausalLmSpec, models: ModelsDirectory) -> CausalLm:
    """The model, without parameters.

    Raises:  CheckpointError.
    """
    shapes = {name: tuple(shape) for name, shape in spec.parameters.items()}
    sizes = (spec.n_layer, spec.n_head, spec.n_embd, spec.n_inner, spec.n_positions, spec.vocab_size)
    model = CausalLm(_accepted(spec, models).configuration, shapes, *sizes)
    try:
        model.check()
    except InvalidProblemError as error:
        raise CheckpointError(str(error)) from error
    return model


def checkpoint_parameters(
    spec: Gpt2Spec | CausalLmSpec,
    shapes: Mapping[str, tuple[int, ...]],
    models: ModelsDirectory,
    dtype: torch.dtype,
    device: torch.device,
) -> Parameters:
    """The parameters of these names and shapes.

    Raises:  CheckpointError if the checkpoint is not the one that the job was accepted with, a number is NaN or
        infinite in this precision, or an output layer is no copy of the embedding that it is tied to; OSError.
    """
    checkpoint = _accepted(spec, models)
    digested = {path: identity(path) for path in {tensor.file for tensor in checkpoint.tensors.values()}}
    found = gpt2_tensors(checkpoint) if isinstance(spec, Gpt2Spec) else causal_lm_tensors(checkpoint)
    if any(name not in found or found[name].shape != tuple(shape) for name, shape in shapes.items()):
        raise CheckpointError(CHANGED)
    try:
        with ExitStack() as files:
            read = _reader(files)
            _check_copies(checkpoint, shapes, found, read)
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
    """Reads from files that stay open as long as `files`."""
    handles: dict[Path, Any] = {}

    def read(tensor: StoredTensor) -> Tensor:
        if tensor.file not in handles:
            handles[tensor.file] = files.enter_context(safe_open(tensor.file, framework="pt"))
        return handles[tensor.file].get_tensor(tensor.name)  # type: ignore[no-any-return]

    return read


def _check_copies(checkpoint: Checkpoint, shapes: Mapping[str, Any], found: Tensors, read: Reader) -> None:
    """Output layers that are no parameters of their own must be copies of one."""
    for name, copy in checkpoint.tensors.items():
        if name not in OUTPUT_LAYERS or name in shapes:
            continue
        candidates = [tensor for other, tensor in found.items() if other in shapes and tensor.shape == copy.shape]
        if not any(torch.equal(read(copy), read(tensor)) for tensor in candidates):
            raise CheckpointError(f"{name} is no copy of the embedding, though config.json ties them")


def _finite(name: str, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise CheckpointError(f"{name:.100} holds NaN or infinity in {values.dtype}")
    return values
