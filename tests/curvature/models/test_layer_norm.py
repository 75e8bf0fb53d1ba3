"""Layer norm and its derivatives, beside those of PyTorch by two reverse passes."""

from itertools import starmap

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from hessian_spectrum.curvature.models.layer_norm import layer_norm

EPS = 1e-5
SHAPES = [(4,), (2, 4), (1,)]


def operands(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return x, weight, bias


def potential(x: Tensor, weight: Tensor, bias: Tensor, *, is_ours: bool = True) -> Tensor:
    norm = (
        layer_norm(x, weight.shape, weight, bias, EPS) if is_ours else F.layer_norm(x, weight.shape, weight, bias, EPS)
    )
    return torch.sin(norm).sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("has_weight", "has_bias"), [(True, True), (True, False), (False, True), (False, False)])
def test_values(shape: tuple[int, ...], has_weight: bool, has_bias: bool) -> None:
    x, weight, bias = operands(shape)
    scale, shift = weight if has_weight else None, bias if has_bias else None
    expected = F.layer_norm(x, shape, scale, shift, EPS)
    torch.testing.assert_close(layer_norm(x, shape, scale, shift, EPS), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_derivatives_are_those_of_differences(shape: tuple[int, ...]) -> None:
    arguments = tuple(each.requires_grad_() for each in operands(shape))

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm(x, shape, weight, bias, EPS)

    assert gradcheck(function, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, arguments, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_batched", [False, True])
def test_products_with_the_hessian(shape: tuple[int, ...], is_batched: bool) -> None:
    """Forward over reverse, as products are taken; the oracle is PyTorch's norm by two reverse passes."""
    point, directions = operands(shape), [operands(shape, seed) for seed in (1, 2)]
    leaves = [each.clone().requires_grad_() for each in point]
    gradients = torch.autograd.grad(potential(*leaves, is_ours=False), leaves, create_graph=True)
    expected = [torch.autograd.grad(gradients, leaves, vector, retain_graph=True) for vector in directions]

    def product(*vector: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = jvp(grad(potential, argnums=(0, 1, 2)), point, vector)[1]
        return found

    stacked = [torch.stack(parts) for parts in zip(*directions, strict=True)]
    one_by_one = [*map(torch.stack, zip(*starmap(product, directions), strict=True))]
    rows = vmap(product)(*stacked) if is_batched else one_by_one
    for found, wanted in zip(rows, zip(*expected, strict=True), strict=True):
        scale = float(torch.stack(wanted).abs().max())
        torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=1e-13 * max(scale, 1.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_transforms_in_one_another(shape: tuple[int, ...]) -> None:
    """As jacfwd of jacrev: vmap within jvp within vmap, through which lists among the arguments would not pass."""
    x, weight, bias = operands(shape)
    found = torch.func.hessian(lambda point: potential(point, weight, bias))(x)
    expected = torch.autograd.functional.hessian(lambda point: potential(point, weight, bias, is_ours=False), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * max(float(expected.abs().max()), 1.0))


def test_a_constant_row_has_derivatives_of_the_order_of_one_over_epsilon() -> None:
    x = torch.ones(1, 4, dtype=torch.float64)
    _, change = jvp(
        lambda point: layer_norm(point, (4,), None, None, EPS), (x,), (torch.eye(4, dtype=torch.float64)[:1],)
    )
    expected = (torch.eye(4, dtype=torch.float64)[:1] - 0.25) / EPS**0.5
    torch.testing.assert_close(change, expected, rtol=1e-12, atol=0)
