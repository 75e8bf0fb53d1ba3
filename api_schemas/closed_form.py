"""Request and answer of `POST /v1/closed-form`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from api_schemas.message import Message, RequestMessage, Rows, Vector, VectorOrRows, misfit, row_width

MAX_MATRIX_SIZE = 1000
"""Rows of the largest matrix that `quadratic` diagonalises while the caller waits."""

MAX_SCORES = 4_000_000
"""Attention scores, num_sequences x length^2, of the largest `self-attention` request."""


class _TwoLayerNetwork(RequestMessage):
    w: Vector = Field(description="weights of the second layer, length m")
    v: Vector = Field(description="weights of the first layer, length m")

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if len(self.v) != len(self.w):
            raise misfit("v", message=f"v holds {len(self.v)} numbers, w holds {len(self.w)}")
        return self


class LinearNetwork(_TwoLayerNetwork):
    """f(x) = <w, v> x for scalar x."""

    kind: Literal["linear"]


class ReluNetwork(_TwoLayerNetwork):
    """f(x) = <w, relu(v x)> for scalar x."""

    kind: Literal["relu"]


class SelfAttention(RequestMessage):
    """f(x) = w_v A(x) x with A = softmax(x <w_q, w_k> x^T / sqrt(d_K) + sink), for sequences of scalars."""

    kind: Literal["self-attention"]
    w_v: float = Field(description="value weight")
    w_q: Vector = Field(description="query weights, length d_K")
    w_k: Vector = Field(description="key weights, length d_K")
    sink_bias: float = Field(0.0, description="added to every score of the first position, before the softmax")

    @model_validator(mode="after")
    def _one_key_dimension(self) -> Self:
        if len(self.w_k) != len(self.w_q):
            raise misfit("w_k", message=f"w_k holds {len(self.w_k)} numbers, w_q holds {len(self.w_q)}")
        return self


class QuadraticForm(RequestMessage):
    """The form z^T H z / 2 of a symmetric matrix H."""

    kind: Literal["quadratic"]
    matrix: Rows = Field(description="rows of the symmetric matrix")

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        if len(self.matrix) > MAX_MATRIX_SIZE:
            message = f"{len(self.matrix)} rows; at most {MAX_MATRIX_SIZE} are diagonalised while the caller waits"
            raise misfit("matrix", message=message)
        return self


ClosedFormModel = Annotated[
    LinearNetwork | ReluNetwork | SelfAttention | QuadraticForm,
    Field(discriminator="kind"),
]


class ClosedFormData(RequestMessage):
    """Samples: one number each, or for self-attention one row of numbers per sequence."""

    x: VectorOrRows | None = None
    y: VectorOrRows | None = None


class ClosedFormRequest(RequestMessage):
    """A model that has a formula, its data, and what to say of its Hessian at the loss (1/2n) sum |f(x_i) - y_i|^2."""

    model: ClosedFormModel
    data: ClosedFormData = ClosedFormData()
    eigenvectors: Literal["none"] = "none"

    @model_validator(mode="after")
    def _data_fit_the_model(self) -> Self:
        x, y = self.data.x, self.data.y
        if isinstance(self.model, QuadraticForm):
            if x is not None or y is not None:
                raise misfit("data", message="a quadratic form takes no data")
            return self
        if x is None or y is None:
            raise misfit("data", "x" if x is None else "y", message="field required")
        per_sequence = isinstance(self.model, SelfAttention)
        for name, values in (("x", x), ("y", y)):
            if (row_width(values) is not None) is not per_sequence:
                shape = "one row of numbers per sequence" if per_sequence else "one number per sample"
                raise misfit("data", name, message=f"{self.model.kind} takes {shape}")
        if len(y) != len(x):
            raise misfit("data", "y", message=f"y holds {len(y)} samples, x holds {len(x)}")
        if row_width(y) != row_width(x):
            raise misfit("data", "y", message=f"y has rows of {row_width(y)} numbers, x of {row_width(x)}")
        if per_sequence and self.num_scores > MAX_SCORES:
            message = f"{len(x)} sequences of {row_width(x)} have more than {MAX_SCORES} attention scores"
            raise misfit("data", "x", message=message)
        return self

    @property
    def num_scores(self) -> int:
        """Attention scores that the answer goes through: num_sequences x length^2."""
        x = self.data.x
        return len(x) * (row_width(x) or 0) ** 2 if x is not None else 0


class Eigenvalue(Message):
    """One eigenvalue of the Hessian, in units of the loss per squared parameter."""

    value: float
    multiplicity: int = Field(ge=1)
    role: Literal["outlier", "bulk", "zero"]
    group: str | None = Field(description="cell '+' or '-', coordinate or head index")
    pair: int | None = Field(description="eigenvalues with the same number come from one pair")


class Inertia(Message):
    """Number of eigenvalues of each sign, with multiplicity; zero means zero to rounding."""

    negative: int
    zero: int
    positive: int


class ClosedFormSpectrum(Message):
    """The whole spectrum: value x multiplicity, descending."""

    kind: str
    num_parameters: int
    method: Literal["closed-form", "exact-reduction"]
    source: str
    eigenvalues: list[Eigenvalue]
    trace: float
    sharpness: float = Field(description="largest eigenvalue")
    smallest: float
    condition_number: float | None = Field(description="max |l| / min |l|; null where an eigenvalue is zero, see notes")
    inertia: Inertia
    critical_point: Literal["minimum", "maximum", "saddle", "degenerate"] = Field(
        description="what the inertia says where the gradient vanishes"
    )
    statistics: dict[str, float | str | None]
    notes: list[str]
