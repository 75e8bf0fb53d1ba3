"""The operators of ONNX that are supported, each with the function that lowers its calls."""

from collections.abc import Callable

from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand

Lower = Callable[[Node, Lowering], list[Operand]]
"""Adds the calls of a node to a program; returns its results, or those of the first outputs."""

LOWERED: dict[str, Lower] = {}
"""Functions by the name of the operator."""


def lowers(*names: str) -> Callable[[Lower], Lower]:
    """Register a function for operators.

    Args:
        names: Names of the operators.

    Returns:
        The decorator.
    """

    def register(function: Lower) -> Lower:
        for name in names:
            LOWERED[name] = function
        return function

    return register


_RANDOM = "it draws random numbers, which differ from product to product: export the network for inference"
_DATA_DEPENDENT = "the number of its results depends on data: replace it by Where"
_LOOP = "branches and loops are not supported: export the network with a fixed number of steps, which unrolls them"

REASONS: dict[str, str] = {
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"), _RANDOM
    ),
    **dict.fromkeys(("NonZero", "Compress", "Unique", "NonMaxSuppression"), _DATA_DEPENDENT),
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), _LOOP),
}
"""Reasons for refusing operators that users might expect to be supported."""
