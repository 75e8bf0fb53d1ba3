"""Norms of uploaded networks: batch norms that are folded into convolutions, and group norms."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.programs.batch_norms import norms_of_convolutions, with_folded_norms
from hessian_spectrum.programs.operators import base_name
from hessian_spectrum.programs.program import Program
from tests.fixtures.exported import exported


def trained(module: nn.Module) -> nn.Module:
    """The module in double precision and eval mode, with statistics and parameters unlike their initial ones."""
    generator = torch.Generator().manual_seed(3)
    for name, value in [*module.named_buffers(), *module.named_parameters()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if "var" in name else -0.3))
    return module.double().eval()


def num_norms(program: Program) -> int:
    return sum("batch_norm" in call.op for call in program.body)


def folded(model: Exported) -> Program:
    return with_folded_norms(model.program, model.parameter_shapes)


FOLDED = {
    "image": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)), (2, 5, 6)),
    "no-bias": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4)), (2, 5, 6)),
    "not-affine": (lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, affine=False, eps=0.1)), (2, 3, 3)),
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)), (4, 4, 4)),
    "padding-by-name": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.BatchNorm2d(4)), (2, 4, 4)),
    "sequence": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3, dilation=2), nn.BatchNorm1d(3)), (2, 7)),
    "volume": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2)), (1, 3, 3, 3)),
    "in-place-relu": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 2)),
        (2, 4, 4),
    ),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("is_dynamic", [True, False])
def test_folded_norms_give_the_same_function(name: str, is_dynamic: bool) -> None:
    make, shape = FOLDED[name]
    module = trained(make())
    inputs = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = exported(module, inputs, is_dynamic=is_dynamic)
    assert num_norms(model.program) == 1
    assert num_norms(folded(model)) == 0
    folded(model).check()
    parameters = {name: each.detach() for name, each in module.named_parameters()}
    expected = module(inputs).detach()
    torch.testing.assert_close(model(parameters, inputs), expected, rtol=1e-13, atol=1e-13)

    def outputs(*values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), inputs)

    def ours(*values: Tensor) -> Tensor:
        return model(dict(zip(parameters, values, strict=True)), inputs)

    wanted = torch.autograd.functional.jacobian(outputs, tuple(parameters.values()))
    found = torch.autograd.functional.jacobian(ours, tuple(parameters.values()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * float(other.abs().max()))


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.convolution(x)
        return self.norm(hidden) + hidden


NOT_FOLDED = {
    "read-twice": ReadTwice,
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 3), nn.BatchNorm2d(4)),
    "before": lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3)),
    "between": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_other_norms_stay(name: str) -> None:
    inputs = torch.randn(3, 2, 5, 5)
    assert num_norms(folded(exported(trained(NOT_FOLDED[name]()).float(), inputs))) == 1


def test_norms_of_frozen_convolutions_stay() -> None:
    """The spectrum of the norms alone would need products with kernels that it does not need otherwise."""
    model = exported(trained(FOLDED["image"][0]()).float(), torch.randn(3, 2, 5, 6))
    assert num_norms(folded(replace(model, trainable="1.*"))) == 1
    assert num_norms(folded(replace(model, trainable="0.*"))) == 0


def test_statistics_of_another_length_are_not_folded() -> None:
    model = exported(trained(FOLDED["not-affine"][0]()).float(), torch.randn(3, 2, 3, 3))
    program = model.program
    name = next(each for each, array in program.constants.items() if array.endswith("running_var"))
    wrong = replace(program, values={**program.values, name: replace(program.values[name], shape=(1,))})
    assert norms_of_convolutions(program, model.parameter_shapes)
    assert not norms_of_convolutions(wrong, model.parameter_shapes)


@pytest.mark.parametrize("kept", range(9))
def test_calls_without_arguments_are_left_to_others(kept: int) -> None:
    """What a file may say; that an argument is missing is told where the call is run."""
    model = exported(trained(FOLDED["image"][0]()).float(), torch.randn(3, 2, 5, 6))
    calls = [replace(call, args=call.args[:kept]) for call in model.program.body]
    program = replace(model.program, body=tuple(calls))
    assert bool(norms_of_convolutions(program, model.parameter_shapes)) is (kept == 8)
    without = replace(program, body=tuple(replace(call, outputs=()) for call in calls))
    assert with_folded_norms(without, model.parameter_shapes).body == without.body


def test_norms_of_decomposed_graphs() -> None:
    model = exported(trained(FOLDED["image"][0]()).float(), torch.randn(3, 2, 5, 6))
    (index,) = (at for at, call in enumerate(model.program.body) if base_name(call.op) == "aten.batch_norm")
    norm = model.program.body[index]
    decomposed = replace(
        norm,
        op="aten._native_batch_norm_legit_no_training.default",
        args=(*norm.args[:5], *norm.args[6:8]),  # without `training` and `cudnn_enabled`
        outputs=(*norm.outputs, "nothing", None),
    )
    body = (*model.program.body[:index], decomposed, *model.program.body[index + 1 :])
    program = replace(model.program, body=body)
    assert num_norms(with_folded_norms(program, model.parameter_shapes)) == 0


class ChannelsLast(nn.Module):
    """A group norm of images that were permuted, as between layers that keep channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.layer(x).permute(0, 3, 1, 2))
        return self.head(torch.tanh(hidden).mean((2, 3)))


def test_group_norms_of_any_order_in_memory_have_a_forward_mode() -> None:
    module = trained(ChannelsLast())
    inputs, targets = torch.randn(3, 4, 5, 3, dtype=torch.float64), torch.tensor([0, 1, 1])
    model = exported(module, inputs)
    parameters = {name: each.detach() for name, each in module.named_parameters()}
    operator = HessianOperator(EmpiricalRisk(model, CrossEntropy(), [Dataset(inputs, targets)]), parameters)
    vector = torch.randn(operator.dim, dtype=torch.float64)
    found = operator.matvec(vector)
    leaves = tuple(module.parameters())
    loss = nn.functional.cross_entropy(module(inputs), targets)
    gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, leaves, create_graph=True)])
    expected = torch.cat([each.flatten() for each in torch.autograd.grad(gradient, leaves, vector)])
    assert operator.fallback_reason is None
    assert float((found - expected).norm()) < 1e-12 * float(expected.norm())
