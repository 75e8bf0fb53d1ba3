"""What programs change in place: their inputs at most, through views and regions."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from hessian_spectrum.programs.mutations import changed_inputs
from hessian_spectrum.programs.program import Call, Parameter, Program, ProgramError, Region, Value

WEIGHT = Value("float32", (2,))
SAMPLES = Value("float32", (3, 2), (0,))


def ref(name: str) -> dict[str, str]:
    return {"$": name}


def call(op: str, output: str, *args: Any) -> Call:
    return Call(op, args, {}, (output,))


def program_of(calls: Sequence[Call], *, num_parameters: int = 1) -> Program:
    """A program of the inputs x and t, the parameters w0, w1 and so on, and the constant c."""
    parameters = tuple(Parameter(f"layer.{index}", WEIGHT, True, (f"w{index}",)) for index in range(num_parameters))
    output = str(calls[-1].outputs[0])
    values = {"c": WEIGHT, output: SAMPLES}
    inputs = {"x": SAMPLES, "t": SAMPLES}
    return Program("torch.export", parameters, {"c": "buffer"}, inputs, output, tuple(calls), values)


def in_region(op: str, output: str, operand: str, *calls: Call) -> Call:
    region = Region(inputs=("region/in",), calls=calls, outputs=(str(calls[-1].outputs[0]),))
    return Call(op, ({"graph": region.to_json()}, ref(operand)), {}, (output,))


RELU = "aten.relu_.default"
TRANSPOSED = call("aten.t.default", "region/v", ref("region/in"))


@pytest.mark.parametrize(
    ("calls", "changed"),
    [
        ([call(RELU, "y", ref("x"))], {"x"}),
        ([call("aten.view.default", "v", ref("t"), [6]), call(RELU, "y", ref("v"))], {"t"}),
        ([call("aten.einsum.default", "v", [ref("x"), ref("t")]), call(RELU, "y", ref("v"))], {"x", "t"}),
        ([call("aten.mul.Tensor", "v", ref("x"), ref("w0")), call(RELU, "y", ref("v"))], set()),
        ([call(RELU, "v", ref("x")), call(RELU, "y", ref("v"))], {"x"}),
        ([in_region("inline", "y", "x", call(RELU, "region/y", ref("region/in")))], {"x"}),
        ([in_region("inline", "v", "x", TRANSPOSED), call(RELU, "y", ref("v"))], {"x"}),
        ([call("aten.einsum.default", "v", [ref("x"), ref("w0")]), call(RELU, "y", ref("x"))], {"x"}),
    ],
    ids=["input", "view", "product-of-two", "result", "twice", "region", "result-of-a-region", "beside-a-parameter"],
)
def test_inputs_that_are_changed(calls: list[Call], changed: set[str]) -> None:
    assert changed_inputs(program_of(calls)) == changed


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([call("aten.t.default", "v", ref("w0")), call(RELU, "y", ref("v"))], "changes its parameter layer.0 in place"),
        ([call(RELU, "y", ref("c"))], "changes its buffer or constant buffer in place"),
        ([in_region("no_grad", "y", "w0", call(RELU, "region/y", ref("region/in")))], "its parameter layer.0"),
        (
            [call("aten.real.default", "v", ref("x")), call(RELU, "y", ref("v"))],
            "the result of aten.real in place: copy",
        ),
        ([call(RELU, "y")], "no argument that it could change"),
    ],
    ids=["view-of-a-parameter", "constant", "parameter-in-a-region", "view-that-is-a-copy", "nothing"],
)
def test_other_changes_are_refused(calls: list[Call], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        changed_inputs(program_of(calls))


def test_long_chains_of_views_of_many_parameters_take_no_more_than_their_length() -> None:
    num_parameters, num_views = 10_000, 20_000
    calls = [call("aten.einsum.default", "v0", [ref(f"w{index}") for index in range(num_parameters)])]
    calls += [call("aten.view.default", f"v{index + 1}", ref(f"v{index}"), [2]) for index in range(num_views)]
    calls.append(call(RELU, "y", ref("x")))
    program = program_of(calls, num_parameters=num_parameters)
    started = time.process_time()
    assert changed_inputs(program) == {"x"}
    assert time.process_time() - started < 1.5  # 0.1 s
