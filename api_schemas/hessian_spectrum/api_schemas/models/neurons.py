"""Networks of two layers of neurons with one input and one output."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import ArrayVector, check_shape, shape
from hessian_spectrum.api_schemas.models.kind import ClosedFormFamily, ModelKind, ModelMessage, Shapes
from hessian_spectrum.planning.size import Size, neuron_network_size


class _NeuronNetwork(ModelMessage):
    """The weights of a two-layer network of one input and one output."""

    w: ArrayVector = Field(description="The weights of the second layer, a vector of length m.")
    v: ArrayVector = Field(description="The weights of the first layer, a vector of length m.")

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        check_shape("v", shape(self.v), other="w", needed=shape(self.w))
        return self


class LinearNetwork(_NeuronNetwork):
    """A two-layer linear network, f(x) = <w, v> x for scalar x."""

    kind: Literal["linear"]


class ReluNetwork(_NeuronNetwork):
    """A two-layer ReLU network, f(x) = <w, relu(v x)> for scalar x."""

    kind: Literal["relu"]


class LeakyReluNetwork(_NeuronNetwork):
    """A two-layer leaky ReLU network, f(x) = <w, phi(v x)> for scalar x.

    phi(a) = a for a > 0, and negative_slope a below.
    """

    kind: Literal["leaky-relu"]
    negative_slope: float = Field(
        description="The slope for negative numbers: 1 makes the network linear, 0 a ReLU, -1 the absolute value."
    )


class LinearBiasNetwork(_NeuronNetwork):
    """A two-layer linear network with biases, f(x) = <w, v x + b> for scalar x."""

    kind: Literal["linear-bias"]
    b: ArrayVector = Field(description="The bias of the first layer, a vector of length m.")

    @model_validator(mode="after")
    def _one_bias_per_neuron(self) -> Self:
        check_shape("b", shape(self.b), other="w", needed=shape(self.w))
        return self


def _given_weights(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in _parameter_shapes(model)}


def _parameter_shapes(model: Any) -> Shapes:
    return dict.fromkeys("wvb" if isinstance(model, LinearBiasNetwork) else "wv", shape(model.w))


def _size(model: Any, num_samples: int, length: int) -> Size:
    return neuron_network_size(
        len(model.w), isinstance(model, LinearBiasNetwork), num_samples, activation=_activation(model)
    )


def _activation(model: Any) -> str:
    return "linear" if isinstance(model, LinearBiasNetwork) else str(model.kind)


def _engine_arguments(model: Any) -> dict[str, Any]:
    slope = {"negative_slope": model.negative_slope} if isinstance(model, LeakyReluNetwork) else {}
    has_bias = isinstance(model, LinearBiasNetwork)
    return {"width": len(model.w), "activation": _activation(model), "bias": has_bias} | slope


_WEIGHTS = {"w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]}
_SAMPLES = {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]}
_MODELS: dict[type[_NeuronNetwork], dict[str, Any]] = {
    LinearNetwork: _WEIGHTS | {"kind": "linear"},
    ReluNetwork: _WEIGHTS | {"kind": "relu"},
    LeakyReluNetwork: _WEIGHTS | {"kind": "leaky-relu", "negative_slope": 0.1},
    LinearBiasNetwork: _WEIGHTS | {"kind": "linear-bias", "b": [0.1, 0.0, -0.3]},
}

KINDS = tuple(
    ModelKind(
        message,
        _parameter_shapes,
        _size,
        example={"model": model, "data": {"kind": "inline"} | _SAMPLES},
        widths=lambda _: (1, 1),
        only_loss="mse",
        engine_arguments=_engine_arguments,
        given_weights=_given_weights,
        position=position,
    )
    for position, (message, model) in enumerate(_MODELS.items(), 6)
)
FAMILIES = tuple(
    ClosedFormFamily(message, example={"model": model, "data": _SAMPLES}, position=position)
    for position, (message, model) in enumerate(_MODELS.items(), 6)
)
