"""A worker runs no call of a program that names something else than an operator, or that reads memory of others."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.models.written_out import WRITTEN_OUT
from hessian_spectrum.programs.program import Call, Parameter, Program, Value
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

X, W, Y = {"$": "x"}, {"$": "w"}, {"$": "y"}


def model_of(op: str, *args: Any, **kwargs: Any) -> Exported:
    """A network x w with a further call."""
    calls = (
        Call("aten.mul.Tensor", (X, W), {}, ("y",)),
        Call(op, args, kwargs, ("more",)),
        Call("aten.add.Tensor", (Y, {"$": "more"}), {}, ("out",)),
    )
    value = Value("float32", (2, 1), (0,))
    weight = Parameter("w", Value("float32", (1,)), True, ("w",))
    values = {"out": value, "y": value, "more": value}
    program = Program("torch.export", (weight,), {}, {"x": value}, "out", calls, values)
    program.check()
    return Exported(program, {"w": torch.ones(1)})


def test_an_operator_is_run() -> None:
    model = model_of("aten.tanh.default", Y)
    x = torch.tensor([[1.0], [2.0]])
    assert torch.equal(model({"w": torch.ones(1)}, x), x + x.tanh())


@pytest.mark.parametrize(
    "op",
    [
        "aten.add.overloads",
        "aten.add.op",
        "aten.add.Nothing",
        "aten.tanh.schema",
    ],
)
def test_an_attribute_is_no_operator(op: str) -> None:
    with pytest.raises(InvalidProblemError, match="does not have"):
        model_of(op, Y)


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("aten.add.Tensor", (Y, Y, Y), "does not take"),
        ("aten.tanh.default", (Y, Y), "does not take"),
        ("aten.sum.IntList_out", (Y, [0], True), "not supported"),
        ("aten.dropout.default", (Y, 0.5, True), "training mode"),
        ("aten.batch_norm.default", (Y, None, None, None, None, True, 0.1, 1e-5, False), "training mode"),
    ],
    ids=["three-terms", "two-arguments", "out", "dropout", "batch-norm"],
)
def test_arguments_are_those_of_the_operator(op: str, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        model_of(op, *args)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("aten.empty.memory_format", ([2, 1],)),
        ("aten.empty_like.default", (Y,)),
        ("aten.new_empty.default", (Y, [2, 1])),
        ("aten.empty_strided.default", ([2, 1], [1, 1])),
    ],
)
def test_memory_without_values_is_zero(op: str, args: tuple[Any, ...]) -> None:
    """Memory that was freed holds what was computed before, of other jobs too."""
    model, x = model_of(op, *args), torch.tensor([[1.0], [2.0]])
    for _ in range(20):
        torch.full((2, 1), 7.0)
        assert torch.equal(model({"w": torch.ones(1)}, x), x)


def test_memory_without_values_has_no_gaps() -> None:
    """What lies in gaps would not be zero, and other strides would show it."""
    zeros = WRITTEN_OUT["aten.empty_strided"]([2, 1], [1000, 1], dtype=torch.float32)
    assert zeros.untyped_storage().nbytes() == 2 * 4


def test_a_copy_without_values_has_the_order_in_memory_that_is_asked_for() -> None:
    like, x = WRITTEN_OUT["aten.empty_like"], torch.ones(2, 3).T
    assert like(x).stride() == x.stride()
    assert like(x, memory_format=torch.contiguous_format).is_contiguous()


@pytest.mark.parametrize(
    ("op", "args"),
    [("aten.silu.default", (3,)), ("operator.floordiv", (1, 0)), ("aten.glu.default", (Y,)), ("aten.view.default", ())],
    ids=["number-for-an-array", "division-by-zero", "odd-halves", "no-arguments"],
)
def test_arguments_that_an_operator_does_not_take_are_a_problem_of_the_network(op: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidProblemError, match="fails"):
        model_of(op, *args)({"w": torch.ones(1)}, torch.ones(2, 1))


def test_an_array_whose_type_is_not_stated_is_a_problem_of_the_network() -> None:
    model = model_of("aten.ones.default", [2, 1])
    values = {name: value for name, value in model.program.values.items() if name != "more"}
    with pytest.raises(InvalidProblemError, match="fails"):
        replace(model, program=replace(model.program, values=values))({"w": torch.ones(1)}, torch.ones(2, 1))
