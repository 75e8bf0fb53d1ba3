"""Pictures of spectra: drawn whatever the range of the eigenvalues."""

import pytest

from hessian_spectrum.results.plots.closed_form import plot_closed_form
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
