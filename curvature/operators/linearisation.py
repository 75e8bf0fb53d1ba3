"""The derivative of a function at a fixed point, as a graph of only what depends on the tangent."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

Map = Callable[[Tensor], Tensor]


def linearise(function: Map, point: Tensor) -> tuple[Tensor, Map]:
    """f(x) and the map v -> J(x) v at the fixed `point` x; the primal pass is done once.

    Differs from `torch.func.linearize`, whose constant folding (PyTorch 2.13) keeps every primal value, used or
    not, and loses assignments in place: here values are computed in the order of the trace, dropped after their last
    use, and kept only if products need them.

    Args:  function, of (P,), differentiable; its code must not depend on values.
    Returns:  f(x); a map that vmap takes as well.
    Raises:  what tracing raises, mostly RuntimeError, where `function` cannot be traced.
    """
    values: list[Tensor] = []

    def change(tangent: Tensor) -> Tensor:
        with forward_ad.dual_level():
            dual = function(forward_ad.make_dual(point, tangent))  # type: ignore[no-untyped-call]
            value, derivative = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
            values.append(value.detach())
            # a function without curvature has no tangent at all
            return torch.zeros_like(value) if derivative is None else derivative

    traced = make_fx(change)(point.new_zeros(()).expand_as(point))
    traced.graph.eliminate_dead_code()
    return values[0], _without_constants(traced)


def _without_constants(traced: fx.GraphModule) -> fx.GraphModule:
    """The same function, with the value in place of whatever does not depend on its input."""
    graph = traced.graph
    varying: set[fx.Node] = set()
    values: dict[fx.Node, Any] = {}
    remaining = Counter({node: len(node.users) for node in graph.nodes})
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or varying.intersection(node.all_input_nodes):
            varying.add(node)
            continue
        values[node] = _evaluate(traced, node, values)
        for source in node.all_input_nodes:
            remaining[source] -= 1
            if remaining[source] == 0:
                del values[source]
    kept: dict[str, Any] = {}
    for node in [node for node in values if varying.intersection(node.users)]:
        name = f"constant_{len(kept)}"
        kept[name] = values[node]
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.create_node("get_attr", name))
    # not eliminate_dead_code, which leaves assignments in place, and with them all that they read
    for node in reversed(list(graph.nodes)):
        if node not in varying and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(kept, graph)


def _evaluate(traced: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Value of a node that does not depend on the input: a tensor, or a tuple of them."""
    if node.op == "get_attr":
        return getattr(traced, str(node.target))
    assert callable(node.target)
    args = fx.map_arg(node.args, values.__getitem__)
    kwargs = fx.map_arg(node.kwargs, values.__getitem__)
    return node.target(*args, **kwargs)
