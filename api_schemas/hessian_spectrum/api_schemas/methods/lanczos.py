"""Stochastic Lanczos quadrature: spectral densities and extreme eigenvalues."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.methods.kind import MatrixProperties, MethodKind, MethodMessage
from hessian_spectrum.api_schemas.models.kind import fields_of
from hessian_spectrum.api_schemas.spectrum_results import (
    Cumulative,
    Deflation,
    Density,
    Estimate,
    MethodResult,
    Quadrature,
    RitzValue,
    Smoothing,
)
from hessian_spectrum.planning.work import Reorthogonalisation, Work, lanczos_work

Preset = Literal["paper-figure-6"]
PRESETS: dict[str, dict[str, float]] = {
    "paper-figure-6": {"num_steps": 128, "num_probes": 8, "num_points": 1024, "kappa": 3.0}
}


class LanczosMethod(MethodMessage):
    """Stochastic Lanczos quadrature: the spectral density with its error, and the extreme Ritz values."""

    kind: Literal["lanczos"]
    preset: Preset | None = Field(
        default=None,
        description="Named settings, from which fields that are sent deviate. `paper-figure-6` takes those of "
        "Cracking the Hessian, appendix D.1.6: 1,024 grid points, 1,024 products (128 steps for each of "
        "8 probes, as curvlinops counts them) and kappa 3.",
    )
    num_steps: int = Field(default=80, ge=2, le=4096, description="Number of Lanczos steps per probe.")
    num_probes: int = Field(default=4, ge=1, le=1_000, description="Number of random start vectors.")
    num_points: int = Field(default=1024, ge=2, le=100_000, description="Number of points of the density's grid.")
    kappa: float = Field(
        default=3.0, gt=1.0, le=1e6, description="Sharpness of the smoothing; larger values make narrower Gaussians."
    )
    margin: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="Extent of the grid beyond the extreme Ritz values, in widths of the spectrum.",
    )
    reorthogonalisation: Reorthogonalisation | None = Field(
        default=None,
        description="Whether Lanczos vectors are reorthogonalised. `full`: no ghost eigenvalues, but num_steps + 1 "
        "vectors per probe in memory; `none`: three vectors per probe, but converged eigenvalues "
        "reappear as additional nodes; null: `full` if it fits in the worker's memory.",
    )

    def settled(self) -> Mapping[str, Any]:
        """Return null for the preset, whose fields have been filled in."""
        return {"preset": None}

    @model_validator(mode="before")
    @classmethod
    def _fields_of_the_preset(cls, fields: Any) -> Any:
        preset = fields.get("preset") if isinstance(fields, dict) else None
        return {**PRESETS[preset], **fields} if isinstance(preset, str) and preset in PRESETS else fields


class LanczosResult(MethodResult):
    """Spectral density, quadratures and extreme eigenvalues."""

    method: Literal["lanczos"] = "lanczos"
    density: Density = Field(description="Density of the eigenvalues on a linear grid.")
    log_density: Density = Field(
        description="Density of |eigenvalue| + 1e-5, smoothed in the logarithm, on a geometric grid."
    )
    cumulative: Cumulative = Field(description="Share of eigenvalues up to each point of a grid.")
    quadrature: list[Quadrature] = Field(description="Gauss quadratures, one for each probe.")
    deflation: Deflation | None = Field(
        default=None,
        description="Eigenvalues that count as known, so that probes estimate the others only; null if there are none, "
        "if there is a single probe or if Lanczos vectors are not reorthogonalised.",
    )
    largest: RitzValue = Field(description="Largest Ritz value over all probes.")
    smallest: RitzValue = Field(description="Smallest Ritz value over all probes.")
    trace: Estimate = Field(description="Estimate of the sum of the eigenvalues.")
    frobenius: Estimate = Field(
        description="Estimate of the Frobenius norm, the root of the sum of squares of the eigenvalues."
    )
    reorthogonalisation: Reorthogonalisation = Field(description="Whether Lanczos vectors were reorthogonalised.")
    num_steps: int = Field(
        description="Largest number of Lanczos steps per probe; a probe whose subspace became invariant did fewer."
    )
    interim: bool = Field(
        default=False,
        description="Whether more probes or steps are to come; the bands of an interim result are as wide as what is "
        "missing makes them.",
    )
    smoothing: Smoothing = Field(description="Smoothing of these curves; `?kappa=&margin=&num_points=` returns others.")


def _work(method: LanczosMethod, matrix: MatrixProperties) -> Work:
    """Return the work of the method if it processes one probe after the other."""
    mode = method.reorthogonalisation or "none"
    return lanczos_work(
        matrix.dim, method.num_steps, method.num_probes, num_points=method.num_points, reorthogonalisation=mode, group=1
    )


def _num_result_numbers(method: LanczosMethod, dim: int) -> int:
    return 4 * method.num_probes * min(method.num_steps, dim) + 15 * method.num_points


def _result_fields(method: LanczosMethod, dim: int) -> dict[str, Any]:
    smoothing = Smoothing(num_points=method.num_points, kappa=method.kappa, margin=method.margin)
    return {"num_steps": min(method.num_steps, dim), "smoothing": smoothing}


def _engine_arguments(method: LanczosMethod) -> dict[str, Any]:
    return {name: value for name, value in fields_of(method).items() if name != "preset"}


METHODS = (
    MethodKind(
        LanczosMethod,
        LanczosResult,
        _work,
        example={"kind": "lanczos", "num_steps": 8, "num_probes": 2},
        num_result_numbers=_num_result_numbers,
        result_fields=_result_fields,
        engine_arguments=_engine_arguments,
        position=1,
    ),
)
