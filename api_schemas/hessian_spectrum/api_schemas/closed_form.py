"""Request and answer of `POST /v1/closed-form`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from hessian_spectrum.api_schemas.arrays import AnyNumbers, ArrayVectorOrRows, shape
from hessian_spectrum.api_schemas.message import Message, RequestMessage, misfit
from hessian_spectrum.api_schemas.models import FAMILIES, ClosedFormModel, family_of
from hessian_spectrum.api_schemas.models.attention import num_scores
from hessian_spectrum.api_schemas.models.neurons import LinearNetwork

MAX_SCORES = 4_000_000
"""Attention scores, num_sequences x length^2, of the largest `self-attention` request."""

MAX_DESCENT_STEPS = 10_000

EigenvectorChoice = Literal["none", "outliers", "all"]


class ClosedFormData(RequestMessage):
    """Samples: one number each, or rows of one length; for self-attention one row of numbers per sequence."""

    x: ArrayVectorOrRows | None = None
    y: ArrayVectorOrRows | None = None


class Descent(RequestMessage):
    """Gradient descent at a fixed step from the given weights."""

    learning_rate: float = Field(gt=0, description="The step size, in squared parameter per loss.")
    num_steps: int = Field(ge=1, le=MAX_DESCENT_STEPS)


def _none_is_empty(data: Any) -> Any:
    return ClosedFormData() if data is None else data


_Data = Annotated[ClosedFormData, BeforeValidator(_none_is_empty, json_schema_input_type=ClosedFormData | None)]


class ClosedFormRequest(RequestMessage):
    """A model that has a formula, its data, and what to say of its Hessian at the loss (1/2n) sum |f(x_i) - y_i|^2."""

    model: ClosedFormModel
    data: _Data = Field(
        default=ClosedFormData(),
        json_schema_extra={"default": None},
        description="The samples x and y; null for a quadratic form.",
    )
    eigenvectors: EigenvectorChoice = Field(
        "none",
        description="Whether the answer has orthonormal eigenvectors, of the outliers or of all eigenvalues; refused "
        "above a stated size.",
    )
    descent: Descent | None = Field(
        None, description="Gradient descent along which the spectrum is wanted as well; for `linear` alone."
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        self._check_data()
        if self.descent is not None and not isinstance(self.model, LinearNetwork):
            raise misfit("descent", message=f"gradient descent has a formula for linear alone, not {self.model.kind}")
        return self

    def _check_data(self) -> None:
        family, (x, y) = family_of(self.model), (self.data.x, self.data.y)
        if family.samples == "none":
            if x is not None or y is not None:
                raise misfit("data", message="a quadratic form takes no data")
            return
        if x is None or y is None:
            raise misfit("data", "x" if x is None else "y", message="field required")
        if family.samples == "sequences":
            _check_sequences(x, y)
        else:
            for name, values, width in zip("xy", (x, y), family.row_widths(self.model), strict=True):
                _check_samples(self.model.kind, name, values, width)
        if len(y) != len(x):
            raise misfit("data", "y", message=f"y holds {len(y)} samples, x holds {len(x)}")

    @property
    def num_derived(self) -> int:
        """Numbers that the formula derives from weights and inputs at a cost that others would notice."""
        return family_of(self.model).num_derived(self.model, self.data.x)


def _field_paths() -> dict[str, tuple[str, ...]]:
    parents: list[tuple[str, type[BaseModel]]] = [("model", family.message) for family in FAMILIES.values()]
    parents += [("data", ClosedFormData), ("descent", Descent)]
    paths = {name: (parent, name) for parent, message in parents for name in message.model_fields}
    return paths | {"eigenvectors": ("eigenvectors",)}


FIELD_PATHS = _field_paths()
"""Where each number, text or array stands in a request, by its own name: no two have the same one."""


def _check_sequences(x: AnyNumbers, y: AnyNumbers) -> None:
    for name, values in (("x", x), ("y", y)):
        if len(shape(values)) != 2:
            raise misfit("data", name, message="self-attention takes one row of numbers per sequence")
    if shape(y)[1] != shape(x)[1]:
        raise misfit("data", "y", message=f"y has rows of {shape(y)[1]} numbers, x of {shape(x)[1]}")
    if num_scores(x) > MAX_SCORES:
        message = f"{len(x)} sequences of {shape(x)[1]} have more than {MAX_SCORES} attention scores"
        raise misfit("data", "x", message=message)


def _check_samples(kind: str, name: str, values: AnyNumbers, width: int | None) -> None:
    if shape(values)[1:] != (() if width is None else (width,)):
        wanted = "one number per sample" if width is None else f"one row of {width} numbers per sample"
        raise misfit("data", name, message=f"{name} must hold {wanted} for {kind} with these weights")


class Eigenvalue(Message):
    """One eigenvalue of the Hessian, in units of the loss per squared parameter."""

    value: float
    multiplicity: int = Field(ge=1)
    role: Literal["outlier", "bulk", "zero"]
    group: str | None = Field(
        description="The group of parameters that it belongs to: a cell '+' or '-', or the index of a coordinate."
    )
    pair: int | None = Field(description="The number of its pair: eigenvalues with the same number belong together.")


class Inertia(Message):
    """Number of eigenvalues of each sign, with multiplicity; zero means zero to rounding."""

    negative: int
    zero: int
    positive: int


class Parameter(Message):
    """One array of parameters."""

    name: str
    shape: list[int]


class Eigenvectors(Message):
    """Orthonormal eigenvectors; each lists the parameters in their order, each array row by row."""

    which: Literal["outliers", "all"]
    parameters: list[Parameter]
    eigenvalues: list[float] = Field(description="The eigenvalue of each vector, in descending order.")
    vectors: list[list[float]] = Field(description="The eigenvectors, as rows of num_parameters numbers.")


class DescentPath(Message):
    """Gradient descent, one entry for each point from the given weights on; it ends early where it diverges."""

    loss: list[float]
    outliers: list[list[float]] = Field(description="The pair of outliers at each point.")
    bulk: list[float] = Field(description="The number d at each point: the bulk is d and -d.")
    c: list[float] = Field(description="The slope <w, v> of the network at each point.")
    phase: list[str | None] = Field(
        description="The phase at each point: early, late or divergent; null where theta* is 0 or undefined."
    )
    fixed_dimensions: int = Field(description="The number of dimensions of the bulk's eigenspace, which never moves.")
    diverged_at: int | None = Field(
        description="The first step whose numbers overflow and are therefore missing; null where none does."
    )
    notes: list[str]


Statistic = float | str | None


class ClosedFormSpectrum(Message):
    """The whole spectrum: value x multiplicity, descending."""

    kind: str
    num_parameters: int
    method: Literal["closed-form", "exact-reduction"]
    source: str
    eigenvalues: list[Eigenvalue]
    trace: float
    sharpness: float = Field(description="The largest eigenvalue of the Hessian.")
    smallest: float
    condition_number: float | None = Field(
        description="The quotient max |l| / min |l|, rounded to the digits that are known; null where an eigenvalue "
        "is zero or the smallest magnitude is not known well enough, as the notes then say."
    )
    condition_number_lower: float | None = Field(
        default=None, description="The condition number is at least this number; null where every eigenvalue is zero."
    )
    condition_number_upper: float | None = Field(
        default=None,
        description="The condition number is at most this number; null where the smallest magnitude may be zero.",
    )
    inertia: Inertia
    critical_point: Literal["minimum", "maximum", "saddle", "degenerate"] = Field(
        description="What the inertia says of points where the gradient vanishes."
    )
    statistics: dict[str, Statistic | list[Statistic]] = Field(
        description="Quantities of the formula by name; lists have one entry for each coordinate."
    )
    eigenvectors: Eigenvectors | None = Field(None, description="The eigenvectors, where the request asked for them.")
    descent: DescentPath | None = Field(
        None, description="The path of gradient descent, where the request asked for it."
    )
    notes: list[str]
