"""The operators of ONNX, by what they do; importing this package registers all of them."""

from hessian_spectrum.service.uploads.onnx.operators import (
    convolutions,
    indexing,
    linear,
    normalization,
    pointwise,
    recurrent,
    reductions,
    registry,
    resize,
    sequences,
    shapes,
)

LOWERED, REASONS = registry.LOWERED, registry.REASONS
SEQUENCE_OPERATORS = sequences.READERS

__all__ = [
    "LOWERED",
    "REASONS",
    "SEQUENCE_OPERATORS",
    "convolutions",
    "indexing",
    "linear",
    "normalization",
    "pointwise",
    "recurrent",
    "reductions",
    "resize",
    "sequences",
    "shapes",
]
