"""Conv against torch.nn and the dense autograd Hessian."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.models.conv import Conv
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.planning.size import conv_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
CPU = torch.device("cpu")
F64 = torch.float64


@pytest.mark.parametrize(("stride", "pooling", "bias"), [(1, False, True), (2, False, False), (1, True, True)])
def test_outputs_are_those_of_torch_nn(stride: int, pooling: bool, bias: bool, seeded: Seeded) -> None:
    model = Conv((3, 2), kernel_size=5, stride=stride, pooling=pooling, activation="tanh", bias=bias)
    parameters = model.initial_parameters(seeded(0), F64, CPU)
    pool = nn.AvgPool2d(2) if pooling else nn.Identity()
    convolutions = [nn.Conv2d(a, b, 5, stride, 2, bias=bias, dtype=F64) for a, b in ((1, 3), (3, 2))]
    features = parameters["head.weight"].shape[1]
    head = nn.Linear(features, 10, bias=bias, dtype=F64)
    network = nn.Sequential(convolutions[0], nn.Tanh(), pool, convolutions[1], nn.Tanh(), pool, nn.Flatten(), head)
    network.load_state_dict(
        {n.replace("conv.0", "0").replace("conv.1", "3").replace("head", "7"): t for n, t in parameters.items()}
    )
    images = torch.randn(4, 64, generator=seeded(1), dtype=F64)
    assert_close(model(parameters, images), network(images.view(4, 1, 8, 8)).detach(), rtol=1e-12, atol=1e-13)
    size = conv_size(
        image_size=8,
        channels=(3, 2),
        kernel_size=5,
        stride=stride,
        pooling=pooling,
        num_outputs=10,
        bias=bias,
        num_samples=1,
    )
    assert size.num_parameters == ParameterLayout.of(model.parameter_shapes).dim
    assert size.num_parameters == sum(tensor.numel() for tensor in network.parameters())


@pytest.mark.parametrize(("stride", "pooling"), [(1, True), (2, False)])
def test_products_are_linearised_and_those_of_the_dense_hessian(
    stride: int, pooling: bool, seeded: Seeded, autograd_hessian: Callable[..., Tensor]
) -> None:
    model = Conv((2, 2), kernel_size=3, stride=stride, pooling=pooling, activation="gelu")
    parameters = model.initial_parameters(seeded(0), F64, CPU)
    data = digits(12, seeded(1))
    operator = HessianOperator(EmpiricalRisk(model, CrossEntropy(), data.split(7)), parameters)
    assert operator.fallback_reason is None
    expected = autograd_hessian(model, CrossEntropy(), data, parameters)
    assert_close(assemble(operator), expected, rtol=0, atol=1e-13 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "options",
    [
        {"channels": ()},
        {"channels": (0,)},
        {"channels": (2,), "kernel_size": 4},
        {"channels": (2,), "stride": 0},
        {"channels": (2,) * 4, "pooling": True},
        {"channels": (2,), "activation": "softplus"},
    ],
    ids=["none", "channels", "even", "stride", "pooled-away", "activation"],
)
def test_bad_models_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidProblemError):
        Conv(**options)


def test_images_have_64_pixels() -> None:
    with pytest.raises(InvalidProblemError, match="64"):
        Conv((2,)).check_inputs(torch.zeros(3, 63))
