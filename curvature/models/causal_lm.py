"""Causal language models of the transformers library as pure functions of their parameters."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from curvature.cost.size import Size, causal_lm_size
from curvature.errors import InvalidProblemError
from curvature.models.base import Model, check_tokens
from curvature.parameters import Parameters

_MAX_NAMES_SHOWN = 5

_IGNORED = ("gradient_checkpointing", "id2label", "label2id", "num_labels")
"""Fields of config.json that do not belong to a causal language model, or to how it is trained."""


@dataclass(frozen=True, eq=False)
class CausalLm(Model):
    """Next-token logits (n, T, vocab_size) for tokens (n, T), T <= n_positions, by a decoder that transformers has.

    Attention is transformers' eager one, without a cache; dropout is off. No code and no file is loaded but those of
    the library itself.

    Args:
        configuration: the fields of config.json, `model_type` among them.
        shapes: of the parameters, by their names in the checkpoint; a tied parameter once.
        n_inner: width of the hidden layers; it and the other sizes say how large activations are.
    Raises:  InvalidProblemError by `check`, or at the first use, if transformers has no such model or it has other
        parameters.
    """

    configuration: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_positions: int
    vocab_size: int

    @property
    def num_outputs(self) -> int:
        """Size of the vocabulary."""
        return self.vocab_size

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """By their names in the checkpoint."""
        return dict(self.shapes)

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Raises:  InvalidProblemError: they are those of a checkpoint."""
        raise InvalidProblemError("the parameters of a causal-lm are those of a checkpoint")

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are int64 tokens (n, T) in 0 .. vocab_size - 1 with T <= n_positions."""
        check_tokens(inputs, "causal-lm", self.vocab_size, self.n_positions)

    def check(self) -> None:
        """Raises:  InvalidProblemError if transformers has no such model, or it has other parameters."""
        assert self._module_names

    def check_causal(self, parameters: Mapping[str, Tensor]) -> None:
        """Look whether the first token's logits depend on the second token.

        Raises:  InvalidProblemError if they do, or if the model fails.
        """
        tokens = torch.zeros(
            2, min(2, self.n_positions), dtype=torch.int64, device=next(iter(parameters.values())).device
        )
        tokens[1, -1] = self.vocab_size - 1
        try:
            with torch.no_grad():
                first, second = self(parameters, tokens)[:, 0]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # forward passes are the code of each model, which raises what it likes
            raise InvalidProblemError(
                f"the model fails on two tokens: {type(error).__name__}: {error!s:.300}"
            ) from error
        scale = float(first.abs().max())
        if self.n_positions > 1 and float((first - second).abs().max()) > torch.finfo(first.dtype).eps ** 0.5 * scale:
            raise InvalidProblemError("the model sees the tokens that it is to predict: it is no causal language model")

    def size_on(self, inputs: Tensor) -> Size:
        """As `causal_lm_size` estimates it."""
        num_parameters = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        widths = (self.n_layer, self.n_head, self.n_embd, self.n_inner, self.vocab_size)
        return causal_lm_size(num_parameters, *widths, *inputs.shape)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Logits (n, T, vocab_size) for tokens (n, T)."""
        dtype, device = next((each.dtype, each.device) for each in parameters.values())
        tensors = {
            name: buffer.to(device=device, dtype=dtype if buffer.is_floating_point() else None)
            for name, buffer in self._module.named_buffers()
        }
        tensors |= {self._module_names[name]: tensor for name, tensor in parameters.items()}
        with _Differentiable(dtype):
            output = functional_call(self._module, tensors, (inputs,), {"use_cache": False, "return_dict": True})
        return output.logits  # type: ignore[no-any-return]

    @cached_property
    def _module(self) -> Any:
        """The architecture; its own parameters are never set, read or, as long as they are large, given memory."""
        assert self._module_names  # before tables as large as config.json says are made
        return self._built("cpu")

    def _built(self, device: str) -> Any:
        transformers = _transformers()
        from transformers.initialization import no_init_weights  # noqa: PLC0415 - see _transformers

        fields = {name: value for name, value in self.configuration.items() if name not in _IGNORED}
        model_type = fields.pop("model_type")
        if model_type not in transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise InvalidProblemError(f"transformers has no causal language model of model_type {model_type!r:.60}")
        try:
            configuration = transformers.AutoConfig.for_model(model_type, **fields)
            options = {"attn_implementation": "eager", "trust_remote_code": False, "dtype": torch.float32}
            with no_init_weights(), torch.device(device):
                module = transformers.AutoModelForCausalLM.from_config(configuration, **options)
            module.tie_weights()  # a part of the initialisation that is left out
        except Exception as error:
            # configurations are checked by the code of each model, which raises what it likes
            message = f"transformers builds no model from config.json: {type(error).__name__}: {error!s:.300}"
            raise InvalidProblemError(message) from error
        module.requires_grad_(False)
        module.eval()
        return module

    @cached_property
    def _module_names(self) -> dict[str, str]:
        """Names inside the module by those in the checkpoint.

        Raises:  InvalidProblemError if the parameters are not those of the module.
        """
        module = self._built("meta")
        rename = _renaming(module)
        names = {name: rename(name) for name in self.shapes}
        wanted = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
        given = {names[name]: tuple(shape) for name, shape in self.shapes.items()}
        different = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        if different or len(given) < len(names):
            text = "; ".join(f"{n} is {wanted.get(n)}, not {given.get(n)}" for n in different[:_MAX_NAMES_SHOWN])
            raise InvalidProblemError(f"config.json and weights disagree, shapes by transformers' names: {text}")
        return names


class _Differentiable(TorchFunctionMode):
    """Runs a model of transformers so that its second derivatives exist, and are of the parameters' precision.

    SiLU is written out: its fused backward has no forward derivative where products are recorded. Norms, softmax and
    rotations go by float32 there whatever the parameters are; with parameters in float64 they do not. Embeddings have
    no padding token: the reverse mode drops the gradient of its row where the forward mode does not, and a Hessian
    would not be symmetric.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.silu:
            return args[0] * torch.sigmoid(args[0])
        if func is F.embedding:
            return func(args[0], args[1])
        if func is Tensor.float:
            return args[0].to(self._dtype)
        own_args = tuple(self._own(each) for each in args)
        return func(*own_args, **{name: self._own(each) for name, each in (kwargs or {}).items()})

    def _own(self, argument: Any) -> Any:
        return self._dtype if argument is torch.float32 else argument


def _transformers() -> Any:
    """The library, which takes seconds to load: only where a model needs it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # it loads any torchvision that it finds, and one built for another torch breaks it; text needs none
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]
    import transformers  # noqa: PLC0415

    logging.getLogger("transformers").setLevel(logging.ERROR)
    return transformers


def _renaming(module: Any) -> Callable[[str], str]:
    """From names in checkpoints to those of the module, as transformers itself loads them."""
    from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: PLC0415 - see _transformers
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
