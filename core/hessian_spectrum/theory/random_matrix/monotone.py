"""Roots of increasing functions, many at once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Evaluation = Callable[[Array], tuple[Array, Array, Array]]

ROUNDING = float(np.finfo(np.float64).eps)

MAX_STEPS = 400
"""Largest number of steps, against an endless search; bisection in every second step ends earlier."""

NEWTON_RATIO = 0.25
"""Largest ratio of successive step lengths that is taken for quadratic convergence."""

_SIGN = np.int64(-(2**63))


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def increasing_root(evaluate: Evaluation, *, low: Array, high: Array, start: Array) -> Array:
    """The root of each increasing function between its `low` and `high`, by Newton's method inside a bracket.

    A step that leaves the bracket, or is longer than NEWTON_RATIO times the one just before, is replaced by bisection.
    Bisections alternate between the values and the 64-bit representations of the bounds; the latter find a root of any
    magnitude in 64 steps.

    Args:
        evaluate: Maps x of shape (...) to value, slope and noise of that shape; a value within `noise` of 0 ends the
            search.
        low: Lower ends of the brackets, of shape (...).
        high: Upper ends of the brackets, of shape (...); the root is assumed to lie in [low, high].
        start: First points, of shape (...), clipped to the brackets.

    Returns:
        x of shape (...) with |value| <= noise, or correct up to rounding.
    """
    low, high, x = low.copy(), high.copy(), np.clip(start, low, high)
    longest = np.full(x.shape, np.inf)
    is_open = np.ones(x.shape, dtype=bool)
    for number in range(MAX_STEPS):
        value, slope, noise = evaluate(x)
        low, high = np.where(value <= 0, x, low), np.where(value >= 0, x, high)
        step = -value / slope
        is_open &= (np.abs(value) > noise) & ~(np.abs(step) <= ROUNDING * np.abs(x))  # a step may be NaN
        newton, middle = x + step, _middle(low, high) if number % 2 else low + (high - low) / 2
        is_safe = (newton > low) & (newton < high) & (np.abs(step) <= longest)
        following = np.where(is_safe, newton, middle)
        is_open &= (following != x) & (middle > low) & (middle < high)
        if not is_open.any():
            break
        x = np.where(is_open, following, x)
        longest = np.where(is_safe, NEWTON_RATIO * np.abs(step), np.inf)
    return x


def _middle(low: Array, high: Array) -> Array:
    """The float64 with equally many others between it and `low` as between it and `high`."""
    first, last = _ordinal(low), _ordinal(high)
    middle = (first >> 1) + (last >> 1) + (first & last & 1)
    bits: NDArray[np.int64] = np.where(middle < 0, -middle | _SIGN, middle)
    return bits.view(np.float64)


def _ordinal(x: Array) -> NDArray[np.int64]:
    """Rank of each float64 in ascending order, 0 for 0."""
    bits = x.view(np.int64)
    return np.where(bits < 0, -(bits & ~_SIGN), bits)
