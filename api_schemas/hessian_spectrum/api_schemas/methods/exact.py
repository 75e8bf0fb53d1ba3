"""Every eigenvalue, from the assembled matrix."""

from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.closed_form import Inertia
from hessian_spectrum.api_schemas.methods.kind import MatrixProperties, MethodKind, MethodMessage, StoredVectors
from hessian_spectrum.api_schemas.spectrum_results import Estimate, MethodResult
from hessian_spectrum.planning.work import FLOAT64_BYTES, Work, exact_work


class ExactMethod(MethodMessage):
    """Every eigenvalue, from the assembled matrix; memory grows as the square of the number of parameters."""

    kind: Literal["exact"]
    eigenvectors: bool = Field(
        default=False, description="Whether to store eigenvectors and their residuals in the npz file."
    )


class ExactResult(MethodResult):
    """Every eigenvalue of the matrix, with trace and inertia."""

    method: Literal["exact"] = "exact"
    trace: Estimate = Field(description="Sum of the eigenvalues, in loss per squared parameter.")
    eigenvalues: list[float] = Field(description="All eigenvalues, ascending, repeated by multiplicity.")
    inertia: Inertia = Field(description="Number of eigenvalues of each sign.")
    zero_threshold: float = Field(
        description="Bound on the error of every eigenvalue; eigenvalues of at most this magnitude count as zero."
    )


def _work(method: ExactMethod, matrix: MatrixProperties) -> Work:
    return exact_work(matrix.dim, method.eigenvectors, matrix.is_layered and not matrix.is_reduced)


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
        num_result_numbers=lambda _, dim: dim,
        stored_vectors=_stored_vectors,
        assembles_matrix=True,
        position=0,
    ),
)
