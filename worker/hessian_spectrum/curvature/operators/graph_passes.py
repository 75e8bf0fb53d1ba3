"""Simpler graphs for recorded linear maps: constants are multiplied in advance, sums become part of products."""

import linecache
from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.graph_module import _loader

aten = torch.ops.aten

Factor: TypeAlias = Tensor | float

# backward(g, x) = g * coefficient(x): the coefficient is the same for every argument of the map
_POINTWISE_BACKWARDS = (
    aten.gelu_backward.default,
    aten.tanh_backward.default,
    aten.sigmoid_backward.default,
)

_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar)

_QUOTIENTS = (aten.div.Tensor, aten.div.Scalar)

_SCALINGS = (*_PRODUCTS, *_QUOTIENTS, *_POINTWISE_BACKWARDS)

_COPIES = (aten._to_copy.default, aten.clone.default, aten.expand.default, aten.view.default, aten._unsafe_view.default)

_VIEWS = (aten.view.default, aten._unsafe_view.default)

_OVERWRITING: dict[Any, Any] = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
}

_ACCUMULATING: dict[Any, Any] = {aten.mm.default: aten.addmm_.default, aten.bmm.default: aten.baddbmm_.default}


def graph_module(graph: fx.Graph) -> fx.GraphModule:
    """Return a module of this graph, without parameters.

    torch keeps the source of every module for tracebacks, about six kilobytes, as long as the process lives, and a
    worker creates several modules for each job.

    Args:
        graph: Graph to run.

    Returns:
        The module, whose source is not retained.
    """
    module = fx.GraphModule({}, graph)
    source = type(module).forward.__code__.co_filename
    _loader.eval_cache.pop(source, None)
    linecache.cache.pop(source, None)
    return module


def simplify(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Rewrite in place to a map that is equal up to the order of roundings; adds the constants that it multiplies."""
    _skip_copies(graph)
    _avoid_mutations(graph)
    if any(is_mutation(node) for node in graph.nodes):
        _reshape_views(graph)
        return  # their order must not change
    _remove_identities(graph, constants)
    _Scalings(graph, constants).fold()
    remove_dead_code(graph)
    _bring_products_together(graph)
    _accumulate_products(graph)
    _accumulate_scalings(graph)
    _reshape_views(graph)


def _reshape_views(graph: fx.Graph) -> None:
    """Turn views into reshapes, as the strides of their arguments may differ from the recorded ones."""
    for node in graph.nodes:
        if node.target in _VIEWS:
            node.target = aten.reshape.default


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
    if any(is_mutation(node) and node.target not in _ACCUMULATING.values() for node in graph.nodes):
        return module
    _overwrite_operands(graph)
    _assemble_in_place(graph)
    return graph_module(graph)


def _overwrite_operands(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.target not in _OVERWRITING or node.kwargs or not isinstance(node.args[0], fx.Node):
            continue
        left, right = node.args
        if _may_be_overwritten(left, node):
            node.target = _OVERWRITING[node.target]
        elif node.target != aten.sub.Tensor and isinstance(right, fx.Node) and _may_be_overwritten(right, node):
            node.target, node.args = _OVERWRITING[node.target], (right, left)


def _may_be_overwritten(operand: fx.Node, node: fx.Node) -> bool:
    """Return whether the operand is a result that only this node reads, with the same layout."""
    return (
        operand.op == "call_function"
        and not _may_be_view(operand)
        and set(operand.users) == {node}
        and node.args.count(operand) == 1
        and _layout(operand) is not None
        and _layout(operand) == _layout(node)
    )


def _assemble_in_place(graph: fx.Graph) -> None:
    """Write each part of an assembled result into it as soon as it is available.

    Otherwise all parts are in memory besides the result, which is half of the memory of the products of a large model.

    Args:
        graph: Graph to rewrite in place.
    """
    (joined,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
    while isinstance(joined, fx.Node) and joined.target in (aten.unsqueeze.default, aten.reshape.default):
        joined = joined.args[0]
    if not isinstance(joined, fx.Node) or joined.target != aten.cat.default or _layout(joined) is None:
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
        stop = start + _shape(part)[axis]
        _write(graph, part, (whole, axis, start, stop))
        start = stop
    joined.replace_all_uses_with(whole)
    graph.erase_node(joined)
    remove_dead_code(graph)


def _write(graph: fx.Graph, part: fx.Node, span: tuple[Any, ...]) -> None:
    """Copy the part into a slice, before it is reshaped at the end of the graph for the result alone."""
    source: Any = part
    while source.target in (aten.reshape.default, aten.unsqueeze.default) and source.args[0].op != "placeholder":
        source = source.args[0]
    with graph.inserting_after(source):
        target = graph.call_function(aten.slice.Tensor, span)
    with graph.inserting_after(target):
        shaped = graph.call_function(aten.reshape.default, (source, list(_shape(part))))
    with graph.inserting_after(shaped):
        graph.call_function(aten.copy_.default, (target, shaped))


def is_mutation(node: fx.Node) -> bool:
    """Return whether the node changes one of its arguments in place."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def remove_dead_code(graph: fx.Graph) -> None:
    """Erase nodes whose result is unused; in-place changes stay."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("output", "placeholder") and not is_mutation(node):
            graph.erase_node(node)


def _skip_copies(graph: fx.Graph) -> None:
    """Replace a tangent that autograd copied only to match the layout of its primal by the tangent itself."""
    for node in list(graph.nodes):
        if node.target != aten.copy_.default or not isinstance(node.args[0], fx.Node):
            continue
        target, source = node.args[:2]
        fresh = target.target == aten.new_zeros.default and set(target.users) == {node}
        if fresh and isinstance(source, fx.Node) and _layout(source) is not None and _like(target, source):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    remove_dead_code(graph)


def _avoid_mutations(graph: fx.Graph) -> None:
    """Replace in-place operations by those with a separate result, if no other node sees the changed tensor."""
    for node in list(graph.nodes):
        if not is_mutation(node) or not isinstance(node.args[0], fx.Node) or set(node.args[0].users) != {node}:
            continue
        name = node.target._schema.name.removeprefix("aten::").removesuffix("_")
        changed = node.args[0]
        fresh = changed.op == "call_function" and not _may_be_view(changed)
        if fresh and hasattr(aten, name) and node.target._overloadname in getattr(aten, name).overloads():
            node.target = getattr(getattr(aten, name), node.target._overloadname)


def _may_be_view(node: fx.Node) -> bool:
    """Return whether the result may share memory with an argument."""
    if not isinstance(node.target, OpOverload):
        return True
    return any(result.alias_info is not None for result in node.target._schema.returns)


def _remove_identities(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Remove copies and reshapes that change nothing, and sums with zero; vmap and absent tangents leave many."""
    zeros = {node for node in graph.nodes if node.op == "get_attr" and not bool(constants[str(node.target)].any())}
    zeros |= {node for node in graph.nodes if node.target == aten.zeros_like.default}
    for node in list(graph.nodes):
        arguments: Any = node.args
        if node.target in _COPIES:
            source = arguments[0]
        elif node.target == aten.add.Tensor and not node.kwargs and zeros.intersection(arguments):
            source = arguments[1] if arguments[0] in zeros else arguments[0]
        else:
            continue
        if isinstance(source, fx.Node) and _layout(source) is not None and _layout(source) == _layout(node):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    remove_dead_code(graph)


def _like(left: fx.Node, right: fx.Node) -> bool:
    """Return whether two results have the same shape and type."""
    (shape, _, dtype), (other_shape, _, other_dtype) = left.meta["layout"], right.meta["layout"]
    return bool(shape == other_shape and dtype == other_dtype)


def _layout(node: fx.Node) -> object:
    """Return the shape, strides and type of a node's result; None for a constant, which must stay one."""
    return node.meta.get("layout")


class _Scalings:
    """Chains of multiplications with constants, which become one multiplication."""

    def __init__(self, graph: fx.Graph, constants: dict[str, Tensor]) -> None:
        self._graph = graph
        self._constants = constants

    def fold(self) -> None:
        """Rewrite the graph."""
        for node in list(self._graph.nodes):
            scaling = self._scaling(node)
            if scaling is None:
                continue
            source, factor = scaling
            inner = self._scaling(source) if len(source.users) == 1 else None
            if inner is not None and _keeps_size(inner[1], factor):
                source, factor = inner[0], inner[1] * factor
            elif node.target not in _POINTWISE_BACKWARDS:
                continue
            self._replace(node, source, factor)

    def _scaling(self, node: fx.Node) -> tuple[fx.Node, Factor] | None:
        """Return the operand x and constant c of a node that is x * c."""
        arguments: Any = node.args
        if node.target == aten.neg.default:
            return arguments[0], -1.0
        if node.target not in _SCALINGS:
            return None
        left, right = (self._constant(argument) for argument in arguments[:2])
        if left is None and right is not None:
            return arguments[0], self._coefficient(node, right)
        if right is None and left is not None and node.target in _PRODUCTS:
            return arguments[1], left
        return None

    def _coefficient(self, node: fx.Node, constant: Factor) -> Factor:
        """Constant by which the node multiplies its first argument."""
        if node.target in _PRODUCTS:
            return constant
        if isinstance(constant, float) or node.target in _QUOTIENTS:
            return 1 / constant
        backward: Any = node.target
        return cast(Tensor, backward(torch.ones_like(constant), constant, *node.args[2:], **node.kwargs))

    def _constant(self, argument: object) -> Factor | None:
        """Return the value of an argument that is a real constant."""
        if isinstance(argument, fx.Node):
            value = self._constants.get(str(argument.target)) if argument.op == "get_attr" else None
            return value if value is not None and value.is_floating_point() else None
        return float(argument) if isinstance(argument, (int, float)) and not isinstance(argument, bool) else None

    def _replace(self, node: fx.Node, source: fx.Node, factor: Factor) -> None:
        with self._graph.inserting_before(node):
            operand: fx.Node | float = factor if isinstance(factor, float) else self._read(factor)
            target = aten.mul.Scalar if isinstance(factor, float) else aten.mul.Tensor
            scaled = self._graph.call_function(target, (source, operand))
        scaled.meta = dict(node.meta)
        node.replace_all_uses_with(scaled)
        self._graph.erase_node(node)

    def _read(self, value: Tensor) -> fx.Node:
        name = f"factor_{len(self._constants)}"
        self._constants[name] = value
        return self._graph.create_node("get_attr", name)


def _keeps_size(left: Factor, right: Factor) -> bool:
    """Return whether the product of two constants is no larger than the larger of them."""
    if isinstance(left, float) or isinstance(right, float):
        return True
    if left.dtype != right.dtype:
        return False
    try:
        shape: Sequence[int] = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return bool(prod(shape) <= max(left.numel(), right.numel()))


def _bring_products_together(graph: fx.Graph) -> None:
    """Rewrite (x + a b) + c d as (a b + c d) + x."""
    for node in list(graph.nodes):
        for outer, inner in _orders(node):
            if len(inner.users) > 1 or _product_below(outer) is None or _shape(outer) != _shape(node):
                continue
            for product, rest in _orders(inner):
                if _product_below(product) is None or _product_below(rest) or _shape(product) != _shape(node):
                    continue
                with graph.inserting_before(node):
                    both = graph.call_function(aten.add.Tensor, (product, outer))
                both.meta = dict(node.meta)
                node.args = (both, rest)
                break
            else:
                continue
            break
    remove_dead_code(graph)


def _orders(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Return the two summands of a plain sum of results in both orders; nothing for other nodes."""
    if node.target != aten.add.Tensor or node.kwargs or not all(isinstance(part, fx.Node) for part in node.args):
        return []
    left, right = cast(tuple[fx.Node, fx.Node], node.args)
    return [(left, right), (right, left)]


def _accumulate_products(graph: fx.Graph) -> None:
    """Rewrite a b + c d so that the second product is added to the first in place, without a separate sum."""
    for node in list(graph.nodes):
        if node.target != aten.add.Tensor or node.kwargs or len(node.args) != 2:
            continue
        if not _shape(node) or any(_shape(argument) != _shape(node) for argument in node.args):
            continue
        products = [_product_below(argument) for argument in node.args]
        # the one that is added must be a plain product, the other may hold a sum already
        for first, second in (products, products[::-1]):
            if first is None or second is None or second.target not in _ACCUMULATING or _shape(first) != _shape(second):
                continue
            _add_in_place(graph, node, first=first, second=second)
            break
    remove_dead_code(graph)


def _accumulate_scalings(graph: fx.Graph) -> None:
    """Rewrite b + a c, elementwise, as one pass over memory."""
    for node in list(graph.nodes):
        for scaled, other in _orders(node):
            factors: Any = scaled.args
            if scaled.target != aten.mul.Tensor or len(scaled.users) > 1 or scaled is other:
                continue
            if not all(isinstance(factor, fx.Node) for factor in factors):
                continue
            with graph.inserting_before(node):
                total = graph.call_function(aten.addcmul.default, (other, *factors))
            total.meta = dict(node.meta)
            node.replace_all_uses_with(total)
            graph.erase_node(node)
            break
    remove_dead_code(graph)


def _add_in_place(graph: fx.Graph, node: fx.Node, *, first: fx.Node, second: fx.Node) -> None:
    with graph.inserting_before(node):
        total = graph.call_function(_ACCUMULATING[second.target], (first, *second.args))
        total.meta = dict(first.meta)
        shaped = graph.call_function(aten.view.default, (total, list(_shape(node))))
    shaped.meta = dict(node.meta)
    node.replace_all_uses_with(shaped)
    graph.erase_node(node)


def _product_below(argument: object) -> fx.Node | None:
    """Return the matrix product of which the argument is a reshaped view, if no other node reads either."""
    node = argument
    while isinstance(node, fx.Node) and node.target in _VIEWS and len(node.users) == 1:
        node = node.args[0]
    products = (*_ACCUMULATING, *_ACCUMULATING.values())
    return node if isinstance(node, fx.Node) and len(node.users) == 1 and node.target in products else None


def _shape(node: object) -> tuple[int, ...]:
    layout = node.meta.get("layout") if isinstance(node, fx.Node) else None
    return tuple(layout[0]) if layout else ()
