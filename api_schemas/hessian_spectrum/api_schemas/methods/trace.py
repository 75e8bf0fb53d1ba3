"""Estimates of the trace, the Frobenius norm and the diagonal."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.methods.kind import MatrixProperties, MethodKind, MethodMessage, StoredVectors
from hessian_spectrum.api_schemas.spectrum_results import Estimate, MethodResult, TraceEstimate
from hessian_spectrum.planning.work import FLOAT64_BYTES, Estimator, Work, trace_work

DEFAULT_TRACE_PROBES, DEFAULT_TRACE_LIMIT, MAX_TRACE_PRODUCTS = 100, 10_000, 1_000_000
LEAST_XTRACE_PROBES = 4
DIAGONAL_ARRAYS = 4
"""Names of the arrays of the diagonal, of its standard errors, and of both ends of its intervals."""


class TraceMethod(MethodMessage):
    """The trace, estimated from products with a given number of random vectors or with as many as a tolerance needs."""

    kind: Literal["trace"]
    estimator: Estimator = Field(
        default="hutch++",
        description="Estimator, in order of accuracy and of vectors held in memory: `hutchinson` holds 32; `hutch++` "
        "additionally two for every three products; `xtrace` two for each product.",
    )
    num_probes: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TRACE_PRODUCTS,
        description=f"Number of matrix-vector products, at least 4 for xtrace; null means {DEFAULT_TRACE_PROBES}, or "
        "as many as the tolerance needs. With one product per parameter or more the trace is exact up to "
        "the error of the products.",
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Relative tolerance that is used instead of num_probes: the larger of the standard error and the "
        "half-width of the 95 % interval / 1.96 is at most tolerance times the larger of |trace| and the Frobenius "
        "norm.",
    )
    max_products: int | None = Field(
        default=None,
        ge=4,
        le=MAX_TRACE_PRODUCTS,
        description="Largest number of matrix-vector products spent on a tolerance; null means "
        f"{DEFAULT_TRACE_LIMIT}. Must be null without a tolerance.",
    )
    diagonal: bool = Field(
        default=False, description="Whether to store the matrix's diagonal with errors and intervals in the npz file."
    )

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.tolerance is not None and self.num_probes is not None:
            raise misfit("tolerance", message="give num_probes or tolerance, not both")
        if self.tolerance is None and self.max_products is not None:
            raise misfit("max_products", message="is for a tolerance; give num_probes")
        if self.estimator == "xtrace" and self.num_probes is not None and self.num_probes < LEAST_XTRACE_PROBES:
            raise misfit("num_probes", message=f"xtrace needs at least {LEAST_XTRACE_PROBES} products")
        return self

    def settled(self) -> Mapping[str, Any]:
        """Return the number of products, or with a tolerance the limit on it, where the request leaves it out."""
        if self.tolerance is None:
            return {"num_probes": self.fixed_products}
        return {"max_products": self.most_products}

    @property
    def fixed_products(self) -> int | None:
        """Number of products to compute; None if a tolerance decides."""
        return DEFAULT_TRACE_PROBES if self.num_probes is None and self.tolerance is None else self.num_probes

    @property
    def most_products(self) -> int:
        """Largest number of products that can be needed."""
        return self.fixed_products or self.max_products or DEFAULT_TRACE_LIMIT


class TraceResult(MethodResult):
    """Estimates of the trace and the Frobenius norm."""

    method: Literal["trace"] = "trace"
    estimator: Estimator = Field(description="Estimator that was used, as in the request.")
    trace: TraceEstimate = Field(description="Estimate of the sum of the eigenvalues.")
    frobenius: Estimate = Field(
        description="Estimate of the Frobenius norm, the root of the sum of squares of the eigenvalues."
    )


def _work(method: TraceMethod, matrix: MatrixProperties) -> Work:
    return trace_work(matrix.dim, method.estimator, method.most_products, diagonal=method.diagonal)


def _stored_vectors(method: TraceMethod, _: int) -> StoredVectors | None:
    return StoredVectors("diagonal", DIAGONAL_ARRAYS, FLOAT64_BYTES, ("diagonal",)) if method.diagonal else None


def _engine_arguments(method: TraceMethod) -> dict[str, Any]:
    return {
        "estimator": method.estimator,
        "num_probes": method.fixed_products,
        "tolerance": method.tolerance,
        "max_products": method.most_products,
        "diagonal": method.diagonal,
    }


METHODS = (
    MethodKind(
        TraceMethod,
        TraceResult,
        _work,
        example={"kind": "trace", "num_probes": 8, "diagonal": True},
        stored_vectors=_stored_vectors,
        has_fixed_products=lambda method: method.fixed_products is not None,
        engine_arguments=_engine_arguments,
        position=3,
    ),
)
