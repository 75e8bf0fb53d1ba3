"""A law given by its R-transform: a free sum of a semicircle and free Poisson parts."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.exceptions import TheoryError
from hessian_spectrum.theory.random_matrix.boundary import Array, Boundary
from hessian_spectrum.theory.random_matrix.monotone import ROUNDING
from hessian_spectrum.theory.random_matrix.support import Component, components

Complexes = NDArray[np.complex128]


@dataclass(frozen=True)
class Interval:
    """An interval [low, high] of the support, in the unit of the eigenvalues, with its mass without an atom at 0."""

    low: float
    high: float
    mass: float


@dataclass(frozen=True)
class FreeLaw:
    """The law with R(z) = s z + sum_k r_k a_k / (1 - a_k z): a semicircle of variance s plus free Poisson parts.

    A part of rate r and jump a is the limit of a/n G G^T, where G is standard normal and n x rn. The Wigner law has s =
    v; the Wishart law has r = 1/tau and a = v tau; a free sum concatenates the parts. G(z) = 1/u solves R(G) + 1/G = z;
    `Boundary` states the equation for u and why its solution is unique.

    Attributes:
        semicircle_variance: s >= 0, in squared units of the eigenvalues.
        rates: r_k > 0, one for each free Poisson part.
        jumps: a_k, in the unit of the eigenvalues, ascending, one for each free Poisson part.

    References:
        Voiculescu, Dykema & Nica, Free Random Variables (1992); the Lecture for the sum rule of R.
    """

    semicircle_variance: float
    rates: tuple[float, ...] = ()
    jumps: tuple[float, ...] = ()

    @classmethod
    def of(cls, semicircle_variance: float, rates: tuple[float, ...] = (), jumps: tuple[float, ...] = ()) -> "FreeLaw":
        """Make a law whose parts of equal jump are merged, without parts that are 0; arguments are the attributes.

        Returns:
            The law.

        Raises:
            TheoryError: If no part remains, or a number is not finite or has the wrong sign.
        """
        numbers = (semicircle_variance, *rates, *jumps)
        if len(rates) != len(jumps):
            raise TheoryError(f"{len(rates)} rates for {len(jumps)} jumps", field="rates")
        if not all(math.isfinite(number) for number in numbers):
            raise TheoryError("the parts of a law must be finite")
        if semicircle_variance < 0 or any(rate <= 0 for rate in rates):
            raise TheoryError("a variance must not be negative, a rate must be positive")
        parts: dict[float, float] = {}
        for rate, jump in zip(rates, jumps, strict=True):
            if jump:
                parts[float(jump)] = parts.get(jump, 0.0) + float(rate)
        if not parts and semicircle_variance == 0:
            raise TheoryError("a law without variance is a point mass at 0")
        return cls(semicircle_variance, tuple(parts[jump] for jump in sorted(parts)), tuple(sorted(parts)))

    def __add__(self, other: "FreeLaw") -> "FreeLaw":
        """The free sum: R-transforms add."""
        return FreeLaw.of(
            self.semicircle_variance + other.semicircle_variance, self.rates + other.rates, self.jumps + other.jumps
        )

    @cached_property
    def atom_at_zero(self) -> float:
        """Mass at 0: 1 - sum r_k if that is positive and there is no semicircle, else 0."""
        missing = 1 - math.fsum(self.rates)
        return missing if self.semicircle_variance == 0 and missing > 8 * ROUNDING else 0.0

    @cached_property
    def diverges_at_zero(self) -> bool:
        """Whether the density is unbounded at 0, which it is without a semicircle and with sum r_k = 1."""
        return self.semicircle_variance == 0 and abs(1 - math.fsum(self.rates)) <= 8 * ROUNDING

    @cached_property
    def support(self) -> tuple[Interval, ...]:
        """Intervals where the density is positive, ascending, without an atom at 0.

        The edges are z(u) where dz/du = 0 at real u. These are the real zeros of the discriminant of the polynomial
        equation for G at which the physical branch meets its conjugate. The error of an edge is quadratic in the error
        of u.
        """
        return tuple(Interval(part.low * self._scale, part.high * self._scale, part.mass) for part in self._components)

    @cached_property
    def index(self) -> float:
        """Index alpha, the mass strictly below 0."""
        return float(indices(self._boundary)[0])

    @cached_property
    def moments(self) -> tuple[float, float, float, float]:
        """E l, E l^2, E l^3, E l^4 from the free cumulants k_n = s [n = 2] + sum_k r_k a_k^n."""
        parts = list(zip(self.rates, self.jumps, strict=True))
        k1, k2, k3, k4 = (math.fsum(rate * jump**n for rate, jump in parts) for n in (1, 2, 3, 4))
        k2 += self.semicircle_variance
        return (
            k1,
            k2 + k1**2,
            k3 + 3 * k2 * k1 + k1**3,
            k4 + 4 * k3 * k1 + 2 * k2**2 + 6 * k2 * k1**2 + k1**4,
        )

    def density(self, points: ArrayLike) -> Array:
        """Density -Im G(l + i0) / pi, without the atom; infinite at 0 if it diverges there.

        Args:
            points: Eigenvalues of shape (n,).

        Returns:
            Density of shape (n,), per unit of eigenvalue; exactly 0 outside the support.
        """
        return self.density_and_mass(points)[0]

    def cumulative(self, points: ArrayLike) -> Array:
        """Mass of (-infinity, l], with the atom.

        Args:
            points: Eigenvalues l of shape (n,).

        Returns:
            Mass of shape (n,), nondecreasing in the point, 0 to the left of the support and 1 to its right.
        """
        return self.density_and_mass(points)[1]

    def density_and_mass(self, points: ArrayLike) -> tuple[Array, Array]:
        """Results of `density` and `cumulative` at the cost of one of them."""
        with np.errstate(over="ignore"):
            positions = np.asarray(points, dtype=np.float64) / self._scale
        density, below = np.zeros_like(positions), np.where(positions >= 0, self.atom_at_zero, 0.0)
        for part in self._components:
            within = (positions >= part.low) & (positions <= part.high)
            x, y = part.curve(positions[within])
            with np.errstate(divide="ignore", invalid="ignore"):
                density[within] = np.nan_to_num(y / (x * x + y * y), nan=math.inf) / (math.pi * self._scale)
            below[within] += np.clip(self._boundary.mass_below(x, y) - part.masses[0], 0.0, part.mass)
            below[positions > part.high] += part.mass
        if self.diverges_at_zero:
            density[positions == 0] = math.inf
        return density, np.clip(below, 0.0, 1.0)

    def r_transform(self, points: ArrayLike) -> Complexes:
        """R(z) at complex z.

        Args:
            points: z, of shape (n,), in inverse units of the eigenvalues.

        Returns:
            R, of shape (n,), in the unit of the eigenvalues; not finite at a pole z = 1 / a_k.
        """
        z = np.asarray(points, dtype=np.complex128)
        rates, jumps = np.array(self.rates)[:, None], np.array(self.jumps)[:, None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(self.semicircle_variance * z + np.sum(rates * jumps / (1 - jumps * z), axis=0))

    def stieltjes(self, points: ArrayLike) -> Complexes:
        """G(z), the integral of rho(dl) / (z - l); at a real z its limit from above.

        Args:
            points: z, of shape (n,), in the unit of the eigenvalues.

        Returns:
            G, of shape (n,), per unit of eigenvalue; not finite at an atom, nor at 0 if the density diverges there.
        """
        z = np.asarray(points, dtype=np.complex128) / self._scale
        position, eta = np.real(z), np.abs(np.imag(z))
        x = self._boundary.abscissa(position, eta)
        y = self._boundary.height(x, eta)
        if self.diverges_at_zero or self.atom_at_zero:
            x, y = np.where(z == 0, 0.0, x), np.where(z == 0, 0.0, y)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = 1 / (x + 1j * y) / self._scale
        return np.asarray(np.where(np.imag(z) < 0, np.conj(inverse), inverse))

    def grid(self, num_points: int) -> Array:
        """Eigenvalues from edge to edge of every interval, dense where the mass is and near the edges.

        The points divide a measure evenly. Half of it is the mass; the other half is the arcsine law of each interval,
        weighted by the interval's share of the total length. If there are too few points for all edges, they are
        equidistant.

        Args:
            num_points: Number of points, >= 2.

        Returns:
            Grid of shape (num_points,), ascending.
        """
        if num_points < 2 * len(self.support):
            return np.linspace(self.support[0].low, self.support[-1].high, num_points)
        lengths = np.array([part.high - part.low for part in self._components])
        masses = np.array([part.mass for part in self._components])
        shares = (lengths / lengths.sum() + masses / masses.sum()) / 2
        ends = np.rint(np.cumsum(shares) * (num_points - 2 * len(shares))).astype(int)
        counts = np.diff(ends, prepend=0) + 2
        parts = zip(self._components, counts, strict=True)
        return self._scale * np.concatenate([part.spread(int(count)) for part, count in parts])

    @cached_property
    def _components(self) -> tuple[Component, ...]:
        return components(self._boundary)

    @cached_property
    def _scale(self) -> float:
        """Largest standard deviation of a part; squares of numbers of this size neither overflow nor underflow."""
        parts = zip(self.rates, self.jumps, strict=True)
        return max(math.sqrt(self.semicircle_variance), *(math.sqrt(rate) * abs(jump) for rate, jump in parts), 0.0)

    @cached_property
    def _boundary(self) -> Boundary:
        variance = np.array([self.semicircle_variance / self._scale / self._scale])
        return Boundary(variance, np.array(self.rates)[:, None], np.array(self.jumps)[:, None] / self._scale)


def indices(boundary: Boundary) -> Array:
    """Mass strictly below 0 of many laws at once.

    Without a semicircle and with sum r_k <= 1, u = 0 lies in a gap or on an edge and corresponds to the point 0, which
    a search would miss because of rounding.

    Args:
        boundary: Boundaries of B laws, of shape (B,).

    Returns:
        Masses of shape (B,).
    """
    is_real = ~boundary.is_curved & (np.sum(boundary.rates, axis=0) <= 1 + 8 * ROUNDING)
    x = np.where(is_real, 0.0, boundary.abscissa(np.zeros_like(boundary.semicircle)))
    y = np.where(is_real, 0.0, boundary.height(x))
    return np.clip(boundary.mass_below(x, y), 0.0, 1.0)
