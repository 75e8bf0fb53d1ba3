"""Matrix products in less than float32, with vectors and sums in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, fx

from hessian_spectrum.curvature.operators.graph_module import graph_module
from hessian_spectrum.curvature.operators.graph_passes import remove_dead_code
from hessian_spectrum.curvature.operators.recording import Program

MatmulPrecision = Literal["tf32", "bfloat16"]

aten = torch.ops.aten
_PLAIN: dict[Any, Any] = {aten.addmm_.default: aten.mm.default, aten.baddbmm_.default: aten.bmm.default}


def reduced(program: Program, precision: MatmulPrecision | None) -> Program:
    """The float32 program with its matrix products in `precision`, to be run under `matmuls_in` it.

    tf32 rounds factors to 10 bits in tensor cores and sums in float32; without tensor cores it changes nothing.
    bfloat16 rounds factors and products to 8 bits; constants that the program uses only in matrix products are stored
    rounded.

    Args:
        program: Recorded map in float32.
        precision: Precision of the matrix products; None leaves the program unchanged.

    Returns:
        The program.
    """
    return _in_bfloat16(program) if precision == "bfloat16" else program


@contextmanager
def matmuls_in(precision: MatmulPrecision | None) -> Iterator[None]:
    """Context in which tensor cores may use float32 factors as tf32, if `precision` says so."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def _in_bfloat16(program: Program) -> Program:
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph.graph, {}))
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    values = dict(zip(placeholders[1:], program.constants, strict=True))
    for node in list(graph.nodes):
        if node.target in (*_PLAIN, *_PLAIN.values()):
            _round_product(graph, node, values)
    remove_dead_code(graph)
    for node in list(values):
        if not node.users:
            graph.erase_node(node)
            del values[node]
    module = graph_module(graph)
    order = [node for node in module.graph.nodes if node.op == "placeholder"][1:]
    by_name = {node.name: value for node, value in values.items()}
    return Program(module, tuple(by_name[node.name] for node in order))


def _round_product(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, Tensor]) -> None:
    """Product a b, or c + a b in place, with a and b as bfloat16; the result, and the sum, are float32."""
    arguments: Any = node.args
    factors = [_rounded(graph, node, factor, values) for factor in arguments[-2:]]
    with graph.inserting_before(node):
        product = graph.call_function(_PLAIN.get(node.target, node.target), tuple(factors))
        result = graph.call_function(aten._to_copy.default, (product,), {"dtype": torch.float32})
        if node.target in _PLAIN:
            result = graph.call_function(aten.add_.Tensor, (arguments[0], result))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _rounded(graph: fx.Graph, node: fx.Node, factor: fx.Node, values: dict[fx.Node, Tensor]) -> fx.Node:
    if factor not in values:
        with graph.inserting_before(node):
            return graph.call_function(aten._to_copy.default, (factor,), {"dtype": torch.bfloat16})
    rounded = next((user for user in values if user.meta.get("rounds") is factor), None)
    if rounded is None:
        with graph.inserting_after(factor):
            rounded = graph.placeholder(f"{factor.name}_rounded")
        rounded.meta["rounds"] = factor
        values[rounded] = values[factor].to(torch.bfloat16)
    return rounded
