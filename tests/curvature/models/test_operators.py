"""Every operator that programs may call: its first and second derivatives are those of its values."""

import inspect
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.models.written_out import WRITTEN_OUT
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.programs.mutations import changes_in_place
from hessian_spectrum.programs.operators import ATEN_OPERATORS, base_name, refusal
from tests.fixtures.operators import SAMPLES
from tests.fixtures.operators.expression import F64, NUM_SAMPLES, Apply, model_of, numbers, weight_values, weights_of

STEP = 1e-3
STEPS = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
"""Central difference of sixth order, for steps forwards."""

X = torch.tensor([[1.0], [-0.5]], dtype=F64)

TESTED_APART = {f"aten.sym_{name}" for name in ("size", "numel", "stride", "storage_offset")}


def operators_in(expression: object) -> Iterator[str]:
    if isinstance(expression, Apply):
        yield expression.op
        yield from operators_in([*expression.args, *expression.kwargs.values()])
    elif isinstance(expression, (list, tuple)):
        for each in expression:
            yield from operators_in(each)


def test_every_operator_has_a_sample() -> None:
    calls = set(operators_in(SAMPLES))
    assert {base_name(op) for op in calls} | TESTED_APART == ATEN_OPERATORS
    assert not {op for op in calls if refusal(op, {}) is not None}


@pytest.fixture
def strict() -> Iterator[None]:
    """Operators without a rule for vmap raise, where they are otherwise computed column by column with a warning."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)
    torch._C._functorch._set_vmap_fallback_enabled(True)


def differences(function: Callable[[Tensor], Tensor], point: Tensor, directions: Tensor) -> Tensor:
    """Derivatives of a function of a vector (P,) along directions (k, P), as rows (k, ...)."""
    rows = []
    for direction in directions * STEP:
        terms = [c * (function(point + n * direction) - function(point - n * direction)) for n, c in STEPS.items()]
        rows.append(sum(terms[1:], terms[0]) / STEP)
    return torch.stack(rows)


def unit_directions(dim: int) -> Tensor:
    """Two random directions (2, P) of length 1: a wrong entry anywhere changes the derivatives along both."""
    directions = torch.randn(2, dim, generator=torch.Generator().manual_seed(0), dtype=F64)
    return directions / directions.norm(dim=1, keepdim=True).clamp_min(torch.finfo(F64).tiny)


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
    directions = unit_directions(len(point))
    slope, slopes = gradient(point), differences(value, point, directions)
    torch.testing.assert_close(directions @ slope, slopes, rtol=0, atol=1e-8 * float(slope.norm()))
    operator = HessianOperator(risk, parameters)
    hessian = operator.matmat(torch.eye(len(point), dtype=F64))
    scale = float(hessian.norm())
    torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-12 * scale)
    expected = differences(gradient, point, directions)
    torch.testing.assert_close(directions @ hessian, expected, rtol=0, atol=1e-8 * scale)
    assert operator.fallback_reason is None


@pytest.mark.parametrize(
    "sample",
    [pytest.param(each, marks=[pytest.mark.long] if index % 8 else []) for index, each in enumerate(SAMPLES)],
    ids=lambda sample: sample.op.removeprefix("aten."),
)
@pytest.mark.usefixtures("strict")
def test_one_column_is_that_of_the_matrix(sample: Apply) -> None:
    """A single vector has a recording of its own, without vmap."""
    model = model_of(sample)
    parameters = model.initial_parameters(torch.Generator(), F64, torch.device("cpu"))
    targets = torch.sin(torch.arange(NUM_SAMPLES * model(parameters, X).shape[1], dtype=F64)).reshape(NUM_SAMPLES, -1)
    risk = EmpiricalRisk(model, Mse(), [Dataset(X, targets)])
    operator = HessianOperator(risk, parameters)
    vector = torch.cos(torch.arange(operator.dim, dtype=F64))
    product = HessianOperator(risk, parameters).matvec(vector)
    hessian = operator.matmat(torch.eye(operator.dim, dtype=F64))
    torch.testing.assert_close(product, hessian @ vector, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.op.removeprefix("aten."))
def test_values_in_float32(sample: Apply) -> None:
    model = model_of(sample)
    row = numbers(sample, weight_values(sample))
    outputs = model(model.initial_parameters(torch.Generator(), torch.float32, torch.device("cpu")), X.float())
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs.double(), X * row, rtol=1e-4, atol=1e-4 * float(row.abs().max()))


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_written_out_operators_take_the_arguments_of_every_overload(name: str) -> None:
    packet = getattr(torch.ops.aten, name.removeprefix("aten."))
    overloads = [getattr(packet, each) for each in packet.overloads() if refusal(f"{name}.{each}", {}) is None]
    assert overloads
    for overload in overloads:
        arguments = overload._schema.arguments
        named = {each.name: None for each in arguments if each.kwarg_only}
        inspect.signature(WRITTEN_OUT[name]).bind(*(None for each in arguments if not each.kwarg_only), **named)


@pytest.mark.parametrize("name", sorted(ATEN_OPERATORS))
def test_allowed_overloads_write_into_their_first_argument_at_most(name: str) -> None:
    packet = getattr(torch.ops.aten, name.removeprefix("aten."))
    for overload in packet.overloads():
        op = f"{name}.{overload}"
        if refusal(op, {}) is None:
            arguments = getattr(packet, overload)._schema.arguments
            written = [index for index, each in enumerate(arguments) if each.alias_info and each.alias_info.is_write]
            assert written == ([0] if changes_in_place(op) else []), op
