"""Norms, alignments and products of stacks of matrices, against one matrix at a time by numpy."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.ensembles.matrix_norms import (
    absolute_alignments,
    matrix_norms,
    products_without_one,
)
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 1), (1, 4), (1, 1)])
def test_norms_are_those_of_numpy(shape: tuple[int, int], seeded: Seeded) -> None:
    stack = normal(2, 3, *shape, generator=seeded(0))
    norms = matrix_norms(stack)
    for name, order in (("spectral", 2), ("frobenius", "fro"), ("nuclear", "nuc")):
        expected = [np.linalg.norm(matrix, order) for matrix in stack.flatten(0, 1).numpy()]
        assert_close(norms[name].flatten(), torch.tensor(expected, dtype=torch.float64))


def test_norms_of_a_vector_are_its_length(seeded: Seeded) -> None:
    vector = normal(7, 1, generator=seeded(1))
    for value in matrix_norms(vector).values():
        assert_close(value, vector.norm())


def test_alignments_against_their_definitions(seeded: Seeded) -> None:
    generator = seeded(2)
    first, second = normal(4, 6, 3, generator=generator), normal(4, 6, 3, generator=generator)
    alignments = absolute_alignments(first, second)
    for index, (w, v) in enumerate(zip(first.numpy(), second.numpy(), strict=True)):
        product = w.T @ v
        assert float(alignments["spectral"][index]) == pytest.approx(np.linalg.norm(product, 2))
        assert float(alignments["nuclear"][index]) == pytest.approx(np.linalg.norm(product, "nuc"))
        assert float(alignments["frobenius"][index]) == pytest.approx(abs(np.trace(product)))


def test_alignments_of_vectors_are_the_inner_product_without_sign(seeded: Seeded) -> None:
    generator = seeded(3)
    w, v = normal(6, 1, generator=generator), normal(6, 1, generator=generator)
    for value in absolute_alignments(w, -v).values():
        assert_close(value, (w.T @ v).abs()[0, 0])


def test_alignments_of_different_shapes_do_not_exist() -> None:
    with pytest.raises(InvalidProblemError, match="shapes"):
        absolute_alignments(torch.ones(3, 2), torch.ones(2, 3))


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_products_leave_one_factor_out(depth: int, seeded: Seeded) -> None:
    generator, widths = seeded(4), [2, *[4] * (depth - 1), 3]
    weights = [normal(5, rows, columns, generator=generator) for columns, rows in pairwise(widths)]
    products = products_without_one(weights)
    for left_out, product in enumerate(products):
        kept = [weight for index, weight in enumerate(weights) if index != left_out]
        for network in range(5):
            factors = [weight[network].numpy() for weight in reversed(kept)]
            expected = np.linalg.multi_dot(factors) if len(factors) > 1 else factors[0]
            assert_close(product[network], torch.as_tensor(expected))


def test_products_of_two_layers_are_the_other_layer(seeded: Seeded) -> None:
    generator = seeded(5)
    first, last = normal(4, 2, generator=generator), normal(2, 4, generator=generator)
    products = products_without_one([first, last])
    assert torch.equal(products[0], last)
    assert torch.equal(products[1], first)


@pytest.mark.parametrize("shapes", [[(3, 2)], [(3, 2), (4, 3), (2, 4)]])
def test_products_need_equal_inner_widths(shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(InvalidProblemError, match="inner widths"):
        products_without_one([torch.ones(shape) for shape in shapes])
