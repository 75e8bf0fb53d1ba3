"""Products of reduced precision: off by what the precision promises, and by what is reported."""

from collections.abc import Callable

import pytest
import torch

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses.cross_entropy import CrossEntropy
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.operators.ggn import GgnOperator
from hessian_spectrum.curvature.operators.hessian import HessianOperator
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.risk import EmpiricalRisk
from hessian_spectrum.quadrature.errors import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
F32, F64 = torch.float32, torch.float64


def build(operator: type[RiskOperator], seeded: Seeded, dtype: torch.dtype, **options: object) -> RiskOperator:
    model = Gpt2(n_layer=1, n_head=2, n_embd=16, n_positions=8, vocab_size=40)
    inputs, targets = torch.randint(40, (2, 6, 8), generator=seeded(0))
    risk = EmpiricalRisk(model, CrossEntropy(), Dataset(inputs, targets).split(4))
    return operator(risk, model.initial_parameters(seeded(1), dtype, torch.device("cpu")), **options)


@pytest.mark.parametrize("operator", [HessianOperator, GgnOperator])
def test_bfloat16_products_deviate_as_reported(operator: type[RiskOperator], seeded: Seeded) -> None:
    exact, single = (build(operator, seeded, dtype) for dtype in (F64, F32))
    halved = build(operator, seeded, F32, matmul_precision="bfloat16")
    columns = torch.randn(exact.dim, 3, generator=seeded(2), dtype=F64)
    expected = exact.matmat(columns)
    found = halved.matmat(columns.float())
    assert found.dtype == F32
    deviation = float((found.double() - expected).norm() / expected.norm())
    rounding = float((single.matmat(columns.float()).double() - expected).norm() / expected.norm())
    assert rounding < 1e-5 < 1e-4 < deviation < 3e-2
    assert halved.precision_deviation == pytest.approx(deviation, rel=0.01)
    assert single.precision_deviation is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may have cores for it")
def test_without_tensor_cores_tf32_changes_nothing(seeded: Seeded) -> None:
    single, tf32 = build(HessianOperator, seeded, F32), build(HessianOperator, seeded, F32, matmul_precision="tf32")
    vector = torch.randn(single.dim, generator=seeded(3))
    before = torch.backends.cuda.matmul.fp32_precision
    assert torch.equal(tf32.matvec(vector), single.matvec(vector))
    assert tf32.precision_deviation == 0.0
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_double_precision_cannot_be_reduced(seeded: Seeded) -> None:
    with pytest.raises(InvalidProblemError, match="float32"):
        build(HessianOperator, seeded, F64, matmul_precision="bfloat16")
