"""The intervals on which a free sum has a density."""

from dataclasses import dataclass

import numpy as np

from hessian_spectrum.theory.random_matrix.boundary import Array, Boundary
from hessian_spectrum.theory.random_matrix.monotone import ROUNDING, increasing_root

# Fractions of a stretch between two points near which the law may have a scale of its own.
_HALVINGS = 2.0 ** -np.arange(1, 80)
_FRACTIONS = np.unique(np.concatenate([[0.0, 1.0], _HALVINGS, 1 - _HALVINGS, np.linspace(0, 1, 65)]))


@dataclass(frozen=True)
class Component:
    """An interval of the support, with a table of the curve of u = 1/G above it from edge to edge."""

    boundary: Boundary
    abscissas: Array  # (T,) Re u, ascending
    locations: Array  # (T,) eigenvalues there, ascending
    masses: Array  # (T,) mass below, ascending

    @property
    def low(self) -> float:
        """Lower edge."""
        return float(self.locations[0])

    @property
    def high(self) -> float:
        """Upper edge."""
        return float(self.locations[-1])

    @property
    def mass(self) -> float:
        """Mass of the interval without an atom."""
        return min(1.0, float(self.masses[-1] - self.masses[0]))

    def curve(self, positions: Array) -> tuple[Array, Array]:
        """Real part x and imaginary part y of u at positions within the interval."""
        right = np.clip(np.searchsorted(self.locations, positions), 1, len(self.locations) - 1)
        low, high = self.abscissas[right - 1], self.abscissas[right]
        start = np.interp(positions, self.locations, self.abscissas)
        x = self.boundary.abscissa(positions, bracket=(low, high, start))
        return x, self.boundary.height(x)

    def spread(self, num_points: int) -> Array:
        """Positions from edge to edge that divide the mean of mass and arcsine law evenly: (num_points,), ascending."""
        angle = np.arccos(np.clip(1 - 2 * (self.locations - self.low) / (self.high - self.low), -1, 1)) / np.pi
        mass = (self.masses - self.masses[0]) / (self.masses[-1] - self.masses[0])
        points = np.interp(np.linspace(0, 1, num_points), (angle + mass) / 2, self.locations)
        points[0], points[-1] = self.low, self.high
        return points


def components(boundary: Boundary) -> tuple[Component, ...]:
    """Intervals of the support of one law, ascending; `boundary` has shape (1,)."""
    ends = edges(boundary)
    return tuple(_component(boundary, low, high) for low, high in zip(ends[::2], ends[1::2], strict=True))


def _component(boundary: Boundary, low: float, high: float) -> Component:
    poles = boundary.poles[:, 0]
    breaks = np.unique([low, *poles[(poles > low) & (poles < high)], high])
    x = np.unique(breaks[:-1, None] + np.diff(breaks)[:, None] * _FRACTIONS)
    x = np.concatenate([x[x < high], [high]])
    y = boundary.height(x)
    y[[0, -1]] = 0.0
    locations, _ = boundary.location(x, y)
    masses = boundary.mass_below(x, y)
    return Component(boundary, x, np.maximum.accumulate(locations), np.maximum.accumulate(masses))


def edges(boundary: Boundary) -> Array:
    """Real u where dz/du = 0, ascending: those of lower and upper edges of the support alternate.

    -dz/du is convex between two poles and nonnegative within sqrt(w_j) of the pole p_j. Between the bounds that two
    neighbouring poles imply it has two zeros or none, one on each side of its minimum. Beyond each outermost pole it
    has one zero, at most the square root of the sum of the w_j away.

    Args:
        boundary: Boundary of one law, of shape (1,).

    Returns:
        Edges of shape (2 K,) for K intervals, in the unit of u.
    """
    order = np.argsort(boundary.poles[:, 0])
    poles, reach = boundary.poles[order, 0], np.sqrt(boundary.weights[order, 0]) * (1 - 8 * ROUNDING)
    low, high = (poles + reach)[:-1], (poles - reach)[1:]
    low, high = low[low < high], high[low < high]

    def excess(x: Array) -> tuple[Array, Array, Array]:
        return -boundary.surplus(x)[0], boundary.slopes(x)[0], np.zeros_like(x)

    def mirrored_excess(x: Array) -> tuple[Array, Array, Array]:
        return -boundary.surplus(-x)[0], -boundary.slopes(-x)[0], np.zeros_like(x)

    middle = increasing_root(
        lambda x: (*boundary.slopes(x), np.zeros_like(x)), low=low, high=high, start=(low + high) / 2
    )
    is_gap = boundary.surplus(middle)[0] > 0
    low, middle, high = low[is_gap], middle[is_gap], high[is_gap]
    total = boundary.deviation * (1 + 8 * ROUNDING)
    first, last = poles[:1] - reach[:1], poles[-1:] + reach[-1:]
    rising = increasing_root(
        excess, low=np.append(poles[:1] - total, middle), high=np.append(first, high), start=np.append(first, high)
    )
    falling = increasing_root(
        mirrored_excess,
        low=-np.append(middle, poles[-1:] + total),
        high=-np.append(low, last),
        start=-np.append(low, last),
    )
    return np.sort(np.concatenate([rising, -falling]))
