"""Every eigenvalue, from the assembled matrix."""

from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.closed_form import Inertia
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.methods.kind import MatrixProperties, MethodKind, MethodMessage, StoredVectors
from hessian_spectrum.api_schemas.spectrum_results import Estimate, MethodResult
from hessian_spectrum.planning.work import FLOAT64_BYTES, LARGEST_LIST, Work, exact_work, gram_work


class ExactMethod(MethodMessage):
    """Every eigenvalue, from the assembled matrix; memory grows as the square of the number of parameters.

    Of a Gauss-Newton matrix with fewer outputs in all than parameters it grows as the square of the number of outputs,
    unless eigenvectors are requested.
    """

    kind: Literal["exact"]
    eigenvectors: bool = Field(
        default=False, description="Whether to store eigenvectors and their residuals in the npz file."
    )


class RepeatedEigenvalue(Message):
    """An eigenvalue that is known without computation."""

    value: float = Field(description="The eigenvalue, in loss per squared parameter.")
    multiplicity: int = Field(description="Number of its copies.")


class ExactResult(MethodResult):
    """Every eigenvalue of the matrix, with trace and inertia."""

    method: Literal["exact"] = "exact"
    trace: Estimate = Field(description="Sum of the eigenvalues, in loss per squared parameter.")
    eigenvalues: list[float] = Field(
        description="All eigenvalues, ascending, repeated by multiplicity, except for the copies of `repeated`."
    )
    repeated: RepeatedEigenvalue | None = Field(
        default=None,
        description="An eigenvalue that is not in `eigenvalues`, with its multiplicity: of a Gauss-Newton matrix with "
        f"more than {LARGEST_LIST:,} rows, the one on the directions that no output depends on; null for all others.",
    )
    inertia: Inertia = Field(description="Number of eigenvalues of each sign.")
    zero_threshold: float = Field(
        description="Bound on the error of every eigenvalue; eigenvalues of at most this magnitude count as zero."
    )


def _work(method: ExactMethod, matrix: MatrixProperties) -> Work:
    is_layered = matrix.is_layered and not matrix.is_reduced
    if matrix.gram_order is not None and matrix.gram_order < matrix.dim and not method.eigenvectors:
        return gram_work(matrix.dim, matrix.gram_order, is_layered)
    return exact_work(matrix.dim, method.eigenvectors, is_layered)


def _stored_vectors(method: ExactMethod, dim: int) -> StoredVectors | None:
    if not method.eigenvectors:
        return None
    return StoredVectors("eigenvectors", dim, FLOAT64_BYTES, ("eigenvectors", "residuals"))


METHODS = (
    MethodKind(
        ExactMethod,
        ExactResult,
        _work,
        example={"kind": "exact", "eigenvectors": True},
        num_result_numbers=lambda _, dim: min(dim, LARGEST_LIST),
        stored_vectors=_stored_vectors,
        assembles_matrix=True,
        position=0,
    ),
)
