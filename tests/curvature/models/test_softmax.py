"""Softmax and its derivatives, beside those of PyTorch by two reverse passes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacrev, jvp, vmap

from hessian_spectrum.curvature.models.softmax import softmax

SHAPE = (2, 3, 4)


def numbers(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked(x: Tensor) -> Tensor:
    """Scores of positions that are not seen."""
    return x.masked_fill(torch.arange(SHAPE[-1]) > 1, -torch.inf)


def unmasked(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_derivatives_are_those_of_differences(dim: int) -> None:
    x = numbers(0).requires_grad_()
    assert gradcheck(lambda point: softmax(point, dim), (x,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(lambda point: softmax(point, dim), (x,), check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize(("dim", "scores"), [(0, unmasked), (1, unmasked), (-1, unmasked), (-1, masked)])
@pytest.mark.parametrize("is_batched", [False, True])
def test_products_with_the_hessian(dim: int, scores: Callable[[Tensor], Tensor], is_batched: bool) -> None:
    """Forward over reverse, as products are taken."""
    x, vectors = numbers(0), torch.stack([numbers(1), numbers(2)])
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.sin(3 * scores(leaf).softmax(dim)).sum(), leaf, create_graph=True)
    expected = torch.stack([torch.autograd.grad(gradient, leaf, each, retain_graph=True)[0] for each in vectors])

    def product(vector: Tensor) -> Tensor:
        slope = grad(lambda point: torch.sin(3 * softmax(scores(point), dim)).sum())
        change: Tensor = jvp(slope, (x,), (vector,))[1]
        return change

    found = vmap(product)(vectors) if is_batched else torch.stack([product(each) for each in vectors])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14 * float(expected.abs().max()))


def test_transforms_in_one_another() -> None:
    """As jacfwd of jacrev: vmap within jvp within vmap."""
    x = numbers(0)[0]
    found = torch.func.hessian(lambda point: torch.sin(softmax(point, -1)).sum())(x)
    expected = torch.autograd.functional.hessian(lambda point: torch.sin(point.softmax(-1)).sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_third_derivatives_by_reverse_mode() -> None:
    def third(function: Callable[..., Tensor]) -> Tensor:
        derivative: Tensor = jacrev(jacrev(jacrev(lambda point: torch.sin(function(point, -1)).sum())))(
            numbers(0)[0, 0]
        )
        return derivative

    torch.testing.assert_close(third(softmax), third(torch.softmax), rtol=0, atol=1e-14)
