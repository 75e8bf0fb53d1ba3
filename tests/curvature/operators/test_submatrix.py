"""Submatrices against the whole matrix and against operators of the block alone."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.operators.submatrix import Submatrix
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
F64 = torch.float64


@dataclass(frozen=True)
class Whole:
    """An operator of all parameters, its matrix from another such operator, and what it was made of."""

    operator: RiskOperator
    dense: torch.Tensor
    risk: EmpiricalRisk
    parameters: Parameters


@pytest.mark.parametrize("kind", [HessianOperator, GgnOperator, FunctionalOperator])
def test_a_block_states_the_measured_error_of_reduced_products(kind: type[RiskOperator]) -> None:
    risk, parameters = _problem(n_layer=1)
    narrow = {name: parameter.float() for name, parameter in parameters.items()}
    operator = kind(risk, narrow, matmul_precision="bfloat16")
    block = Submatrix(operator, "*weight")
    stated = block.product_error
    vectors = torch.randn(block.dim, 40, generator=torch.Generator().manual_seed(3))
    exact = block.unreduced.matmat(vectors)
    deviation = float((block.matmat(vectors) - exact).norm() / exact.norm())
    assert block.precision_deviation == pytest.approx(deviation, rel=0.5)
    assert stated > block.precision_deviation > 1e-4
    assert 0 < block.unreduced.product_error < 1e-4


@pytest.fixture(scope="module", params=[HessianOperator, GgnOperator, FunctionalOperator])
def whole(request: pytest.FixtureRequest) -> Whole:
    kind, (risk, parameters) = request.param, _problem(n_layer=2)
    return Whole(kind(risk, parameters), assemble(kind(risk, parameters)), risk, parameters)


def _problem(n_layer: int) -> tuple[EmpiricalRisk, Parameters]:
    model = Gpt2(n_layer, 2, 4, n_positions=5, vocab_size=7)
    tokens = torch.randint(7, (3, 6), generator=torch.Generator().manual_seed(1))
    start = model.initial_parameters(torch.Generator().manual_seed(0), F64, torch.device("cpu"))
    parameters = {name: 5 * tensor for name, tensor in start.items()}
    data = Dataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return EmpiricalRisk(model, CrossEntropy(), data.split(2)), parameters


@pytest.mark.parametrize("block", ["blocks.*.attn.*", "blocks.1.*", "*.bias", None])
def test_blocks_share_one_linearisation(whole: Whole, block: str | None, seeded: Seeded) -> None:
    part = Submatrix(whole.operator, block)
    vectors = torch.randn(part.dim, 3, generator=seeded(2), dtype=F64)
    places, scale = _places(whole.operator, part), float(whole.dense.abs().max())
    expected = whole.dense[places][:, places] @ vectors
    assert_close(part.matmat(vectors), expected, rtol=0, atol=1e-13 * scale)
    assert_close(part.matvec(vectors[:, 1]), expected[:, 1], rtol=0, atol=1e-13 * scale)
    # two micro-batches, by number of columns
    assert set(whole.operator._recordings._programs) == {(0, 3), (1, 3), (0, 1), (1, 1)}


def test_a_submatrix_is_the_operator_of_its_block_alone(whole: Whole, seeded: Seeded) -> None:
    block = "blocks.*.attn.*"
    part = Submatrix(whole.operator, block)
    alone = type(whole.operator)(whole.risk, whole.parameters, block=block)
    assert part.layout == alone.layout
    vectors = torch.randn(part.dim, 3, generator=seeded(3), dtype=F64)
    expected = alone.matmat(vectors)
    assert_close(part.matmat(vectors), expected, rtol=0, atol=1e-13 * float(expected.abs().max()))


def _places(whole: RiskOperator, part: Submatrix) -> torch.Tensor:
    numbers = whole.layout.unflatten(torch.arange(whole.dim))
    return torch.cat([numbers[name].reshape(-1) for name in part.layout.names])


def test_a_glob_that_matches_nothing(seeded: Seeded) -> None:
    model = Gpt2(1, 1, 4, n_positions=5, vocab_size=7)
    parameters = model.initial_parameters(seeded(0), F64, torch.device("cpu"))
    tokens = torch.randint(7, (2, 5), generator=seeded(1))
    whole = HessianOperator(
        EmpiricalRisk(model, CrossEntropy(), [Dataset(tokens, tokens)]), parameters, block="blocks.*"
    )
    with pytest.raises(InvalidProblemError, match=r"no parameter matches 'wte\.\*'"):
        Submatrix(whole, "wte.*")
