"""Every operator that programs may call: its first and second derivatives are those of its values."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.programs.operators import ATEN_OPERATORS, base_name
from tests.fixtures.operators import SAMPLES
from tests.fixtures.operators.expression import F64, NUM_SAMPLES, Apply, model_of, numbers, weight_values, weights_of

STEP = 1e-3
STEPS = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
"""Central difference of sixth order, for steps forwards."""

X = torch.tensor([[1.0], [-0.5]], dtype=F64)

TESTED_APART = {f"aten.sym_{name}" for name in ("size", "numel", "stride", "storage_offset")}


def operators_in(expression: object) -> Iterator[str]:
    if isinstance(expression, Apply):
        yield base_name(expression.op)
        yield from operators_in([*expression.args, *expression.kwargs.values()])
    elif isinstance(expression, (list, tuple)):
        for each in expression:
            yield from operators_in(each)


def test_every_operator_has_a_sample() -> None:
    assert set(operators_in(SAMPLES)) | TESTED_APART == ATEN_OPERATORS


@pytest.fixture
def strict() -> Iterator[None]:
    """Operators without a rule for vmap raise, where they are otherwise computed column by column with a warning."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)
    torch._C._functorch._set_vmap_fallback_enabled(True)


def differences(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Derivatives of a function of a vector (P,), by its entries (P, ...)."""
    rows = []
    for direction in torch.eye(len(point), dtype=F64) * STEP:
        terms = [c * (function(point + n * direction) - function(point - n * direction)) for n, c in STEPS.items()]
        rows.append(sum(terms[1:], terms[0]) / STEP)
    return torch.stack(rows)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.op.removeprefix("aten."))
@pytest.mark.usefixtures("strict")
def test_derivatives(sample: Apply) -> None:
    values = weight_values(sample)
    row = numbers(sample, values)
    targets = torch.sin(torch.arange(NUM_SAMPLES * len(row), dtype=F64)).reshape(NUM_SAMPLES, -1)
    model, loss = model_of(sample), Mse()
    risk = EmpiricalRisk(model, loss, [Dataset(X, targets)])
    layout = ParameterLayout.of(model.parameter_shapes)
    parameters = model.initial_parameters(torch.Generator(), F64, torch.device("cpu"))
    point = layout.flatten(parameters) if parameters else torch.zeros(0, dtype=F64)

    def value(at: Tensor) -> Tensor:
        weights = dict(zip(weights_of(sample), layout.unflatten(at).values(), strict=True))
        return loss.total(X * numbers(sample, weights), targets) / NUM_SAMPLES

    def gradient(at: Tensor) -> Tensor:
        return layout.flatten(risk.value_and_gradient(layout.unflatten(at))[1])

    torch.testing.assert_close(model(parameters, X), X * row, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(risk.value(parameters), value(point), rtol=1e-12, atol=1e-13)
    slopes = differences(value, point)
    torch.testing.assert_close(gradient(point), slopes, rtol=0, atol=1e-8 * float(slopes.norm()))
    operator = HessianOperator(risk, parameters)
    hessian = operator.matmat(torch.eye(len(point), dtype=F64))
    expected = differences(gradient, point)
    torch.testing.assert_close(hessian, expected, rtol=0, atol=1e-8 * float(expected.norm()))
    vector = torch.cos(torch.arange(len(point), dtype=F64))
    torch.testing.assert_close(
        HessianOperator(risk, parameters).matvec(vector), hessian @ vector, rtol=1e-10, atol=1e-11
    )
    assert operator.fallback_reason is None
