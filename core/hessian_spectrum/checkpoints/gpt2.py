"""A checkpoint read as the `gpt2` that the engine computes itself."""

import re
from collections.abc import Mapping

from pydantic import ValidationError

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, Gpt2Checkpoint
from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.models.kind import Shapes, parameter_shapes
from hessian_spectrum.checkpoints.checkpoint import FLOATS, Checkpoint, StoredTensor, Tensors
from hessian_spectrum.checkpoints.configuration import FILE, Configuration, check_plain, count, shown

MODEL_TYPE = "gpt2"
OUTPUT_LAYER = "lm_head.weight"
"""Name of the output layer, which a checkpoint may hold as a copy of the embedding to which it is tied."""

_ACTIVATIONS = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu", "relu": "relu"}
_FIXED: Mapping[str, object] = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
"""Options of Hugging Face's GPT-2 that the engine's model lacks, with the values that it implements."""

_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_MAX_DIFFERENCES = 5


class OtherOptionError(CheckpointError):
    """The checkpoint is a GPT-2 with an option that the engine's own model does not have."""

    def __init__(self, option: str, value: object) -> None:
        super().__init__(f"{FILE}: {option} is {shown(value)}, which kind gpt2 cannot have; use kind causal-lm")


def gpt2_fields(checkpoint: Checkpoint) -> Gpt2Checkpoint:
    """Derive from a checkpoint the fields that it determines in a request's `gpt2` model.

    Args:
        checkpoint: The checkpoint.

    Returns:
        The fields of the model.

    Raises:
        CheckpointError: The checkpoint cannot be used, or configuration and weights disagree.
        OSError: A file cannot be read or written.
    """
    sizes = _sizes(checkpoint.configuration)
    try:
        model = Gpt2.model_validate({"kind": "gpt2"} | sizes)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise CheckpointError(f"{FILE}: {fault['loc'][-1]}: {fault['msg']}") from None
    _check_weights(gpt2_tensors(checkpoint), parameter_shapes(model))
    return Gpt2Checkpoint.model_validate(sizes | {"checkpoint_sha256": checkpoint.sha256})


def gpt2_tensors(checkpoint: Checkpoint) -> Tensors:
    """Tensors of the checkpoint by the names of the engine; a copy of the embedding is named `OUTPUT_LAYER`."""
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        short = name.removeprefix("transformer.")
        if not _BUFFER.fullmatch(short):
            tensors[re.sub(r"^h\.", "blocks.", short)] = tensor
    return tensors


def _sizes(fields: Configuration) -> dict[str, object]:
    check_plain(fields)
    if fields.get("model_type") != MODEL_TYPE:
        raise OtherOptionError("model_type", fields.get("model_type"))
    for option, value in _FIXED.items():
        given = fields.get(option, value)
        if given != value:
            raise OtherOptionError(option, given)
    n_embd = count(fields, "n_embd")
    if fields.get("n_inner") not in (None, 4 * n_embd):
        raise OtherOptionError("n_inner", fields["n_inner"])
    activation = fields.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise OtherOptionError("activation_function", activation)
    bias = fields.get("bias", True)
    if not isinstance(bias, bool):
        raise CheckpointError(f"{FILE}: bias is {shown(bias)}, neither true nor false")
    return {
        "n_layer": count(fields, "n_layer"),
        "n_head": count(fields, "n_head"),
        "n_embd": n_embd,
        "n_positions": count(fields, "n_positions", "n_ctx"),
        "vocab_size": count(fields, "vocab_size"),
        "bias": bias,
        "activation": _ACTIVATIONS[activation],
    }


def _check_weights(tensors: Tensors, shapes: Shapes) -> None:
    expected = dict(shapes)
    if OUTPUT_LAYER in tensors:
        expected[OUTPUT_LAYER] = shapes["wte.weight"]
    every = sorted(expected.keys() | tensors.keys())
    compared = {name: _difference(tensors.get(name), expected.get(name)) for name in every}
    differences = [f"{name.replace('blocks.', 'h.'):.100} {text}" for name, text in compared.items() if text]
    if differences:
        more = "" if len(differences) <= _MAX_DIFFERENCES else f"; and {len(differences) - _MAX_DIFFERENCES} more"
        text = "; ".join(differences[:_MAX_DIFFERENCES])
        raise CheckpointError(f"{FILE} and weights disagree: {text}{more}")


def _difference(tensor: StoredTensor | None, shape: tuple[int, ...] | None) -> str | None:
    if tensor is None:
        return "is missing"
    if shape is None:
        return "is unknown"
    if tensor.shape != shape:
        return f"has shape {list(tensor.shape)}, not {list(shape)}"
    return None if tensor.dtype in FLOATS else f"holds {tensor.dtype}, no floating-point numbers"
