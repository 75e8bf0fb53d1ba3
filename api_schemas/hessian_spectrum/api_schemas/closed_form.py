"""Request and response of `POST /v1/closed-form`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from hessian_spectrum.api_schemas.display import DisplayedMessage
from hessian_spectrum.api_schemas.message import AnyNumbers, ArrayVectorOrRows, Message, RequestMessage, misfit, shape
from hessian_spectrum.api_schemas.models import FAMILIES, ClosedFormModel
from hessian_spectrum.api_schemas.models.attention import num_scores
from hessian_spectrum.api_schemas.models.neurons import LinearNetwork

MAX_SCORES = 4_000_000
"""Largest number of attention scores, num_sequences x length^2, of a `self-attention` request."""

MAX_DESCENT_STEPS = 10_000

EigenvectorChoice = Literal["none", "outliers", "all"]


class ClosedFormData(RequestMessage):
    """Samples: single numbers, or rows of equal length; for self-attention, one row of numbers per sequence."""

    x: ArrayVectorOrRows | None = Field(
        default=None,
        description="Inputs of the samples: one number or one row of numbers each; for self-attention, one sequence "
        "each.",
    )
    y: ArrayVectorOrRows | None = Field(
        default=None,
        description="Targets of the samples, as many as inputs; for self-attention, rows of the same length.",
    )


class Descent(RequestMessage):
    """Gradient descent with a fixed learning rate from the given weights."""

    learning_rate: float = Field(gt=0, description="Learning rate, in squared parameter per loss.")
    num_steps: int = Field(ge=1, le=MAX_DESCENT_STEPS, description="Number of steps from the given weights.")


def _none_is_empty(data: Any) -> Any:
    return ClosedFormData() if data is None else data


_Data = Annotated[ClosedFormData, BeforeValidator(_none_is_empty, json_schema_input_type=ClosedFormData | None)]


class ClosedFormRequest(RequestMessage):
    """A model whose Hessian has a formula, its data, and what to report; the loss is (1/2n) sum |f(x_i) - y_i|^2."""

    model: ClosedFormModel = Field(description="Network, or quadratic form, whose Hessian has a formula.")
    data: _Data = Field(
        default=ClosedFormData(),
        json_schema_extra={"default": None},
        description="Samples that define the loss; null for a quadratic form.",
    )
    eigenvectors: EigenvectorChoice = Field(
        "none",
        description="Which orthonormal eigenvectors to return: none, those of the outliers, or all; refused above a "
        "stated size.",
    )
    descent: Descent | None = Field(
        None, description="Gradient descent along which to report the spectrum; for `linear` models only."
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        self._check_data()
        if self.descent is not None and not isinstance(self.model, LinearNetwork):
            raise misfit("descent", message=f"gradient descent has a formula for linear alone, not {self.model.kind}")
        return self

    def _check_data(self) -> None:
        family, x, y = self.model.closed_form_family, self.data.x, self.data.y
        if family.samples == "none":
            if x is not None or y is not None:
                raise misfit("data", message="a quadratic form takes no data")
            return
        if x is None or y is None:
            raise misfit("data", "x" if x is None else "y", message="field required")
        if family.samples == "sequences":
            _check_sequences(x, y)
        else:
            x_width, y_width = (None, None) if family.row_widths is None else family.row_widths(self.model)
            _check_samples(self.model.kind, "x", x, width=x_width)
            _check_samples(self.model.kind, "y", y, width=y_width)
        if len(y) != len(x):
            raise misfit("data", "y", message=f"y holds {len(y)} samples, x holds {len(x)}")


def _field_paths() -> dict[str, tuple[str, ...]]:
    parents: list[tuple[str, type[BaseModel]]] = [("model", family.message) for family in FAMILIES.values()]
    parents += [("data", ClosedFormData), ("descent", Descent)]
    paths = {name: (parent, name) for parent, message in parents for name in message.model_fields}
    return paths | {"eigenvectors": ("eigenvectors",)}


FIELD_PATHS = _field_paths()
"""Path of each number, text or array in a request, by its own name; no two have the same name."""


def _check_sequences(x: AnyNumbers, y: AnyNumbers) -> None:
    for name, values in (("x", x), ("y", y)):
        if len(shape(values)) != 2:
            raise misfit("data", name, message="self-attention takes one row of numbers per sequence")
    if shape(y)[1] != shape(x)[1]:
        raise misfit("data", "y", message=f"y has rows of {shape(y)[1]} numbers, x of {shape(x)[1]}")
    if num_scores(x) > MAX_SCORES:
        message = f"{len(x)} sequences of {shape(x)[1]} have more than {MAX_SCORES} attention scores"
        raise misfit("data", "x", message=message)


def _check_samples(kind: str, name: str, values: AnyNumbers, *, width: int | None) -> None:
    if shape(values)[1:] != (() if width is None else (width,)):
        expected = "one number per sample" if width is None else f"one row of {width} numbers per sample"
        raise misfit("data", name, message=f"{name} must hold {expected} for {kind} with these weights")


class Eigenvalue(Message):
    """A distinct eigenvalue of the Hessian, in loss per squared parameter."""

    value: float = Field(description="The eigenvalue, in loss per squared parameter.")
    multiplicity: int = Field(ge=1, description="How often the eigenvalue is repeated.")
    role: Literal["outlier", "bulk", "zero"] = Field(
        description="Its part in the spectrum: an outlier, the bulk, or a zero that does not depend on weights and "
        "data."
    )
    group: str | None = Field(
        description="Group that it belongs to: sign of a cell of neurons ('+', '-' or '0'), or index of a "
        "coordinate, singular value or head."
    )
    pair: int | None = Field(
        description="Number of the pair that it belongs to; eigenvalues with the same number form one pair."
    )


class Inertia(Message):
    """Number of eigenvalues of each sign, with multiplicity; zero means zero up to rounding."""

    negative: int = Field(description="Number of negative eigenvalues, with multiplicity.")
    zero: int = Field(description="Number of eigenvalues that are zero up to rounding, with multiplicity.")
    positive: int = Field(description="Number of positive eigenvalues, with multiplicity.")


class Parameter(Message):
    """Name and shape of one array of parameters."""

    name: str = Field(description="Name of the array of parameters.")
    shape: list[int] = Field(description="Length along each dimension, outermost first.")


class Eigenvectors(Message):
    """Orthonormal eigenvectors; each lists the parameters in the given order, each array row by row."""

    which: Literal["outliers", "all"] = Field(
        description="Whether these are the eigenvectors of the outliers or of all eigenvalues."
    )
    parameters: list[Parameter] = Field(description="Arrays of parameters in the order of the entries of a vector.")
    eigenvalues: list[float] = Field(
        description="Eigenvalue of each vector, descending, in loss per squared parameter."
    )
    vectors: list[list[float]] = Field(description="The eigenvectors, as rows of num_parameters numbers.")


class DescentPath(Message):
    """Gradient descent, with one entry for each point from the given weights on; it ends early if it diverges."""

    learning_rate: float = Field(description="Learning rate of the steps, in squared parameter per loss.")
    loss: list[float] = Field(description="Loss at each point of the path.")
    outliers: list[list[float]] = Field(
        description="Pair of outlying eigenvalues at each point, in loss per squared parameter."
    )
    bulk: list[float] = Field(
        description="Value d at each point: the bulk of the spectrum is d and -d, in loss per squared parameter."
    )
    c: list[float] = Field(description="Slope of the network at each point, the inner product of w and v.")
    phase: list[str | None] = Field(
        description="Phase of each point: early, late or divergent; null where theta* is 0 or undefined."
    )
    fixed_dimensions: int = Field(
        description="Dimension of the part of the bulk's eigenspace that is the same at every point."
    )
    diverged_at: int | None = Field(
        description="First step whose numbers overflow and are therefore missing; null if none does."
    )
    notes: list[str] = Field(description="Remarks on values that are null or inexact.")


Statistic = float | str | None


class ClosedFormSpectrum(DisplayedMessage):
    """The complete spectrum of a Hessian as distinct eigenvalues with multiplicities, descending."""

    # the route's `to_document` fills in the fields, without a validation
    kind: str = Field(description="Kind of the model, as in the request.")
    num_parameters: int = Field(description="Number of parameters, which is the number of rows of the Hessian.")
    method: Literal["closed-form", "exact-reduction"] = Field(
        description="Whether eigenvalues come from a closed form or from an exact reduction to a smaller matrix."
    )
    source: str = Field(description="Publication and section in which the formula is derived.")
    eigenvalues: list[Eigenvalue] = Field(description="Distinct eigenvalues with their multiplicities, descending.")
    trace: float = Field(description="Sum of all eigenvalues, in loss per squared parameter.")
    sharpness: float = Field(description="Largest eigenvalue, in loss per squared parameter.")
    smallest: float = Field(description="Smallest eigenvalue, in loss per squared parameter.")
    condition_number: float | None = Field(
        description="Condition number max |l| / min |l|, rounded to the digits that are known; null if an eigenvalue "
        "is zero or the smallest magnitude is known too inaccurately, as `notes` explains."
    )
    condition_number_lower: float | None = Field(
        default=None, description="Lower bound of the condition number; null if every eigenvalue is zero."
    )
    condition_number_upper: float | None = Field(
        default=None, description="Upper bound of the condition number; null if the smallest magnitude may be zero."
    )
    inertia: Inertia = Field(description="Number of eigenvalues of each sign.")
    critical_point: Literal["minimum", "maximum", "saddle", "degenerate"] = Field(
        description="Type of critical point that the inertia implies wherever the gradient vanishes."
    )
    statistics: dict[str, Statistic | list[Statistic]] = Field(
        description="Further quantities of this kind of model, by name; lists have one entry for each coordinate."
    )
    eigenvectors: Eigenvectors | None = Field(
        None, description="Orthonormal eigenvectors, if the request asked for them."
    )
    descent: DescentPath | None = Field(
        None, description="Spectrum along gradient descent, if the request asked for it."
    )
    notes: list[str] = Field(description="Remarks on values that are null or inexact.")
