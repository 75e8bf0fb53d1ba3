"""Nodes of recorded graphs: what they are, and modules that run them."""

import linecache
import operator

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.graph_module import _loader

aten = torch.ops.aten

VIEWS = (aten.view.default, aten._unsafe_view.default)


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


def is_mutation(node: fx.Node) -> bool:
    """Return whether the node changes one of its arguments in place."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def may_be_view(node: fx.Node) -> bool:
    """Return whether the result may share memory with an argument of its operation."""
    if node.target is operator.getitem:  # one of several results
        return may_be_view(node.args[0])  # type: ignore[arg-type]
    if not isinstance(node.target, OpOverload):
        return True
    return any(result.alias_info is not None for result in node.target._schema.returns)


def layout_of(node: fx.Node) -> object:
    """Return the shape, strides and type of a node's result; None for a constant, which must stay one."""
    return node.meta.get("layout")


def shape_of(node: object) -> tuple[int, ...]:
    """Return the shape of a node's result; () for constants and for arguments that are not nodes."""
    layout = node.meta.get("layout") if isinstance(node, fx.Node) else None
    return tuple(layout[0]) if layout else ()


def like(left: fx.Node, right: fx.Node) -> bool:
    """Return whether two results have the same shape and type."""
    (shape, _, dtype), (other_shape, _, other_dtype) = left.meta["layout"], right.meta["layout"]
    return bool(shape == other_shape and dtype == other_dtype)


def remove_dead_code(graph: fx.Graph) -> None:
    """Erase nodes whose result is unused; in-place changes stay."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("output", "placeholder") and not is_mutation(node):
            graph.erase_node(node)
