"""Mlp against torch.nn."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.parameters import ParameterLayout
from hessian_spectrum.planning.activations import ACTIVATIONS
from hessian_spectrum.planning.size import mlp_size
from hessian_spectrum.quadrature.errors import InvalidProblemError

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
