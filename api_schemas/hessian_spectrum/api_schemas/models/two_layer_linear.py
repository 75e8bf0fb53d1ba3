"""Two linear layers between any numbers of inputs and outputs."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import ArrayRows, misfit, shape
from hessian_spectrum.api_schemas.models.kind import ClosedFormFamily, ModelKind, ModelMessage, Shapes
from hessian_spectrum.planning.size import Size, mlp_size

MAX_REDUCED_SIZE = 2000
"""Number of rows of the largest dense matrix that a network is reduced to; its eigenvalues take about a second."""


class TwoLayerLinearNetwork(ModelMessage):
    """A two-layer linear network, f(x) = W2 W1 x for x of D numbers and K outputs."""

    kind: Literal["two-layer-linear"]
    W1: ArrayRows = Field(description="The weights of the first layer, m rows of D numbers.")
    W2: ArrayRows = Field(description="The weights of the second layer, K rows of m numbers.")

    @model_validator(mode="after")
    def _layers_fit_and_reduce(self) -> Self:
        (width, num_inputs), (num_outputs, columns) = shape(self.W1), shape(self.W2)
        if columns != width:
            raise misfit("W2", message=f"W2 has rows of {columns} numbers, W1 has {width} rows")
        if self.reduced_size > MAX_REDUCED_SIZE:
            message = (
                f"min(m, D + K) (D + K) = {self.reduced_size} for m = {width}, D = {num_inputs}, K = {num_outputs}; "
                f"at most {MAX_REDUCED_SIZE} is diagonalised while the caller waits"
            )
            raise misfit("W1", message=message)
        return self

    @property
    def reduced_size(self) -> int:
        """Rows of the dense matrix that the Hessian is reduced to: min(m, D + K) (D + K)."""
        (width, num_inputs), num_outputs = shape(self.W1), len(self.W2)
        return min(width, num_inputs + num_outputs) * (num_inputs + num_outputs)


def _parameter_shapes(model: TwoLayerLinearNetwork) -> Shapes:
    return {"W1": shape(model.W1), "W2": shape(model.W2)}


def _widths(model: TwoLayerLinearNetwork) -> tuple[int, int]:
    return shape(model.W1)[1], len(model.W2)


def _size(model: TwoLayerLinearNetwork, num_samples: int, length: int) -> Size:
    width, num_inputs = shape(model.W1)
    return mlp_size((num_inputs, width, len(model.W2)), False, num_samples, activation="linear")


def _engine_arguments(model: TwoLayerLinearNetwork) -> dict[str, Any]:
    width, num_inputs = shape(model.W1)
    return {"num_inputs": num_inputs, "width": width, "output_dim": len(model.W2)}


_WEIGHTS = {
    "kind": "two-layer-linear",
    "W1": [[0.5, -1.0], [0.2, 0.3], [0.9, 0.1]],
    "W2": [[1.0, 0.5, -0.3], [-0.7, 0.4, 0.2]],
}
_SAMPLES = {"x": [[1.0, -0.5], [2.0, 0.3], [-0.4, 0.6]], "y": [[0.8, 0.2], [-0.1, 0.0], [1.5, -1.0]]}

KINDS = (
    ModelKind(
        TwoLayerLinearNetwork,
        _parameter_shapes,
        _size,
        example={"model": _WEIGHTS, "data": {"kind": "inline"} | _SAMPLES},
        widths=_widths,
        only_loss="mse",
        engine_arguments=_engine_arguments,
        given_weights=lambda model: {"W1": model.W1, "W2": model.W2},
        position=12,
    ),
)
FAMILIES = (
    ClosedFormFamily(
        TwoLayerLinearNetwork,
        example={"model": _WEIGHTS, "data": _SAMPLES},
        row_widths=_widths,
        num_derived=lambda model, _: model.reduced_size**2,
        position=12,
    ),
)
