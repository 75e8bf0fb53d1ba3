"""The memory layout of the operands of convolutions."""

from typing import Any, cast

import torch
from torch import Tensor, fx

from hessian_spectrum.curvature.operators.graphs.nodes import shape_of

aten = torch.ops.aten

_NUM_OPERANDS: dict[Any, int] = {aten.convolution.default: 2, aten.convolution_backward.default: 3}
"""How many of the first arguments are images or kernels, the last of them a kernel."""

_CHANNELS_LAST: dict[str, Any] = {"memory_format": torch.channels_last}

_READ_BY_STRIDES = (aten.as_strided.default, aten.as_strided_scatter.default, aten._reshape_alias.default)


def lay_channels_last(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Store images and kernels of convolutions with channels last.

    A CPU convolves in this layout in single precision. Otherwise each call first rearranges its operands, which takes
    up to a third of its time. Results have the layout of their operands.

    Args:
        graph: Graph to rewrite in place; it has no in-place operations.
        constants: Its constants, some of which are replaced by copies in the other layout.
    """
    if any(node.target in _READ_BY_STRIDES for node in graph.nodes):
        return
    convolutions = [node for node in graph.nodes if _is_of_images(node, constants)]
    shapes = {_shape(each, constants) for node in convolutions for each in _operands(node)}
    laid: dict[object, Tensor] = {}  # by place in memory, which several constants may share
    for name, value in constants.items():
        if tuple(value.shape) in shapes and _is_of_single_precision(value) and value.is_contiguous():
            place = (value.data_ptr(), value.shape)
            if place not in laid:
                laid[place] = value.contiguous(memory_format=torch.channels_last)
            constants[name] = laid[place]
    copies: dict[fx.Node, fx.Node] = {}
    for node in convolutions:
        kernel = _operands(node)[-1]
        if kernel.op == "get_attr":
            continue
        if kernel not in copies:
            with graph.inserting_after(kernel):
                copies[kernel] = graph.call_function(aten.clone.default, (kernel,), _CHANNELS_LAST)
        node.replace_input_with(kernel, copies[kernel])


def _is_of_images(node: fx.Node, constants: dict[str, Tensor]) -> bool:
    """Return whether a node is a convolution over two axes in single precision, without groups.

    Groups are what vmap makes of several kernels: channels of each group would not lie together.
    """
    if node.target not in _NUM_OPERANDS or len(_shape(_operands(node)[-1], constants)) != 4:
        return False
    groups = node.args[8 if node.target == aten.convolution.default else 9]
    fixed = [constants[str(each.target)] for each in _operands(node) if each.op == "get_attr"]
    return bool(groups == 1) and len(fixed) > 0 and all(map(_is_of_single_precision, fixed))


def _is_of_single_precision(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.dtype == torch.float32


def _operands(node: fx.Node) -> list[fx.Node]:
    return cast(list[fx.Node], list(node.args[: _NUM_OPERANDS[node.target]]))


def _shape(node: fx.Node, constants: dict[str, Tensor]) -> tuple[int, ...]:
    return tuple(constants[str(node.target)].shape) if node.op == "get_attr" else shape_of(node)
