"""Some eigenpairs from the ends of the spectrum, or nearest to a value."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.methods.kind import MatrixProperties, MethodKind, MethodMessage, StoredVectors
from hessian_spectrum.api_schemas.spectrum_results import Eigenpair, MethodResult
from hessian_spectrum.planning.work import Work, top_k_work

TOP_K_PRODUCTS, LEAST_TOP_K_LIMIT = 100, 1000

FOLDED_PRODUCTS = 4
"""Products for each eigenpair nearest to a value, at least, beside the first: two in the search, two at the end."""

Which = Literal["largest", "smallest", "both-ends", "magnitude"]
WhichOrNearest = Literal["largest", "smallest", "both-ends", "magnitude", "nearest"]


class TopKMethod(MethodMessage):
    """Some eigenpairs from the ends of the spectrum or nearest to a value; repeated ones with their multiplicity."""

    kind: Literal["top-k"]
    k: int = Field(ge=1, le=10_000, description="Number of eigenpairs, at most the number of parameters.")
    which: WhichOrNearest = Field(
        default="largest",
        description="Part of the spectrum. `largest` and `smallest` respect signs; `both-ends`: half from each end; "
        "`magnitude`: largest |eigenvalue|; `nearest`: nearest to `target`, for which `max_products` must be at "
        "least 4 k + 1.",
    )
    target: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Value to which `nearest` eigenvalues are nearest, in loss per squared parameter; null means 0. "
        "Not allowed with any other `which`.",
    )
    tolerance: float = Field(
        default=1e-5,
        gt=0,
        lt=1,
        description="Largest accepted residual and error of the eigenvalues, relative to the largest |eigenvalue| "
        "among those requested at the same end of the spectrum; for `nearest`, relative to the largest |eigenvalue - "
        "target| of the matrix, as far as the products show it.",
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

    @property
    def is_float64_by_default(self) -> bool:
        """Whether the search is that for eigenvalues of a square, whose rounding hides small distances in float32."""
        return self.which == "nearest"

    def settled(self) -> Mapping[str, Any]:
        """Return the limit on products and the target, which the server chooses if the request leaves them out."""
        limit = {"max_products": self.max_products or max(LEAST_TOP_K_LIMIT, TOP_K_PRODUCTS * self.k)}
        return limit | ({"target": self.target or 0.0} if self.which == "nearest" else {})


class TopKResult(MethodResult):
    """Eigenpairs from the ends of the spectrum, or nearest to a value."""

    method: Literal["top-k"] = "top-k"
    which: WhichOrNearest = Field(description="Part of the spectrum, as in the request.")
    target: float | None = Field(
        default=None, description="Value to which the eigenvalues are nearest, of `nearest`; null otherwise."
    )
    tolerance: float = Field(
        description="Tolerance of residuals and values, relative to the largest |eigenvalue| requested at the same "
        "end of the spectrum."
    )
    absolute_tolerance: float | None = Field(
        default=None,
        description="Tolerance of residuals and values in loss per squared parameter; it applies where it is the "
        "larger one. Of `nearest`, the tolerance that was applied.",
    )
    eigenpairs: list[Eigenpair] = Field(
        description="Eigenpairs in descending order; for `magnitude`, by descending magnitude; for `nearest`, by "
        "ascending distance from `target`."
    )


def _work(method: TopKMethod, matrix: MatrixProperties) -> Work:
    folded = method.which == "nearest"
    return top_k_work(matrix.dim, method.k, method.max_products, reduced=matrix.is_reduced, folded=folded)


def _check(method: TopKMethod, dim: int) -> None:
    if method.k > dim:
        raise misfit("method", "k", message=f"the matrix has {dim:,} eigenvalues")
    if method.max_products is not None and method.max_products < method.k:
        raise misfit("method", "max_products", message=f"fewer than k = {method.k:,} products")
    if method.which != "nearest" and method.target is not None:
        raise misfit("method", "target", message='only `which` "nearest" has a target: leave it out, or change `which`')
    least = FOLDED_PRODUCTS * method.k + 1
    if method.which == "nearest" and method.max_products is not None and method.max_products < least:
        raise misfit("method", "max_products", message=f"`nearest` needs at least 4 k + 1 = {least:,} products")


def _stored_vectors(method: TopKMethod, _: int) -> StoredVectors | None:
    return StoredVectors("eigenvectors", method.k, None, ("eigenvectors",)) if method.eigenvectors else None


def _engine_arguments(method: TopKMethod) -> dict[str, Any]:
    return {
        "k": method.k,
        "which": method.which,
        "target": method.target,
        "tolerance": method.tolerance,
        "absolute_tolerance": method.absolute_tolerance or 0.0,
        "max_products": method.max_products,
    }


def _result_fields(method: TopKMethod, _: int) -> dict[str, Any]:
    return {"target": method.target or 0.0} if method.which == "nearest" else {}


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
        result_fields=_result_fields,
        engine_arguments=_engine_arguments,
        position=2,
    ),
)
