"""Activations as one entry each, and what those cost that were not measured."""

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from hessian_spectrum.curvature.models.base import Model, activation_named
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.planning.activations import ACTIVATIONS, Activation
from hessian_spectrum.planning.memory_coefficients import COEFFICIENTS, Matrix, memory_coefficients
from hessian_spectrum.planning.size import SORTS

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


def test_one_that_was_not_measured_costs_as_much_as_the_dearest() -> None:
    new = Activation("nn.functional.softplus")
    sorts = SORTS["mlp"]
    for matrix in MATRICES:
        copies = COEFFICIENTS["mlp"][matrix].recording
        hidden = [copies[sorts.index(each.costs_like)] for each in ACTIVATIONS.values()]
        assert copies[sorts.index(new.costs_like)] == max(hidden)


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_generic_model_takes_as_many_copies_as_any_that_was_measured(matrix: Matrix) -> None:
    numbers, parameters = memory_coefficients("generic", matrix).running
    families = [each for family, each in COEFFICIENTS.items() if family != "program"]  # whose sorts are operators
    for measured in families:
        assert numbers >= max(measured[matrix].running[:-1])
        assert parameters >= measured[matrix].running[-1]


def test_a_model_without_a_size_of_its_own_is_counted() -> None:
    """Inputs, three pre-activations and two activations; nothing for views."""
    counted = Model.size_on(Mlp((3, 4, 5, 2), "tanh"), torch.randn(7, 3, dtype=torch.float64))
    assert counted.activations == (7 * (3 + 2 * 4 + 2 * 5 + 2),)
    assert counted.num_parameters == 4 * 4 + 5 * 5 + 2 * 6
