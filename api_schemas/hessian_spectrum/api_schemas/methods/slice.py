"""The loss along one or two eigenvectors."""

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.methods.kind import MatrixProperties, MethodKind, MethodMessage, StoredVectors
from hessian_spectrum.api_schemas.methods.top_k import Which
from hessian_spectrum.api_schemas.spectrum_results import Eigenpair, MethodResult
from hessian_spectrum.planning.work import Work, top_k_work

MAX_POINTS = 10_000
"""Largest number of points of a grid in one or two directions."""


class SliceMethod(MethodMessage):
    """The loss along one or two eigenvectors, with the quadratic model that gradient and matrix give there."""

    kind: Literal["slice"]
    num_directions: Literal[1, 2] = Field(
        default=1, description="Number of eigenvectors: 1 for a curve, 2 for a surface."
    )
    which: Which = Field(
        default="largest",
        description="Part of the spectrum from which the eigenvectors come, as in `top-k`; `both-ends`: the largest "
        "eigenvalue and the smallest.",
    )
    radius: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Largest distance from the parameters along each unit eigenvector; with a preconditioner D, the "
        "distance is that of D^1/2 times the parameters.",
    )
    num_points: int = Field(
        default=41, ge=3, le=1001, description="Number of points along each direction, at equal distances."
    )
    tolerance: float = Field(
        default=1e-5, gt=0, lt=1, description="Largest accepted residual of the eigenvectors, as in `top-k`."
    )
    max_products: int = Field(
        default=1000, ge=2, le=1_000_000, description="Largest number of matrix-vector products for the eigenvectors."
    )
    eigenvectors: bool = Field(default=False, description="Whether to store the eigenvectors in the npz file.")

    @property
    def num_grid_points(self) -> int:
        """Number of points at which the loss is evaluated."""
        return int(self.num_points**self.num_directions)


class SliceResult(MethodResult):
    """The loss on a grid along eigenvectors, beside its quadratic model."""

    method: Literal["slice"] = "slice"
    which: Which = Field(description="Part of the spectrum, as in the request.")
    eigenpairs: list[Eigenpair] = Field(description="The eigenvalue of each direction.")
    slopes: list[float] = Field(description="Derivative of the loss along each direction, at the parameters.")
    offsets: list[float] = Field(description="Distances from the parameters along each direction, ascending.")
    losses: list[float] = Field(
        description="Loss at each point; of two directions row by row, the offset along the second varying fastest."
    )
    quadratic_model: list[float] = Field(
        description="Values of loss + sum_i (slope_i a_i + value_i a_i^2 / 2) at the same points, with the "
        "eigenvalues of the requested matrix."
    )


def _work(method: SliceMethod, matrix: MatrixProperties) -> Work:
    """Return the work of the search for eigenvectors; an evaluation of the loss counts as a product."""
    search = top_k_work(matrix.dim, method.num_directions, method.max_products, reduced=matrix.is_reduced)
    return replace(search, num_products=search.num_products + method.num_grid_points, vectors=search.vectors + 4)


def _check(method: SliceMethod, dim: int) -> None:
    if method.num_directions > dim:
        raise misfit("method", "num_directions", message=f"the matrix has {dim:,} eigenvectors")
    if method.num_grid_points > MAX_POINTS:
        message = f"{method.num_grid_points:,} points in {method.num_directions} directions; at most {MAX_POINTS:,}"
        raise misfit("method", "num_points", message=message)


def _stored_vectors(method: SliceMethod, _: int) -> StoredVectors | None:
    return (
        StoredVectors("eigenvectors", method.num_directions, None, ("eigenvectors",)) if method.eigenvectors else None
    )


def _engine_arguments(method: SliceMethod) -> dict[str, Any]:
    names = ("num_directions", "which", "radius", "num_points", "tolerance", "max_products")
    return {name: getattr(method, name) for name in names}


METHODS = (
    MethodKind(
        SliceMethod,
        SliceResult,
        _work,
        example={"kind": "slice", "num_directions": 2, "num_points": 11},
        num_result_numbers=lambda method, _: 2 * method.num_grid_points + method.num_points + 12,
        stored_vectors=_stored_vectors,
        check=_check,
        has_fixed_products=lambda _: False,
        engine_arguments=_engine_arguments,
    ),
)
