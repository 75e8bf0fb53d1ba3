"""Names and shapes of the parameters of every model, which a block chooses from; the engine's models have the same."""

import re
from collections.abc import Mapping
from fnmatch import translate
from itertools import pairwise
from math import prod

from hessian_spectrum.api_schemas.arrays import shape
from hessian_spectrum.api_schemas.closed_form_models import (
    LinearBiasNetwork,
    QuadraticForm,
    SelfAttention,
    TwoLayerLinearNetwork,
)
from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.models import (
    IMAGE_EDGE,
    NUM_CLASSES,
    AttentionLayer,
    CausalLm,
    Conv,
    Gpt2,
    Mlp,
    Model,
    RowNetwork,
)

Shapes = dict[str, tuple[int, ...]]
"""By name, in the order of the flat parameter vector."""

Place = tuple[str | int, ...]
"""Of a field in a request."""

_MAX_NAMES_SHOWN = 20


def parameter_shapes(model: Model) -> Shapes:
    """Shape of each parameter of the model."""
    match model:
        case Mlp():
            return _mlp_shapes(model)
        case Conv():
            return _conv_shapes(model)
        case AttentionLayer():
            d, key = model.embedding_dim, (model.embedding_dim, model.key_dim)
            return {"W_V": (d, model.num_outputs), "W_Q": key, "W_K": key}
        case Gpt2():
            return _gpt2_shapes(model)
        case CausalLm():
            return {name: tuple(shape) for name, shape in model.parameters.items()}
        case _:
            return _closed_form_shapes(model)


def block_shapes(model: Model, globs: Mapping[Place, str]) -> Shapes:
    """Those whose names match one of the globs (*, ?, [...]; case counts), each by its place in the request; {}: all.

    Raises:
        ValidationError: At the place of a glob that none matches.
    """
    shapes = parameter_shapes(model)
    if not globs:
        return shapes
    chosen = {name for place, glob in globs.items() for name in _matching(shapes, place, glob)}
    return {name: size for name, size in shapes.items() if name in chosen}


def block_dims(model: Model, globs: Mapping[Place, str]) -> tuple[int, ...]:
    """How many numbers all these parameters have together, then those of each glob alone; names are read once.

    Raises:  as `block_shapes`.
    """
    sizes = {name: prod(size) for name, size in parameter_shapes(model).items()}
    if not globs:
        return (sum(sizes.values()),)
    blocks = [_matching(sizes, place, glob) for place, glob in globs.items()]
    chosen = blocks if len(blocks) == 1 else [{name for names in blocks for name in names}, *blocks]
    return tuple(sum(map(sizes.__getitem__, names)) for names in chosen)


def _matching(names: Mapping[str, object], place: Place, glob: str) -> list[str]:
    """Raises:  ValidationError at the place of a glob that matches none."""
    matching = list(filter(re.compile(translate(glob)).match, names))
    if not matching:
        raise misfit(*place, message=f"no parameter has such a name; there are {_listed(names)}")
    return matching


def _listed(shapes: Mapping[str, object]) -> str:
    names = list(shapes)
    rest = len(names) - _MAX_NAMES_SHOWN
    return ", ".join(names[:_MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _mlp_shapes(model: Mlp) -> Shapes:
    shapes: Shapes = {}
    for index, (fan_in, fan_out) in enumerate(pairwise(model.layer_widths)):
        shapes[f"layers.{index}.weight"] = (fan_out, fan_in)
        if model.has_bias:
            shapes[f"layers.{index}.bias"] = (fan_out,)
    return shapes


def _conv_shapes(model: Conv) -> Shapes:
    shapes: Shapes = {}
    edge = IMAGE_EDGE
    for index, (incoming, outgoing) in enumerate(pairwise([1, *model.channels])):
        shapes[f"conv.{index}.weight"] = (outgoing, incoming, model.kernel_size, model.kernel_size)
        shapes[f"conv.{index}.bias"] = (outgoing,)
        edge = -(-edge // model.stride)
        edge = edge // 2 if model.pooling == "mean" else edge
    shapes["head.weight"] = (NUM_CLASSES, model.channels[-1] * edge**2)
    shapes["head.bias"] = (NUM_CLASSES,)
    return {name: size for name, size in shapes.items() if model.bias or name.endswith("weight")}


def _closed_form_shapes(model: RowNetwork | SelfAttention | QuadraticForm) -> Shapes:
    match model:
        case QuadraticForm():
            return {"z": (len(model.matrix),)}
        case SelfAttention():
            return {"w_v": (), "w_q": (len(model.w_q),), "w_k": (len(model.w_k),)}
        case TwoLayerLinearNetwork():
            return {"W1": shape(model.W1), "W2": shape(model.W2)}
        case _:
            return dict.fromkeys("wvb" if isinstance(model, LinearBiasNetwork) else "wv", shape(model.w))


def _gpt2_shapes(model: Gpt2) -> Shapes:
    d = model.n_embd
    shapes: Shapes = {"wte.weight": (model.vocab_size, d), "wpe.weight": (model.n_positions, d)}
    linear = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    num_blocks = model.n_layer if model.attention else model.n_layer + model.n_layer // 2
    for block in range(num_blocks):
        for part in parts if model.attention else parts[3:]:
            weight = linear.get(part, (d,))
            shapes[f"blocks.{block}.{part}.weight"] = weight
            shapes[f"blocks.{block}.{part}.bias"] = weight[-1:]
    shapes |= {"ln_f.weight": (d,), "ln_f.bias": (d,)}
    return {name: size for name, size in shapes.items() if model.bias or name.endswith("weight")}
