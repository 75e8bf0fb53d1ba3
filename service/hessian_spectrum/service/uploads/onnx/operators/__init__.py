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
    shapes,
)

LOWERED, REASONS = registry.LOWERED, registry.REASONS

__all__ = [
    "LOWERED",
    "REASONS",
    "convolutions",
    "indexing",
    "linear",
    "normalization",
    "pointwise",
    "recurrent",
    "reductions",
    "resize",
    "shapes",
]
