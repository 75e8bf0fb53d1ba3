"""Where u = 1/G lies: the curve that bounds the image of the upper half plane."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.random_matrix.monotone import increasing_root

Array = NDArray[np.float64]

ROUNDING = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Boundary:
    """The function z(u) = u + s/u + sum_k r_k a_k u / (u - a_k) of one free sum, or of many at once.

    z inverts u(z) = 1/G(z). With the weights w = (s, r_k a_k^2) at the poles p = (0, a_k),

        Im z(x + iy) = y (1 - sum_j w_j / ((x - p_j)^2 + y^2)),

    so for each x and each eta >= 0 one height y >= 0 gives Im z = eta, where for eta = 0 the height is 0 unless
    sum_j w_j / (x - p_j)^2 > 1. Along that curve Re z increases strictly with x, from -infinity to infinity. Each
    point z of the closed upper half plane thus has one u, found by bracketed search in y and in x: there is no choice
    among the roots of a polynomial.

    Shapes: semicircle (...), all positive or all 0; rates and jumps (N, ...); (...) broadcasts against the points.
    Source:  Biane, Indiana Univ. Math. J. 46 (1997) 705-718, for a semicircular part; free Poisson parts alike.
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
        """Their residues, the variances of the parts, of the shape of `poles`."""
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
        """Square root of its variance."""
        deviation: Array = np.sqrt(np.sum(self.weights, axis=0))
        return deviation

    def excess(self, x: Array) -> Array:
        """-dz/du = sum_j w_j / (x - p_j)^2 - 1 at real u = x: positive below the curve, 0 at an edge of the support."""
        excess: Array = np.sum(self.weights / (x - self.poles) ** 2, axis=0) - 1
        return excess

    def excess_slopes(self, x: Array) -> tuple[Array, Array]:
        """First and second derivative of `excess`; the second is positive."""
        distances = x - self.poles
        thinned = self.weights / distances**2
        return -2 * np.sum(thinned / distances, axis=0), 6 * np.sum(thinned / distances**2, axis=0)

    def height(self, x: Array, eta: Array | float = 0.0) -> Array:
        """The y >= 0 with Im z(x + iy) = eta."""
        y = self._real_height(x)
        return self._raised_height(x, y, np.asarray(eta)) if np.any(eta) else y

    @np.errstate(divide="ignore", invalid="ignore")
    def _real_height(self, x: Array) -> Array:
        weights, squares = self.weights, (x - self.poles) ** 2
        # One term alone reaches 1 here, so the root lies to the right; 1 / sum is concave there: Newton's method
        # for 1 / sum = 1 climbs to it without overshooting, at once where one term dominates.
        square: Array = np.maximum(np.max(weights - squares, axis=0), 0.0)
        for _ in range(100):
            terms = weights / (squares + square)
            total = np.sum(terms, axis=0)
            step = total * (total - 1) / np.sum(terms / (squares + square), axis=0)
            step = np.where(step > 0, step, 0.0)  # also where no height is needed
            square = square + step
            if not np.any(step > 4 * ROUNDING * square):
                break
        return np.sqrt(square)

    def _raised_height(self, x: Array, lowest: Array, eta: Array) -> Array:
        weights, squares = self.weights, (x - self.poles) ** 2

        def evaluate(y: Array) -> tuple[Array, Array, Array]:
            terms = weights / (squares + y * y)
            total = np.sum(terms, axis=0)
            slope = 1 - total + 2 * y * y * np.sum(terms / (squares + y * y), axis=0)
            return y * (1 - total) - eta, slope, 2 * ROUNDING * y

        low = np.broadcast_to(np.maximum(lowest, eta), x.shape)
        high = np.where(eta > 0, (eta + self.deviation) * (1 + 4 * ROUNDING), lowest)
        return increasing_root(evaluate, low, high, high)

    @np.errstate(divide="ignore", invalid="ignore")
    def location(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Re z(x + iy), and how far rounding may have moved it.

        Written about u = 0: near the origin the terms are small, where m + u + sum_j w_j / (u - p_j) would cancel.
        """
        norms, distances = x * x + y * y, x - self.jumps
        squares = distances * distances + y * y
        pulls = self.rates * self.jumps / squares
        inverse = self.semicircle / norms if self.is_curved else 0.0
        real = x + x * inverse + np.sum(pulls * (x * distances + y * y), axis=0)
        size = np.abs(x) + np.sqrt(norms) * (inverse + np.sum(np.abs(pulls) * np.sqrt(squares), axis=0))
        return real, 4 * ROUNDING * size

    @np.errstate(divide="ignore", invalid="ignore")
    def stretch(self, x: Array, y: Array, eta: Array | float = 0.0) -> Array:
        """d Re z / dx along the curve Im z = eta, which is |z'|^2 / Re z'."""
        distances = x - self.poles
        terms = self.weights / (distances**2 + y * y)
        thinned = terms / (distances**2 + y * y)
        # 1 - sum_j terms vanishes on the curve of eta = 0, where its rounding would drown the rest near an edge.
        gap = np.where(y > 0, eta / y, 1 - np.sum(terms, axis=0))
        real = gap + 2 * y * y * np.sum(thinned, axis=0)
        imaginary = 2 * y * np.sum(thinned * distances, axis=0)
        stretch: Array = real + imaginary * imaginary / real
        return stretch

    def abscissa(
        self, position: Array, eta: Array | float = 0.0, bracket: tuple[Array, Array, Array] | None = None
    ) -> Array:
        """The x of the u with z(u) = position + i eta.

        `bracket` holds low, high and start; without it |x - position + m| <= deviation does, as the sum over the
        poles is at most that by the inequality of Cauchy and Schwarz.
        """

        def evaluate(x: Array) -> tuple[Array, Array, Array]:
            y = self.height(x, eta)
            real, noise = self.location(x, y)
            return real - position, self.stretch(x, y, eta), noise

        if bracket is None:
            centre, deviation = position - self.mean, self.deviation
            reach = deviation + 8 * ROUNDING * (np.abs(position) + np.abs(self.mean) + deviation)
            bracket = centre - reach, centre + reach, centre
        return increasing_root(evaluate, *bracket)

    def mass_below(self, x: Array, y: Array) -> Array:
        """Mass of (-infinity, Re z(x + iy)] at a point of the curve of eta = 0; of (-infinity, 0) at x = y = 0.

        The mass above is Im Phi(G) / pi with Phi = -log G + s G^2 / 2 + sum_k r_k (1 / (1 - a_k G) + log(1 - a_k G)),
        which is G z - integral of z dG, an antiderivative of G dz. Here its angles are taken from the left, so that a
        small mass is no difference from 1.
        """
        x = np.where((x == 0) & (y == 0), -1e-150, x)  # the angles jump there; the left is wanted
        norms = x * x + y * y
        angle = np.arctan2(y, -x)
        bow = (self.semicircle / norms) * (x * y / norms) if self.is_curved else 0.0
        squares = (x - self.jumps) ** 2 + y * y
        turned = np.arctan2(self.jumps * y, norms - self.jumps * x)
        bent = self.jumps * y / squares
        parts = np.sum(self.rates * (bent - turned), axis=0)
        return np.asarray((angle + bow + parts) / math.pi)
