"""Recorded programs whose matrix products are in a reduced precision, and how far their results deviate."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.curvature.operators.graphs.nodes import graph_module, remove_dead_code
from hessian_spectrum.curvature.operators.programs import MatmulPrecision, Program

if TYPE_CHECKING:
    from hessian_spectrum.curvature.operators.risk_operator import RiskOperator

aten = torch.ops.aten

_PLAIN: dict[Any, Any] = {
    aten.addmm_.default: aten.mm.default,
    aten.addmm.default: aten.mm.default,
    aten.baddbmm_.default: aten.bmm.default,
}

COMPARED_VECTORS, COMPARED_NUMBERS = 16, 2**12
"""Number of vectors for comparing reduced products, and number of entries that is enough; one short vector may not be
typical."""


def reduced(program: Program, precision: MatmulPrecision) -> Program:
    """Return the float32 program with its matrix products in `precision`, to be run under `matmuls_in` it.

    tf32 rounds factors to 10 bits in tensor cores and sums in float32; without tensor cores it changes nothing.
    bfloat16 rounds factors and products to 8 bits; constants that the program uses only in matrix products are stored
    rounded.

    Args:
        program: Recorded map in float32.
        precision: Precision of the matrix products.

    Returns:
        The program.
    """
    return _in_bfloat16(program) if precision == "bfloat16" else program


def compared_vectors(rows: Tensor) -> Tensor:
    """Return the rows (k, P), unless they are columns of the identity, and random ones; a multiple of k in total."""
    dim, width = rows.shape[1], len(rows)
    count = -(-min(COMPARED_VECTORS, -(-COMPARED_NUMBERS // dim)) // width) * width
    generator = torch.Generator().manual_seed(0)
    if int(rows[0].count_nonzero()) < 2:  # columns may be zero, and show nothing about the others
        return torch.randn(count, dim, generator=generator).to(rows)
    return torch.cat([rows, torch.randn(count - width, dim, generator=generator).to(rows)])


def deviation(products: Tensor, difference: Tensor) -> float:
    """Return the relative deviation ||(A' - A) V|| / ||A V||, for arrays of any shape."""
    return float(difference.norm() / products.norm()) if products.any() else 0.0


class UnreducedOperator(SymmetricOperator):
    """The matrix, multiplied without reduced precision: one column and one micro-batch at a time."""

    def __init__(self, reduced: "RiskOperator") -> None:
        self._reduced = reduced

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self._reduced.dim

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self._reduced.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self._reduced.device

    @property
    def product_error(self) -> float:
        """Bound on the error of products that are not reduced, relative to the norm of the matrix."""
        return self._reduced.rounding_error

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v (P,)."""
        return self._reduced.direct_products(vector.contiguous().unsqueeze(0))[0]

    def matmat(self, matrix: Tensor) -> Tensor:
        """Return A V (P, k)."""
        return self._reduced.direct_products(matrix.T.contiguous()).T


def _in_bfloat16(program: Program) -> Program:
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph.graph, {}))
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    values = dict(zip(placeholders[1:], program.constants, strict=True))
    for node in list(graph.nodes):
        if node.target in (*_PLAIN, *_PLAIN.values()):
            _round_product(graph, node, values)
    remove_dead_code(graph)
    for node in list(values):
        if not node.users:
            graph.erase_node(node)
            del values[node]
    module = graph_module(graph)
    order = [node for node in module.graph.nodes if node.op == "placeholder"][1:]
    by_name = {node.name: value for node, value in values.items()}
    return Program(module, tuple(by_name[node.name] for node in order))


def _round_product(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, Tensor]) -> None:
    """Product a b, or c + a b, with a and b as bfloat16; the result, and the sum, are float32."""
    arguments: Any = node.args
    factors = [_rounded(graph, node, factor, values=values) for factor in arguments[-2:]]
    with graph.inserting_before(node):
        product = graph.call_function(_PLAIN.get(node.target, node.target), tuple(factors))
        result = graph.call_function(aten._to_copy.default, (product,), {"dtype": torch.float32})
        if node.target is aten.addmm.default:  # c is a vector, and others may read it
            result = graph.call_function(aten.add_.Tensor, (result, arguments[0]))
        elif node.target in _PLAIN:
            result = graph.call_function(aten.add_.Tensor, (arguments[0], result))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _rounded(graph: fx.Graph, node: fx.Node, factor: fx.Node, *, values: dict[fx.Node, Tensor]) -> fx.Node:
    if factor not in values:
        with graph.inserting_before(node):
            return graph.call_function(aten._to_copy.default, (factor,), {"dtype": torch.bfloat16})
    rounded = next((user for user in values if user.meta.get("rounds") is factor), None)
    if rounded is None:
        with graph.inserting_after(factor):
            rounded = graph.placeholder(f"{factor.name}_rounded")
        rounded.meta["rounds"] = factor
        values[rounded] = values[factor].to(torch.bfloat16)
    return rounded
