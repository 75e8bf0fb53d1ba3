"""Matrices of second derivatives by name, and their options: a diagonal preconditioner and a shift."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.artifacts import ArtifactId, arrays_of, listed
from hessian_spectrum.api_schemas.losses import AnyLoss, kind_of_loss, loss_name
from hessian_spectrum.api_schemas.message import RequestMessage, misfit
from hessian_spectrum.api_schemas.models.kind import Shapes

Matrix = Literal["hessian", "ggn", "functional", "fisher", "empirical-fisher", "gradient-covariance"]

DECAYED: frozenset[Matrix] = frozenset({"hessian", "ggn"})
"""Matrices to which weight decay adds a multiple of the identity."""

OF_GRADIENTS: frozenset[Matrix] = frozenset({"empirical-fisher", "gradient-covariance"})
"""Matrices of the gradients of the terms of the loss."""

GAUSS_NEWTON: frozenset[Matrix] = frozenset({"ggn", "fisher", *OF_GRADIENTS})
"""Matrices J^T B J with the Jacobian J of the outputs."""


class StoredDiagonal(RequestMessage):
    """Positive numbers in an uploaded safetensors or npz file, one array for each parameter by its name.

    The server fills in the shapes from the file. Values that a request states must agree.
    """

    model_config = ConfigDict(json_schema_extra={"required": ["kind", "id"]})

    kind: Literal["artifact"]
    id: ArtifactId
    shapes: dict[str, list[int]] = Field(description="Shape of each array by name, which the server fills in.")

    @model_validator(mode="before")
    @classmethod
    def _with_shapes(cls, fields: Any, info: ValidationInfo) -> Any:
        arrays = arrays_of(fields, info)
        if arrays is None:
            return fields
        shapes = {name: array.shape for name, array in arrays.items()}
        if fields.get("shapes") not in (None, shapes):
            raise misfit("shapes", message="differs from the uploaded file: leave it out, and the server fills it in")
        return fields | {"shapes": shapes}


class MatrixOptions(RequestMessage):
    """A matrix with a preconditioner and a shift: D^-1/2 A D^-1/2 + s I."""

    kind: Matrix = Field(description="The matrix A that is preconditioned and shifted.")
    preconditioner: StoredDiagonal | None = Field(
        default=None,
        description="Uploaded positive diagonal D, by parameter, such as sqrt(v) + epsilon with the second moments v "
        "of Adam; null means the identity.",
    )
    shift: float = Field(default=0.0, description="Damping s that is added to every eigenvalue.")


MatrixField = Annotated[
    Annotated[Matrix, Tag("name")] | Annotated[MatrixOptions, Tag("object")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "object"),
]
"""A matrix by its name, or as an object with options."""


def matrix_name(matrix: Matrix | MatrixOptions) -> Matrix:
    """Return the name of a matrix."""
    return matrix.kind if isinstance(matrix, MatrixOptions) else matrix


def settled_matrix(matrix: Matrix | MatrixOptions) -> Matrix | MatrixOptions:
    """Return the canonical form: the name alone where no option has an effect."""
    if isinstance(matrix, MatrixOptions) and matrix.preconditioner is None and matrix.shift == 0:
        return matrix.kind
    return matrix


def check_matrix(matrix: Matrix | MatrixOptions, loss: AnyLoss | None) -> None:
    """Check that there is such a matrix of the loss.

    Args:
        matrix: Matrix of the request.
        loss: Loss of the request; None if the model's output is its own loss, as for a quadratic form.

    Raises:
        ValidationError: At `matrix`.
    """
    name = matrix_name(matrix)
    if loss is None and (name == "fisher" or name in OF_GRADIENTS):
        raise misfit("matrix", message=f"a quadratic form has no samples, hence no {name}")
    if loss is not None and name == "fisher" and not kind_of_loss(loss).is_likelihood:
        message = f"the loss {loss_name(loss)} is not the negative logarithm of a distribution: use empirical-fisher"
        raise misfit("matrix", message=message)
    if loss is not None and name == "ggn" and kind_of_loss(loss).is_linear:
        message = f"the Gauss-Newton matrix of the loss {loss_name(loss)} is zero, as this loss is linear in the output"
        raise misfit("matrix", message=f"{message}: use hessian or empirical-fisher")


def check_preconditioner(diagonal: StoredDiagonal, shapes: Shapes) -> None:
    """Check that a preconditioner has the parameters to which the rows of the matrix belong.

    Args:
        diagonal: The uploaded diagonal.
        shapes: Shapes of the parameters by name.

    Raises:
        ValidationError: At `matrix.preconditioner.id`.
    """
    missing = shapes.keys() - diagonal.shapes.keys()
    if missing:
        raise misfit("matrix", "preconditioner", "id", message=f"lacks the parameters {listed(missing)}")
    for name, shape in shapes.items():
        if tuple(diagonal.shapes[name]) != shape:
            message = f"{name} has shape {diagonal.shapes[name]}, but the parameter has {list(shape)}"
            raise misfit("matrix", "preconditioner", "id", message=message)
