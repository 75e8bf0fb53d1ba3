"""Models made of one two-layer linear network for each input or for each output."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import ArrayRows, check_shape, misfit, shape
from hessian_spectrum.api_schemas.models.kind import ClosedFormFamily, ModelKind, ModelMessage, Shapes
from hessian_spectrum.planning.size import Size, coordinate_network_size

MAX_COORDINATES = 1000
"""Largest number of inputs of `multi-input`, whose reduced matrix has two rows for each, or of outputs of
`multi-output`."""


class _CoordinateNetwork(ModelMessage):
    """The weights of one two-layer linear network for each input, or for each output."""

    w: ArrayRows = Field(description="The weights of the second layer, one row of m numbers for each coordinate.")
    v: ArrayRows = Field(description="The weights of the first layer, one row of m numbers for each coordinate.")

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        check_shape("v", shape(self.v), other="w", needed=shape(self.w))
        if len(self.w) > MAX_COORDINATES:
            raise misfit(
                "w", message=f"{len(self.w)} rows; at most {MAX_COORDINATES} are answered while the caller waits"
            )
        return self


class MultiInputNetwork(_CoordinateNetwork):
    """A sum of two-layer linear networks, f(x) = sum_d <w_d, v_d> x_d, one for each of D inputs; w, v (D, m)."""

    kind: Literal["multi-input"]


class MultiOutputNetwork(_CoordinateNetwork):
    """Two-layer linear networks f_k(x) = <w_k, v_k> x of scalar x, one for each of K outputs; w, v (K, m)."""

    kind: Literal["multi-output"]


def _parameter_shapes(model: Any) -> Shapes:
    return dict.fromkeys("wv", shape(model.w))


def _given_weights(model: Any) -> dict[str, Any]:
    return {"w": model.w, "v": model.v}


def _input_size(model: MultiInputNetwork, num_samples: int, length: int) -> Size:
    return coordinate_network_size(len(model.w), 1, width=shape(model.w)[1], num_samples=num_samples)


def _output_size(model: MultiOutputNetwork, num_samples: int, length: int) -> Size:
    return coordinate_network_size(1, len(model.w), width=shape(model.w)[1], num_samples=num_samples)


_WEIGHTS = {"w": [[0.5, -1.0], [0.2, 0.3]], "v": [[1.0, 0.5], [-0.7, 0.4]]}
_INPUTS = {"x": [[1.0, -0.5], [2.0, 0.3], [-0.4, 0.6]], "y": [0.8, -0.1, 1.5]}
_OUTPUTS = {"x": [1.0, -0.5, 2.0], "y": [[0.8, 0.2], [-0.1, 0.0], [1.5, -1.0]]}

KINDS = (
    ModelKind(
        MultiInputNetwork,
        _parameter_shapes,
        _input_size,
        example={"model": _WEIGHTS | {"kind": "multi-input"}, "data": {"kind": "inline"} | _INPUTS},
        widths=lambda model: (len(model.w), 1),
        only_loss="mse",
        engine_arguments=lambda model: {"num_inputs": len(model.w), "width": shape(model.w)[1]},
        given_weights=_given_weights,
        position=10,
    ),
    ModelKind(
        MultiOutputNetwork,
        _parameter_shapes,
        _output_size,
        example={"model": _WEIGHTS | {"kind": "multi-output"}, "data": {"kind": "inline"} | _OUTPUTS},
        widths=lambda model: (1, len(model.w)),
        only_loss="mse",
        engine_arguments=lambda model: {"num_coordinates": len(model.w), "width": shape(model.w)[1]},
        given_weights=_given_weights,
        position=11,
    ),
)
FAMILIES = (
    ClosedFormFamily(
        MultiInputNetwork,
        example={"model": _WEIGHTS | {"kind": "multi-input"}, "data": _INPUTS},
        row_widths=lambda model: (len(model.w), None),
        num_derived=lambda model, _: (2 * len(model.w)) ** 2,
        position=10,
    ),
    ClosedFormFamily(
        MultiOutputNetwork,
        example={"model": _WEIGHTS | {"kind": "multi-output"}, "data": _OUTPUTS},
        row_widths=lambda model: (None, len(model.w)),
        position=11,
    ),
)
