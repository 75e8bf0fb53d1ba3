"""Networks whose spectra are computed by jobs."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from api_schemas.message import RequestMessage, Seed, misfit

Width = Annotated[int, Field(ge=1, le=1_000_000)]


class Mlp(RequestMessage):
    """A fully connected network; `standard` is PyTorch's default initialisation of a linear layer."""

    kind: Literal["mlp"]
    widths: list[Width] = Field(min_length=2, max_length=65, description="input, hidden layers, output")
    activation: Literal["linear", "relu", "tanh", "gelu", "silu", "sigmoid"] = "relu"
    bias: bool = True
    parametrization: Literal["standard"] = "standard"
    seed: Seed = 0


class AttentionSink(RequestMessage):
    """A bias on the first token's scores, before the softmax."""

    bias: float = Field(description="added to the pre-softmax scores of the first token")
    heads: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1, max_length=1024)
    blocks: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, description="null: every block")


class Gpt2(RequestMessage):
    """GPT-2 at its initialisation; token embedding and output layer share one parameter."""

    kind: Literal["gpt2"]
    n_layer: int = Field(ge=1, le=192)
    n_head: int = Field(ge=1, le=1024)
    n_embd: int = Field(ge=1, le=65_536)
    n_positions: int = Field(ge=1, le=1_000_000)
    vocab_size: int = Field(ge=1, le=10_000_000)
    attention_sink: AttentionSink | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.n_embd % self.n_head:
            raise misfit("n_embd", message=f"{self.n_embd} is no multiple of n_head = {self.n_head}")
        sink = self.attention_sink
        if sink is not None and max(sink.heads) >= self.n_head:
            raise misfit("attention_sink", "heads", message=f"the model has heads 0 to {self.n_head - 1}")
        if sink is not None and sink.blocks and max(sink.blocks) >= self.n_layer:
            raise misfit("attention_sink", "blocks", message=f"the model has blocks 0 to {self.n_layer - 1}")
        return self


Model = Annotated[Mlp | Gpt2, Field(discriminator="kind")]
