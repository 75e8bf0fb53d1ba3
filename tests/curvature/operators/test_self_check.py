"""Products are checked before they are trusted: networks that PyTorch differentiates wrongly are found, others pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hessian_spectrum.curvature.classification_losses import WeightedCrossEntropy
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.operators.self_check import (
    MAX_BATCHES,
    MAX_SAMPLES,
    MixedSamplesError,
    SelfCheck,
    WrongProductsError,
    check_independence,
    checked_samples,
    self_check,
)

Seeded = Callable[[int], torch.Generator]
Network = Callable[[Mapping[str, Tensor], Tensor], Tensor]
Shapes = dict[str, tuple[int, ...]]
F64 = torch.float64


@dataclass(frozen=True, eq=False)
class Function(Model):
    """A network as a function of parameters of these shapes."""

    function: Network
    shapes: Shapes = field(default_factory=lambda: {"w": (4, 3), "g": (4, 1), "v": (2, 4)})

    @property
    def num_outputs(self) -> int:
        return 2

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.shapes

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        return {
            name: torch.randn(shape, generator=generator, dtype=F64).to(device, dtype)
            for name, shape in self.shapes.items()
        }

    def check_inputs(self, inputs: Tensor) -> None:
        pass

    def sample_shape(self, inputs: Tensor) -> tuple[int, ...]:
        return (len(inputs),)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        outputs: Tensor = self.function(parameters, inputs)
        return outputs


class HalfTangent(torch.autograd.Function):
    """tanh with half its tangent in forward mode, and the right derivatives in reverse mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = cotangent / x.cosh().square()
        return result

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = tangent / x.cosh().square() / 2
        return result


def plain(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return torch.tanh(x @ (p["w"] * p["g"]).T) @ p["v"].T


def piecewise_linear(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return torch.relu(x @ (p["w"] * p["g"]).T) @ p["v"].T


def linear(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x @ p["w"].T @ p["v"].T


def normalised(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return F.layer_norm(torch.tanh(x @ p["w"].T), (4,), p["g"][:, 0]) @ p["v"].T


def half_tangent(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    result: Tensor = HalfTangent.apply(x @ (p["w"] * p["g"]).T)  # type: ignore[no-untyped-call]
    return result @ p["v"].T


def without_gradients(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """A gate that reverse mode takes for a constant and forward mode does not."""
    hidden = x @ (p["w"] * p["g"]).T
    with torch.no_grad():
        gate = hidden.sigmoid()
    return (hidden * gate) @ p["v"].T


def padded(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The row of the padding has a tangent in forward mode, and no gradient in reverse mode."""
    tokens = (x[:, :2] > 0).long()
    return torch.tanh(F.embedding(tokens, p["w"], padding_idx=0).sum(dim=1) @ p["u"]) @ p["v"].T


def weight_norm(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The double backward of this operator is wrong, and it has no forward mode."""
    return torch.tanh(x @ torch._weight_norm(p["w"], p["g"], 0).T) @ p["v"].T


def held_fixed(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The gate is a constant in both modes, but not in differences of gradients."""
    hidden = x @ (p["w"] * p["g"]).T
    return (hidden * hidden.detach().sigmoid()) @ p["v"].T


PADDED_SHAPES: Shapes = {"w": (4, 3), "u": (3, 4), "v": (2, 4)}
RIGHT = [plain, piecewise_linear, linear, normalised]


def risk_of(
    network: Network, *, shapes: Shapes | None = None, loss: Loss | None = None, size: int = 12
) -> EmpiricalRisk:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 3, generator=generator, dtype=F64)
    y = torch.randn(size, 2, generator=generator, dtype=F64)
    labels = torch.randint(0, 2, (size,), generator=generator)
    model = Function(network) if shapes is None else Function(network, shapes)
    data = Dataset(x, labels if isinstance(loss, (CrossEntropy, WeightedCrossEntropy)) else y)
    return EmpiricalRisk(model, loss or Mse(), data.split(5))


def checked(risk: EmpiricalRisk, kind: type[RiskOperator] = HessianOperator, dtype: torch.dtype = F64) -> SelfCheck:
    device = torch.device("cpu")
    parameters = risk.model.initial_parameters(torch.Generator().manual_seed(2), dtype, device)
    cast = EmpiricalRisk(risk.model, risk.loss, [batch.to(dtype, device) for batch in risk.batches])
    return self_check(kind, cast, parameters, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("kind", [HessianOperator, GgnOperator, FunctionalOperator], ids=lambda kind: kind.matrix)
@pytest.mark.parametrize(
    "loss",
    [Mse(), CrossEntropy(), WeightedCrossEntropy(class_weights=(0.5, 2.0), label_smoothing=0.1)],
    ids=["mse", "cross-entropy", "class weights"],
)
@pytest.mark.parametrize("network", RIGHT)
def test_right_products_pass(network: Network, loss: Loss, kind: type[RiskOperator], dtype: torch.dtype) -> None:
    verdict = checked(risk_of(network, loss=loss), kind, dtype)
    assert verdict.failed == ()
    assert verdict.fallback is None
    assert {"transpose", "double-backward"} <= set(verdict.passed)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_what_is_held_fixed_is_no_error(dtype: torch.dtype) -> None:
    assert checked(risk_of(held_fixed), dtype=dtype) == SelfCheck(("transpose", "double-backward"))


def test_built_in_networks_pass(seeded: Seeded) -> None:
    model = Mlp((3, 5, 2))
    x, y = torch.randn(7, 3, generator=seeded(0), dtype=F64), torch.randn(7, 2, generator=seeded(1), dtype=F64)
    parameters = model.initial_parameters(seeded(2), F64, torch.device("cpu"))
    risk = EmpiricalRisk(model, Mse(), Dataset(x, y).split(3))
    assert self_check(HessianOperator, risk, parameters, generator=seeded(3)).passed == (
        "transpose",
        "double-backward",
        "differences",
    )


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("network", [half_tangent, without_gradients])
def test_a_wrong_forward_mode_is_found(network: Network, dtype: torch.dtype) -> None:
    verdict = checked(risk_of(network), dtype=dtype)
    assert {"transpose", "double-backward"} <= set(verdict.failed)
    assert verdict.fallback is not None
    assert verdict.fallback.method == "double-backward"
    assert "v.Aw differs from w.Av" in verdict.fallback.reason


def test_the_fallback_gives_the_right_matrix() -> None:
    right, wrong = risk_of(plain), risk_of(half_tangent)
    parameters = right.model.initial_parameters(torch.Generator().manual_seed(2), F64, torch.device("cpu"))
    verdict = self_check(HessianOperator, wrong, parameters, generator=torch.Generator().manual_seed(0))
    expected = assemble(HessianOperator(right, parameters))
    mended = assemble(HessianOperator(wrong, parameters, fallback=verdict.fallback))
    assert (mended - expected).abs().max() < 1e-12 * expected.abs().max()
    assert (assemble(HessianOperator(wrong, parameters)) - expected).abs().max() > 0.01 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_a_row_of_padding_is_found(dtype: torch.dtype) -> None:
    verdict = checked(risk_of(padded, shapes=PADDED_SHAPES), dtype=dtype)
    assert {"transpose", "double-backward"} <= set(verdict.failed)
    assert verdict.fallback is not None


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_products_that_are_wrong_in_both_modes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(WrongProductsError, match="differences of gradients, and double backward is wrong as well"):
        checked(risk_of(weight_norm), dtype=dtype)


def centred(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ p["w"].T)
    return (hidden - hidden.mean(dim=0)) @ p["v"].T


def contrastive(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ p["w"].T)
    return (hidden @ hidden.T).softmax(dim=-1) @ hidden @ p["v"].T


def shifted(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return (torch.tanh(x @ p["w"].T).roll(1, 0)) @ p["v"].T


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("network", [centred, contrastive, shifted])
def test_networks_that_mix_samples_are_not_split(network: Network, dtype: torch.dtype) -> None:
    device = torch.device("cpu")
    risk = risk_of(network)
    parameters = risk.model.initial_parameters(torch.Generator().manual_seed(2), dtype, device)
    batches = [batch.to(dtype, device) for batch in risk.batches]
    with pytest.raises(MixedSamplesError, match=r"the network mixes samples.* 12 samples .* only 5"):
        check_independence(EmpiricalRisk(risk.model, risk.loss, batches), parameters)
    whole = Dataset(*_joined(risk)).to(dtype, device)
    check_independence(EmpiricalRisk(risk.model, risk.loss, [whole]), parameters)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("network", RIGHT)
def test_networks_of_independent_samples_are_split(network: Network, dtype: torch.dtype) -> None:
    device = torch.device("cpu")
    risk = risk_of(network, size=400)
    parameters = risk.model.initial_parameters(torch.Generator().manual_seed(2), dtype, device)
    batches = Dataset(*_joined(risk)).to(dtype, device).split(300)
    check_independence(EmpiricalRisk(risk.model, risk.loss, batches), parameters)


def test_a_few_samples_of_a_few_micro_batches_are_taken() -> None:
    risk = risk_of(plain, size=400)
    large = EmpiricalRisk(risk.model, risk.loss, Dataset(*_joined(risk)).split(40))
    few = checked_samples(large)
    assert few is not None
    assert [len(batch) for batch in few.batches] == [MAX_SAMPLES] * MAX_BATCHES
    assert torch.equal(few.batches[0].inputs[0], large.batches[0].inputs[0])
    assert torch.equal(few.batches[-1].inputs[-1], large.batches[-1].inputs[-1])
    quarter = checked_samples(risk_of(plain), share=4)
    assert quarter is not None
    assert [len(batch) for batch in quarter.batches] == [1, 1]
    assert checked_samples(risk_of(plain), share=8) is None


def _joined(risk: EmpiricalRisk) -> tuple[Tensor, Tensor]:
    return torch.cat([each.inputs for each in risk.batches]), torch.cat([each.targets for each in risk.batches])


def test_the_vectors_are_drawn_from_the_generator(seeded: Seeded) -> None:
    risk = risk_of(plain)
    parameters = risk.model.initial_parameters(seeded(2), F64, torch.device("cpu"))
    one, other = (self_check(HessianOperator, risk, parameters, generator=seeded(seed)) for seed in (0, 1))
    assert one == other
