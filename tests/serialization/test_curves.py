"""Curves and quadratures of the engine are messages and back without a change in any bit."""

import numpy as np
import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.spectrum_results import Band, Density
from hessian_spectrum.api_schemas.spectrum_results import Quadrature as QuadratureMessage
from hessian_spectrum.quadrature.curves import Smoothing, spectral_curves
from hessian_spectrum.quadrature.results import Quadrature
from hessian_spectrum.serialization.curves import curve_messages, quadrature_from

NUMBERS = np.random.default_rng(0)
RULE = Quadrature(np.sort(NUMBERS.normal(size=7)), np.full(7, 1 / 7), NUMBERS.normal(size=7), 1e-9 / 3)


@pytest.mark.parametrize("quadrature", [RULE, Quadrature(RULE.nodes, RULE.weights)])
def test_a_quadrature_survives_json(quadrature: Quadrature) -> None:
    residuals = None if quadrature.residuals is None else quadrature.residuals.tolist()
    fields = {"nodes": quadrature.nodes.tolist(), "weights": quadrature.weights.tolist(), "residuals": residuals}
    text = QuadratureMessage(**fields, node_error=quadrature.node_error).model_dump_json()
    again = quadrature_from(QuadratureMessage.model_validate_json(text))
    assert np.array_equal(again.nodes, quadrature.nodes)
    assert np.array_equal(again.weights, quadrature.weights)
    assert (again.residuals is None) is (quadrature.residuals is None)
    assert again.residuals is None or np.array_equal(again.residuals, quadrature.residuals)
    assert again.node_error == quadrature.node_error


def test_messages_hold_every_number_of_the_curves() -> None:
    curves = spectral_curves([RULE], Smoothing(20, 3.0), dim=30, num_steps=7, rounding=1e-16)
    messages = curve_messages(curves)
    assert set(messages) == {"density", "log_density", "cumulative"}
    for name, message in messages.items():
        curve = getattr(curves, name)
        for field in ("grid", "values", "standard_error"):
            assert getattr(message, field) == getattr(curve, field).tolist()
        assert (message.band.lower, message.band.upper) == (curve.band.lower.tolist(), curve.band.upper.tolist())


def test_what_is_not_a_number_is_no_message() -> None:
    curve = {"grid": [0.0, 1.0], "values": [0.0, np.nan], "standard_error": [0.0, 0.0]}
    with pytest.raises(ValidationError):
        Density(**curve, band=Band(lower=[0.0, 0.0], upper=[1.0, 1.0]))
