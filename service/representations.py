"""Forms in which a result can be had: JSON, npz, and pictures."""

import io
import json
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from api_schemas.problem import Problem
from service.problems import ProblemError

MEDIA_TYPES = {
    "json": "application/json",
    "npz": "application/x-npz",
    "png": "image/png",
    "svg": "image/svg+xml",
}

DRAWING = threading.Lock()
"""Held while a figure is drawn: matplotlib's caches of fonts and mathtext are shared and not made for threads."""


@lru_cache(maxsize=64)
def accepted_format(accept: str | None) -> str | None:
    """The format that an Accept header prefers, JSON where it says nothing, None where we have none of them."""
    if not accept:
        return "json"
    ranked = sorted((_quality(part), -index, part) for index, part in enumerate(accept.split(",")[:32]))
    for quality, _, part in reversed(ranked):
        wanted = part.split(";")[0].strip().lower()
        for name, media_type in MEDIA_TYPES.items():
            if quality > 0 and wanted in (media_type, media_type.split("/")[0] + "/*", "*/*"):
                return name
    return None


def require_format(accept: str | None) -> str:
    """The format that an Accept header prefers.

    Raises:  ProblemError 406 if we have none of them.
    """
    name = accepted_format(accept)
    if name is None:
        choice = ", ".join(MEDIA_TYPES.values())
        raise ProblemError(Problem(title="Not acceptable", status=406, detail=f"a result can be had as {choice}"))
    return name


def represent(document: bytes, name: str) -> bytes:
    """The stored JSON document in another format."""
    if name == "json":
        return document
    result = json.loads(document)
    if name == "npz":
        return _npz(result)
    with DRAWING:
        return _picture(result, name)


def _quality(part: str) -> float:
    for parameter in part.split(";")[1:]:
        key, _, value = parameter.strip().partition("=")
        if key == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _npz(result: dict[str, Any]) -> bytes:
    arrays: dict[str, NDArray[np.float64]] = {"trace": np.asarray(result["trace"]["value"])}
    if result["method"] == "exact":
        arrays["eigenvalues"] = np.asarray(result["eigenvalues"])
    else:
        density = result["density"]
        arrays |= {"grid": np.asarray(density["grid"]), "density": np.asarray(density["values"])}
        if density["standard_error"] is not None:
            arrays["standard_error"] = np.asarray(density["standard_error"])
        for probe, quadrature in enumerate(result["quadrature"]):
            arrays[f"nodes_{probe}"] = np.asarray(quadrature["nodes"])
            arrays[f"weights_{probe}"] = np.asarray(quadrature["weights"])
        for end in ("largest", "smallest"):
            arrays[end] = np.asarray([result[end]["value"], result[end]["residual"]])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _picture(result: dict[str, Any], name: str) -> bytes:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    if result["method"] == "exact":
        _draw_eigenvalues(axes, np.asarray(result["eigenvalues"]))
    else:
        _draw_density(axes, result)
    axes.set_yscale("log")
    axes.set_xlabel(f"eigenvalue of the {result['matrix']} (loss per squared parameter)")
    axes.grid(alpha=0.25)
    provenance = result["provenance"]
    axes.set_title(
        f"{result['num_parameters']:,} parameters, trace {_with_error(result['trace'])}, "
        f"{provenance['precision']} products, {provenance['num_products']:,} of them",
        fontsize="medium",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=name, dpi=120, metadata={"Date": None} if name == "svg" else None)
    return buffer.getvalue()


def _draw_eigenvalues(axes: Any, eigenvalues: NDArray[np.float64]) -> None:
    axes.hist(eigenvalues, bins=min(200, max(10, len(eigenvalues) // 4)), color="#1f5fa8")
    axes.set_ylabel("number of eigenvalues")


def _draw_density(axes: Any, result: dict[str, Any]) -> None:
    density = result["density"]
    grid, values = np.asarray(density["grid"]), np.asarray(density["values"])
    floor = max(values.max() * 1e-8, np.finfo(np.float64).tiny)
    axes.plot(grid, np.where(values > floor, values, np.nan), color="#1f5fa8", linewidth=1.2, label="density")
    if density["standard_error"] is not None:
        error = 2 * np.asarray(density["standard_error"])
        low, high = np.maximum(values - error, floor), np.maximum(values + error, floor)
        axes.fill_between(grid, low, high, color="#1f5fa8", alpha=0.25, linewidth=0, label="± 2 standard errors")
    for end, colour in (("smallest", "#2a9d5c"), ("largest", "#c8452f")):
        label = f"{end} {result[end]['value']:.4g} ± {result[end]['residual']:.1g}"
        axes.axvline(result[end]["value"], color=colour, linestyle=":", linewidth=1.2, label=label)
    axes.set_ylim(bottom=floor)
    axes.set_ylabel("density")
    axes.legend(loc="upper right", fontsize="small")


def _with_error(estimate: dict[str, Any]) -> str:
    error = estimate["standard_error"]
    return f"{estimate['value']:.4g}" + (f" ± {error:.2g}" if error else "")
