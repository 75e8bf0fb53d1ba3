"""A checkpoint read as one of transformers' causal language models."""

import re

from hessian_spectrum.api_schemas.checkpoints import CausalLmCheckpoint, CheckpointError, DecoderSizes
from hessian_spectrum.checkpoints.checkpoint import FLOATS, Checkpoint, Tensors
from hessian_spectrum.checkpoints.configuration import FILE, Configuration, UnknownSizeError, check_plain, count, shown

OUTPUT_LAYERS = ("lm_head.weight", "embed_out.weight")

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.masked_bias")


def causal_lm_fields(checkpoint: Checkpoint, sizes: DecoderSizes | None = None) -> CausalLmCheckpoint:
    """Derive from a checkpoint the fields that it determines in a request's `causal-lm` model.

    Args:
        checkpoint: The checkpoint.
        sizes: Sizes that a worker determined by transformers; None: those that config.json gives under usual names.

    Returns:
        The fields of the model.

    Raises:
        UnknownSizeError: Without `sizes`, if config.json does not give one of them.
        CheckpointError: The checkpoint cannot be used.
        OSError: A file cannot be read or written.
    """
    _check_dense_decoder(checkpoint.configuration)
    tensors = causal_lm_tensors(checkpoint, sizes)
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(f"{name:.100} holds {tensor.dtype}, no floating-point numbers")
    known = (
        _sizes(checkpoint.configuration, tensors)
        if sizes is None
        else sizes.model_dump(exclude={"left_out", "num_parameters"})
    )
    return CausalLmCheckpoint(
        checkpoint_sha256=checkpoint.sha256,
        **known,
        parameters={name: list(tensors[name].shape) for name in sorted(tensors, key=_natural)},
    )


def causal_lm_tensors(checkpoint: Checkpoint, sizes: DecoderSizes | None = None) -> Tensors:
    """Select the tensors of a checkpoint that are parameters.

    Args:
        checkpoint: The checkpoint.
        sizes: Sizes that a worker determined by transformers; None: config.json alone says whether anything is tied.

    Returns:
        The parameters by name, without buffers, and without the copy of an output layer that is tied to the embedding.
    """
    if sizes is not None:
        left_out = set(sizes.left_out)
        return {name: tensor for name, tensor in checkpoint.tensors.items() if name not in left_out}
    tied = checkpoint.configuration.get("tie_word_embeddings") is True
    return {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not is_buffer(name, tensor.shape) and not (tied and name in OUTPUT_LAYERS)
    }


def _sizes(fields: Configuration, tensors: Tensors) -> dict[str, int]:
    """Read the sizes of a decoder from its configuration.

    Args:
        fields: The configuration.
        tensors: The parameters of the checkpoint.

    Returns:
        Each size by its name in the message.

    Raises:
        UnknownSizeError: A size is not given under a usual name.
        CheckpointError: Configuration and weights disagree.
    """
    if "decoder_layers" in fields:
        raise UnknownSizeError(f"{FILE} describes an encoder as well")
    n_embd, vocab_size = count(fields, "hidden_size", "n_embd", "d_model"), count(fields, "vocab_size")
    # whose width may be another than that of the layers
    if not any(len(tensor.shape) == 2 and tensor.shape[0] == vocab_size for tensor in tensors.values()):
        raise CheckpointError(f"{FILE} and weights disagree: no embedding has the shape {[vocab_size, n_embd]}")
    n_layer = count(fields, "num_hidden_layers", "n_layer", "num_layers")
    if n_layer > (num_layers := len(_layers(tensors))):  # of which each would be built before shapes are compared
        raise CheckpointError(f"{FILE} and weights disagree: {n_layer} layers, the weights have {num_layers}")
    return {
        "n_layer": n_layer,
        "n_head": count(fields, "num_attention_heads", "n_head", "num_heads"),
        "n_embd": n_embd,
        "n_inner": count(fields, "intermediate_size", "n_inner", "ffn_dim", default=4 * n_embd),
        "n_positions": count(fields, "max_position_embeddings", "n_positions", "n_ctx", "seq_length"),
        "vocab_size": vocab_size,
    }


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is a mask or a table of positions, which older files hold."""
    return name.endswith(_BUFFERS) or (name.endswith(".attention.bias") and len(shape) == 4)


def _check_dense_decoder(fields: Configuration) -> None:
    check_plain(fields)
    if not isinstance(fields.get("model_type"), str):
        raise CheckpointError(f"{FILE} has no model_type")
    for name in ("is_encoder_decoder", "add_cross_attention"):
        if fields.get(name) not in (None, False):
            raise CheckpointError(f"{FILE}: {name} is {shown(fields[name])}; only decoders are loaded")
    for name in _EXPERTS if fields.get("is_moe") is not False else ():
        if fields.get(name) not in (None, 0, 1):
            raise CheckpointError(f"{FILE}: {name} is {shown(fields[name])}; mixtures of experts are not loaded")


def _layers(tensors: Tensors) -> set[str]:
    """Numbers of the layers; the first number in a parameter's name is that of its layer."""
    return {match.group(1) for name in tensors if (match := re.search(r"\.(\d+)\.", name))}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
