"""Which initialisers of an ONNX graph are parameters of the network.

The format does not say. PyTorch writes the kind of each array into the file. In other files an initialiser counts as a
parameter if it holds floating-point numbers along at least one axis and data meets it, itself or rearranged, in a
product, sum, convolution, recurrent or normalisation layer, or reads rows of it.
"""

from collections.abc import Iterable, Mapping

from onnx import GraphProto

_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"

_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "PRelu", "Attention"}
_NORMS = {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"}
_LOOKUPS = {"Gather", "GatherND", "GatherElements"}
_MEETING = frozenset(_ARITHMETIC | _NORMS | _LOOKUPS)
"""Operators whose operands are all parameters, if they come from initialisers and meet data."""

_PARAMETER_OPERANDS = {
    "BatchNormalization": (1, 2),
    "LSTM": (1, 2, 3, 5, 6, 7),
    "GRU": (1, 2, 3, 5),
    "RNN": (1, 2, 3, 5),
}
"""For other operators, the positions of the operands that are parameters; the others are statistics and lengths."""

_REARRANGING_FIRST = frozenset({"Resize", "Pad", "Clip", "Reshape", "Expand", "Slice", "Tile"})
"""Operators that rearrange their first operand; the others are settings."""

_SHAPES_ONLY = frozenset({"Shape", "Size"})
"""Operators that do not read the entries of their operands."""


def written_kinds(graph: GraphProto) -> dict[str, bool]:
    """Return whether values are parameters, by name, for those of which PyTorch wrote this into the file."""
    kinds = {}
    for value in graph.value_info:
        for entry in value.metadata_props:
            if entry.key == _KIND:
                kinds[value.name] = entry.value == "PARAMETER"
    return kinds


def parameter_names(graph: GraphProto, inputs: Iterable[str], candidates: Iterable[str]) -> set[str]:
    """Return the names of the initialisers that are parameters.

    Args:
        graph: The graph, whose nodes are in order.
        inputs: Names of the inputs.
        candidates: Names of initialisers with floating-point numbers along at least one axis.

    Returns:
        Their names.
    """
    kinds = written_kinds(graph)
    undecided = [name for name in candidates if name not in kinds]
    found = {name for name in candidates if kinds.get(name)}
    return found | _met_by_data(graph, set(inputs), undecided)


def _met_by_data(graph: GraphProto, data: set[str], candidates: list[str]) -> set[str]:
    # values that come from initialisers alone, each with those that it was computed from
    sources: dict[str, list[str]] = {name: [] for name in candidates}
    met: list[str] = []
    for node in graph.node:
        operands = [name for name in node.input if name]
        comes_from_data = node.op_type not in _SHAPES_ONLY and any(name in data for name in operands)
        if comes_from_data:
            data.update(name for name in node.output if name)
            met += [name for name in _parameters_of(node.op_type, list(node.input)) if name in sources]
        elif any(name in sources for name in operands) and node.op_type not in _SHAPES_ONLY:
            read = operands[:1] if node.op_type in _REARRANGING_FIRST else operands
            for name in node.output:
                sources[name] = [operand for operand in read if operand in sources]
    return _origins(met, sources).intersection(candidates)


def _parameters_of(op: str, operands: list[str]) -> list[str]:
    if op in _MEETING:
        return operands
    return [operands[index] for index in _PARAMETER_OPERANDS.get(op, ()) if index < len(operands)]


def _origins(names: list[str], sources: Mapping[str, list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += sources[name]
    return found
