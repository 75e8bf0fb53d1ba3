"""Roots of increasing functions, many at once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Evaluation = Callable[[Array], tuple[Array, Array, Array]]

MAX_STEPS = 1200
"""More than bisection needs between any two float64 numbers."""


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def increasing_root(evaluate: Evaluation, low: Array, high: Array, start: Array) -> Array:
    """The root of each increasing function between its `low` and `high`, by Newton's method inside a bracket.

    A step that leaves the bracket, or does not halve the one before, is replaced by bisection.

    Args:  evaluate: x -> (value, slope, noise), all of the shape of x; a value within `noise` of 0 ends the search.
        low, high, start: one shape; the root is taken to lie in [low, high].
    Returns:  x of that shape: |value| <= noise, or no float64 is left between the ends of the bracket.
    """
    low, high, x = low.copy(), high.copy(), np.clip(start, low, high)
    previous = high - low
    open_ = np.ones(x.shape, dtype=bool)
    for _ in range(MAX_STEPS):
        value, slope, noise = evaluate(x)
        low, high = np.where(value <= 0, x, low), np.where(value >= 0, x, high)
        open_ &= np.abs(value) > noise
        step = -value / slope
        newton, middle = x + step, low + (high - low) / 2
        is_safe = (newton > low) & (newton < high) & (np.abs(step) <= np.abs(previous) / 2)
        following = np.where(is_safe, newton, middle)
        open_ &= (following != x) & (middle > low) & (middle < high)
        if not open_.any():
            break
        previous, x = np.where(open_, following - x, previous), np.where(open_, following, x)
    return x
