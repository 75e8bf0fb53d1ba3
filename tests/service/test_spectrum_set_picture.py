"""What tells the curves of several spectra apart."""

from typing import Any

from api_schemas.spectrum_results import SinkReport, SpectrumSetResult
from service.spectrum_set_picture import draw_set

PROVENANCE = {
    "versions": {},
    "device": "cpu",
    "num_threads": 1,
    "matrix": "hessian",
    "block": None,
    "precision": "float32",
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
    return draw_set(result, "svg").decode()


def test_a_spectrum_without_a_sink_has_the_score_that_the_others_started_from() -> None:
    picture = picture_of({}, {"attention_sink": SINK})
    assert "mean score 0.32 (no sink)" in picture
    assert "mean score 0.81 (bias 2.5)" in picture


def test_blocks_are_told_by_their_names_alone() -> None:
    picture = picture_of({"block": "blocks.0.*"}, {"block": "wte.weight"})
    assert "blocks.0.* (10)" in picture
    assert "sink" not in picture


def test_blocks_with_and_without_a_sink() -> None:
    picture = picture_of({"block": "wte.weight"}, {"block": "wte.weight", "attention_sink": SINK})
    assert "wte.weight (10), mean score 0.32 (no sink)" in picture


def test_products_are_summed_where_spectra_took_different_numbers() -> None:
    other = {"block": "ln_f.*", "provenance": PROVENANCE | {"num_products": 1000}}
    assert "7 float32 products each" in picture_of({}, {})
    assert "1,007 float32 products" in picture_of({}, other)
