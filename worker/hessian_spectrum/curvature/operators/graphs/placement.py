"""Graphs that are interpreted with fewer tensors: sums overwrite operands, parts are written into the result."""

from typing import Any, cast

import torch
from torch import fx

from hessian_spectrum.curvature.operators.graphs.nodes import (
    graph_module,
    is_mutation,
    layout_of,
    like,
    may_be_view,
    remove_dead_code,
    shape_of,
)
from hessian_spectrum.curvature.operators.graphs.sums import ACCUMULATING

aten = torch.ops.aten

_OVERWRITING: dict[Any, Any] = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.addcmul.default: aten.addcmul_.default,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}

_WITH_TARGET: dict[Any, Any] = {aten.mm.default: aten.mm.out, aten.bmm.default: aten.bmm.out}

_COMMUTATIVE = (aten.add.Tensor, aten.mul.Tensor)

_SHARING = (
    *_OVERWRITING.values(),
    *ACCUMULATING.values(),
    aten.reshape.default,
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
)
"""Operations whose results share the memory of their first argument, each entry at most once."""


def in_place(module: fx.GraphModule) -> fx.GraphModule:
    """Return the same map with fewer tensors: sums overwrite operands, and parts are written directly into the result.

    Meant for graphs that are interpreted; compilers do this themselves. Only operands that are not read again are
    overwritten.

    Args:
        module: Graph to rewrite.

    Returns:
        The rewritten graph.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    if any(is_mutation(node) and node.target not in ACCUMULATING.values() for node in graph.nodes):
        return module
    _overwrite_operands(graph)
    _assemble_in_place(graph)
    return graph_module(graph)


def _overwrite_operands(graph: fx.Graph) -> None:
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.target not in _OVERWRITING or (node.kwargs and node.target != aten.addcmul.default):
            continue
        candidates = node.args[:2] if node.target in _COMMUTATIVE else node.args[:1]
        operand = next((each for each in candidates if _may_be_overwritten(each, node, position)), None)
        if operand is None:
            continue
        if operand is not node.args[0]:
            node.args = node.args[::-1]
        node.target = _OVERWRITING[node.target]
        if node.target == aten.threshold_backward.grad_input:
            node.kwargs = {"grad_input": operand}


def _may_be_overwritten(operand: object, node: fx.Node, position: dict[fx.Node, int]) -> bool:
    """Return whether the operand is a result of the same shape and type that no other node reads later."""
    return (
        isinstance(operand, fx.Node)
        and node.args.count(operand) == 1
        and layout_of(operand) is not None
        and like(operand, node)
        and _is_read_last(operand, node, position)
    )


def _is_read_last(operand: fx.Node, node: fx.Node, position: dict[fx.Node, int]) -> bool:
    """Return whether nothing reads the operand's memory after the node, neither directly nor through a view."""
    reader = node
    while operand.op == "call_function":
        others = set(operand.users) - {reader}  # the node itself among them, where it reads a view and what it views
        if any(position[user] >= position[node] or may_be_view(user) for user in others):
            return False
        if not may_be_view(operand):
            return True
        source = operand.args[0]
        if operand.target not in _SHARING or not isinstance(source, fx.Node):
            return False
        reader, operand = operand, source
    return False


def _assemble_in_place(graph: fx.Graph) -> None:
    """Write each part of an assembled result into it as soon as it is available.

    Otherwise all parts are in memory besides the result, which is half of the memory of the products of a large model.

    Args:
        graph: Graph to rewrite in place.
    """
    (joined,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
    while isinstance(joined, fx.Node) and joined.target in (aten.unsqueeze.default, aten.reshape.default):
        joined = joined.args[0]
    if not isinstance(joined, fx.Node) or joined.target != aten.cat.default or layout_of(joined) is None:
        return
    parts, axis = cast(tuple[list[Any], int], (*joined.args, 0)[:2])
    if len(set(parts)) < len(parts) or any(part.op == "placeholder" for part in parts):
        return
    shape, _, dtype = joined.meta["layout"]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(inputs[-1]):
        whole = graph.call_function(aten.new_empty.default, (inputs[0], list(shape)), {"dtype": dtype})
    start = 0
    for part in parts:
        stop = start + shape_of(part)[axis]
        _write(graph, part, (whole, axis, start, stop))
        start = stop
    joined.replace_all_uses_with(whole)
    graph.erase_node(joined)
    remove_dead_code(graph)


def _write(graph: fx.Graph, part: fx.Node, span: tuple[Any, ...]) -> None:
    """Let a matrix product write into its slice of the result; copy any other part there as soon as it is computed."""
    source: Any = part
    while source.target in (aten.reshape.default, aten.unsqueeze.default) and source.args[0].op != "placeholder":
        source = source.args[0]
    product = _first_product(source)
    if product is not None:
        with graph.inserting_before(product):
            target = graph.call_function(aten.slice.Tensor, span)
            shaped = graph.call_function(aten.reshape.default, (target, list(shape_of(product))))
        product.target, product.kwargs = _WITH_TARGET[product.target], {"out": shaped}
        return
    with graph.inserting_after(source):
        target = graph.call_function(aten.slice.Tensor, span)
    with graph.inserting_after(target):
        shaped = graph.call_function(aten.reshape.default, (source, list(shape_of(part))))
    with graph.inserting_after(shaped):
        graph.call_function(aten.copy_.default, (target, shaped))


def _first_product(node: fx.Node) -> fx.Node | None:
    """Return the first of the products that accumulate in place to the node's result, if nothing else reads them."""
    while len(node.users) == 1 and node.target not in _WITH_TARGET:
        if node.target not in ACCUMULATING.values() and node.target != aten.reshape.default:
            return None
        node = cast(fx.Node, node.args[0])
    return node if len(node.users) == 1 and layout_of(node) is not None else None
