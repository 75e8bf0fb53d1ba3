"""Activations as one entry each, and what those cost that were not measured."""

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from hessian_spectrum.curvature.models.base import Model, activation_named
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.planning.activations import ACTIVATIONS, Activation
from hessian_spectrum.planning.memory_coefficients import COEFFICIENTS, Matrix, memory_coefficients
from hessian_spectrum.planning.size import DEAREST, SORTS

MATRICES: tuple[Matrix, ...] = ("hessian", "ggn", "functional")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, on importing its rules for jvp
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_has_the_derivatives_of_its_values(name: str) -> None:
    """The second one by forward mode over reverse mode, as products take it."""
    phi, x, step = activation_named(name, 0.3), torch.tensor([-2.0, -0.3, 0.4, 1.7], dtype=torch.float64), 1e-5

    def slope(at: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda values: phi(values).sum())(at)  # type: ignore[no-any-return]

    def difference(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return (function(x + step) - function(x - step)) / (2 * step)

    _, curvature = torch.func.jvp(slope, (x,), (torch.ones_like(x),))
    assert_close(slope(x), difference(phi), atol=1e-9, rtol=0)
    assert_close(curvature, difference(slope), atol=1e-9, rtol=0)


@pytest.mark.parametrize("matrix", MATRICES)
def test_one_that_was_not_measured_costs_as_much_as_the_dearest(matrix: Matrix) -> None:
    copies = memory_coefficients(matrix)

    def cost(activation: Activation) -> float:
        return sum(copies[sort].recording for sort in activation.operations)

    assert cost(Activation("nn.functional.softplus")) == max(map(cost, ACTIVATIONS.values()))


@pytest.mark.parametrize("matrix", MATRICES)
def test_numbers_of_unknown_origin_take_as_much_as_any(matrix: Matrix) -> None:
    assert set(COEFFICIENTS[matrix]) == {*SORTS, "parameters"}
    copies = memory_coefficients(matrix)
    for sort in SORTS:
        assert copies[sort].recording <= copies[DEAREST].recording
        assert copies[sort].running <= copies[DEAREST].running


@pytest.mark.parametrize("matrix", MATRICES)
def test_nothing_that_is_held_is_free_while_products_run(matrix: Matrix) -> None:
    for copies in memory_coefficients(matrix).values():
        assert 0 <= copies.held <= min(copies.recording, copies.running)


def test_a_model_without_a_size_of_its_own_is_counted() -> None:
    """Inputs, three pre-activations and two activations; nothing for views."""
    counted = Model.size_on(Mlp((3, 4, 5, 2), "tanh"), torch.randn(7, 3, dtype=torch.float64))
    assert counted.number(DEAREST) == counted.num_activations == 7 * (3 + 2 * 4 + 2 * 5 + 2)
    assert counted.num_parameters == 4 * 4 + 5 * 5 + 2 * 6
