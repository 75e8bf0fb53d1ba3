"""Results of jobs as pictures and arrays, whatever the range of the eigenvalues."""

import io
import json
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.methods import AnySpectrumResult
from hessian_spectrum.api_schemas.spectrum_results import SinkReport
from hessian_spectrum.results.plots.spectrum_set import plot_spectrum_set
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.serialization.render import parse_result, render
from hessian_spectrum.service.serialization.resmooth import SmoothingOverrides, resmooth

PROVENANCE = {
    "versions": {},
    "device": "cpu",
    "num_threads": 1,
    "matrix": "hessian",
    "block": None,
    "precision": "float64",
    "precision_deviation": None,
    "tf32": False,
    "seed": 0,
    "parameters_sha256": "",
    "data_sha256": "",
    "num_products": 7,
    "execution": "interpreted",
    "product_fallback": None,
    "wall_time_seconds": 0.1,
}


def result(method: str, num_parameters: int, **fields: Any) -> AnySpectrumResult:
    common = {
        "num_parameters": num_parameters,
        "parameters": [{"name": "z", "shape": [num_parameters]}],
        "matrix": "ggn",
        "block": "$_{*",
        "loss": 0.5,
        "training": None,
        "provenance": PROVENANCE,
    }
    return parse_result(json.dumps({"kind": "spectrum", "method": method} | common | fields).encode())


def exact(values: list[float]) -> AnySpectrumResult:
    found = np.asarray(values)
    inertia = {"negative": int((found < 0).sum()), "zero": int((found == 0).sum()), "positive": int((found > 0).sum())}
    trace = {"value": 1.0, "standard_error": 0.0}
    return result("exact", len(values), eigenvalues=sorted(values), inertia=inertia, zero_threshold=1e-300, trace=trace)


def top_k(values: list[float]) -> AnySpectrumResult:
    pairs = [{"value": value, "residual": abs(value) / 10, "converged": value > 0} for value in values]
    return result("top-k", 1000, which="largest", tolerance=1e-5, eigenpairs=pairs)


def lanczos(values: list[float]) -> AnySpectrumResult:
    """Curves of two points and one probe."""
    low, high = min(values), max(values)
    if high - low < 1e-300:  # the density of a narrower one overflows
        low, high = low - 1, high + 1
    curve = {"grid": [low, high], "values": [0.0, 1 / (high - low)], "standard_error": [0.0, 0.0]}
    band = {"lower": [0.0, 0.0], "upper": [0.0, 1 / (high - low)]}
    shares = {"grid": [low, high], "values": [0.0, 1.0], "standard_error": [0.0, 0.0]}
    return result(
        "lanczos",
        len(values),
        density=curve | {"band": band},
        log_density=curve | {"band": band},
        cumulative=shares | {"band": {"lower": [0.0, 0.9], "upper": [0.1, 1.0]}},
        quadrature=[{"nodes": values, "weights": [1 / len(values)] * len(values), "residuals": None}],
        largest={"value": high, "residual": 0.0},
        smallest={"value": low, "residual": 0.1},
        trace={"value": 1.0, "standard_error": None},
        frobenius={"value": 1.0, "standard_error": 0.1},
        reorthogonalisation="full",
        num_steps=1,
        smoothing={"num_points": 2, "kappa": 3.0, "margin": 0.0},
    )


RANGES = [
    [1e300, -1e300],
    [1e300, 1.0, -1e-300],
    [5e-324, 0.0],
    [0.0, 0.0],
    [1.0],
    [-1.0],
    [1e12, 1e-12],
    [3.0, 3.0000001],
    [float(value) for value in range(-300, 300)],
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [exact, top_k, lanczos])
@pytest.mark.parametrize("values", RANGES, ids=range(len(RANGES)))
def test_any_range_is_drawn(make: Any, values: list[float]) -> None:
    assert bytes(render(make(values), "png")).startswith(b"\x89PNG")


@pytest.mark.parametrize("make", [exact, top_k, lanczos])
def test_svg_and_arrays(make: Any) -> None:
    found = make([2.0, -1.0, 0.5])
    assert b"<svg" in render(found, "svg")
    with np.load(io.BytesIO(render(found, "npz")), allow_pickle=False) as arrays:
        document = json.loads(str(arrays["document"]))
        assert document["loss"] == 0.5
        assert document["provenance"]["num_products"] == 7
        members = set(arrays) - {"document"}
        assert all(arrays[name].dtype.kind in "fb" for name in members)
    if found.method == "lanczos":
        assert {"density_lower", "log_density_values", "cumulative_upper", "nodes_0", "largest", "frobenius"} < members
    else:
        assert "eigenvalues" in members


def test_what_takes_too_long_is_not_smoothed_anew() -> None:
    for found, num_points in ((lanczos([1.0, 2.0] * 2000), 2), (lanczos([1.0, 2.0] * 300), 100_000)):
        with pytest.raises(ProblemError) as caught:
            resmooth(found, SmoothingOverrides(num_points=num_points))
        assert caught.value.problem.errors is not None
        assert caught.value.problem.errors[0].loc == ["query", "num_points"]


def test_arrays_of_a_trace() -> None:
    trace = {"value": 1.0, "standard_error": 0.1, "num_products": 9, "converged": True}
    found = result("trace", 5, estimator="xtrace", trace=trace, frobenius={"value": 1.0, "standard_error": 0.1})
    with np.load(io.BytesIO(render(found, "npz")), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["trace"], [1.0, 0.1])
        np.testing.assert_array_equal(arrays["frobenius"], [1.0, 0.1])


# several spectra in one picture


NO_SINK = SinkReport(bias=0.0, heads=[0], mean_score_before=0.32, mean_score_after=0.32, blocks=[])
SINK = SinkReport(bias=2.5, heads=[0], mean_score_before=0.32, mean_score_after=0.81, blocks=[])


def picture_of(*spectra: dict[str, Any]) -> str:
    """As svg, in which matplotlib keeps each text beside its outlines."""
    common = {
        "method": "top-k",
        "num_parameters": 10,
        "parameters": [],
        "matrix": "hessian",
        "block": None,
        "loss": 0.5,
        "training": None,
        "provenance": PROVENANCE,
        "which": "largest",
        "tolerance": 1e-3,
        "eigenpairs": [{"value": 3.0, "residual": 1e-3, "converged": True}],
    }
    result = SpectrumSetResult.model_validate({"spectra": [common | spectrum for spectrum in spectra]})
    return plot_spectrum_set(result).file("svg").decode()


def test_spectra_are_told_apart_by_their_mean_scores() -> None:
    picture = picture_of({"attention_sink": NO_SINK}, {"attention_sink": SINK})
    assert "mean score 0.32 (no sink)" in picture
    assert "mean score 0.81 (bias 2.5)" in picture


def test_blocks_are_told_by_their_names_alone() -> None:
    picture = picture_of({"block": "blocks.0.*"}, {"block": "wte.weight"})
    assert "blocks.0.* (10)" in picture
    assert "sink" not in picture


def test_blocks_with_and_without_a_sink() -> None:
    picture = picture_of(*({"block": "wte.weight", "attention_sink": sink} for sink in (NO_SINK, SINK)))
    assert "wte.weight (10), mean score 0.32 (no sink)" in picture


def test_products_are_summed_where_spectra_took_different_numbers() -> None:
    other = {"block": "ln_f.*", "provenance": PROVENANCE | {"num_products": 1000}}
    assert "7 float64 products each" in picture_of({}, {})
    assert "1,007 float64 products" in picture_of({}, other)
