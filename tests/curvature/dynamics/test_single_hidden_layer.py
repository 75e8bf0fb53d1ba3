"""Networks with one hidden layer, many at once, against automatic differentiation of one after the other."""

import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.dynamics.single_hidden_layer import (
    ACTIVATIONS,
    Networks,
    descend,
    loss_and_gradient,
    point,
    random_networks,
)


def networks(activation: str, seed: int = 0) -> tuple[Networks, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = random_networks(5, 4, 7, activation=activation, generator=generator)
    return drawn, torch.randn(5, 32, generator=generator, dtype=torch.float64)


def loss_of(drawn: Networks, index: int, flat: Tensor) -> Tensor:
    """1/(2m) sum |W2 phi(W1 x) - y|^2 of one network, written as in the source."""
    first, second = flat[:16].reshape(4, 4), flat[16:].reshape(4, 4)
    total = flat.new_zeros(())
    for x, y in zip(drawn.inputs[index].T, drawn.targets[index].T, strict=True):
        hidden = first @ x
        output = second @ (hidden.tanh() if drawn.activation == "tanh" else hidden)
        total = total + ((output - y) ** 2).sum()
    return total / (2 * drawn.inputs.shape[2])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_gradient_and_hessian_are_those_of_automatic_differentiation(activation: str) -> None:
    drawn, parameters = networks(activation)
    found = point(drawn, parameters)
    for index in range(5):
        flat = parameters[index].clone().requires_grad_()
        loss = loss_of(drawn, index, flat)
        (gradient,) = torch.autograd.grad(loss, flat)
        hessian = torch.autograd.functional.hessian(lambda t, i=index: loss_of(drawn, i, t), parameters[index])
        scale = float(hessian.abs().max())
        torch.testing.assert_close(found.loss[index], loss.detach(), rtol=1e-13, atol=0)
        torch.testing.assert_close(found.gradient[index], gradient, rtol=0, atol=1e-13 * scale)
        torch.testing.assert_close(found.hessian[index], hessian, rtol=0, atol=1e-13 * scale)
    torch.testing.assert_close(loss_and_gradient(drawn, parameters)[1], found.gradient, rtol=0, atol=0)


def test_each_network_descends_for_a_number_of_steps_of_its_own() -> None:
    drawn, parameters = networks("tanh")
    steps = torch.tensor([0, 3, 1, 7, 3])
    found = descend(drawn, parameters, learning_rate=0.2, num_steps=steps)
    for index, count in enumerate(steps.tolist()):
        flat = parameters[index].clone().requires_grad_()
        optimizer = torch.optim.SGD([flat], lr=0.2)
        for _ in range(count):
            optimizer.zero_grad()
            loss_of(drawn, index, flat).backward()
            optimizer.step()
        torch.testing.assert_close(found[index], flat.detach(), rtol=0, atol=1e-13)


def test_targets_have_a_mean_square_of_one_and_do_not_depend_on_the_activation() -> None:
    linear, tanh = (networks(activation)[0] for activation in ("linear", "tanh"))
    torch.testing.assert_close(linear.targets.square().mean((1, 2)), torch.ones(5, dtype=torch.float64))
    assert torch.equal(linear.inputs, tanh.inputs)
    assert torch.equal(linear.targets, tanh.targets)
    assert float(linear.inputs.std()) == pytest.approx(1.0, abs=0.2)
