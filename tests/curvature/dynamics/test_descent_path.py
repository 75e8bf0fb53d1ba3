"""Paths of gradient descent against PyTorch's optimizer, and spectra along them against closed forms."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.dynamics.descent_path import DIVERGED, dense_spectra, descent_path
from hessian_spectrum.curvature.models.closed_form import NeuronNetwork, SelfAttention
from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.theory.closed_form.descent import linear_descent
from hessian_spectrum.theory.closed_form.homogeneous import relu_spectrum

Seeded = Callable[[int], torch.Generator]


def scalar_data(n: int = 30) -> tuple[np.ndarray, np.ndarray, Dataset]:
    x = np.linspace(-1, 1, n)
    y = np.where(x > 0, 2.0, -1.0) * x
    return x, y, Dataset(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None])


def initial(shapes: dict[str, tuple[int, ...]], generator: torch.Generator, std: float = 1.0) -> dict[str, Tensor]:
    return {name: std * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_steps_with_momentum_are_those_of_the_optimizer(activation: str, seeded: Seeded) -> None:
    x, y, data = scalar_data()
    start = initial({"w": (6,), "v": (6,)}, seeded(0))
    model = NeuronNetwork(6, activation)
    path = descent_path(model, data, start, learning_rate=0.18, momentum=0.9, num_steps=40)
    leaves = {name: values.clone().requires_grad_() for name, values in start.items()}
    optimizer = torch.optim.SGD(leaves.values(), lr=0.18, momentum=0.9)
    for step in range(41):
        for name, leaf in leaves.items():
            np.testing.assert_allclose(path.parameters[name][step], leaf.detach(), rtol=1e-11, atol=1e-12)
        hidden = torch.from_numpy(x)[:, None] * leaves["v"]
        outputs = (hidden.relu() if activation == "relu" else hidden) @ leaves["w"]
        optimizer.zero_grad()
        ((outputs - torch.from_numpy(y)) ** 2).mean().div(2).backward()
        optimizer.step()
    assert path.diverged_at is None
    assert path.num_points == 41


def test_loss_and_outliers_of_a_linear_network_follow_the_recursion_of_two_numbers(seeded: Seeded) -> None:
    x, y, data = scalar_data()
    start = initial({"w": (5,), "v": (5,)}, seeded(1))
    model = NeuronNetwork(5, "linear")
    path = descent_path(model, data, start, learning_rate=0.1, num_steps=60)
    found = dense_spectra(model, data, path, chunk=16)
    weights = {name: values.numpy() for name, values in start.items()}
    expected = linear_descent(**weights, x=x, y=y, learning_rate=0.1, num_steps=60)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)
    np.testing.assert_allclose(found.eigenvalues[:, -1], expected.outliers[:, 0], rtol=1e-10)


def test_spectra_of_relu_networks_are_closed_forms_with_the_present_cells(seeded: Seeded) -> None:
    x, y, data = scalar_data()
    start = initial({"w": (5,), "v": (5,)}, seeded(3), 0.5)
    model = NeuronNetwork(5, "relu")
    path = descent_path(model, data, start, learning_rate=0.5, momentum=0.9, num_steps=30)
    signs = np.sign(path.parameters["v"])
    assert (signs != signs[0]).any()  # a neuron changes cells
    found = dense_spectra(model, data, path)
    for step in range(31):
        expected = relu_spectrum(w=path.parameters["w"][step], v=path.parameters["v"][step], x=x, y=y)
        np.testing.assert_allclose(found.eigenvalues[step], expected.dense(), atol=1e-11 * expected.scale)


def test_spectra_of_attention_are_closed_forms(seeded: Seeded) -> None:
    x = torch.tensor([[1.0, -0.8], [0.3, 0.9]], dtype=torch.float64)
    data = Dataset(x[:, :, None], x.flip(1)[:, :, None])
    model = SelfAttention(3)
    path = descent_path(model, data, initial(model.parameter_shapes, seeded(2), 0.3), learning_rate=1.0, num_steps=50)
    found = dense_spectra(model, data, path)
    for step in range(0, 51, 10):
        weights = {name: values[step] for name, values in path.parameters.items()}
        expected = self_attention_spectrum(**weights, x=x.numpy(), y=x.flip(1).numpy())
        assert found.loss[step] == pytest.approx(expected.statistics["mean_loss"], rel=1e-12)
        np.testing.assert_allclose(found.eigenvalues[step], expected.dense(), atol=1e-12 * expected.scale)


def test_descent_that_diverges_is_a_path_that_ends(seeded: Seeded) -> None:
    _, _, data = scalar_data()
    start = initial({"w": (4,), "v": (4,)}, seeded(0), 3.0)
    path = descent_path(NeuronNetwork(4), data, start, learning_rate=10.0, num_steps=100)
    assert path.diverged_at == path.num_points < 100
    assert max(np.abs(values).max() for values in path.parameters.values()) <= DIVERGED
