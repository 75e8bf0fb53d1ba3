"""How programs run: in the precision of the job, without changes to stored numbers, with errors that name operators."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.models.program_run import _function
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.programs.operators import SIZE_OPERATORS, refusal
from hessian_spectrum.programs.program import ProgramError
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from tests.fixtures.exported import exported
from tests.fixtures.networks import build, sampled
from tests.fixtures.networks.catalog import Applied, parameter
from tests.fixtures.operators.expression import Apply, apply, model_of, w

CPU = torch.device("cpu")
F64 = torch.float64


class _Types(TorchDispatchMode):
    """The types of all floating-point and complex results, with the operators that returned them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[torch.dtype, set[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and (each.is_floating_point() or each.is_complex()):
                self.found.setdefault(each.dtype, set()).add(str(func))
        return result


def quietly(build_model: Callable[[], Exported]) -> Exported:
    """Export without the warnings of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_model()


@pytest.fixture(scope="module", params=sampled())
def network(request: pytest.FixtureRequest) -> tuple[Exported, nn.Module, Tensor]:
    built = build(request.param)
    return quietly(lambda: exported(built.module, built.inputs)), built.module, built.inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_value_has_the_precision_of_the_job(network: tuple[Exported, Any, Tensor], dtype: torch.dtype) -> None:
    """Whatever was baked into the graph: constants, factories, casts."""
    model, _, inputs = network
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    parameters = model.initial_parameters(torch.Generator(), dtype, CPU)
    model(parameters, inputs)  # constants are cast once
    with _Types() as types:
        model(parameters, inputs)
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    assert types.found.keys() <= {dtype, complex_dtype}, types.found


def test_a_single_sample(network: tuple[Exported, nn.Module, Tensor]) -> None:
    """Export says that a dynamic axis is at least 2 long; programs run on one sample as the module does."""
    model, module, inputs = network
    parameters = model.initial_parameters(torch.Generator(), torch.float32, CPU)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels that are slow
        expected = module(inputs[:1])
    outputs = model(parameters, inputs[:1])
    torch.testing.assert_close(outputs.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


class _Scaled(nn.Module):
    """A layer after something happened to its input, a buffer or a parameter."""

    def __init__(self, before: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))
        self._before = before

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self._before(self, x))


def _to_a_view_of_the_input(_: Any, x: Tensor) -> Tensor:
    x.view(-1)[0] = 5.0
    return x.relu_() + x


def _to_a_copy_of_a_buffer(net: Any, x: Tensor) -> Tensor:
    scale = net.scale.clone()
    scale[:2].mul_(2)
    return x * scale


def _to_a_constant_of_the_forward_pass(_: Any, x: Tensor) -> Tensor:
    steps = torch.tensor([1.0, 2.0, 3.0])
    steps += 1
    return x * steps


def _to_a_cast_input(_: Any, x: Tensor) -> Tensor:
    wide = x.to(torch.float64)
    wide[:, 0] = 3.0
    return (x + wide).to(torch.float32)


@pytest.mark.parametrize(
    "before",
    [_to_a_view_of_the_input, _to_a_copy_of_a_buffer, _to_a_constant_of_the_forward_pass, _to_a_cast_input],
)
def test_changes_in_place_leave_stored_numbers_alone(
    before: Callable[[Any, Tensor], Tensor], seeded: Callable[[int], torch.Generator]
) -> None:
    module = _Scaled(before).eval()
    x = torch.randn(4, 3, generator=seeded(0))
    model = quietly(lambda: exported(module, x.clone()))
    stored = {name: array.clone() for name, array in model.arrays.items()}
    parameters = model.initial_parameters(torch.Generator(), F64, CPU)
    inputs = x.double()
    with torch.no_grad():
        expected = module(x.clone())
    data = Dataset(inputs, torch.zeros(4, 2, dtype=F64))
    operator = HessianOperator(EmpiricalRisk(model, Mse(), [data]), parameters)
    vectors = torch.randn(operator.dim, 3, generator=seeded(1), dtype=F64)
    first = operator.matmat(vectors)
    for _ in range(2):
        torch.testing.assert_close(model(parameters, inputs).float(), expected)
    assert torch.equal(HessianOperator(EmpiricalRisk(model, Mse(), [data]), parameters).matmat(vectors), first)
    assert operator.fallback_reason is None
    assert torch.equal(inputs, x.double())
    assert all(torch.equal(array, stored[name]) for name, array in model.arrays.items())


def _to_a_buffer(net: Any, x: Tensor) -> Tensor:
    net.scale.mul_(2)
    return x * net.scale


def _to_a_view_of_a_buffer(net: Any, x: Tensor) -> Tensor:
    net.scale[:2] += 1
    return x * net.scale


def _to_a_parameter(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.layer.weight.t().clamp_(-1, 1)
    return x


def _to_parts_of_complex_numbers(_: Any, x: Tensor) -> Tensor:
    numbers = torch.complex(x, x)
    numbers.real.mul_(2)
    return numbers.abs()


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (_to_a_buffer, "scale"),
        (_to_a_view_of_a_buffer, "scale"),
        (_to_a_parameter, "layer.weight"),
        (_to_parts_of_complex_numbers, "clone"),
    ],
)
def test_changes_in_place_that_are_refused(before: Callable[[Any, Tensor], Tensor], reason: str) -> None:
    with pytest.raises((InvalidProblemError, ProgramError), match=f"(?s){reason}.*"):
        quietly(lambda: exported(_Scaled(before).eval(), torch.randn(4, 3)))


def _noisy(net: Any, x: Tensor) -> Tensor:
    return net.layer(x + torch.randn_like(x))


def _dropped(net: Any, x: Tensor) -> Tensor:
    return net.layer(torch.nn.functional.dropout(x, 0.5, training=True))


def _normalised(net: Any, x: Tensor) -> Tensor:
    return net.layer(torch.nn.functional.batch_norm(x, None, None, training=True))


def _multiplied_by_scatter(net: Any, x: Tensor) -> Tensor:
    index = torch.zeros(len(x), 3, dtype=torch.int64)
    return net.layer(torch.ones_like(x).scatter_reduce(1, index, x, "prod"))


def _by_complex_weights(net: Any, x: Tensor) -> Tensor:
    return net.layer((x * net.weights).real)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (_noisy, "draws random numbers"),
        (_dropped, "training mode: call eval"),
        (_normalised, "training mode: call eval"),
        (_multiplied_by_scatter, "second derivative of it is wrong"),
        (_by_complex_weights, "weights is complex"),
    ],
)
def test_modules_that_are_refused(forward: Callable[[Any, Tensor], Tensor], reason: str) -> None:
    weights = nn.Parameter(torch.ones(3, dtype=torch.complex64 if "complex" in reason else torch.float32))
    module = Applied(forward, layer=nn.Linear(3, 2), weights=weights)
    with pytest.raises(ProgramError, match=reason):
        quietly(lambda: exported(module, torch.randn(4, 3)))


def test_an_embedding_that_renormalises_its_rows_is_refused() -> None:
    module = Applied(lambda net, x: net.table(x).flatten(1), table=nn.Embedding(5, 2, max_norm=1.0))
    with pytest.raises(ProgramError, match=r"embedding_renorm_.* in table: it rewrites a parameter"):
        quietly(lambda: exported(module, torch.zeros(3, 2, dtype=torch.int64)))


@pytest.fixture
def rows_of_a_table() -> Exported:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.inner(net.table(x.clamp_min(0)).flatten(1))  # whose rows are not known from x

    module = Applied(forward, table=nn.Embedding(5, 2), inner=nn.Linear(4, 2))
    return quietly(lambda: exported(module.eval(), torch.zeros(3, 2, dtype=torch.int64)))


def test_an_error_names_the_operator_and_the_module(rows_of_a_table: Exported) -> None:
    tokens = torch.tensor([[0, 7], [1, 2]])
    risk = EmpiricalRisk(rows_of_a_table, Mse(), [Dataset(tokens, torch.zeros(2, 2, dtype=F64))])
    parameters = rows_of_a_table.initial_parameters(torch.Generator(), F64, CPU)
    with pytest.raises(InvalidProblemError, match=r"embedding.* of the module table fails: index out of range"):
        risk.value(parameters)
    with pytest.raises(InvalidProblemError, match=r"embedding.* of the module table fails: index out of range"):
        HessianOperator(risk, parameters).matvec(torch.ones(20, dtype=F64))


def test_too_little_memory_is_no_error_of_the_program(
    rows_of_a_table: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Iterator[Any]:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("hessian_spectrum.curvature.models.program_run._function", lambda _: fail)
    parameters = rows_of_a_table.initial_parameters(torch.Generator(), F64, CPU)
    with pytest.raises(RuntimeError, match="can't allocate"):
        rows_of_a_table(parameters, torch.tensor([[0, 1]]))


def values_of(sample: Apply) -> Tensor:
    model = model_of(sample)
    parameters = model.initial_parameters(torch.Generator(), F64, CPU)
    return model(parameters, torch.ones(2, 1, dtype=F64))


@pytest.mark.parametrize(
    "sample",
    [
        apply("cat", [w(1), apply("empty.memory_format", [1000])]),
        apply("cat", [w(1), apply("empty_strided", [1000], [1])]),
        apply("cat", [w(1), apply("new_empty", w(1), [1000])]),
        apply("cat", [w(1), apply("empty_like", torch.ones(1000, dtype=F64))]),
    ],
    ids=lambda sample: sample.args[0][1].op,
)
def test_memory_of_the_process_is_not_returned(sample: Apply) -> None:
    torch.full((1000,), 3.14, dtype=F64)  # what the next array of this size would find
    assert not values_of(sample)[0, -999:].any()


def test_statistics_of_another_length_are_refused() -> None:
    short = torch.ones(1, dtype=F64)
    program = model_of(apply("_native_batch_norm_legit_no_training", w(2, 1), short, short, short, short, 0.1, 1e-5))
    wide = replace(program, arrays={**program.arrays, "w0": torch.ones(2, 3, dtype=F64)})
    with pytest.raises(InvalidProblemError, match="running_mean"):
        wide({"w0": torch.ones(2, 3, dtype=F64)}, torch.ones(2, 1, dtype=F64))


def test_strides_of_a_view_follow_from_its_shape() -> None:
    """The strides lead 30 numbers beyond the end of the array."""
    model = model_of(apply("_reshape_alias", w(4), [2, 2], [2, 1]))
    calls = [
        replace(call, args=(*call.args[:2], [20, 10])) if "alias" in call.op else call for call in model.program.body
    ]
    hostile = replace(model, program=replace(model.program, body=tuple(calls)))
    values = torch.arange(4, dtype=F64)
    outputs = hostile({"w0": values}, torch.ones(2, 1, dtype=F64))
    assert torch.equal(outputs[0, 4:], values)


@pytest.mark.parametrize(
    ("op", "arguments", "reason"),
    [
        ("aten.scatter_reduce.two", {"reduce": "prod"}, "second derivative"),
        ("aten.scatter.value_reduce", {"reduce": "multiply"}, "second derivative"),
        ("aten.lstm.data", {"dropout": 0.0}, "packed"),
        ("aten.batch_norm.default", {"training": True}, "eval"),
        ("aten.instance_norm.default", {"use_input_stats": True, "running_mean": {"$": "mean"}}, "eval"),
        ("aten.dropout.default", {"p": 0.5, "train": True}, "eval"),
        ("aten.gru.input", {"dropout": 0.5, "train": True}, "eval"),
        ("aten.randn_like.default", {}, "random"),
        ("aten.embedding_renorm_.default", {}, "max_norm"),
        ("aten.bitwise_and.Tensor_out", {}, "not supported"),
        ("aten.from_file.default", {}, "not supported"),
    ],
)
def test_refused_calls(op: str, arguments: dict[str, Any], reason: str) -> None:
    assert reason in str(refusal(op, arguments))


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("aten.scatter_reduce.two", {"reduce": "amax"}),
        ("aten.batch_norm.default", {"training": False}),
        ("aten.instance_norm.default", {"use_input_stats": True, "running_mean": None}),
        ("aten.dropout.default", {"p": 0.0, "train": True}),
        ("aten.lstm.input", {"dropout": 0.5, "train": False}),
    ],
)
def test_allowed_calls(op: str, arguments: dict[str, Any]) -> None:
    assert refusal(op, arguments) is None


def test_arithmetic_on_lengths() -> None:
    """Every operator on lengths has a value on 7 and 2, or on 2.5."""
    two = {"add": 9, "sub": 5, "mul": 14, "floordiv": 3, "mod": 1, "pow": 49, "truediv": 3.5, "and_": 2, "or_": 7}
    two |= {"eq": False, "ne": True, "lt": False, "le": False, "gt": True, "ge": True}
    expected: dict[str, tuple[tuple[Any, ...], Any]] = {
        f"operator.{name}": ((7, 2), each) for name, each in two.items()
    }
    expected |= {"operator.neg": ((7,), -7), "operator.abs": ((-7,), 7), "sym_max": ((7, 2), 7), "sym_min": ((7, 2), 2)}
    expected |= {"sym_float": ((7,), 7.0), "sym_int": ((2.5,), 2), "sym_not": ((False,), True)}
    expected |= {"sym_ite": ((False, 7, 2), 2), "ceil": ((2.5,), 3), "floor": ((2.5,), 2), "trunc": ((2.5,), 2)}
    assert expected.keys() == SIZE_OPERATORS
    for op, (arguments, value) in expected.items():
        assert _function(op)(*arguments) == value, op


def test_lengths_of_arrays() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        scale = x.shape[0] * 0 + x.numel() // x.shape[0] + x.stride(0) + x.storage_offset()
        return net.weight * x.sum(-1, keepdim=True) / scale

    module = Applied(forward, weight=parameter(1, 2))
    model = quietly(lambda: exported(module.eval(), torch.randn(4, 3)))
    parameters = model.initial_parameters(torch.Generator(), torch.float32, CPU)
    x = torch.randn(3, 3)
    torch.testing.assert_close(model(parameters, x), module(x))


def test_regions_without_gradients_are_constants(seeded: Callable[[int], torch.Generator]) -> None:
    built = build("gate_without_gradient")
    model = quietly(lambda: exported(built.module, built.inputs))
    assert any(call.op == "no_grad" for call in model.program.calls())
    data = Dataset(built.inputs.double(), torch.zeros(4, 3, dtype=F64))
    parameters = model.initial_parameters(torch.Generator(), F64, CPU)
    operator = HessianOperator(EmpiricalRisk(model, Mse(), [data]), parameters)
    matrix = operator.matmat(torch.eye(operator.dim, dtype=F64))
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-13 * float(matrix.norm()))
