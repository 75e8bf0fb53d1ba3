"""Models whose Hessian has a formula; the number of samples is free, every other size is the model's."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.arrays import ArrayRows, ArrayVector, shape
from hessian_spectrum.api_schemas.message import RequestMessage, misfit

MAX_MATRIX_SIZE = 1000
"""Rows of the largest matrix that `quadratic` diagonalises while the caller waits: about a second."""

MAX_REDUCED_SIZE = 2000
"""Rows of the largest dense symmetric matrix that a network is reduced to: its eigenvalues take about a second."""

MAX_COORDINATES = 1000
"""Inputs of `multi-input`, whose reduced matrix has two rows for each, and outputs of `multi-output`."""


def _check_shape(name: str, have: tuple[int, ...], other: str, wanted: tuple[int, ...]) -> None:
    if have != wanted:
        raise misfit(name, message=f"{name} holds {_spelled(have)}, {other} holds {_spelled(wanted)}")


def _spelled(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) + " numbers"


class _NeuronNetwork(RequestMessage):
    w: ArrayVector = Field(description="weights of the second layer, length m")
    v: ArrayVector = Field(description="weights of the first layer, length m")

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        _check_shape("v", shape(self.v), "w", shape(self.w))
        return self


class LinearNetwork(_NeuronNetwork):
    """f(x) = <w, v> x for scalar x."""

    kind: Literal["linear"]


class ReluNetwork(_NeuronNetwork):
    """f(x) = <w, relu(v x)> for scalar x."""

    kind: Literal["relu"]


class LeakyReluNetwork(_NeuronNetwork):
    """f(x) = <w, phi(v x)> for scalar x; phi(a) = a for a > 0, negative_slope a below."""

    kind: Literal["leaky-relu"]
    negative_slope: float = Field(description="any number: 1 is linear, 0 relu, -1 the absolute value")


class LinearBiasNetwork(_NeuronNetwork):
    """f(x) = <w, v x + b> for scalar x."""

    kind: Literal["linear-bias"]
    b: ArrayVector = Field(description="bias of the first layer, length m")

    @model_validator(mode="after")
    def _one_bias_per_neuron(self) -> Self:
        _check_shape("b", shape(self.b), "w", shape(self.w))
        return self


class _CoordinateNetwork(RequestMessage):
    w: ArrayRows = Field(description="weights of the second layer, one row of m for each coordinate")
    v: ArrayRows = Field(description="weights of the first layer, one row of m for each coordinate")

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        _check_shape("v", shape(self.v), "w", shape(self.w))
        if len(self.w) > MAX_COORDINATES:
            raise misfit(
                "w", message=f"{len(self.w)} rows; at most {MAX_COORDINATES} are answered while the caller waits"
            )
        return self


class MultiInputNetwork(_CoordinateNetwork):
    """f(x) = sum_d <w_d, v_d> x_d for x of D numbers; w, v (D, m)."""

    kind: Literal["multi-input"]


class MultiOutputNetwork(_CoordinateNetwork):
    """f_k(x) = <w_k, v_k> x for scalar x and K outputs; w, v (K, m)."""

    kind: Literal["multi-output"]


class TwoLayerLinearNetwork(RequestMessage):
    """f(x) = W2 W1 x for x of D numbers and K outputs."""

    kind: Literal["two-layer-linear"]
    W1: ArrayRows = Field(description="weights of the first layer, m rows of D")
    W2: ArrayRows = Field(description="weights of the second layer, K rows of m")

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


class SelfAttention(RequestMessage):
    """f(x) = w_v A(x) x with A = activation(x <w_q, w_k> x^T / sqrt(d_K) + sink), for sequences of scalars."""

    kind: Literal["self-attention"]
    w_v: float = Field(description="value weight")
    w_q: ArrayVector = Field(description="query weights, length d_K")
    w_k: ArrayVector = Field(description="key weights, length d_K")
    sink_bias: float = Field(0.0, description="added to every score of the first position, before the activation")
    activation: Literal["softmax", "sigmoid", "linear"] = "softmax"

    @model_validator(mode="after")
    def _one_key_dimension(self) -> Self:
        _check_shape("w_k", shape(self.w_k), "w_q", shape(self.w_q))
        return self


class QuadraticForm(RequestMessage):
    """The form z^T H z / 2 of a symmetric matrix H."""

    kind: Literal["quadratic"]
    matrix: ArrayRows = Field(description="rows of the symmetric matrix")

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        if len(self.matrix) > MAX_MATRIX_SIZE:
            message = f"{len(self.matrix)} rows; at most {MAX_MATRIX_SIZE} are diagonalised while the caller waits"
            raise misfit("matrix", message=message)
        return self


ScalarNetwork = LinearNetwork | ReluNetwork | LeakyReluNetwork | LinearBiasNetwork

_ClosedFormModel = (
    ScalarNetwork | MultiInputNetwork | MultiOutputNetwork | TwoLayerLinearNetwork | SelfAttention | QuadraticForm
)
ClosedFormModel = Annotated[_ClosedFormModel, Field(discriminator="kind")]

CLOSED_FORM_MODELS: tuple[type[RequestMessage], ...] = get_args(_ClosedFormModel)
CLOSED_FORM_KINDS: tuple[str, ...] = tuple(
    get_args(model.model_fields["kind"].annotation)[0] for model in CLOSED_FORM_MODELS
)


def sample_widths(
    model: ScalarNetwork | MultiInputNetwork | MultiOutputNetwork | TwoLayerLinearNetwork,
) -> tuple[int | None, int | None]:
    """Numbers in each row of x and of y; None where a sample is one number."""
    match model:
        case MultiInputNetwork():
            return len(model.w), None
        case MultiOutputNetwork():
            return None, len(model.w)
        case TwoLayerLinearNetwork():
            return shape(model.W1)[1], len(model.W2)
        case _:
            return None, None
