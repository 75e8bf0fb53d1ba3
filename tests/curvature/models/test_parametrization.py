"""Sizes of features, of their first changes and of learning rates as the width grows."""

from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.losses.mse import Mse
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.models.parametrization import (
    PARAMETRIZATIONS,
    Layer,
    Parametrization,
    parametrization_named,
)
from hessian_spectrum.curvature.training import Training, TrainingPlan
from hessian_spectrum.quadrature.errors import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
CPU = torch.device("cpu")
F64 = torch.float64
WIDTHS = (64, 362, 2048)


class Printed(Parametrization):
    """muP as Cracking, appendix D.1.3, prints it: variance fan_out / fan_in, rate 1 / fan_in."""

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        std = sqrt(layer.fan_out / layer.fan_in)
        return std * torch.randn(layer.fan_out, layer.fan_in, generator=generator, dtype=F64)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        return torch.zeros(layer.fan_out, dtype=F64)

    def weight_rate(self, layer: Layer) -> float:
        return 1 / layer.fan_in


def features(model: Mlp, parameters: dict[str, Tensor], inputs: Tensor) -> list[Tensor]:
    """Pre-activations of each layer: the outputs of the network that ends there."""
    cut = [Mlp(model.widths[: depth + 1], model.activation, model.bias) for depth in range(1, len(model.widths))]
    return [network({name: t.detach() for name, t in parameters.items()}, inputs) for network in cut]


def exponents(sizes: list[list[float]]) -> list[float]:
    """Slopes of log size against log width, one per layer."""
    return [float(np.polyfit(np.log(WIDTHS), np.log(layer), 1)[0]) for layer in zip(*sizes, strict=True)]


def growth(parametrization: str, num_steps: int, learning_rate: float) -> tuple[list[float], list[float]]:
    """Exponents, layer by layer, of initial features and of their change in `num_steps`; mean of two seeds."""
    data = gaussian(16, 8, 4, "linear", 0.1, torch.Generator().manual_seed(0)).to(torch.float32, CPU)
    initial, changes = [], []
    for width in WIDTHS:
        model = Mlp((8, width, width, 4), "relu", parametrization=parametrization)
        sizes = []
        for seed in (1, 2):
            start = model.initial_parameters(torch.Generator().manual_seed(seed), torch.float32, CPU)
            training = Training(model, Mse(), data, TrainingPlan(num_steps, learning_rate))
            state = training.init(start, generator=torch.Generator())
            while not training.is_finished(state):
                training.step(start, state)
            before, after = (features(model, p, data.inputs) for p in (start, state.parameters))
            pairs = [(old, new - old) for old, new in zip(before, after, strict=True)]
            sizes.append([[float(t.square().mean().sqrt()) for t in pair] for pair in pairs])
        mean = np.mean(sizes, axis=0)
        initial.append(mean[:, 0].tolist())
        changes.append(mean[:, 1].tolist())
    return exponents(initial), exponents(changes)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_features_change_alike_at_every_width_with_mup(num_steps: int) -> None:
    """The coordinate check: hidden features start of order one; they and the outputs change by as much at any width."""
    initial, changes = growth("mup", num_steps, 0.02)
    assert np.abs(initial[:2]).max() < 0.05
    assert initial[2] == pytest.approx(-0.5, abs=0.15)  # the output starts at 1 / sqrt(width)
    assert np.abs(changes).max() < 0.12


def test_the_printed_rule_blows_up_with_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMETRIZATIONS, "printed", Printed())
    initial, changes = growth("printed", 1, 1e-6)
    assert initial[0] == pytest.approx(0.5, abs=0.05)
    assert min(initial[1:]) > 0.9
    assert changes[0] > 0.9
    assert min(changes[1:]) > 1.5


def test_mup_by_hand(seeded: Seeded) -> None:
    """Layers 4 -> 400 -> 100: standard deviations 1/2 and 1/40, so norms of W of order 10 and 1/2."""
    model = Mlp((4, 400, 100), parametrization="mup")
    parameters = model.initial_parameters(seeded(0), F64, CPU)
    assert float(parameters["layers.0.weight"].std()) == pytest.approx(0.5, rel=0.05)
    assert float(parameters["layers.1.weight"].std()) == pytest.approx(1 / 40, rel=0.02)
    assert not parameters["layers.0.bias"].any()
    assert model.learning_rate_multipliers() == {
        "layers.0.weight": 100,
        "layers.0.bias": 400,
        "layers.1.weight": 0.25,
        "layers.1.bias": 100,
    }
    for index, ratio in enumerate((100, 0.25)):
        norm = float(torch.linalg.matrix_norm(parameters[f"layers.{index}.weight"], 2))
        assert 0.9 < norm / sqrt(ratio) < 2.1


def test_ntk_scales_each_product_by_the_root_of_its_fan_in(seeded: Seeded) -> None:
    model = Mlp((3, 50, 40, 2), "tanh", parametrization="ntk")
    parameters = model.initial_parameters(seeded(0), F64, CPU)
    assert float(parameters["layers.1.weight"].std()) == pytest.approx(1, rel=0.05)
    assert float(parameters["layers.1.bias"].std()) == pytest.approx(1, rel=0.3)
    assert set(model.learning_rate_multipliers().values()) == {1.0}
    x = torch.randn(5, 3, generator=seeded(1), dtype=F64)
    scaled = {
        name: tensor / sqrt(tensor.shape[1]) if name.endswith("weight") else tensor
        for name, tensor in parameters.items()
    }
    assert_close(model(parameters, x), Mlp((3, 50, 40, 2), "tanh")(scaled, x))


def test_unknown_parametrizations_are_errors() -> None:
    for make in (lambda: parametrization_named("tensor"), lambda: Mlp((1, 1), parametrization="tensor")):
        with pytest.raises(InvalidProblemError, match="standard, ntk, mup"):
            make()
