"""The diagonal that a trace job stored, as far as a picture of its distribution needs it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_ENTRIES = 2_000_000
"""That a picture looks at: 32 MB with their errors."""

_BLOCK = 1000
"""Neighbours that are read together, so that a large file is not read as a whole."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DiagonalSample:
    """Entries of a diagonal with their standard errors: all, or blocks evenly spaced among them."""

    values: Numbers
    standard_errors: Numbers
    num_entries: int


def diagonal_sample(array: Callable[[str], Numbers]) -> DiagonalSample:
    """What a picture shows of the diagonal.

    Args:
        array: The stored array of a name, which may be as long as the vector of parameters.
    """
    values = array("diagonal")
    chosen = _chosen(len(values))
    errors = array("diagonal_standard_error")
    return DiagonalSample(np.array(values[chosen]), np.array(errors[chosen]), len(values))


def _chosen(num_entries: int) -> slice | NDArray[np.intp]:
    if num_entries <= MOST_ENTRIES:
        return slice(None)
    starts = np.linspace(0, num_entries - _BLOCK, MOST_ENTRIES // _BLOCK).astype(np.intp)
    return (starts[:, None] + np.arange(_BLOCK)).ravel()
