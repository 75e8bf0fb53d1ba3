"""Architectures of decoders of the transformers library: modules without weights, and the names of their parameters."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from hessian_spectrum.quadrature.exceptions import InvalidProblemError

LONGEST_SEQUENCE = 2**20
"""Largest length of a sequence for models whose positions are unlimited."""

_IGNORED = ("auto_map", "gradient_checkpointing", "id2label", "label2id", "num_labels", "reorder_and_upcast_attn")
"""Fields of config.json that do not change what the library's own causal language model computes: they name code that
comes with the checkpoint, or say how it was trained, or in which order and precision GPT-2 multiplies."""

_MAX_NAMES_SHOWN = 5

# decoder fields first: in configurations with an encoder, too, the common names mean the encoder
_HEADS = ("decoder_attention_heads", "num_attention_heads", "n_head", "num_heads", "attention_heads")
_INNER = ("decoder_ffn_dim", "intermediate_size", "n_inner", "ffn_dim", "d_inner", "dff")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length", "seq_length")

Shapes = Mapping[str, tuple[int, ...]]
Configuration = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DecoderArchitecture:
    """Sizes of a checkpoint's model, and the roles of its tensors.

    Args:
        n_layer: Number of blocks.
        n_head: Number of attention heads, for estimates.
        n_embd: Width of the residual stream, for estimates.
        n_inner: Width of the hidden layers, for estimates.
        n_positions: Largest length of a sequence.
        vocab_size: Number of tokens.
        parameters: Names of the parameters in the module, by their names in the checkpoint; a tied one appears once.
        copies: Names of the parameters to which other tensors are tied, by the names of these, both in the checkpoint.
        tables: Names of buffers in the module, by their names in the checkpoint.
    """

    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_positions: int
    vocab_size: int
    parameters: dict[str, str]
    copies: dict[str, str]
    tables: dict[str, str]


def decoder_architecture(configuration: Configuration, stored: Shapes) -> DecoderArchitecture:
    """Return the architecture of a checkpoint.

    Args:
        configuration: Fields of config.json.
        stored: Shapes of the checkpoint's tensors by name.

    Returns:
        The architecture.

    Raises:
        InvalidProblemError: If the library has no such model, it is a mixture of experts, or its parameters are not
            those of the checkpoint.
    """
    module = build_module(configuration, "meta", num_tensors=len(stored))
    if any(".experts." in name for name, _ in module.named_parameters()):
        raise InvalidProblemError("the model is a mixture of experts, which is not loaded")
    parameters, copies, tables = _roles_of_tensors(module, stored)
    fields, embedding = module.config, module.get_input_embeddings().weight
    n_embd = _first_integer(fields, ("hidden_size",), int(embedding.shape[1]))
    layers = {match[1] for name in parameters if (match := re.search(r"\.(\d+)\.", name))}
    return DecoderArchitecture(
        n_layer=max(1, len(layers)),
        n_head=_first_integer(fields, _HEADS, 1),
        n_embd=n_embd,
        n_inner=_first_integer(fields, _INNER, 4 * n_embd),
        n_positions=_first_integer(fields, _POSITIONS, LONGEST_SEQUENCE),
        vocab_size=int(embedding.shape[0]),
        parameters=parameters,
        copies=copies,
        tables=tables,
    )


def build_module(configuration: Configuration, device: str, num_tensors: int) -> Any:
    """Return the library's module of a configuration, without initialised weights.

    Args:
        configuration: Fields of config.json.
        device: Device of the module.
        num_tensors: Number of tensors in the checkpoint.

    Returns:
        The module, in evaluation mode.

    Raises:
        InvalidProblemError: If the library cannot build it, or it has far more parameters than there are tensors.
    """
    transformers = loaded_transformers()
    from transformers.initialization import no_init_weights  # noqa: PLC0415 - see loaded_transformers

    fields = {name: value for name, value in configuration.items() if name not in _IGNORED}
    model_type = fields.pop("model_type")
    if model_type not in transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        own_code = ", and the code that config.json names in auto_map is not run" if "auto_map" in configuration else ""
        message = f"transformers has no causal language model of model_type {model_type!r:.60}{own_code}"
        raise InvalidProblemError(message)
    try:
        config = transformers.AutoConfig.for_model(model_type, **fields)
        options = {"attn_implementation": "eager", "trust_remote_code": False, "dtype": torch.float32}
        with no_init_weights(), torch.device(device), _at_most(2 * num_tensors + 64):
            module = transformers.AutoModelForCausalLM.from_config(config, **options)
        module.tie_weights()  # a part of the initialisation that is left out
    except Exception as error:
        # the code of each model checks configurations and may raise any exception
        message = f"transformers builds no model from config.json: {type(error).__name__}: {error!s:.300}"
        raise InvalidProblemError(message) from error
    module.requires_grad_(False)
    module.eval()
    return module


def loaded_transformers() -> Any:
    """Return the library, which is imported at the first call, because that takes seconds."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # it loads any torchvision that it finds, and one built for another torch breaks it; text needs none
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]
    import transformers  # noqa: PLC0415

    logging.getLogger("transformers").setLevel(logging.ERROR)
    return transformers


@contextmanager
def _at_most(num_parameters: int) -> Iterator[None]:
    """Stop the construction of a model at a number of parameters, so that a million layers do not take hours."""
    num_registered = 0

    def count(*_: Any) -> None:
        nonlocal num_registered
        num_registered += 1
        if num_registered > num_parameters:
            raise ValueError(f"its model has more than {num_parameters} parameters, far more than there are weights")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _roles_of_tensors(module: Any, stored: Shapes) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return parameters, copies and tables of a `DecoderArchitecture`."""
    first = {id(tensor): name for name, tensor in module.named_parameters()}
    known = {name: first[id(tensor)] for name, tensor in module.named_parameters(remove_duplicate=False)}
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    rename = _renaming(module)
    renamed = {name: rename(name) for name in stored}
    parameters: dict[str, str] = {}
    copies, tables, unknown = {}, {}, []
    # a tensor under the parameter's first name is the parameter, others that are tied to it are copies
    for name in sorted(stored, key=lambda name: known.get(renamed[name]) != renamed[name]):
        own = renamed[name]
        if own not in shapes or shapes[own] != tuple(stored[name]):
            unknown.append(f"{own:.100} is {shapes.get(own)}, not {tuple(stored[name])}")
        elif own not in known:
            tables[name] = own
        elif known[own] in parameters.values():
            copies[name] = known[own]
        else:
            parameters[name] = known[own]
    missing = sorted({*known.values()} - {*parameters.values()})
    if unknown or missing:
        unknown += [f"{name:.100} is {shapes[name]}, not None" for name in missing]
        text = "; ".join(sorted(unknown)[:_MAX_NAMES_SHOWN])
        raise InvalidProblemError(f"config.json and weights disagree, shapes by transformers' names: {text}")
    by_module_name = {own: name for name, own in parameters.items()}
    ordered = {name: parameters[name] for name in stored if name in parameters}
    return ordered, {name: by_module_name[own] for name, own in copies.items()}, tables


def _first_integer(configuration: Any, names: tuple[str, ...], default: int) -> int:
    """Return the first of the configuration's attributes that is a positive integer."""
    values = (getattr(configuration, name, None) for name in names)
    return next((value for value in values if type(value) is int and 1 <= value < 2**31), default)


def _renaming(module: Any) -> Callable[[str], str]:
    """Return the map from names in checkpoints to those of the module that transformers itself uses."""
    from transformers.conversion_mapping import (  # noqa: PLC0415 - see loaded_transformers
        get_model_conversion_mapping,
    )
    from transformers.core_model_loading import (  # noqa: PLC0415
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    rules = get_model_conversion_mapping(module)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix, state = str(module.base_model_prefix), module.state_dict()

    def rename(name: str) -> str:
        renamed, conversion = rename_source_key(name, renamings, converters, prefix, state)
        if conversion is not None:
            raise InvalidProblemError(f"transformers rearranges {name:.100} when it loads it, which is not done here")
        return str(renamed)

    return rename
