"""Chains of multiplications with constants, as one multiplication."""

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx

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


class Scalings:
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
