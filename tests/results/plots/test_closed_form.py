"""Pictures and arrays of closed forms: drawn whatever the range of the eigenvalues, with gradient descent."""

import numpy as np
import pytest

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest, ClosedFormSpectrum
from hessian_spectrum.results.display import to_xarray
from hessian_spectrum.results.plots.closed_form import plot_closed_form
from hessian_spectrum.results.plots.drawings import drawing_of
from hessian_spectrum.service.routes.closed_form import render
from hessian_spectrum.theory.closed_form.spectrum import Eigenvalue, Parameter, Spectrum


@pytest.mark.parametrize(
    "values",
    [
        [1e308, -1e308],
        [1e308, 1.0, -1e-308],
        [5e-324, 0.0],
        [1e-300, -1e-310],
        [0.0, 0.0],
        [1.0],
        [1e12, 1e-12],
        [3.0, 3.0000001],
        [float(value) for value in range(-300, 300)],
    ],
    ids=range(9),
)
def test_any_range_is_drawn(values: list[float]) -> None:
    entries = tuple(Eigenvalue(value, 1, "bulk" if value else "zero") for value in values)
    spectrum = Spectrum(
        kind="quadratic",
        parameters=(Parameter("z", (len(values),)),),
        method="exact-reduction",
        source="",
        eigenvalues=entries,
        trace=0.0,
        statistics={},
    )
    assert plot_closed_form(spectrum).file("png").startswith(b"\x89PNG")
    assert b"<svg" in plot_closed_form(spectrum).file("svg")


@pytest.mark.parametrize(("learning_rate", "has_threshold"), [(0.2, True), (1e-4, False)])
def test_gradient_descent_is_drawn_with_the_threshold_of_stability(learning_rate: float, has_threshold: bool) -> None:
    request = ClosedFormRequest.model_validate(
        {
            "model": {"kind": "linear", "w": [1.0, 0.5], "v": [0.3, -0.2]},
            "data": {"x": [1.0, 2.0], "y": [1.0, 1.5]},
            "descent": {"learning_rate": learning_rate, "num_steps": 20},
            "eigenvectors": "outliers",
        }
    )
    result = ClosedFormSpectrum.model_validate_json(bytes(render(request, "json")))
    assert result.descent is not None
    assert result.descent.learning_rate == learning_rate
    spectrum, path = drawing_of(result).figure().axes
    assert "multiplicity" in spectrum.get_ylabel()
    lines = [np.asarray(each.get_ydata(), float) for each in path.get_lines()]
    outliers = np.asarray(result.descent.outliers)
    for column in range(2):
        assert any(len(each) == len(outliers) and np.allclose(each, outliers[:, column]) for each in lines)
    assert any(np.allclose(each, 2 / learning_rate) for each in lines) == has_threshold
    assert b"learning rate" in bytes(render(request, "svg"))
    arrays = to_xarray(result)
    np.testing.assert_array_equal(arrays["descent_outliers"], outliers)
    assert result.eigenvectors is not None
    np.testing.assert_array_equal(arrays["eigenvectors"], result.eigenvectors.vectors)
