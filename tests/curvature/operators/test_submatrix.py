"""Submatrices against the whole matrix and against operators of the block alone."""

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from curvature.data.base import Dataset
from curvature.errors import InvalidProblemError
from curvature.losses.cross_entropy import CrossEntropy
from curvature.models.gpt2 import Gpt2
from curvature.operators.dense import assemble
from curvature.operators.functional import FunctionalOperator
from curvature.operators.ggn import GgnOperator
from curvature.operators.hessian import HessianOperator
from curvature.operators.risk_operator import RiskOperator
from curvature.operators.submatrix import Submatrix
from curvature.risk import EmpiricalRisk

Seeded = Callable[[int], torch.Generator]
F64 = torch.float64


@pytest.mark.parametrize("kind", [HessianOperator, GgnOperator, FunctionalOperator])
@pytest.mark.parametrize("block", ["blocks.*.attn.*", "blocks.1.*", "*.bias", None])
def test_blocks_share_one_linearisation(kind: type[RiskOperator], block: str | None, seeded: Seeded) -> None:
    model = Gpt2(2, 2, 4, 5, 7)
    parameters = {n: 5 * t for n, t in model.initial_parameters(seeded(0), F64, torch.device("cpu")).items()}
    tokens = torch.randint(7, (3, 6), generator=seeded(1))
    data = Dataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    risk = EmpiricalRisk(model, CrossEntropy(), data.split(2))
    whole = kind(risk, parameters)
    part, alone = Submatrix(whole, block), kind(risk, parameters, block)
    assert part.layout == alone.layout
    vectors = torch.randn(part.dim, 3, generator=seeded(2), dtype=F64)
    expected = alone.matmat(vectors)
    scale = float(expected.abs().max())
    assert_close(part.matmat(vectors), expected, rtol=0, atol=1e-13 * scale)
    assert_close(part.matvec(vectors[:, 1]), expected[:, 1], rtol=0, atol=1e-13 * scale)
    held = set(whole._programs)
    assert held == {(0, 3), (1, 3), (0, 1), (1, 1)}  # two micro-batches, by number of columns
    Submatrix(whole, "wte.*").matmat(torch.randn(28, 3, generator=seeded(3), dtype=F64))
    assert set(whole._programs) == held
    dense, places = assemble(whole), _places(whole, part)
    assert_close(assemble(part), dense[places][:, places], rtol=0, atol=1e-13 * float(dense.abs().max()))


def _places(whole: RiskOperator, part: Submatrix) -> torch.Tensor:
    numbers = whole.layout.unflatten(torch.arange(whole.dim))
    return torch.cat([numbers[name].reshape(-1) for name in part.layout.names])


def test_a_glob_that_matches_nothing(seeded: Seeded) -> None:
    model = Gpt2(1, 1, 4, 5, 7)
    parameters = model.initial_parameters(seeded(0), F64, torch.device("cpu"))
    tokens = torch.randint(7, (2, 5), generator=seeded(1))
    whole = HessianOperator(EmpiricalRisk(model, CrossEntropy(), [Dataset(tokens, tokens)]), parameters, "blocks.*")
    with pytest.raises(InvalidProblemError, match=r"no parameter matches 'wte\.\*'"):
        Submatrix(whole, "wte.*")
