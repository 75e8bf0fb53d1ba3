"""Simplification of recorded linear maps: constants are multiplied in advance, sums become part of products."""

from typing import Any

import torch
from torch import Tensor, fx

from hessian_spectrum.curvature.operators.graphs.memory_formats import lay_channels_last
from hessian_spectrum.curvature.operators.graphs.mutations import avoid_mutations
from hessian_spectrum.curvature.operators.graphs.nodes import VIEWS, is_mutation, layout_of, remove_dead_code
from hessian_spectrum.curvature.operators.graphs.scalings import Scalings
from hessian_spectrum.curvature.operators.graphs.sums import (
    accumulate_products,
    accumulate_scalings,
    add_biases,
    bring_products_together,
    join_parts,
    permute_parts,
)

aten = torch.ops.aten

_COPIES = (aten._to_copy.default, aten.clone.default, aten.expand.default, aten.view.default, aten._unsafe_view.default)


def simplify(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Rewrite a graph in place as a map that is equal up to rounding; products of constants become new constants."""
    avoid_mutations(graph)
    if any(is_mutation(node) for node in graph.nodes):
        _reshape_views(graph)
        return  # their order must not change
    _remove_identities(graph, constants)
    _merge_duplicates(graph)
    Scalings(graph, constants).fold()
    remove_dead_code(graph)
    join_parts(graph)
    permute_parts(graph)
    bring_products_together(graph)
    accumulate_products(graph)
    add_biases(graph)
    accumulate_scalings(graph)
    lay_channels_last(graph, constants)
    _reshape_views(graph)


def _merge_duplicates(graph: fx.Graph) -> None:
    """Compute once what autograd's formulas compute twice, such as the deviations from the mean in a layer norm.

    Meant for graphs without changes in place: the results are deterministic functions of the arguments.
    """
    known: dict[tuple[object, ...], fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "call_function":
            first = known.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)


def _reshape_views(graph: fx.Graph) -> None:
    """Turn views into reshapes, as the strides of their arguments may differ from the recorded ones."""
    for node in graph.nodes:
        if node.target in VIEWS:
            node.target = aten.reshape.default


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
        elif node.target == aten.t.default and getattr(arguments[0], "target", None) == aten.t.default:
            source = arguments[0].args[0]
        else:
            continue
        if isinstance(source, fx.Node) and layout_of(source) is not None and layout_of(source) == layout_of(node):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    remove_dead_code(graph)
