"""Changes in place, which autograd records, as operations with results of their own."""

import torch
from torch import fx

from hessian_spectrum.curvature.operators.graphs.nodes import (
    is_mutation,
    layout_of,
    like,
    may_be_view,
    remove_dead_code,
)

aten = torch.ops.aten


def avoid_mutations(graph: fx.Graph) -> None:
    """Replace in-place operations by those with a separate result, if no other node sees the changed tensor.

    Most are copies of a tangent into fresh memory, which autograd makes only to match the layout of the primal.
    """
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        changed = node.args[0] if is_mutation(node) else None
        if not isinstance(changed, fx.Node) or not _is_last_reader(node, changed, position):
            continue
        if node.target == aten.copy_.default:
            source = node.args[1]
            if isinstance(source, fx.Node) and layout_of(source) and like(changed, source) and not _is_changed(source):
                node.replace_all_uses_with(source)
                graph.erase_node(node)
            continue
        name = node.target._schema.name.removeprefix("aten::").removesuffix("_")
        if hasattr(aten, name) and node.target._overloadname in getattr(aten, name).overloads():
            node.target = getattr(getattr(aten, name), node.target._overloadname)
    remove_dead_code(graph)


def _is_last_reader(node: fx.Node, operand: fx.Node, position: dict[fx.Node, int]) -> bool:
    """Return whether the operand's memory belongs to the graph, and nothing but the node's result reads it later."""
    while operand.op == "call_function":
        others = set(operand.users) - {node}
        if any(position[user] > position[node] or may_be_view(user) for user in others):
            return False
        if not may_be_view(operand):
            return True
        node, source = operand, operand.args[0]
        if not isinstance(source, fx.Node):
            return False
        operand = source
    return False


def _is_changed(node: fx.Node) -> bool:
    """Return whether any operation changes the memory of a result in place, through a view or not."""
    while may_be_view(node) and node.op == "call_function" and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    aliases = [node]
    for alias in aliases:
        if any(is_mutation(user) and user.args[0] is alias for user in alias.users):
            return True
        aliases += [user for user in alias.users if may_be_view(user) and user.args[0] is alias]
    return False
