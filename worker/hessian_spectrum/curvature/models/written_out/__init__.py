"""Operators that PyTorch's kernels cannot differentiate twice, or whose derivatives differ between modes, written out.

Each function takes the arguments of the operator. The faults of PyTorch's own operators (version 2.13 on the CPU):
fused attention and `embedding_bag` have no second derivative; `grid_sampler`, fused recurrent layers and several losses
have no forward mode; `weight_norm` and `triangular_solve` have a wrong second derivative, and that of `logcumsumexp` is
inaccurate; others have no rule for several vectors at once, or one that differs from the derivative of the values, as
`embedding` does at its padding; in a hostile graph, a few read memory that is not theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hessian_spectrum.curvature.models.written_out import (
    activations,
    attention,
    complex_numbers,
    cumulative,
    embeddings,
    indexing,
    linear_algebra,
    losses,
    memory,
    norms,
    recurrent,
    resampling,
)

_MODULES = (
    activations,
    attention,
    complex_numbers,
    cumulative,
    embeddings,
    indexing,
    linear_algebra,
    losses,
    memory,
    norms,
    recurrent,
    resampling,
)

WRITTEN_OUT: Mapping[str, Callable[..., Any]] = {
    f"aten.{name}": function for module in _MODULES for name, function in module.OPERATORS.items()
}
"""Functions by the name of the operator that they replace."""
