"""Causal language models of the transformers library as pure functions of their parameters."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from hessian_spectrum.curvature.models.base import Model, Parameters, check_tokens
from hessian_spectrum.curvature.models.decoder_architecture import build_module, decoder_architecture
from hessian_spectrum.planning.size import Size, causal_lm_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True, eq=False, kw_only=True)
class CausalLm(Model):
    """A decoder of transformers: next-token logits (n, T, vocab_size) for tokens (n, T), T <= n_positions.

    Attention is the library's eager implementation, without a cache, and dropout is off. Only code and files of the
    library itself are loaded.

    Args:
        configuration: Fields of config.json, including `model_type`.
        shapes: Shapes of the parameters by their names in the checkpoint; a tied parameter appears once.
        n_layer: Number of blocks. This and the following widths determine how large activations are.
        n_head: Number of attention heads.
        n_embd: Width of the residual stream.
        n_inner: Width of the hidden layers.
        n_positions: Largest length of a sequence.
        vocab_size: Number of tokens.
        tables: Buffers of the library's module that the checkpoint holds, by the module's names.

    Raises:
        InvalidProblemError: At the first use, if transformers has no such model, or it has other parameters.
    """

    configuration: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_positions: int
    vocab_size: int
    tables: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_built_in(self) -> bool:
        """False: a network of a user may call any operator of PyTorch."""
        return False

    @property
    def num_outputs(self) -> int:
        """Size of the vocabulary."""
        return self.vocab_size

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the names that parameters have in the checkpoint."""
        return dict(self.shapes)

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Raise an error, because the parameters are those of a checkpoint.

        Raises:
            InvalidProblemError: Always.
        """
        raise InvalidProblemError("the parameters of a causal-lm are those of a checkpoint")

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are int64 tokens (n, T) in 0 .. vocab_size - 1 with T <= n_positions."""
        check_tokens(inputs, "causal-lm", vocab_size=self.vocab_size, n_positions=self.n_positions)

    def check_causal(self, parameters: Mapping[str, Tensor]) -> None:
        """Check that the first token's logits do not depend on the second token.

        Args:
            parameters: Parameters by name.

        Raises:
            InvalidProblemError: If they do, or if the model fails.
            OutOfMemoryError: If the memory does not suffice.
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
            # forward passes run the code of each model, which may raise any exception
            raise InvalidProblemError(
                f"the model fails on two tokens: {type(error).__name__}: {error!s:.300}"
            ) from error
        if first.shape[-1] != self.vocab_size:
            raise InvalidProblemError(f"the model has {first.shape[-1]} outputs for {self.vocab_size} tokens")
        scale = float(first.abs().max())
        if self.n_positions > 1 and float((first - second).abs().max()) > torch.finfo(first.dtype).eps ** 0.5 * scale:
            raise InvalidProblemError("the model sees the tokens that it is to predict: it is no causal language model")

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size as `causal_lm_size` estimates it."""
        num_parameters = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        num_sequences, length = inputs.shape
        return causal_lm_size(
            num_parameters=num_parameters,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_embd=self.n_embd,
            n_inner=self.n_inner,
            vocab_size=self.vocab_size,
            num_sequences=num_sequences,
            sequence_length=length,
        )

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return logits (n, T, vocab_size) for tokens (n, T)."""
        dtype, device = next((each.dtype, each.device) for each in parameters.values())
        tensors = {
            name: buffer.to(device=device, dtype=dtype if buffer.is_floating_point() else None)
            for name, buffer in {**dict(self._module.named_buffers()), **self.tables}.items()
        }
        tensors |= {self._module_names[name]: tensor for name, tensor in parameters.items()}
        with _Differentiable(dtype):
            output = functional_call(self._module, tensors, (inputs,), {"use_cache": False, "return_dict": True})
        return output.logits  # type: ignore[no-any-return]

    @cached_property
    def _module(self) -> Any:
        """The library's module, whose own parameters are never set or read, and take no memory if they are large."""
        assert self._module_names  # before tables as large as config.json says are made
        return build_module(self.configuration, "cpu", len(self.shapes))

    @cached_property
    def _module_names(self) -> dict[str, str]:
        """Names of the parameters inside the module, by their names in the checkpoint.

        Raises:
            InvalidProblemError: If the parameters are not those of the module.
        """
        return decoder_architecture(self.configuration, self.shapes).parameters


class _Differentiable(TorchFunctionMode):
    """Runs a model of transformers so that it has second derivatives, in the precision of the parameters.

    SiLU is written out, because its fused backward has no forward derivative while products are recorded. Norms,
    softmax and rotations, which transformers computes in float32, are computed in the parameters' precision. Embeddings
    have no padding token: reverse mode would drop the gradient of its row, forward mode would not, and the Hessian
    would not be symmetric. For the same reason values under `torch.no_grad` are constants in forward mode, too, which
    does not respect it by itself.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._has_tangents = torch._C._is_fwd_grad_enabled()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch._C._set_fwd_grad_enabled(self._has_tangents)

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
        if func is torch._C._set_grad_enabled:
            torch._C._set_fwd_grad_enabled(bool(args[0]) and self._has_tangents)
        if func is Tensor.float:
            return args[0].to(self._dtype)
        own_args = tuple(self._own(each) for each in args)
        return func(*own_args, **{name: self._own(each) for name, each in (kwargs or {}).items()})

    def _own(self, argument: Any) -> Any:
        return self._dtype if argument is torch.float32 else argument
