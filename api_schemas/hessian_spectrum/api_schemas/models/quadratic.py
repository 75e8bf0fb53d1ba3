"""Quadratic forms."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import ArrayRows, misfit, shape
from hessian_spectrum.api_schemas.models.kind import ClosedFormFamily, ModelKind, ModelMessage
from hessian_spectrum.planning.size import quadratic_size

MAX_MATRIX_SIZE = 1000
"""Number of rows of the largest matrix of `quadratic`, diagonalised in about a second while the caller waits."""

SYMMETRY_TOLERANCE = 1e-12
"""Largest |a_ij - a_ji| of a quadratic form's matrix, relative to max |a_ij|; the closed form uses the same."""


class QuadraticForm(ModelMessage):
    """The form z^T H z / 2 of a symmetric matrix H."""

    kind: Literal["quadratic"]
    matrix: ArrayRows = Field(description="The rows of the symmetric matrix.")

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        if len(self.matrix) > MAX_MATRIX_SIZE:
            message = f"{len(self.matrix)} rows; at most {MAX_MATRIX_SIZE} are diagonalised while the caller waits"
            raise misfit("matrix", message=message)
        return self


def _check_symmetric(model: QuadraticForm) -> None:
    size, num_columns = shape(model.matrix)
    if size != num_columns:
        raise misfit("model", "matrix", message=f"matrix must be square, not {size} x {num_columns}")
    rows: Any = model.matrix
    largest = max(abs(entry) for row in rows for entry in row)
    for i in range(size):
        for j in range(i):
            # halves: the difference of two large numbers may overflow
            if abs(rows[i][j] / 2 - rows[j][i] / 2) > SYMMETRY_TOLERANCE / 2 * largest:
                message = f"entries ({i}, {j}) and ({j}, {i}) differ: the matrix must be symmetric"
                raise misfit("model", "matrix", message=message)


_MATRIX = {"kind": "quadratic", "matrix": [[4.0, 4.0], [4.0, 16.0]]}

KINDS = (
    ModelKind(
        QuadraticForm,
        lambda model: {"z": (len(model.matrix),)},
        lambda model, _num_samples, _length: quadratic_size(len(model.matrix)),
        example={"model": _MATRIX},
        samples="none",
        engine_arguments=lambda model: {"size": len(model.matrix)},
        given_weights=lambda model: {"z": [0.0] * len(model.matrix)},
        check=_check_symmetric,
        is_trainable=False,
        num_matrix_entries=lambda model: len(model.matrix) ** 2,
        position=14,
    ),
)
FAMILIES = (
    ClosedFormFamily(
        QuadraticForm,
        example={"model": _MATRIX},
        samples="none",
        num_derived=lambda model, _: len(model.matrix) ** 2,
        position=14,
    ),
)
