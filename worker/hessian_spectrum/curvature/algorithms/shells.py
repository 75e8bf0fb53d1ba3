"""Intervals of eigenvalues whose distances from a point are bounded, on one side of it or on both."""

from torch import Tensor


def ends_within(shell: tuple[float, float], *, starts: Tensor, stops: Tensor) -> tuple[float, float]:
    """Return the ends of the smallest interval with all parts of intervals that lie in a shell of distances.

    Args:
        shell: Bounds inner and outer of |x|, where x is a signed distance; outer may be infinite.
        starts: Lower ends (m,) of the intervals of x.
        stops: Their upper ends (m,), which may be infinite; some interval meets the shell.

    Returns:
        The ends, one-sided where all parts are on one side of zero.
    """
    inner, outer = shell
    ends: list[float] = []
    for low, high in ((-outer, -inner), (inner, outer)):
        lower, upper = starts.clamp(min=low), stops.clamp(max=high)
        meet = lower <= upper
        ends += [*lower[meet].tolist(), *upper[meet].tolist()]
    return min(ends), max(ends)
