"""Sums as parts of products, of scalings and of concatenations."""

from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import fx

from hessian_spectrum.curvature.operators.graphs.nodes import VIEWS, layout_of, remove_dead_code, shape_of

aten = torch.ops.aten

_PERMUTATIONS = (aten.unsqueeze.default, aten.squeeze.dim, aten.transpose.int, aten.permute.default)
"""Views that move axes, or add or remove axes of length 1."""

ACCUMULATING: dict[Any, Any] = {aten.mm.default: aten.addmm_.default, aten.bmm.default: aten.baddbmm_.default}


def bring_products_together(graph: fx.Graph) -> None:
    """Rewrite (x + a b) + c d as (a b + c d) + x."""
    for node in list(graph.nodes):
        for outer, inner in _orders(node):
            if len(inner.users) > 1 or _product_below(outer) is None or shape_of(outer) != shape_of(node):
                continue
            for product, rest in _orders(inner):
                if _product_below(product) is None or _product_below(rest) or shape_of(product) != shape_of(node):
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


def accumulate_products(graph: fx.Graph) -> None:
    """Rewrite a b + c d so that the second product is added to the first in place, without a separate sum."""
    for node in list(graph.nodes):
        if node.target != aten.add.Tensor or node.kwargs or len(node.args) != 2:
            continue
        if not shape_of(node) or any(shape_of(argument) != shape_of(node) for argument in node.args):
            continue
        products = [_product_below(argument) for argument in node.args]
        # the one that is added must be a plain product, the other may hold a sum already
        for first, second in (products, products[::-1]):
            if (
                first is None
                or second is None
                or second.target not in ACCUMULATING
                or shape_of(first) != shape_of(second)
            ):
                continue
            _add_in_place(graph, node, first=first, second=second)
            break
    remove_dead_code(graph)


def add_biases(graph: fx.Graph) -> None:
    """Rewrite a b + c d + v, with a vector v for every row, so that the first product is added to v."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        for total, bias in _orders(node):
            first = _product_below(total)
            while first is not None and first.target == aten.addmm_.default:
                first = _product_below(first.args[0])
            if first is None or first.target != aten.mm.default or shape_of(bias) != shape_of(first)[1:]:
                continue
            if (
                shape_of(total) != shape_of(node)
                or shape_of(total)[-1:] != shape_of(bias)
                or position[bias] > position[first]
            ):
                continue
            first.target, first.args = aten.addmm.default, (bias, *first.args)
            node.replace_all_uses_with(total)
            graph.erase_node(node)
            break


def join_parts(graph: fx.Graph) -> None:
    """Rewrite a sum of padded parts that together fill a tensor as one concatenation.

    The derivative of a tensor that was split into pieces, such as queries, keys and values, is such a sum.
    """
    for node in reversed(list(graph.nodes)):
        if node.target == aten.add.Tensor and not node.users:
            graph.erase_node(node)  # of a sum that was rewritten
            continue
        found = sorted(_parts(node), key=lambda part: part.start)
        if len({part.axis for part in found}) != 1:
            continue
        axis = found[0].axis
        bounds = [0, *(part.stop for part in found)]
        if [part.start for part in found] != bounds[:-1] or bounds[-1] != shape_of(node)[axis]:
            continue
        with graph.inserting_before(node):
            whole = graph.call_function(aten.cat.default, ([part.piece(graph) for part in found], axis))
        whole.meta = _contiguous(shape_of(node), node)
        node.replace_all_uses_with(whole)
        graph.erase_node(node)
    remove_dead_code(graph)


def permute_parts(graph: fx.Graph) -> None:
    """Rewrite the copy of a permuted concatenation as a concatenation of permuted parts, which saves one pass."""
    for node in list(graph.nodes):
        if node.target != aten.clone.default:
            continue
        views: list[fx.Node] = []
        source: Any = node.args[0]
        while source.target in _PERMUTATIONS and len(source.users) == 1:
            views.insert(0, source)
            source = source.args[0]
        if source.target != aten.cat.default or len(source.users) > 1 or not views:
            continue
        parts, axis = cast(tuple[list[fx.Node], int], (*source.args, 0)[:2])
        shape = shape_of(source)
        if shape[axis] < 2 or any(layout_of(part) is None for part in parts):
            continue
        with graph.inserting_before(node):
            permuted = [_viewed(graph, part, views) for part in parts]
            whole = graph.call_function(aten.cat.default, (permuted, _moved(axis % len(shape), shape, views)))
        whole.meta = _contiguous(shape_of(node), node)
        node.replace_all_uses_with(whole)
        graph.erase_node(node)
    remove_dead_code(graph)


def _viewed(graph: fx.Graph, part: fx.Node, views: list[fx.Node]) -> fx.Node:
    """Apply the views of the whole to one part."""
    shape, strides, dtype = cast(tuple[Any, Any, torch.dtype], layout_of(part))
    value = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
    for view in views:
        target: Any = view.target
        value = target(value, *view.args[1:])
        part = graph.call_function(target, (part, *view.args[1:]))
        part.meta = {"layout": (tuple(value.shape), value.stride(), dtype)}
    return part


def _moved(axis: int, shape: tuple[int, ...], views: list[fx.Node]) -> int:
    """Return the position of an axis after the views; the axis is longer than 1, and the only one with stride 1."""
    marked = torch.empty_strided(shape, [int(each == axis) for each in range(len(shape))], device="meta")
    for view in views:
        target: Any = view.target
        marked = target(marked, *view.args[1:])
    return next(place for place, size in enumerate(marked.shape) if size > 1 and marked.stride(place) == 1)


@dataclass(frozen=True)
class _Part:
    """Values that fill the slice from `start` to `stop` along an axis of a tensor of zeros."""

    values: fx.Node
    axis: int
    start: int
    stop: int
    is_selected: bool = False  # the values lack the axis

    def piece(self, graph: fx.Graph) -> fx.Node:
        """Return the values with the axis."""
        if not self.is_selected:
            return self.values
        piece = graph.call_function(aten.unsqueeze.default, (self.values, self.axis))
        sizes = shape_of(self.values)
        piece.meta = _contiguous((*sizes[: self.axis], 1, *sizes[self.axis :]), self.values)
        return piece


def _part(node: fx.Node) -> _Part | None:
    """Return the values that a node pads with zeros; None for other nodes."""
    if node.target == aten.select_backward.default:
        values, sizes, axis, index = cast(tuple[fx.Node, list[int], int, int], node.args)
        index %= sizes[axis]
        return _Part(values, axis % len(sizes), index, index + 1, is_selected=True)
    if node.target == aten.slice_backward.default and node.args[-1] == 1:
        values, sizes, axis, start, stop, _ = cast(tuple[fx.Node, list[int], int, int, int, int], node.args)
        start, stop, _ = slice(start, stop).indices(sizes[axis])
        return _Part(values, axis % len(sizes), start, stop)
    return None


def _parts(node: fx.Node) -> list[_Part]:
    """Return the parts that a node adds up, also through inner sums that nothing else reads; none for other nodes."""
    found: list[_Part] = []
    sums = [node]
    while sums:
        summands = _orders(sums.pop())[:1]
        for each in summands[0] if summands else ():
            part = _part(each)
            if part is not None:
                found.append(part)
            elif len(each.users) == 1 and shape_of(each) == shape_of(node) and _orders(each):
                sums.append(each)
            else:
                return []
    return found


def _contiguous(sizes: tuple[int, ...], like: fx.Node) -> dict[str, Any]:
    """Return the metadata of a node whose result is contiguous."""
    strides = tuple(prod(sizes[axis + 1 :]) for axis in range(len(sizes)))
    return {"layout": (sizes, strides, like.meta["layout"][2])}


def accumulate_scalings(graph: fx.Graph) -> None:
    """Rewrite b + a c and b - a c, elementwise, as one pass over memory."""
    for node in list(graph.nodes):
        for scaled, other, sign in _signed_summands(node):
            factors: Any = scaled.args
            if scaled.target != aten.mul.Tensor or len(scaled.users) > 1 or scaled is other:
                continue
            if not all(isinstance(factor, fx.Node) for factor in factors):
                continue
            with graph.inserting_before(node):
                total = graph.call_function(aten.addcmul.default, (other, *factors), {} if sign > 0 else {"value": -1})
            total.meta = dict(node.meta)
            node.replace_all_uses_with(total)
            graph.erase_node(node)
            break
    remove_dead_code(graph)


def _signed_summands(node: fx.Node) -> list[tuple[fx.Node, fx.Node, int]]:
    """Return (scaled, other, sign) for each way to read a node as other + sign * scaled."""
    if node.target == aten.sub.Tensor and not node.kwargs and all(isinstance(part, fx.Node) for part in node.args):
        left, right = cast(tuple[fx.Node, fx.Node], node.args)
        return [(right, left, -1)]
    return [(scaled, other, 1) for scaled, other in _orders(node)]


def _add_in_place(graph: fx.Graph, node: fx.Node, *, first: fx.Node, second: fx.Node) -> None:
    with graph.inserting_before(node):
        total = graph.call_function(ACCUMULATING[second.target], (first, *second.args))
        total.meta = dict(first.meta)
        shaped = graph.call_function(aten.view.default, (total, list(shape_of(node))))
    shaped.meta = dict(node.meta)
    node.replace_all_uses_with(shaped)
    graph.erase_node(node)


def _product_below(argument: object) -> fx.Node | None:
    """Return the matrix product that the argument is a reshaped view of, if no other node reads either."""
    node = argument
    while isinstance(node, fx.Node) and node.target in VIEWS and len(node.users) == 1:
        node = node.args[0]
    products = (*ACCUMULATING, *ACCUMULATING.values())
    return node if isinstance(node, fx.Node) and len(node.users) == 1 and node.target in products else None
