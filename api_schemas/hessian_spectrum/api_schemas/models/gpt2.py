"""GPT-2, and attention sinks in its scores."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.checkpoints import CheckpointName, Sha256, with_checkpoint
from hessian_spectrum.api_schemas.message import RequestMessage, Seed, misfit
from hessian_spectrum.api_schemas.models.kind import ModelKind, ModelMessage, Shapes
from hessian_spectrum.planning.size import Size, gpt2_size

MAX_SINKS = 32

MeanScore = Annotated[float, Field(gt=0, lt=1)]


def _one_or_several(value: object) -> str:
    return "several" if isinstance(value, list) else "one"


OneOrSeveralBiases = Annotated[
    Annotated[float, Tag("one")] | Annotated[list[float], Field(min_length=1, max_length=MAX_SINKS), Tag("several")],
    Discriminator(_one_or_several),
]
OneOrSeveralScores = Annotated[
    Annotated[MeanScore, Tag("one")]
    | Annotated[list[MeanScore | None], Field(min_length=1, max_length=MAX_SINKS), Tag("several")],
    Discriminator(_one_or_several),
]


class AttentionSink(RequestMessage):
    """A bias added to the first token's scores before the softmax, given or chosen for a given mean attention.

    A chosen bias is the one with which the first token receives the given mean attention. The bias is put in after
    training, if there is any. Several biases, or several mean scores, give one spectrum each.
    """

    bias: OneOrSeveralBiases | None = Field(
        default=None, description="A number, or several, that is added to the pre-softmax scores of the first token."
    )
    mean_score: OneOrSeveralScores | None = Field(
        default=None,
        description="The mean attention on the first token that the bias is solved for: over the data, all queries, "
        "these heads and blocks. In a list, null stands for the model without a sink, which is reported as one of bias "
        "0.",
    )
    heads: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0], min_length=1, max_length=1024, description="Indices of the attention heads that have the sink."
    )
    blocks: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="The blocks that have the sink; null means every block."
    )

    @model_validator(mode="after")
    def _bias_or_mean_score(self) -> Self:
        if (self.bias is None) == (self.mean_score is None):
            raise misfit("mean_score", message="give either a bias or a mean score")
        for name, values in (("heads", self.heads), ("blocks", self.blocks or [])):
            if len(set(values)) < len(values):
                raise misfit(name, message="each only once")
        return self

    def settled(self) -> Mapping[str, Any]:
        """Return heads and blocks in ascending order."""
        return {"heads": sorted(self.heads), "blocks": self.blocks and sorted(self.blocks)}

    @property
    def variants(self) -> "list[AttentionSink]":
        """A sink for each bias or mean score; a mean score of null, for no sink, becomes a bias of 0."""
        if self.mean_score is None:
            biases = self.bias if isinstance(self.bias, list) else [self.bias]
            return [self.model_copy(update={"bias": bias}) for bias in biases]
        scores = self.mean_score if isinstance(self.mean_score, list) else [self.mean_score]
        return [
            self.model_copy(update={"mean_score": score} if score is not None else {"mean_score": None, "bias": 0.0})
            for score in scores
        ]


def describe_as_resolved(schema: dict[str, Any]) -> None:
    """Mark as not required in the schema what callers may leave out because the checkpoint determines it."""
    schema["required"] = ["kind", "checkpoint"] if "parameters" in schema["properties"] else ["kind"]


class Gpt2(ModelMessage):
    """GPT-2 at its initialisation or from a checkpoint; token embedding and output layer share one parameter.

    With a checkpoint the sizes, `bias` and `activation` may be left out; where they are given, they must agree with it.

    Without `attention` every attention layer is left out, and n_layer / 2 blocks of layer norm and MLP alone are added,
    which hold as many weights: the reference of Cracking the Hessian, appendix D.1.5.
    """

    model_config = ConfigDict(json_schema_extra=describe_as_resolved)

    kind: Literal["gpt2"]
    checkpoint: CheckpointName | None = Field(
        default=None, description="Checkpoint that the weights are read from; null draws them at random."
    )
    checkpoint_sha256: Sha256 | None = Field(
        default=None,
        description="The digest of the checkpoint: filled in by the server or, where given, compared with it.",
    )
    n_layer: int = Field(ge=1, le=192, description="Number of transformer blocks in the model.")
    n_head: int = Field(ge=1, le=1024, description="Number of attention heads per block.")
    n_embd: int = Field(ge=1, le=65_536, description="Width of the residual stream.")
    n_positions: int = Field(ge=1, le=1_000_000, description="Longest sequence in tokens that the model accepts.")
    vocab_size: int = Field(ge=1, le=10_000_000, description="Number of tokens in the vocabulary.")
    bias: bool = Field(default=True, description="Whether linear layers and layer norms have biases.")
    activation: Literal["gelu-tanh", "gelu", "relu"] = Field(
        default="gelu-tanh", description="The activation of the MLPs: gelu-tanh in OpenAI's GPT-2, gelu in nanoGPT."
    )
    attention: bool = Field(
        default=True,
        description="Whether there are attention layers; if not, half as many blocks with an MLP alone are added.",
    )
    attention_sink: AttentionSink | None = Field(
        default=None, description="Attention sink on the first token; null for a model without one."
    )
    seed: Seed = Field(
        default=0, description="The seed of the random weights, without effect where a checkpoint is named."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_checkpoint(cls, fields: Any, info: ValidationInfo) -> Any:
        return with_checkpoint(fields, info, lambda catalog, name: catalog.gpt2(name))

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.checkpoint is None and self.checkpoint_sha256 is not None:
            raise misfit("checkpoint_sha256", message="there is no checkpoint")
        if self.checkpoint is not None and not self.attention:
            raise misfit("attention", message="a checkpoint has attention")
        if self.n_embd % self.n_head:
            raise misfit("n_embd", message=f"{self.n_embd} is no multiple of n_head = {self.n_head}")
        if not self.attention and self.n_layer % 2:
            raise misfit("n_layer", message="must be even without attention: half as many blocks are added")
        if self.attention_sink is not None:
            self._check_sink(self.attention_sink)
        return self

    def settled(self) -> Mapping[str, Any]:
        """Return seed 0 for the weights of a checkpoint, which are not drawn."""
        return {} if self.checkpoint is None else {"seed": 0}

    def _check_sink(self, sink: AttentionSink) -> None:
        if not self.attention:
            raise misfit("attention_sink", message="there is no sink without attention")
        if max(sink.heads) >= self.n_head:
            raise misfit("attention_sink", "heads", message=f"the model has heads 0 to {self.n_head - 1}")
        if sink.blocks and max(sink.blocks) >= self.n_layer:
            raise misfit("attention_sink", "blocks", message=f"the model has blocks 0 to {self.n_layer - 1}")


def _parameter_shapes(model: Gpt2) -> Shapes:
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


def _size(model: Gpt2, num_samples: int, length: int) -> Size:
    return gpt2_size(
        n_layer=model.n_layer,
        n_head=model.n_head,
        n_embd=model.n_embd,
        n_positions=model.n_positions,
        vocab_size=model.vocab_size,
        num_sequences=num_samples,
        sequence_length=length,
        bias=model.bias,
        attention=model.attention,
    )


def _engine_arguments(model: Gpt2) -> dict[str, Any]:
    """Return the engine's arguments for the model without the attention sink, which is put in after training."""
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "bias", "activation", "attention")
    return {name: getattr(model, name) for name in names}


def _check_mean_scores(model: Gpt2, length: int) -> None:
    """Check that mean scores exceed 1/length: the first query has one key only, whose attention is always 1."""
    for variant in model.attention_sink.variants if model.attention_sink is not None else ():
        score = variant.mean_score
        if isinstance(score, float) and score <= 1 / length:
            message = f"sequences of {length} tokens have a mean score above 1/{length} with any bias"
            raise misfit("model", "attention_sink", "mean_score", message=message)


KINDS = (
    ModelKind(
        Gpt2,
        _parameter_shapes,
        _size,
        example={
            "model": {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256},
            "data": {"kind": "text", "text": "to be or not to be", "num_sequences": 2, "sequence_length": 4},
            "loss": "cross-entropy",
        },
        samples="tokens",
        engine_arguments=_engine_arguments,
        check_length=_check_mean_scores,
        position=4,
    ),
)
