"""The tables into which the inputs of a program are indices: an index beyond the last row is found before a run."""

from collections import ChainMap
from collections.abc import Mapping, Sequence

from hessian_spectrum.programs.operators import base_name
from hessian_spectrum.programs.program import Argument, Call, Program

_SAME_NUMBERS = frozenset(
    {
        "aten._to_copy",
        "aten.alias",
        "aten.clone",
        "aten.contiguous",
        "aten.detach",
        "aten.expand",
        "aten.expand_as",
        "aten.flatten",
        "aten.movedim",
        "aten.narrow",
        "aten.permute",
        "aten.reshape",
        "aten.select",
        "aten.slice",
        "aten.squeeze",
        "aten.t",
        "aten.to",
        "aten.transpose",
        "aten.unflatten",
        "aten.unsqueeze",
        "aten.view",
        "aten.view_as",
    }
)
"""Operators whose results hold no other numbers than their first argument."""

_TABLES = frozenset({"aten.embedding", "aten.embedding_bag"})
"""Operators that take a table and indices of its rows."""


def index_ranges(program: Program) -> dict[str, int]:
    """Return the number of rows of the smallest table that is indexed by each input, by name; others are left out.

    Only indices that reach the table unchanged are found.

    Args:
        program: The graph.

    Returns:
        The number of rows for each input that is an index.
    """
    rows = {alias: each.value.shape[0] for each in program.parameters for alias in each.aliases if each.value.shape}
    rows |= {name: value.shape[0] for name, value in program.values.items() if value.shape and name not in rows}
    found: dict[str, int] = {}
    _follow(program.body, {name: name for name in program.inputs}, ChainMap(rows), found=found)
    return found


def _follow(calls: Sequence[Call], origins: dict[str, str], rows: ChainMap[str, int], *, found: dict[str, int]) -> None:
    """Follow values that hold numbers of an input alone, named in `origins`, through calls and their regions."""
    for call in calls:
        for region in call.regions:
            outside = dict(zip(region.inputs, call.args[1:], strict=False))
            inside = {name: origins[_name(each)] for name, each in outside.items() if _name(each) in origins}
            tables = {name: rows[_name(each)] for name, each in outside.items() if _name(each) in rows}
            _follow(region.calls, inside, rows.new_child(tables), found=found)  # no copy: there may be many regions
        name = base_name(call.op)
        if name in _TABLES:
            _note(call, origins, rows, found=found)
        elif name in _SAME_NUMBERS and call.args and _name(call.args[0]) in origins:
            origins |= {output: origins[_name(call.args[0])] for output in call.outputs[:1] if output is not None}


def _note(call: Call, origins: Mapping[str, str], rows: Mapping[str, int], *, found: dict[str, int]) -> None:
    arguments = [*call.args, *call.kwargs.values()]
    if len(arguments) < 2:
        return
    table, origin = _name(arguments[0]), origins.get(_name(arguments[1]))
    if origin is not None and table in rows:
        found[origin] = min(rows[table], found.get(origin, rows[table]))


def _name(argument: Argument) -> str:
    """Return the name of the value that an argument refers to; empty if it refers to none."""
    return str(argument["$"]) if isinstance(argument, dict) and "$" in argument else ""
