"""The curve in the complex plane on which u = 1/G lies; it bounds the image of the upper half plane."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.theory.random_matrix.monotone import ROUNDING, increasing_root

Array = NDArray[np.float64]

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Boundary:
    """The function z(u) = u + s/u + sum_k r_k a_k u / (u - a_k) of one free sum, or of many at once.

    z is the inverse of u(z) = 1/G(z). With the weights w = (s, r_k a_k^2) at the poles p = (0, a_k),

        Im z(x + iy) = y (1 - sum_j w_j / ((x - p_j)^2 + y^2)).

    For each x and each eta >= 0, exactly one height y >= 0 gives Im z = eta, where for eta = 0 the height is 0 unless
    sum_j w_j / (x - p_j)^2 > 1. Along that curve Re z increases strictly with x, from -infinity to infinity. Each point
    z of the closed upper half plane therefore has exactly one u, which a bracketed search in y and in x finds. No root
    of a polynomial has to be selected.

    Attributes:
        semicircle: Variance s of the semicircular part, of shape (...), either all positive or all 0.
        rates: Rates r_k of the free Poisson parts, of shape (N, ...).
        jumps: Jumps a_k of the free Poisson parts, of shape (N, ...). The shape (...) broadcasts against that of
            points.

    References:
        Biane, Indiana Univ. Math. J. 46 (1997) 705-718, for a semicircular part; free Poisson parts are analogous.
    """

    semicircle: Array
    rates: Array
    jumps: Array

    @property
    def poles(self) -> Array:
        """Poles of z(u): (N + 1, ...), or (N, ...) without a semicircle."""
        return np.concatenate([np.zeros_like(self.semicircle)[None], self.jumps]) if self.is_curved else self.jumps

    @property
    def weights(self) -> Array:
        """Residues at the poles, which are the variances of the parts; of the shape of `poles`."""
        variances = self.rates * self.jumps**2
        return np.concatenate([self.semicircle[None], variances]) if self.is_curved else variances

    @property
    def is_curved(self) -> np.bool_:
        """Whether there is a semicircular part."""
        return np.any(self.semicircle)

    @property
    def mean(self) -> Array:
        """First moment of the law."""
        return np.asarray(np.sum(self.rates * self.jumps, axis=0))

    @property
    def deviation(self) -> Array:
        """Standard deviation of the law."""
        deviation: Array = np.sqrt(np.sum(self.weights, axis=0))
        return deviation

    @np.errstate(divide="ignore", invalid="ignore")
    def surplus(self, x: Array, square: Array | float = 0.0) -> tuple[Array, Array]:
        """1 - sum_j w_j / |u - p_j|^2 at u = x + iy, with the sum of the magnitudes of its terms.

        The value equals Im z / y, and dz/du at a real u; it is negative below the curve and 0 on it. A part with |u -
        a_k| close to |a_k| is evaluated as -r_k + r_k (1 - a_k^2 / |u - a_k|^2), because near u = 0 the terms may add
        up to 1 - sum r_k, which may be 0.

        Args:
            x: Real parts of u, of shape (...).
            square: Squared imaginary parts y^2, of shape (...).

        Returns:
            The values and the sums of magnitudes, each of shape (...).
        """
        norms, squares, is_plain, rest = self._distances(x, square)
        pulls = np.where(is_plain, -self.jumps * self.jumps, norms - 2 * self.jumps * x) * self.rates / squares
        bow = self.semicircle / norms if self.is_curved else 0.0
        return rest + np.sum(pulls, axis=0) - bow, np.abs(rest) + np.sum(np.abs(pulls), axis=0) + bow

    def slopes(self, x: Array) -> tuple[Array, Array]:
        """First and second derivative of sum_j w_j / (x - p_j)^2 at real u = x; the second is positive."""
        distances = x - self.poles
        thinned = self.weights / distances**2
        return -2 * np.sum(thinned / distances, axis=0), 6 * np.sum(thinned / distances**2, axis=0)

    def height(self, x: Array, eta: Array | float = 0.0) -> Array:
        """The y >= 0 with Im z(x + iy) = eta."""
        y = self._real_height(x)
        return self._raised_height(x, y, np.asarray(eta)) if np.any(eta) else y

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")
    def _real_height(self, x: Array) -> Array:
        # Where one term alone is 1 the root is not yet passed; from there 1 / sum is concave: Newton's method for
        # 1 / sum = 1 climbs to the root without overshooting, at once where one term dominates.
        norms, squares, is_plain, _ = self._distances(x, 0.0)
        bent = (self.rates - 1) * self.jumps**2 - (norms - 2 * self.jumps * x)
        alone = np.where(is_plain, self.rates * self.jumps**2 - squares, bent)
        square: Array = np.maximum(self.semicircle - norms, np.max(alone, axis=0, initial=0.0))
        for _ in range(100):
            surplus, size = self.surplus(x, square)
            step = -surplus * (1 - surplus) / np.sum(self._thinned(x, square), axis=0)
            step = np.where(surplus < -2 * ROUNDING * size, step, 0.0)
            square = square + step
            if not np.any(step > 4 * ROUNDING * square):
                break
        return np.sqrt(square)

    def _raised_height(self, x: Array, lowest: Array, eta: Array) -> Array:
        def evaluate(y: Array) -> tuple[Array, Array, Array]:
            square = y * y
            surplus, size = self.surplus(x, square)
            slope = surplus + 2 * square * np.sum(self._thinned(x, square), axis=0)
            return y * surplus - eta, slope, 4 * ROUNDING * y * size + TINY

        low = np.broadcast_to(np.maximum(lowest, eta), x.shape)
        high = np.where(eta > 0, (eta + self.deviation) * (1 + 4 * ROUNDING), lowest)
        return increasing_root(evaluate, low=low, high=high, start=high)

    @np.errstate(divide="ignore", invalid="ignore")
    def location(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Re z(x + iy), with a bound on its rounding error.

        Parts close to a pole are evaluated as r_k a_k u / (u - a_k) = -r_k u + r_k u^2 / (u - a_k), as in `surplus`.

        Args:
            x: Real parts of u, of shape (...).
            y: Imaginary parts of u, of shape (...).

        Returns:
            Re z and its error bound, each of shape (...).
        """
        norms, squares, is_plain, rest = self._distances(x, y * y)
        across = norms - self.jumps * x
        pulls = np.where(is_plain, self.jumps * across, x * across + self.jumps * (y * y)) * self.rates / squares
        bow = self.semicircle / norms if self.is_curved else 0.0
        size = np.abs(rest) + bow + np.sum(self.rates * np.sqrt(np.minimum(self.jumps**2, norms) / squares), axis=0)
        return x * rest + x * bow + np.sum(pulls, axis=0), 4 * ROUNDING * np.sqrt(norms) * size + TINY

    @np.errstate(divide="ignore", invalid="ignore")
    def stretch(self, x: Array, y: Array, eta: Array | float = 0.0) -> Array:
        """Derivative d Re z / dx along the curve Im z = eta, which is |z'|^2 / Re z'."""
        thinned = self._thinned(x, y * y)
        # The surplus vanishes on the curve of eta = 0, where its rounding would drown the rest near an edge.
        real = np.where(y > 0, eta / y, self.surplus(x)[0]) + 2 * y * y * np.sum(thinned, axis=0)
        imaginary = 2 * y * np.sum(thinned * (x - self.poles), axis=0)
        stretch: Array = real + imaginary * imaginary / real
        return stretch

    def abscissa(
        self, position: Array, eta: Array | float = 0.0, bracket: tuple[Array, Array, Array] | None = None
    ) -> Array:
        """The x of the u with z(u) = position + i eta.

        Args:
            position: Real parts of z, of shape (...).
            eta: Imaginary parts of z, >= 0, of shape (...).
            bracket: Lower end, upper end and start of the search, each of shape (...). By default |x - position + m| <=
                deviation, which holds because the sum over the poles is at most the deviation by the Cauchy-Schwarz
                inequality; m is the mean.

        Returns:
            Real parts of u, of shape (...).
        """

        def evaluate(x: Array) -> tuple[Array, Array, Array]:
            y = self.height(x, eta)
            real, noise = self.location(x, y)
            return real - position, self.stretch(x, y, eta), noise

        if bracket is None:
            centre, deviation = position - self.mean, self.deviation
            reach = deviation + 8 * ROUNDING * (np.abs(position) + np.abs(self.mean) + deviation)
            bracket = centre - reach, centre + reach, centre
        low, high, start = bracket
        return increasing_root(evaluate, low=low, high=high, start=start)

    def mass_below(self, x: Array, y: Array) -> Array:
        """Mass of (-infinity, Re z(x + iy)] at a point of the curve of eta = 0; of (-infinity, 0) at x = y = 0.

        The mass above is Im Phi(G) / pi with Phi = -log G + s G^2 / 2 + sum_k r_k (1 / (1 - a_k G) + log(1 - a_k G)),
        which is G z - integral of z dG, an antiderivative of G dz. The angles are measured from the left here, so that
        a small mass is not computed as a difference from 1.

        Args:
            x: Real parts of u, of shape (...).
            y: Imaginary parts of u on the curve, of shape (...).

        Returns:
            Masses, of shape (...).
        """
        x = np.where((x == 0) & (y == 0), -1e-150, x)  # the angles jump at 0; this is the limit from the left
        norms, squares, is_plain, rest = self._distances(x, y * y)
        bow = (self.semicircle / norms) * (x * y / norms) if self.is_curved else 0.0
        turned = np.arctan2(-self.jumps * y, norms - self.jumps * x)
        bent = np.where(is_plain, turned, np.arctan2(y, self.jumps - x)) + self.jumps * y / squares
        return np.asarray((np.arctan2(y, -x) * rest + bow + np.sum(self.rates * bent, axis=0)) / math.pi)

    def _distances(self, x: Array, square: Array | float) -> tuple[Array, Array, NDArray[np.bool_], Array]:
        """|u|^2, |u - a_k|^2, a mask of where the latter is not close to a_k^2, and 1 - sum of the other r_k."""
        norms = x * x + square
        is_plain = np.abs(norms - 2 * self.jumps * x) > self.jumps * self.jumps / 2
        rest = 1 - np.sum(np.where(is_plain, 0.0, self.rates), axis=0)
        return norms, (x - self.jumps) ** 2 + square, is_plain, rest

    def _thinned(self, x: Array, square: Array) -> Array:
        """w_j / |u - p_j|^4."""
        thinned: Array = self.weights / ((x - self.poles) ** 2 + square) ** 2
        return thinned
