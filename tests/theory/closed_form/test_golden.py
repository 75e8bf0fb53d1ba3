"""Oracle: dense autograd Hessians in float64, `tests/golden/closed_form.json`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.theory.closed_form.spectrum import Spectrum

GOLDEN = Path(__file__).parents[2] / "golden" / "closed_form.json"
CASES = json.loads(GOLDEN.read_text())["cases"]


def test_every_golden_case_is_here() -> None:
    assert len(CASES) == 46


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_eigenvalues_and_trace(case: dict[str, Any], spectrum_of: Callable[..., Spectrum]) -> None:
    spectrum = spectrum_of(case)
    wanted = np.array(case["eigenvalues"])
    tolerance = 1e-13 * np.abs(wanted).max()
    assert spectrum.kind == case["model"]["kind"]
    np.testing.assert_allclose(spectrum.dense(), wanted, rtol=0, atol=tolerance)
    assert abs(spectrum.trace - case["trace"]) <= tolerance


def test_sink_bias_matters(spectrum_of: Callable[..., Spectrum]) -> None:
    case = next(case for case in CASES if "sink_bias" in case["model"])
    without = {**case, "model": {**case["model"], "sink_bias": 0.0}}
    assert abs(spectrum_of(case).sharpness - spectrum_of(without).sharpness) > 0.1 * spectrum_of(case).sharpness
