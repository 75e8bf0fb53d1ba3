"""Any closed-form request as a spectrum, and its oracle: the dense Hessian by automatic differentiation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.theory.closed_form.coordinates import multi_input_spectrum, multi_output_spectrum
from hessian_spectrum.theory.closed_form.homogeneous import leaky_relu_spectrum, relu_spectrum
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.linear_bias import linear_bias_spectrum
from hessian_spectrum.theory.closed_form.quadratic import quadratic_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Spectrum
from hessian_spectrum.theory.closed_form.two_layer_linear import two_layer_linear_spectrum

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
PARAMETERS = {
    **dict.fromkeys(("linear", "relu", "leaky-relu", "multi-input", "multi-output"), ("w", "v")),
    "linear-bias": ("w", "v", "b"),
    "two-layer-linear": ("W1", "W2"),
    "self-attention": ("w_v", "w_q", "w_k"),
}


Case = dict[str, Any]


@pytest.fixture(scope="session")
def spectrum_of() -> Callable[[Case], Spectrum]:
    """The spectrum of a request as in the golden file: {"model": {"kind", ...}, "data": {"x", "y"}}."""

    def spectrum(case: Case) -> Spectrum:
        model = dict(case["model"])
        return SPECTRA[model.pop("kind")](**model, **(case.get("data") or {}))

    return spectrum


@pytest.fixture(scope="session")
def autograd_hessian() -> Callable[[Case], NDArray[np.float64]]:
    """(num_parameters, num_parameters), the parameters in the order of PARAMETERS, each row by row."""
    return _dense_hessian


def _attention(model: dict[str, Any], p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    scores = (p["w_q"] @ p["w_k"]) / len(p["w_q"]) ** 0.5 * x[:, :, None] * x[:, None, :]
    sink = torch.zeros_like(scores)
    sink[:, :, 0] = model.get("sink_bias", 0.0)
    scores = scores + sink
    activation = model.get("activation", "softmax")
    weights = {"softmax": lambda: scores.softmax(-1), "sigmoid": scores.sigmoid, "linear": lambda: scores}[activation]()
    return p["w_v"] * (weights @ x[:, :, None])[:, :, 0]


def _output(model: dict[str, Any], p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    match model["kind"]:
        case "linear":
            return (p["w"] @ p["v"]) * x
        case "relu":
            return torch.outer(x, p["v"]).relu() @ p["w"]
        case "leaky-relu":
            return torch.nn.functional.leaky_relu(torch.outer(x, p["v"]), model["negative_slope"]) @ p["w"]
        case "linear-bias":
            return (torch.outer(x, p["v"]) + p["b"]) @ p["w"]
        case "multi-input":
            return x @ (p["w"] * p["v"]).sum(1)
        case "multi-output":
            return torch.outer(x, (p["w"] * p["v"]).sum(1))
        case "two-layer-linear":
            return x @ p["W1"].T @ p["W2"].T
        case _:
            return _attention(model, p, x)


def _dense_hessian(case: Case) -> NDArray[np.float64]:
    model = case["model"]
    if model["kind"] == "quadratic":
        return np.asarray(model["matrix"])
    names = PARAMETERS[model["kind"]]
    values = [torch.tensor(np.asarray(model[name]), dtype=torch.float64) for name in names]
    x, y = (torch.tensor(np.asarray(case["data"][name]), dtype=torch.float64) for name in ("x", "y"))
    count = y.numel() if model["kind"] == "self-attention" else len(x)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([value.numel() for value in values])
        shaped = {name: part.reshape(v.shape) for name, part, v in zip(names, parts, values, strict=True)}
        return ((_output(model, shaped, x) - y) ** 2).sum() / (2 * count)

    flat = torch.cat([value.reshape(-1) for value in values])
    return torch.autograd.functional.hessian(loss, flat).numpy()
