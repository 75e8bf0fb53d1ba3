"""Curves of the engine as messages: a worker makes them once, the service anew for another smoothing."""

from typing import Any

from hessian_spectrum.api_schemas.spectrum_results import Band, Cumulative, Density
from hessian_spectrum.quadrature import results as found


def density_message(density: found.Density) -> Density:
    """The density as a message.

    Raises:
        ValidationError: If a number is NaN or infinite.
    """
    return Density(**_fields(density))


def cumulative_message(cumulative: found.Cumulative) -> Cumulative:
    """The cumulative spectrum as a message.

    Raises:
        ValidationError: If a number is NaN or infinite.
    """
    return Cumulative(**_fields(cumulative))


def _fields(curve: found.Density | found.Cumulative) -> dict[str, Any]:
    return {
        "grid": curve.grid.tolist(),
        "values": curve.values.tolist(),
        "standard_error": curve.standard_error.tolist(),
        "band": Band(lower=curve.band.lower.tolist(), upper=curve.band.upper.tolist()),
    }
