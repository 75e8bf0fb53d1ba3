"""Fully connected networks."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.artifacts import StoredArray, arrays_of, listed
from hessian_spectrum.api_schemas.message import RequestMessage, Rows, Seed, Vector, misfit
from hessian_spectrum.api_schemas.models.kind import (
    ActivationName,
    Location,
    ModelKind,
    ModelMessage,
    NegativeSlope,
    Shapes,
    StoredWeights,
    settled_slope,
)
from hessian_spectrum.planning.activations import DEFAULT_NEGATIVE_SLOPE
from hessian_spectrum.planning.size import Size, mlp_size

MAX_LAYERS = 64

Width = Annotated[int, Field(ge=1, le=1_000_000)]


class MlpLayer(RequestMessage):
    """Weights of one layer."""

    weight: Rows = Field(description="The weights, one row per output and one column per input.")
    bias: Vector | None = Field(
        default=None, description="The biases, one number per output; given in all layers or in none."
    )


def _layers_or_artifact(value: object) -> str:
    return "artifact" if isinstance(value, dict | StoredWeights) else "layers"


Weights = Annotated[
    Annotated[list[MlpLayer], Field(min_length=1, max_length=MAX_LAYERS), Tag("layers")]
    | Annotated[StoredWeights, Tag("artifact")],
    Discriminator(_layers_or_artifact),
]


class Mlp(ModelMessage):
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
        description="Widths of the input, the hidden layers and the output; may be left out where weights are given.",
    )
    activation: ActivationName = Field(default="relu", description="Activation function after every hidden layer.")
    negative_slope: NegativeSlope = DEFAULT_NEGATIVE_SLOPE
    bias: bool | None = Field(
        default=None,
        description="Whether the layers have biases; null means true or, where weights are given, whatever these have.",
    )
    parametrization: Literal["standard", "ntk", "mup"] = Field(
        default="standard", description="Initialization and scaling of the weights."
    )
    seed: Seed = Field(default=0, description="The seed of the random weights, without effect where weights are given.")
    weights: Weights | None = Field(
        default=None,
        description="The weights of each layer, in the request or in an uploaded file; null means that they are "
        "drawn from the seed.",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_stored_weights(cls, fields: Any, info: ValidationInfo) -> Any:
        if not isinstance(fields, dict) or fields.get("weights") is None:
            return fields
        arrays = arrays_of(fields["weights"], info, "weights")
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
        """Return sizes and bias of the layers, and canonical values of a seed or slope that has no effect."""
        seed = {} if self.weights is None else {"seed": 0}
        return {"widths": self.layer_widths, "bias": self.has_bias} | seed | settled_slope(self.activation)

    @property
    def layer_widths(self) -> list[int]:
        """Widths of the input, the hidden layers and the output."""
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
    """Widths, and whether there are biases, of the layers in an uploaded file.

    Args:
        arrays: Types and shapes of the arrays in the file, by name.

    Returns:
        The widths from the input on, and whether the layers have biases.

    Raises:
        ValidationError: At `weights.id` if the arrays are not those of layers.
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


def _parameter_shapes(model: Mlp) -> Shapes:
    shapes: Shapes = {}
    for index, (fan_in, fan_out) in enumerate(pairwise(model.layer_widths)):
        shapes[f"layers.{index}.weight"] = (fan_out, fan_in)
        if model.has_bias:
            shapes[f"layers.{index}.bias"] = (fan_out,)
    return shapes


def _size(model: Mlp, num_samples: int, length: int) -> Size:
    return mlp_size(model.layer_widths, model.has_bias, num_samples, activation=model.activation)


def _engine_arguments(model: Mlp) -> dict[str, Any]:
    return {
        "widths": tuple(model.layer_widths),
        "activation": model.activation,
        "bias": model.has_bias,
        "parametrization": model.parametrization,
        "negative_slope": model.negative_slope,
    }


def _given_weights(model: Mlp) -> Mapping[str, Any] | StoredWeights | None:
    if not isinstance(model.weights, list):
        return model.weights
    arrays: dict[str, Any] = {}
    for index, layer in enumerate(model.weights):
        arrays[f"layers.{index}.weight"], arrays[f"layers.{index}.bias"] = layer.weight, layer.bias
    return arrays


def _width_locations(model: Mlp) -> tuple[Location, Location]:
    last = len(model.layer_widths) - 1
    if isinstance(model.weights, StoredWeights):
        return ("weights", "id"), ("weights", "id")
    if model.weights is None:
        return ("widths", 0), ("widths", last)
    return ("weights", 0), ("weights", last - 1)


KINDS = (
    ModelKind(
        Mlp,
        _parameter_shapes,
        _size,
        example={
            "model": {"kind": "mlp", "widths": [3, 4, 2], "activation": "tanh"},
            "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 3, "output_dim": 2},
            "loss": "mse",
        },
        widths=lambda model: (model.layer_widths[0], model.layer_widths[-1]),
        width_locations=_width_locations,
        engine_arguments=_engine_arguments,
        given_weights=_given_weights,
        is_layered=True,
        position=1,
    ),
)
