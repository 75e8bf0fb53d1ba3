"""Oracle: dense autograd Hessians in float64, `tests/golden/closed_form.json`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from theory.closed_form.attention import self_attention_spectrum
from theory.closed_form.blocks import multi_input_spectrum, multi_output_spectrum
from theory.closed_form.homogeneous import leaky_relu_spectrum, linear_spectrum, relu_spectrum
from theory.closed_form.linear_bias import linear_bias_spectrum
from theory.closed_form.quadratic import quadratic_spectrum
from theory.closed_form.spectrum import Spectrum
from theory.closed_form.two_layer_linear import two_layer_linear_spectrum

SPECTRA = {
    "linear": linear_spectrum,
    "relu": relu_spectrum,
    "leaky-relu": leaky_relu_spectrum,
    "linear-bias": linear_bias_spectrum,
    "multi-input": multi_input_spectrum,
    "multi-output": multi_output_spectrum,
    "two-layer-linear": two_layer_linear_spectrum,
    "self-attention": self_attention_spectrum,
    "quadratic": quadratic_spectrum,
}
GOLDEN = Path(__file__).parents[2] / "golden" / "closed_form.json"
CASES = json.loads(GOLDEN.read_text())["cases"]


def spectrum_of(case: dict[str, Any]) -> Spectrum:
    model = dict(case["model"])
    return SPECTRA[model.pop("kind")](**model, **case["data"])


def test_every_golden_case_is_here() -> None:
    assert len(CASES) == 46


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_eigenvalues_and_trace(case: dict[str, Any]) -> None:
    spectrum = spectrum_of(case)
    wanted = np.array(case["eigenvalues"])
    tolerance = 1e-13 * np.abs(wanted).max()
    assert spectrum.kind == case["model"]["kind"]
    np.testing.assert_allclose(spectrum.dense(), wanted, rtol=0, atol=tolerance)
    assert abs(spectrum.trace - case["trace"]) <= tolerance


def test_sink_bias_matters() -> None:
    case = next(case for case in CASES if "sink_bias" in case["model"])
    without = {**case, "model": {**case["model"], "sink_bias": 0.0}}
    assert abs(spectrum_of(case).sharpness - spectrum_of(without).sharpness) > 0.1 * spectrum_of(case).sharpness
