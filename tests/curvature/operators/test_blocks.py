"""Matrices of blocks against those of all parameters, and what their products leave out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.operators.programs import Program
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from tests.fixtures.exported import exported

Seeded = Callable[[int], torch.Generator]
F64 = torch.float64
DECAY = 0.1

KINDS = [HessianOperator, GgnOperator, FunctionalOperator]
GLOBS = ["wte.*", "blocks.0.*", "blocks.*.attn.*", "blocks.1.mlp.*", "*.bias", "ln_f.*"]


def _problem(n_layer: int) -> tuple[EmpiricalRisk, Parameters]:
    model = Gpt2(n_layer, 2, 4, n_positions=5, vocab_size=7)
    tokens = torch.randint(7, (3, 6), generator=torch.Generator().manual_seed(1))
    start = model.initial_parameters(torch.Generator().manual_seed(0), F64, torch.device("cpu"))
    parameters = {name: 5 * tensor for name, tensor in start.items()}
    data = Dataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return EmpiricalRisk(model, CrossEntropy(), data.split(2), weight_decay=DECAY), parameters


def _inside(whole: RiskOperator, block: RiskOperator, dense: Tensor) -> Tensor:
    numbers = whole.layout.unflatten(torch.arange(whole.dim))
    places = torch.cat([numbers[name].reshape(-1) for name in block.layout.names])
    return dense[places][:, places]


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_blocks_are_those_of_the_submatrix(kind: type[RiskOperator], seeded: Seeded) -> None:
    risk, parameters = _problem(n_layer=2)
    whole = kind(risk, parameters)
    dense = assemble(whole)
    for glob in GLOBS:
        block = kind(risk, parameters, block=glob)
        vectors = torch.randn(block.dim, 3, generator=seeded(2), dtype=F64)
        expected, scale = _inside(whole, block, dense) @ vectors, float(dense.abs().max())
        assert_close(block.matmat(vectors), expected, rtol=0, atol=1e-13 * scale)
        assert_close(block.matvec(vectors[:, 1]), expected[:, 1], rtol=0, atol=1e-13 * scale)
        assert block.fallback_reason is None
        backward = kind(risk, parameters, block=glob, fallback=Fallback("double-backward", "because"))
        assert_close(backward.matvec(vectors[:, 1]), expected[:, 1], rtol=0, atol=1e-13 * scale)


class _Tied(nn.Module):
    """Two layers with one weight, in front of one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.last(torch.tanh(self.second(torch.tanh(self.first(inputs)))))
        return hidden


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_an_uploaded_network_with_tied_weights(kind: type[RiskOperator], seeded: Seeded) -> None:
    inputs = torch.randn(5, 4, generator=seeded(0))
    model = exported(_Tied(), inputs)
    parameters = model.initial_parameters(seeded(1), F64, torch.device("cpu"))
    labels = torch.randint(3, (5,), generator=seeded(2))
    risk = EmpiricalRisk(model, CrossEntropy(), Dataset(inputs.to(F64), labels).split(2))
    whole = kind(risk, parameters)
    dense = assemble(whole)
    for glob in ("first.*", "second.*", "last.*"):
        block = kind(risk, parameters, block=glob)
        expected = _inside(whole, block, dense)
        assert_close(block.matmat(torch.eye(block.dim, dtype=F64)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_of_a_block_leaves_out_the_layers_before_it(kind: type[RiskOperator]) -> None:
    risk, parameters = _problem(n_layer=4)

    def num_matrix_products(glob: str) -> int:
        operator = kind(risk, parameters, block=glob)
        operator.matvec(torch.ones(operator.dim, dtype=F64))
        program = operator._recordings._programs[0, 1]
        assert isinstance(program, Program)
        return sum("mm" in str(node.target) for node in program.graph.graph.nodes)

    whole, *layers = (num_matrix_products(glob) for glob in ("*", *(f"blocks.{index}.*" for index in range(4))))
    assert layers == sorted(layers, reverse=True)
    assert sum(layers) < 0.7 * 4 * whole
    assert layers[3] < 0.3 * whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_states_the_measured_error_of_reduced_products(kind: type[RiskOperator]) -> None:
    risk, parameters = _problem(n_layer=1)
    narrow = {name: parameter.float() for name, parameter in parameters.items()}
    block = kind(risk, narrow, block="*weight", matmul_precision="bfloat16")
    vectors = torch.randn(block.dim, 40, generator=torch.Generator().manual_seed(3))
    exact = block.unreduced.matmat(vectors)
    deviation = float((block.matmat(vectors) - exact).norm() / exact.norm())
    assert block.precision_deviation == pytest.approx(deviation, rel=0.5)
    assert block.product_error > block.precision_deviation > 1e-4
    assert 0 < block.unreduced.product_error < 1e-4


def test_a_glob_that_matches_nothing() -> None:
    risk, parameters = _problem(n_layer=1)
    with pytest.raises(InvalidProblemError, match=r"no parameter matches 'heads\.\*'"):
        HessianOperator(risk, parameters, block="heads.*")
