"""Curves of Lanczos results as messages, and the quadratures that the service makes them of again."""

from typing import Any

import numpy as np

from hessian_spectrum.api_schemas.spectrum_results import Band, Cumulative, Deflation, Density, Quadrature
from hessian_spectrum.quadrature import results as engine
from hessian_spectrum.quadrature.curves import SpectralCurves


def curve_messages(curves: SpectralCurves | engine.LanczosSpectrum) -> dict[str, Any]:
    """Convert the three curves to messages.

    Args:
        curves: The curves.

    Returns:
        Fields of a `LanczosResult`.

    Raises:
        ValidationError: A number is NaN or infinite.
    """
    return {
        "density": Density(**_curve_fields(curves.density)),
        "log_density": Density(**_curve_fields(curves.log_density)),
        "cumulative": Cumulative(**_curve_fields(curves.cumulative)),
    }


def _curve_fields(curve: engine.Density | engine.Cumulative) -> dict[str, Any]:
    return {
        "grid": curve.grid.tolist(),
        "values": curve.values.tolist(),
        "standard_error": curve.standard_error.tolist(),
        "band": Band(lower=curve.band.lower.tolist(), upper=curve.band.upper.tolist()),
    }


def quadrature_from(message: Quadrature) -> engine.Quadrature:
    """The quadrature that a message describes."""
    residuals = None if message.residuals is None else np.asarray(message.residuals)
    nodes, weights = np.asarray(message.nodes), np.asarray(message.weights)
    return engine.Quadrature(nodes, weights, residuals, message.node_error)


def deflation_from(message: Deflation | None) -> engine.Deflation | None:
    """The deflation that a message describes."""
    if message is None:
        return None
    return engine.Deflation(*map(np.asarray, (message.eigenvalues, message.errors, message.weights)))
