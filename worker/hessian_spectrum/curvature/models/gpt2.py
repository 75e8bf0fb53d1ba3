"""GPT-2 with its attention written out, because fused kernels have no second derivative."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from math import isfinite, sqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hessian_spectrum.curvature.models.base import Activation, Model, Parameters, check_tokens
from hessian_spectrum.planning.size import Size, gpt2_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

LAYER_NORM_EPSILON = 1e-5
INITIAL_STD = 0.02

GPT2_ACTIVATIONS: dict[str, Activation] = {
    "gelu-tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": torch.relu,
}
"""Activations by name; GPT-2 of OpenAI and of Hugging Face has gelu-tanh, nanoGPT has gelu."""


@dataclass(frozen=True)
class AttentionSink:
    """A bias that is added to the scores of the first token, as key, before softmax.

    Args:
        bias: Number that is added.
        heads: Heads that have the bias.
        blocks: Blocks that have the bias; None means all.

    References:
        Cracking the Hessian, section 4 (figure 6), for head 0 of every block.
    """

    bias: float
    heads: tuple[int, ...] = (0,)
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Gpt2(Model):
    """A decoder with pre-layer norms: next-token logits (n, T, vocab_size) for tokens (n, T), T <= n_positions.

    Attention is softmax(Q K^T / sqrt(d) + sink + causal mask) V with d = n_embd / n_head. The embedding is tied to the
    output layer, so that both are one parameter. There is no dropout.

    Names and layouts of parameters are those of the state dict of Hugging Face's `GPT2Model`, with `blocks` in place of
    `h`: "wte.weight" (vocab_size, n_embd) or "blocks.0.attn.c_attn.weight" (n_embd, 3 n_embd), for example, which is
    applied as x @ weight + bias. nanoGPT holds the transposed weights.

    Args:
        n_layer: Number of blocks.
        n_head: Number of heads of each attention layer.
        n_embd: Width of the residual stream.
        n_positions: Largest length of a sequence.
        vocab_size: Number of tokens.
        sink: Attention sink; None for none.
        bias: Whether linear layers and layer norms have biases.
        activation: One of `GPT2_ACTIVATIONS`.
        attention: Whether there are attention layers. Without them n_layer / 2 blocks of layer norm and MLP are added,
            which have as many weights: 8 n_embd^2 each, where an attention layer has 4 n_embd^2.

    Raises:
        InvalidProblemError: If a count is below 1, n_embd is not a multiple of n_head, the activation is unknown, the
            sink is outside heads or blocks or without attention, or n_layer is odd without attention.

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners, 2019; without attention Cracking the
        Hessian, appendix D.1.5.
    """

    n_layer: int
    n_head: int
    n_embd: int
    _: KW_ONLY
    n_positions: int
    vocab_size: int
    sink: AttentionSink | None = None
    bias: bool = True
    activation: str = "gelu-tanh"
    attention: bool = True

    def __post_init__(self) -> None:
        if min(self.n_layer, self.n_head, self.n_embd, self.n_positions, self.vocab_size) < 1:
            raise InvalidProblemError("every count of a gpt2 must be at least 1")
        if self.n_embd % self.n_head:
            raise InvalidProblemError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.activation not in GPT2_ACTIVATIONS:
            raise InvalidProblemError(
                f"unknown activation {self.activation!r}: must be one of {', '.join(GPT2_ACTIVATIONS)}"
            )
        if not self.attention and (self.n_layer % 2 or self.sink is not None):
            raise InvalidProblemError("without attention there is no sink, and n_layer must be even")
        if self.sink is not None:
            blocks = self.sink.blocks or ()
            if not isfinite(self.sink.bias):
                raise InvalidProblemError(f"the bias of the attention sink must be finite, not {self.sink.bias}")
            if not all(0 <= head < self.n_head for head in self.sink.heads):
                raise InvalidProblemError(f"attention sink heads {self.sink.heads} outside 0 .. {self.n_head - 1}")
            if not all(0 <= block < self.n_layer for block in blocks):
                raise InvalidProblemError(f"attention sink blocks {blocks} outside 0 .. {self.n_layer - 1}")

    @property
    def num_outputs(self) -> int:
        """Size of the vocabulary."""
        return self.vocab_size

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of embeddings, blocks and the last layer norm, in order."""
        d = self.n_embd
        shapes: dict[str, tuple[int, ...]] = {"wte.weight": (self.vocab_size, d), "wpe.weight": (self.n_positions, d)}
        linear = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}
        parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        for block in range(self.num_blocks):
            for part in parts if self.attention else parts[3:]:
                weight = linear.get(part, (d,))
                shapes[f"blocks.{block}.{part}.weight"] = weight
                shapes[f"blocks.{block}.{part}.bias"] = weight[-1:]
        shapes |= {"ln_f.weight": (d,), "ln_f.bias": (d,)}
        return {name: shape for name, shape in shapes.items() if self.bias or not name.endswith(".bias")}

    @property
    def num_blocks(self) -> int:
        """Number of blocks: n_layer, and half as many more without attention."""
        return self.n_layer if self.attention else self.n_layer + self.n_layer // 2

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return weights N(0, 0.02^2), biases 0, and layer norms 1 and 0.

        Weights of the R layers that add to the residual stream are divided by sqrt(R); R is twice the number of blocks,
        or their number without attention.

        Args:
            generator: CPU generator, which advances.
            dtype: Precision of the parameters.
            device: Device of the parameters.

        Returns:
            Parameters by name.
        """
        parameters = {}
        num_sums = 2 * self.num_blocks if self.attention else self.num_blocks
        for name, shape in self.parameter_shapes.items():
            if name.endswith(".bias"):
                values = torch.zeros(shape, dtype=torch.float64)
            elif len(shape) == 1:
                values = torch.ones(shape, dtype=torch.float64)
            else:
                std = INITIAL_STD / sqrt(num_sums) if "c_proj" in name else INITIAL_STD
                values = std * torch.randn(shape, generator=generator, dtype=torch.float64)
            parameters[name] = values.to(dtype=dtype, device=device)
        return parameters

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are int64 tokens (n, T) in 0 .. vocab_size - 1 with T <= n_positions."""
        check_tokens(inputs, "gpt2", vocab_size=self.vocab_size, n_positions=self.n_positions)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, with residual stream, attention scores, hidden layers and logits."""
        num_sequences, length = inputs.shape
        return gpt2_size(
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_embd=self.n_embd,
            n_positions=self.n_positions,
            vocab_size=self.vocab_size,
            num_sequences=num_sequences,
            sequence_length=length,
            bias=self.bias,
            attention=self.attention,
        )

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return logits (n, T, vocab_size) for tokens (n, T)."""
        return self.features(parameters, inputs) @ parameters["wte.weight"].T

    @property
    def head_name(self) -> str:
        """Name of the token embedding."""
        return "wte.weight"

    def features(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the residual stream after the last layer norm (n, T, n_embd)."""
        hidden = _embedded(parameters, inputs)
        for block in range(self.num_blocks):
            hidden = self._block(parameters, block, hidden)
        return _layer_norm(parameters, "ln_f", hidden)

    def first_token_scores(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the mean attention to the first token, over sequences and all queries, including the first one.

        Args:
            parameters: Parameters by name.
            inputs: Tokens of shape (n, T).

        Returns:
            Means (n_layer, n_head), from 0 to 1.

        Raises:
            InvalidProblemError: If the model has no attention.
        """
        if not self.attention:
            raise InvalidProblemError("a model without attention has no attention scores")
        hidden, scores = _embedded(parameters, inputs), []
        for block in range(self.n_layer):
            weights, _ = self._attended(parameters, block, _layer_norm(parameters, f"blocks.{block}.ln_1", hidden))
            scores.append(weights[..., 0].mean(dim=(0, 2)))
            hidden = self._block(parameters, block, hidden)
        return torch.stack(scores)

    def _block(self, parameters: Mapping[str, Tensor], block: int, hidden: Tensor) -> Tensor:
        prefix = f"blocks.{block}."
        if self.attention:
            hidden = hidden + self._attention(parameters, block, _layer_norm(parameters, prefix + "ln_1", hidden))
        inner = _linear(parameters, prefix + "mlp.c_fc", _layer_norm(parameters, prefix + "ln_2", hidden))
        return hidden + _linear(parameters, prefix + "mlp.c_proj", GPT2_ACTIVATIONS[self.activation](inner))

    def _attention(self, parameters: Mapping[str, Tensor], block: int, hidden: Tensor) -> Tensor:
        weights, value = self._attended(parameters, block, hidden)
        mixed = (weights @ value).transpose(1, 2).reshape(hidden.shape)
        return _linear(parameters, f"blocks.{block}.attn.c_proj", mixed)

    def _attended(self, parameters: Mapping[str, Tensor], block: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention weights (n, n_head, T, T), queries before keys, and values (n, n_head, T, d)."""
        n, length, width = hidden.shape
        joint = _linear(parameters, f"blocks.{block}.attn.c_attn", hidden)
        query, key, value = (
            part.view(n, length, self.n_head, width // self.n_head).transpose(1, 2)
            for part in torch.split(joint, width, dim=-1)
        )  # each (n, n_head, T, d)
        scores = query @ key.transpose(-1, -2) / sqrt(width // self.n_head)
        if self.sink is not None and (self.sink.blocks is None or block in self.sink.blocks):
            scores = scores + self._sink_scores(length, scores)
        future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(diagonal=1)
        return scores.masked_fill(future, -torch.inf).softmax(dim=-1), value

    def _sink_scores(self, length: int, like: Tensor) -> Tensor:
        """Return additive scores (n_head, 1, T): the bias at key 0 of the sink's heads, and 0 elsewhere."""
        assert self.sink is not None
        # no assignment in place: torch.func.linearize silently loses it, and the product would be that of another sink
        heads = torch.tensor([head in self.sink.heads for head in range(self.n_head)], device=like.device)
        first = torch.arange(length, device=like.device) == 0
        return (heads.view(-1, 1, 1) & first).to(like.dtype) * self.sink.bias


def _embedded(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    return F.embedding(inputs, parameters["wte.weight"]) + parameters["wpe.weight"][: inputs.shape[1]]


def _linear(parameters: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return _shifted(x @ parameters[name + ".weight"], parameters.get(name + ".bias"))


def _layer_norm(parameters: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    # written out: its memory was fitted so; at such widths `layer_norm` of programs saves 1 to 4 % of the time
    centred = x - x.mean(dim=-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + LAYER_NORM_EPSILON)
    return _shifted(centred * scale * parameters[name + ".weight"], parameters.get(name + ".bias"))


def _shifted(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


MODELS = {"gpt2": Gpt2}
