"""Compressed Hessians have the eigenvalues of the dense Hessians that automatic differentiation computes."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.transforms import decorrelated
from hessian_spectrum.curvature.ensembles.single_output import (
    CompressedHessian,
    deep_linear_hessian,
    reflection,
    two_layer_relu_hessian,
)
from hessian_spectrum.curvature.losses import Loss
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.regression_losses import Mse
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.theory.closed_form.two_layer_linear import two_layer_linear_spectrum

Seeded = Callable[[int], torch.Generator]
Dense = Callable[[Model, Loss, Dataset, dict[str, Tensor]], Tensor]
Compress = Callable[[list[Tensor], Tensor, Tensor], CompressedHessian]


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def network(widths: list[int], size: int, generator: torch.Generator) -> tuple[list[Tensor], Dataset]:
    weights = [normal(rows, columns, generator=generator) / columns**0.5 for columns, rows in pairwise(widths)]
    data = Dataset(normal(size, widths[0], generator=generator), normal(size, 1, generator=generator))
    return weights, data


def check(compress: Compress, activation: str, weights: list[Tensor], data: Dataset, dense: Dense) -> None:
    widths = (weights[0].shape[1], *(len(weight) for weight in weights))
    model = Mlp(widths, activation, False)
    parameters = {f"layers.{index}.weight": weight for index, weight in enumerate(weights)}
    expected = np.linalg.eigvalsh(dense(model, Mse(), data, parameters).numpy())
    hessian = compress(weights, data.inputs, data.targets)
    assert hessian.num_parameters == len(expected)
    assert torch.equal(hessian.matrix, hessian.matrix.T)
    found = np.sort(np.concatenate([hessian.eigenvalues().numpy(), np.zeros(hessian.num_zeros)]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize(
    "widths",
    [[3, 6, 1], [1, 5, 1], [6, 3, 1], [1, 1, 1], [2, 1, 4, 1], [3, 5, 5, 5, 1], [4, 3, 5, 2, 1], [2, 3, 3, 3, 3, 1]],
)
@pytest.mark.parametrize("size", [3, 20])
def test_deep_linear_hessian_is_the_dense_one(
    widths: list[int], size: int, seeded: Seeded, autograd_hessian: Dense
) -> None:
    weights, data = network(widths, size, seeded(0))
    check(deep_linear_hessian, "linear", weights, data, autograd_hessian)


@pytest.mark.parametrize("widths", [[3, 6, 1], [1, 5, 1], [6, 3, 1], [1, 1, 1], [4, 9, 1]])
@pytest.mark.parametrize("size", [2, 3, 40])
def test_relu_hessian_is_the_dense_one(widths: list[int], size: int, seeded: Seeded, autograd_hessian: Dense) -> None:
    weights, data = network(widths, size, seeded(1))
    check(two_layer_relu_hessian, "relu", weights, data, autograd_hessian)


def test_degenerate_networks(seeded: Seeded, autograd_hessian: Dense) -> None:
    """Zero weights, no residual and dead neurons leave directions undefined, which must not matter."""
    weights, data = network([3, 4, 4, 1], 8, seeded(2))
    silent = [weights[0], torch.zeros(4, 4, dtype=torch.float64), weights[2]]
    check(deep_linear_hessian, "linear", silent, data, autograd_hessian)
    fitted = Dataset(data.inputs, data.inputs @ (weights[2] @ weights[1] @ weights[0]).T)
    check(deep_linear_hessian, "linear", weights, fitted, autograd_hessian)
    dead = [torch.cat([weights[0][:2], torch.zeros(1, 3, dtype=torch.float64), weights[0][3:]]), weights[2]]
    check(two_layer_relu_hessian, "relu", dead, data, autograd_hessian)


def test_wide_two_layer_network_has_the_spectrum_of_theory(seeded: Seeded) -> None:
    weights, data = network([5, 60, 1], 62, seeded(3))
    data = decorrelated(data)
    spectrum = two_layer_linear_spectrum(
        W1=weights[0].numpy(), W2=weights[1].numpy(), x=data.inputs.numpy(), y=data.targets.numpy()
    )
    expected = np.sort(np.concatenate([np.full(e.multiplicity, e.value) for e in spectrum.eigenvalues]))
    hessian = deep_linear_hessian(weights, data.inputs, data.targets)
    assert hessian.num_zeros == 59 * 4  # z d^T with z orthogonal to w, and d to omega
    found = np.sort(np.concatenate([hessian.eigenvalues().numpy(), np.zeros(hessian.num_zeros)]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_reflections_are_orthogonal_and_begin_with_the_vector(seeded: Seeded) -> None:
    vectors = torch.stack([normal(4, generator=seeded(4)), torch.zeros(4, dtype=torch.float64), -torch.eye(4)[0]])
    bases = reflection(vectors)
    assert_close(bases.mT @ bases, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
    assert_close(bases[0, :, 0] * vectors[0].norm(), vectors[0])
    assert_close(bases[2, :, 0], vectors[2])


@pytest.mark.parametrize("shapes", [[(1, 3)], [(4, 3), (2, 4)], [(4, 3), (1, 5)]])
def test_networks_that_are_refused(shapes: list[tuple[int, int]]) -> None:
    weights = [torch.ones(shape, dtype=torch.float64) for shape in shapes]
    with pytest.raises(InvalidProblemError, match=r"one output|follows"):
        deep_linear_hessian(weights, torch.ones(5, 3, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64))


def test_relu_networks_have_two_layers() -> None:
    weights = [torch.ones(3, 3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64), torch.ones(1, 3)]
    with pytest.raises(InvalidProblemError, match="3 layers"):
        two_layer_relu_hessian(weights, torch.ones(5, 3), torch.ones(5, 1))
