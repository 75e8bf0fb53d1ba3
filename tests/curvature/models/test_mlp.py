"""Mlp against torch.nn, and how its features, their changes and its learning rates depend on the width."""

from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.losses import Mse
from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.models.mlp import (
    PARAMETRIZATIONS,
    Layer,
    Mlp,
    Parametrization,
    parametrization_named,
)
from hessian_spectrum.curvature.training import Training, TrainingPlan
from hessian_spectrum.planning.activations import ACTIVATIONS
from hessian_spectrum.planning.size import mlp_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
CPU = torch.device("cpu")
MODULES = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_those_of_torch_nn(activation: str, bias: bool, seeded: Seeded) -> None:
    model = Mlp((4, 6, 5, 3), activation, bias)
    parameters = model.initial_parameters(seeded(0), torch.float64, CPU)
    layers = [nn.Linear(a, b, bias=bias, dtype=torch.float64) for a, b in ((4, 6), (6, 5), (5, 3))]
    network = nn.Sequential(layers[0], MODULES[activation](), layers[1], MODULES[activation](), layers[2])
    # 0, 2, 4 in the Sequential are layers 0, 1, 2 of the model
    network.load_state_dict({f"{2 * int(n.split('.')[1])}.{n.split('.')[2]}": t for n, t in parameters.items()})
    inputs = torch.randn(7, 4, generator=seeded(1), dtype=torch.float64)
    assert_close(model(parameters, inputs), network(inputs).detach(), rtol=1e-13, atol=1e-14)


def test_initialisation_has_the_range_of_nn_linear(seeded: Seeded) -> None:
    parameters = Mlp((100, 400, 50)).initial_parameters(seeded(0), torch.float64, CPU)
    for name, bound in (("layers.0.weight", 0.1), ("layers.1.weight", 0.05), ("layers.1.bias", 0.05)):
        values = parameters[name]
        assert float(values.abs().max()) <= bound
        assert float(values.abs().max()) > 0.9 * bound
        assert abs(float(values.mean())) < 0.2 * bound
    assert float(parameters["layers.0.weight"].std()) == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_precisions_start_from_the_same_numbers(seeded: Seeded) -> None:
    model = Mlp((5, 4, 3))
    double = model.initial_parameters(seeded(3), torch.float64, CPU)
    single = model.initial_parameters(seeded(3), torch.float32, CPU)
    for name, values in double.items():
        assert torch.equal(single[name], values.float())
    assert not torch.equal(
        model.initial_parameters(seeded(4), torch.float64, CPU)["layers.0.bias"], double["layers.0.bias"]
    )


def test_shapes_and_counts_agree_with_the_parameters(seeded: Seeded) -> None:
    for bias in (True, False):
        model = Mlp((7, 5, 2), bias=bias)
        parameters = model.initial_parameters(seeded(0), torch.float64, CPU)
        assert {name: tuple(tensor.shape) for name, tensor in parameters.items()} == model.parameter_shapes
        assert ParameterLayout.of(model.parameter_shapes).dim == mlp_size((7, 5, 2), bias, 1).num_parameters
        assert model.num_outputs == 2


def test_layout_goes_there_and_back(seeded: Seeded) -> None:
    model = Mlp((3, 4, 2))
    layout = ParameterLayout.of(model.parameter_shapes)
    parameters = model.initial_parameters(seeded(0), torch.float64, CPU)
    back = layout.unflatten(layout.flatten(dict(reversed(parameters.items()))))
    assert list(back) == list(model.parameter_shapes)
    for name, tensor in parameters.items():
        assert torch.equal(back[name], tensor)


@pytest.mark.parametrize("options", [((3,), "relu"), ((3, 0), "relu"), ((), "relu"), ((3, 2), "softplus")])
def test_bad_models_are_errors(options: tuple[tuple[int, ...], str]) -> None:
    with pytest.raises(InvalidProblemError):
        Mlp(*options)


@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), torch.nan)],
    ids=["width", "axes", "integers", "nan"],
)
def test_bad_inputs_are_errors(inputs: torch.Tensor) -> None:
    with pytest.raises(InvalidProblemError):
        Mlp((3, 2)).check_inputs(inputs)


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
    data = gaussian(16, 8, 4, teacher="linear", noise=0.1, generator=torch.Generator().manual_seed(0)).to(
        torch.float32, CPU
    )
    initial, changes = [], []
    for width in WIDTHS:
        model = Mlp((8, width, width, 4), "relu", parametrization=parametrization)
        sizes = []
        for seed in (1, 2):
            start = model.initial_parameters(torch.Generator().manual_seed(seed), torch.float32, CPU)
            training = Training(model, Mse(), data, plan=TrainingPlan(num_steps, learning_rate))
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
