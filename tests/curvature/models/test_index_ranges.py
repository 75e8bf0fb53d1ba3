"""Tables into which inputs of programs are indices."""

import time
from typing import Any

from hessian_spectrum.programs.index_ranges import index_ranges
from hessian_spectrum.programs.program import Call, Parameter, Program, Region, Value

ROW = Value("float32", (1,))
INDICES = Value("int64", (3,), (0,))


def ref(name: str) -> dict[str, str]:
    return {"$": name}


def region(output: str, operands: tuple[str, ...], *calls: Call) -> Call:
    """A region without gradients, whose arguments are called as the operands, with a prefix."""
    inside = tuple(f"inner/{name}" for name in operands)
    returned = tuple(str(each.outputs[0]) for each in calls) or inside[:1]
    body = Region(inside, calls, returned).to_json()
    return Call("no_grad", ({"graph": body}, *map(ref, operands)), {}, (output,))


def program_of(*calls: Call, values: Any = ()) -> Program:
    table = Parameter("table.weight", Value("float32", (7, 2)), True, ("w",))
    return Program("torch.export", (table,), {}, {"x": INDICES}, "y", calls, dict(values))


def test_a_table_in_a_region_bounds_the_indices() -> None:
    looked_up = Call("aten.embedding.default", (ref("inner/w"), ref("inner/x")), {}, ("inner/y",))
    assert index_ranges(program_of(region("y", ("w", "x"), looked_up))) == {"x": 7}


def test_many_regions_beside_many_values_take_no_more_than_their_number() -> None:
    calls = [region(f"r{index}", ("x",)) for index in range(10_000)]
    program = program_of(*calls, values=((f"v{index}", ROW) for index in range(200_000)))
    started = time.process_time()
    assert index_ranges(program) == {}
    assert time.process_time() - started < 3  # 0.1 s; a copy of all values for each region takes 12 s
