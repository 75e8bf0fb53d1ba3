"""Some eigenpairs from the ends of the spectrum."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.methods.kind import MatrixProperties, MethodKind, MethodMessage, StoredVectors
from hessian_spectrum.api_schemas.spectrum_results import Eigenpair, MethodResult
from hessian_spectrum.planning.work import Work, top_k_work

TOP_K_PRODUCTS, LEAST_TOP_K_LIMIT = 100, 1000

Which = Literal["largest", "smallest", "both-ends", "magnitude"]


class TopKMethod(MethodMessage):
    """Some eigenpairs from the ends of the spectrum; repeated eigenvalues are returned with their multiplicity."""

    kind: Literal["top-k"]
    k: int = Field(ge=1, le=10_000, description="Number of eigenpairs, at most the number of parameters.")
    which: Which = Field(
        default="largest",
        description="Part of the spectrum. `largest` and `smallest` respect signs; `both-ends`: half from each end; "
        "`magnitude`: largest |eigenvalue|.",
    )
    tolerance: float = Field(
        default=1e-5,
        gt=0,
        lt=1,
        description="Largest accepted residual and error of the eigenvalues, relative to the largest |eigenvalue| "
        "among those requested at the same end of the spectrum.",
    )
    absolute_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Largest accepted residual and error in loss per squared parameter, for eigenvalues that may be "
        "zero; a pair that meets either tolerance has converged.",
    )
    max_products: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description=f"Largest number of matrix-vector products; null means {TOP_K_PRODUCTS} for each eigenpair, and "
        f"at least {LEAST_TOP_K_LIMIT}.",
    )
    eigenvectors: bool = Field(default=True, description="Whether to store the eigenvectors in the npz file.")

    def settled(self) -> Mapping[str, Any]:
        """Return the limit on products, which the server chooses if the request leaves it out."""
        return {"max_products": self.max_products or max(LEAST_TOP_K_LIMIT, TOP_K_PRODUCTS * self.k)}


class TopKResult(MethodResult):
    """Eigenpairs from the ends of the spectrum."""

    method: Literal["top-k"] = "top-k"
    which: Which = Field(description="Part of the spectrum, as in the request.")
    tolerance: float = Field(
        description="Tolerance of residuals and values, relative to the largest |eigenvalue| requested at the same "
        "end of the spectrum."
    )
    absolute_tolerance: float | None = Field(
        default=None,
        description="Tolerance of residuals and values in loss per squared parameter; it applies where it is the "
        "larger one.",
    )
    eigenpairs: list[Eigenpair] = Field(
        description="Eigenpairs in descending order; for `magnitude`, by descending magnitude."
    )


def _work(method: TopKMethod, matrix: MatrixProperties) -> Work:
    return top_k_work(matrix.dim, method.k, method.max_products, reduced=matrix.is_reduced)


def _check(method: TopKMethod, dim: int) -> None:
    if method.k > dim:
        raise misfit("method", "k", message=f"the matrix has {dim:,} eigenvalues")
    if method.max_products is not None and method.max_products < method.k:
        raise misfit("method", "max_products", message=f"fewer than k = {method.k:,} products")


def _stored_vectors(method: TopKMethod, _: int) -> StoredVectors | None:
    return StoredVectors("eigenvectors", method.k, None, ("eigenvectors",)) if method.eigenvectors else None


def _engine_arguments(method: TopKMethod) -> dict[str, Any]:
    return {
        "k": method.k,
        "which": method.which,
        "tolerance": method.tolerance,
        "absolute_tolerance": method.absolute_tolerance or 0.0,
        "max_products": method.max_products,
    }


METHODS = (
    MethodKind(
        TopKMethod,
        TopKResult,
        _work,
        example={"kind": "top-k", "k": 3, "which": "both-ends"},
        num_result_numbers=lambda method, _: 5 * method.k,
        stored_vectors=_stored_vectors,
        check=_check,
        has_fixed_products=lambda _: False,
        engine_arguments=_engine_arguments,
        position=2,
    ),
)
