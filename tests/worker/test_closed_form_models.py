"""Every closed-form kind as a job's model: automatic differentiation against `theory`, from the same request."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.methods import ExactResult
from hessian_spectrum.api_schemas.models import FAMILIES
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.theory.closed_form.coordinates import multi_input_spectrum, multi_output_spectrum
from hessian_spectrum.theory.closed_form.homogeneous import leaky_relu_spectrum, relu_spectrum
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.linear_bias import linear_bias_spectrum
from hessian_spectrum.theory.closed_form.quadratic import quadratic_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Spectrum
from hessian_spectrum.theory.closed_form.two_layer_linear import two_layer_linear_spectrum
from hessian_spectrum.worker.builders import build_dataset, build_loss, build_model, build_parameters
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

Case = dict[str, Any]

SPECTRA: dict[str, Callable[..., Spectrum]] = {
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
CASES: list[Case] = json.loads((Path(__file__).parents[1] / "golden" / "closed_form.json").read_text())["cases"]
CPU = torch.device("cpu")
KINKS = ("dead neuron", "x_i = 0", "sink")


def few_of_each_kind() -> list[Case]:
    """The first two cases of each kind, and those where derivatives have to choose a side."""
    chosen = [case for kind in SPECTRA for case in [case for case in CASES if case["model"]["kind"] == kind][:2]]
    return chosen + [case for case in CASES if any(word in case["name"] for word in KINKS)]


def theory_of(case: Case) -> Spectrum:
    fields = dict(case["model"])
    return SPECTRA[fields.pop("kind")](**fields, **case["data"])


def request_of(case: Case) -> SpectrumRequest:
    body: Case = {"kind": "spectrum", "model": case["model"], "method": {"kind": "exact"}}
    if case["data"]:
        body["data"] = {"kind": "inline"} | case["data"]
    return SpectrumRequest.model_validate_json(json.dumps(body))


def operator_of(request: SpectrumRequest) -> HessianOperator:
    model = build_model(request.model)
    parameters = build_parameters(request.model, model, dtype=torch.float64, device=CPU)
    return HessianOperator(EmpiricalRisk(model, build_loss(request), [build_dataset(request)]), parameters)


def test_every_kind_is_here() -> None:
    assert set(SPECTRA) == set(FAMILIES) == {case["model"]["kind"] for case in CASES}


@pytest.mark.parametrize("case", few_of_each_kind(), ids=lambda case: case["name"])
def test_the_model_has_the_spectrum_of_its_formula(case: Case) -> None:
    request = request_of(case)
    operator = operator_of(request)
    spectrum = theory_of(case)
    wanted = np.sort(spectrum.dense())
    found = np.linalg.eigvalsh(assemble(operator).numpy())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
    assert operator.fallback_reason is None
    assert operator.layout.names == tuple(parameter.name for parameter in spectrum.parameters) or not case["data"]
    assert operator.dim == spectrum.num_parameters == estimate(request).num_parameters
    assert request.matrix_parameters == dict(zip(operator.layout.names, operator.layout.shapes, strict=True))


@pytest.mark.parametrize("kind", ["linear-bias", "self-attention", "quadratic"])
def test_a_job_gives_the_same(kind: str) -> None:
    case = next(case for case in CASES if case["model"]["kind"] == kind)
    request = request_of(case)
    result = run_spectrum_job(request, Hardware(CPU, 1, 2**32), ignore_progress).result
    assert isinstance(result, ExactResult)
    spectrum = theory_of(case)
    wanted = np.sort(spectrum.dense())
    np.testing.assert_allclose(result.eigenvalues, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
    loss = spectrum.statistics.get("mean_loss", 0.0 if kind == "quadratic" else None)
    if isinstance(loss, float):
        assert result.loss == pytest.approx(loss, rel=1e-12)
