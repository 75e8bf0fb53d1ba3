"""Networks whose spectra are computed by jobs."""

from collections.abc import Mapping
from functools import cached_property
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.artifacts import ArtifactId, StoredArray, arrays_of, listed
from hessian_spectrum.api_schemas.checkpoints import CheckpointName, Sha256, with_checkpoint
from hessian_spectrum.api_schemas.closed_form_models import (
    LeakyReluNetwork,
    LinearBiasNetwork,
    LinearNetwork,
    MultiInputNetwork,
    MultiOutputNetwork,
    QuadraticForm,
    ReluNetwork,
    SelfAttention,
    TwoLayerLinearNetwork,
)
from hessian_spectrum.api_schemas.message import RequestMessage, Rows, Seed, Vector, misfit

MAX_LAYERS = 64
MAX_SINKS = 32
IMAGE_EDGE, NUM_CLASSES = 8, 10
"""Of the images that `conv` takes, and of the classes that it tells apart."""

MeanScore = Annotated[float, Field(gt=0, lt=1)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]
ActivationName = Literal["linear", "relu", "leaky-relu", "tanh", "gelu", "silu", "sigmoid"]
DEFAULT_NEGATIVE_SLOPE = 0.01
NegativeSlope = Annotated[float, Field(description="of leaky-relu; any number")]


def slope_of(activation: ActivationName) -> dict[str, float]:
    """The field `negative_slope`, settled where the activation has no slope."""
    return {} if activation == "leaky-relu" else {"negative_slope": DEFAULT_NEGATIVE_SLOPE}


class MlpLayer(RequestMessage):
    """Weights of one layer."""

    weight: Rows = Field(description="one row per output, one column per input")
    bias: Vector | None = Field(default=None, description="one number per output, in all layers or in none")


class StoredWeights(RequestMessage):
    """Weights in an uploaded safetensors or npz file: layers.0.weight, layers.0.bias, layers.1.weight and so on.

    Biases are there for all layers or for none.
    """

    kind: Literal["artifact"]
    id: ArtifactId


def _layers_or_artifact(value: object) -> str:
    return "artifact" if isinstance(value, dict | StoredWeights) else "layers"


Weights = Annotated[
    Annotated[list[MlpLayer], Field(min_length=1, max_length=MAX_LAYERS), Tag("layers")]
    | Annotated[StoredWeights, Tag("artifact")],
    Discriminator(_layers_or_artifact),
]


class Mlp(RequestMessage):
    """A fully connected network, at random weights or at given ones.

    `standard` is PyTorch's default initialisation of a linear layer. `ntk`: standard normal weights and biases, the
    product of weights and input divided by sqrt(fan_in). `mup`: normal weights of standard deviation
    min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in), zero biases; in training the learning rate is multiplied by
    fan_out / fan_in, for biases by fan_out.
    """

    kind: Literal["mlp"]
    widths: list[Width] | None = Field(
        default=None,
        min_length=2,
        max_length=MAX_LAYERS + 1,
        description="input, hidden layers, output; may be left out where weights are given",
    )
    activation: ActivationName = "relu"
    negative_slope: NegativeSlope = DEFAULT_NEGATIVE_SLOPE
    bias: bool | None = Field(default=None, description="null: true, or where weights are given, as they have it")
    parametrization: Literal["standard", "ntk", "mup"] = "standard"
    seed: Seed = Field(default=0, description="of the weights, unless they are given")
    weights: Weights | None = Field(
        default=None, description="of each layer, here or in an uploaded file; null: drawn from the seed"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_stored_weights(cls, fields: Any, info: ValidationInfo) -> Any:
        arrays = arrays_of(fields.get("weights"), info, "weights") if isinstance(fields, dict) else None
        if arrays is None:
            return fields
        widths, bias = _stored_layers(arrays)
        for field, value in (("widths", widths), ("bias", bias)):
            if fields.get(field) not in (None, value):
                raise misfit(field, message=f"the artifact has {f'{value}':.80}; it may be left out")
        return fields | {"widths": widths, "bias": bias}

    @model_validator(mode="after")
    def _widths_or_weights(self) -> Self:
        if not isinstance(self.weights, list):
            if self.widths is None:
                raise misfit("widths", message="give widths or weights")
            return self
        for index, layer in enumerate(self.weights):
            self._check_layer(index, layer)
        if self.widths is not None and self.widths != self.layer_widths:
            raise misfit("widths", message=f"the weights have the widths {self.layer_widths}")
        if self.bias not in (None, self.has_bias):
            raise misfit("bias", message=f"the weights hold {'biases' if self.has_bias else 'no biases'}")
        return self

    def _check_layer(self, index: int, layer: MlpLayer) -> None:
        assert isinstance(self.weights, list)
        num_outputs, num_inputs = len(layer.weight), len(layer.weight[0])
        if index and num_inputs != len(self.weights[index - 1].weight):
            message = f"rows of {num_inputs} numbers, the layer before has {len(self.weights[index - 1].weight)} rows"
            raise misfit("weights", index, "weight", message=message)
        if (layer.bias is not None) != self.has_bias:
            raise misfit("weights", index, "bias", message="give a bias in every layer or in none")
        if layer.bias is not None and len(layer.bias) != num_outputs:
            message = f"bias holds {len(layer.bias)} numbers, weight has {num_outputs} rows"
            raise misfit("weights", index, "bias", message=message)

    def settled(self) -> Mapping[str, Any]:
        """The seed of weights that are given, the slope of an activation that has none, sizes that weights have."""
        seed = {} if self.weights is None else {"seed": 0}
        return {"widths": self.layer_widths, "bias": self.has_bias} | seed | slope_of(self.activation)

    @property
    def layer_widths(self) -> list[int]:
        """Input, hidden layers, output."""
        if not isinstance(self.weights, list):
            assert self.widths is not None
            return self.widths
        return [len(self.weights[0].weight[0]), *(len(layer.weight) for layer in self.weights)]

    @property
    def has_bias(self) -> bool:
        """Whether the layers have biases."""
        if not isinstance(self.weights, list):
            return self.bias is not False
        return self.weights[0].bias is not None


def _stored_layers(arrays: dict[str, StoredArray]) -> tuple[list[int], bool]:
    """Widths, and whether there are biases.

    Raises:
        ValidationError: At `weights.id`.
    """
    num_layers = sum(name.endswith(".weight") for name in arrays)
    has_bias = any(name.endswith(".bias") for name in arrays)
    parts = ("weight", "bias") if has_bias else ("weight",)
    names = [f"layers.{index}.{part}" for index in range(num_layers) for part in parts]
    if not num_layers or num_layers > MAX_LAYERS:
        raise _stored_misfit(f"holds {num_layers} weights of layers, and an mlp has 1 to {MAX_LAYERS}")
    if missing := [name for name in names if name not in arrays]:
        raise _stored_misfit(f"holds no {missing[0]}, but {listed(arrays)}")
    if others := arrays.keys() - set(names):
        raise _stored_misfit(f"holds {listed(others)} besides weights and biases of layers")
    widths = [arrays["layers.0.weight"].shape[-1]]
    for name in names:
        expected = [len(arrays[name]), widths[-1]] if name.endswith("weight") else widths[-1:]
        if arrays[name].shape != expected:
            needed = " x ".join(map(str, expected))
            raise _stored_misfit(f"{name} has the shape {arrays[name].shape}; beside the others it must be {needed}")
        widths += expected[:1] if name.endswith("weight") else []
    return widths, has_bias


def _stored_misfit(message: str) -> ValidationError:
    return misfit("weights", "id", message=message)


class Conv(RequestMessage):
    """Convolutions on 8 x 8 images (64 pixels a row), each with its activation, then a linear layer to 10 outputs.

    Convolutions are padded with zeros; weights start as PyTorch's do.
    """

    kind: Literal["conv"]
    channels: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        min_length=1, max_length=16, description="output channels of each convolution"
    )
    kernel_size: Literal[1, 3, 5, 7] = 3
    stride: Literal[1, 2] = Field(default=1, description="of every convolution")
    pooling: Literal["none", "mean"] = Field(
        default="none", description="mean: of 2 x 2 pixels, after every convolution's activation"
    )
    activation: ActivationName = "relu"
    negative_slope: NegativeSlope = DEFAULT_NEGATIVE_SLOPE
    bias: bool = True
    seed: Seed = 0

    def settled(self) -> Mapping[str, Any]:
        """The slope of an activation that has none."""
        return slope_of(self.activation)

    @model_validator(mode="after")
    def _pixels_remain(self) -> Self:
        if self.pooling == "mean" and IMAGE_EDGE // (2 * self.stride) ** len(self.channels) < 1:
            message = f"{len(self.channels)} convolutions of stride {self.stride} with pooling leave nothing of 8 x 8"
            raise misfit("channels", message=message)
        return self


class AttentionLayer(RequestMessage):
    """f(x) = A(x) x W_V, A = activation(x W_Q W_K^T x^T / sqrt(key_dim) + sink), for sequences x of vectors.

    With embedding_dim = value_dim = 1 it is `self-attention`, at random weights.
    """

    kind: Literal["attention-layer"]
    embedding_dim: int = Field(default=1, ge=1, le=65_536, description="d: numbers at each position of x")
    key_dim: int = Field(ge=1, le=65_536, description="d_K: columns of W_Q and W_K")
    value_dim: int | None = Field(
        default=None, ge=1, le=65_536, description="numbers at each position of f(x); null: embedding_dim"
    )
    sink_bias: float = Field(default=0.0, description="added to every score of the first position")
    activation: Literal["softmax", "sigmoid", "linear"] = "softmax"
    initial_std: float = Field(default=0.1, ge=0, description="standard deviation of the normal initial weights")
    seed: Seed = 0

    def settled(self) -> Mapping[str, Any]:
        """The numbers at each position of f(x)."""
        return {"value_dim": self.num_outputs}

    @property
    def num_outputs(self) -> int:
        """Numbers at each position of f(x)."""
        return self.value_dim or self.embedding_dim


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
    """A bias on the first token's scores, before the softmax: given, or solved for the attention that it is to give.

    It is put in after training, if there is any. Several biases, or several mean scores, give one spectrum each.
    """

    bias: OneOrSeveralBiases | None = Field(
        default=None, description="added to the pre-softmax scores of the first token"
    )
    mean_score: OneOrSeveralScores | None = Field(
        default=None,
        description="instead of the bias: mean attention on the first token, over the data, all queries, these heads "
        "and blocks; in a list null is the model without a sink, reported as one of bias 0",
    )
    heads: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1, max_length=1024)
    blocks: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="null: every block"
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
        """The order of heads and blocks."""
        return {"heads": sorted(self.heads), "blocks": self.blocks and sorted(self.blocks)}

    @property
    def variants(self) -> "list[AttentionSink]":
        """One sink for each bias or mean score; none is one of bias 0."""
        if self.mean_score is None:
            biases = self.bias if isinstance(self.bias, list) else [self.bias]
            return [self.model_copy(update={"bias": bias}) for bias in biases]
        scores = self.mean_score if isinstance(self.mean_score, list) else [self.mean_score]
        return [
            self.model_copy(update={"mean_score": score} if score is not None else {"mean_score": None, "bias": 0.0})
            for score in scores
        ]


def _describe_as_resolved(schema: dict[str, Any]) -> None:
    """Of a model with a checkpoint: what callers may leave out is not required."""
    schema["required"] = ["kind", "checkpoint"] if "parameters" in schema["properties"] else ["kind"]


class Gpt2(RequestMessage):
    """GPT-2 at its initialisation or from a checkpoint; token embedding and output layer share one parameter.

    With a checkpoint the sizes, `bias` and `activation` may be left out; where they are given, they must agree with it.

    Without `attention` every attention layer is left out, and n_layer / 2 blocks of layer norm and MLP alone are added,
    which hold as many weights: the reference of Cracking the Hessian, appendix D.1.5.
    """

    model_config = ConfigDict(json_schema_extra=_describe_as_resolved)

    kind: Literal["gpt2"]
    checkpoint: CheckpointName | None = None
    checkpoint_sha256: Sha256 | None = Field(default=None, description="filled in, or what the checkpoint must have")
    n_layer: int = Field(ge=1, le=192)
    n_head: int = Field(ge=1, le=1024)
    n_embd: int = Field(ge=1, le=65_536)
    n_positions: int = Field(ge=1, le=1_000_000)
    vocab_size: int = Field(ge=1, le=10_000_000)
    bias: bool = Field(default=True, description="of linear layers and layer norms")
    activation: Literal["gelu-tanh", "gelu", "relu"] = Field(
        default="gelu-tanh", description="OpenAI's GPT-2 has gelu-tanh, nanoGPT gelu"
    )
    attention: bool = Field(default=True, description="false: half as many blocks more instead, of an MLP alone")
    attention_sink: AttentionSink | None = None
    seed: Seed = Field(default=0, description="of the weights, unless they are those of a checkpoint")

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
        """The seed of weights that are those of a checkpoint."""
        return {} if self.checkpoint is None else {"seed": 0}

    def _check_sink(self, sink: AttentionSink) -> None:
        if not self.attention:
            raise misfit("attention_sink", message="there is no sink without attention")
        if max(sink.heads) >= self.n_head:
            raise misfit("attention_sink", "heads", message=f"the model has heads 0 to {self.n_head - 1}")
        if sink.blocks and max(sink.blocks) >= self.n_layer:
            raise misfit("attention_sink", "blocks", message=f"the model has blocks 0 to {self.n_layer - 1}")


class CausalLm(RequestMessage):
    """One of transformers' causal language models (Llama, Qwen, GPT-NeoX and others), dense, from a checkpoint.

    What follows the checkpoint is filled in from it; where it is given, it must agree.
    """

    model_config = ConfigDict(json_schema_extra=_describe_as_resolved)

    kind: Literal["causal-lm"]
    checkpoint: CheckpointName
    checkpoint_sha256: Sha256 = Field(description="filled in, or what the checkpoint must have")
    n_layer: int = Field(ge=1)
    n_head: int = Field(ge=1)
    n_embd: int = Field(ge=1, description="width of the residual stream")
    n_inner: int = Field(ge=1, description="width of the hidden layers between")
    n_positions: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    parameters: dict[str, list[Annotated[int, Field(ge=0)]]] = Field(
        min_length=1, description="shape of each parameter by its name in the checkpoint"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_checkpoint(cls, fields: Any, info: ValidationInfo) -> Any:
        if isinstance(fields, dict) and not isinstance(fields.get("checkpoint"), str):
            raise misfit("checkpoint", message="must be the name of a checkpoint; see /v1/models")
        return with_checkpoint(fields, info, lambda catalog, name: catalog.causal_lm(name))

    @cached_property
    def num_parameters(self) -> int:
        """Of the whole model."""
        return sum(map(prod, self.parameters.values()))


TokenModel = Gpt2 | CausalLm
"""Networks whose samples are sequences of tokens."""

RowNetwork = (
    LinearNetwork
    | ReluNetwork
    | LeakyReluNetwork
    | LinearBiasNetwork
    | MultiInputNetwork
    | MultiOutputNetwork
    | TwoLayerLinearNetwork
)
"""Closed-form kinds whose samples are numbers or rows of numbers."""

Model = Annotated[
    Mlp | Conv | AttentionLayer | Gpt2 | CausalLm | RowNetwork | SelfAttention | QuadraticForm,
    Field(discriminator="kind"),
]
