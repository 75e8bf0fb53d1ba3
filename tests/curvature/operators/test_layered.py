"""Layer by layer is the same matrix as product by product."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import Triangle, assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.mlp import PARAMETRIZATIONS, Mlp
from hessian_spectrum.curvature.operators import layered
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.planning.activations import ACTIVATIONS
from hessian_spectrum.quadrature.exceptions import NonFiniteError

CPU = torch.device("cpu")
OPERATORS = [HessianOperator, GgnOperator, FunctionalOperator]


@dataclass(frozen=True)
class Case:
    """A risk, and where it is looked at."""

    model: Mlp
    loss: Loss
    dtype: torch.dtype
    num_samples: int
    batch_size: int

    def operator(self, kind: type[RiskOperator], block: str | None = None, scale: float = 1.0) -> RiskOperator:
        random = torch.Generator().manual_seed(0)
        parameters = self.model.initial_parameters(random, self.dtype, CPU)
        moved = {
            name: scale * each + 0.3 * torch.randn(each.shape, generator=random, dtype=torch.float64).to(self.dtype)
            for name, each in parameters.items()
        }
        inputs = torch.randn(self.num_samples, self.model.widths[0], generator=random, dtype=torch.float64)
        size = (self.num_samples, self.model.num_outputs)
        targets = torch.randn(size, generator=random, dtype=torch.float64)
        if isinstance(self.loss, CrossEntropy):
            targets = targets.argmax(1)
            targets[0] = -100
        data = Dataset(inputs, targets).to(self.dtype, CPU)
        return kind(EmpiricalRisk(self.model, self.loss, data.split(self.batch_size)), moved, block=block)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    model = Mlp(
        tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))),
        draw(st.sampled_from(sorted(ACTIVATIONS))),
        draw(st.booleans()),
        parametrization=draw(st.sampled_from(sorted(PARAMETRIZATIONS))),
    )
    loss = draw(st.sampled_from([Mse(), CrossEntropy()]))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    return Case(model, loss, dtype, draw(st.integers(2, 20)), draw(st.integers(1, 20)))


def deviation(operator: RiskOperator) -> float:
    """Of the dense matrix from products with the identity, relative to its largest entry."""
    found = assemble(operator)
    products = operator.matmat(torch.eye(operator.dim, dtype=operator.dtype)).double()
    assert torch.equal(found, found.T)
    return float((found - products).abs().max() / products.abs().max().clamp_min(1e-6))


ANY_CASE = given(
    cases(), st.sampled_from(OPERATORS), st.sampled_from([None, "*weight", "layers.0.*", "*.[1-9].*", "*bias"])
)


@settings(max_examples=20, deadline=None)
@ANY_CASE
def test_it_is_the_matrix_of_the_products(case: Case, kind: type[RiskOperator], block: str | None) -> None:
    check_assembly(case, kind, block)


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@ANY_CASE
def test_it_is_the_matrix_of_the_products_200_times(case: Case, kind: type[RiskOperator], block: str | None) -> None:
    check_assembly(case, kind, block)


def check_assembly(case: Case, kind: type[RiskOperator], block: str | None) -> None:
    names = case.model.parameter_shapes
    if block is not None and not any(layer in name for name in names for layer in _parts(block)):
        block = None
    assert deviation(case.operator(kind, block)) < 100 * torch.finfo(case.dtype).eps


def _parts(block: str) -> list[str]:
    return {"*.[1-9].*": [".1.", ".2.", ".3."]}.get(block, [block.strip("*")])


@pytest.mark.parametrize("kind", OPERATORS)
def test_neither_pieces_of_the_samples_nor_groups_of_units_change_it(
    kind: type[RiskOperator], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(Mlp((4, 6, 5, 3), "gelu"), CrossEntropy(), torch.float64, 23, 10)
    whole = assemble(case.operator(kind))
    monkeypatch.setattr(layered, "layered_samples", lambda *_: 4)
    monkeypatch.setattr(layered, "layered_units", lambda *_: 2)
    calls: list[tuple[int, int]] = []
    pieces = assemble(case.operator(kind), lambda _, done, total: calls.append((done, total)))
    assert float((pieces - whole).abs().max() / whole.abs().max()) < 1e-14
    assert calls == sorted(calls)
    assert calls[-1] == (len(whole), len(whole))


def test_it_is_used_where_products_are_not_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[object] = []
    real = layered.LayeredAssembly.fill

    def noted(self: layered.LayeredAssembly, triangle: Triangle) -> Iterator[None]:
        used.append(self)
        return real(self, triangle)

    monkeypatch.setattr(layered.LayeredAssembly, "fill", noted)
    operator = Case(Mlp((2, 3, 1)), Mse(), torch.float32, 5, 5).operator(HessianOperator)
    assemble(operator)
    assert len(used) == 1
    assemble(HessianOperator(operator._risk, operator._point, matmul_precision="bfloat16"))
    assert len(used) == 1


def test_what_is_not_finite_is_reported() -> None:
    case = Case(Mlp((2, 3, 1), "gelu"), Mse(), torch.float64, 5, 5)
    operator = case.operator(HessianOperator)
    for values in operator._point.values():
        values.fill_(1e200)
    with pytest.raises(NonFiniteError):
        assemble(operator)
