"""Spectrum of the two-layer linear network along gradient descent, from a recursion of two numbers."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.linear import learning_phase
from hessian_spectrum.theory.closed_form.spectrum import finite_array, matching_arrays
from hessian_spectrum.theory.exceptions import TheoryError

Array = NDArray[np.float64]

DIVERGED = 1e100
"""Growth of a squared norm, relative to the first, at which the trajectory ends."""


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Quantities at each point of gradient descent; the first entry precedes any step, and divergence ends the path.

    Attributes:
        learning_rate: Learning rate of the steps, in squared parameter per loss.
        loss: Loss, of shape (steps + 1,).
        c: Slope <w, v>, of shape (steps + 1,).
        bulk: d, where the bulk is ±d, of shape (steps + 1,).
        outliers: Pair of outliers, the larger one first, of shape (steps + 1, 2).
        phase: Phase of learning at each point.
        diverged_at: Step that left the range of floating point; None if none did.
        fixed_dimensions: Dimension of the part of the bulk's eigenspace that never changes.
        notes: Remarks on the path.
    """

    learning_rate: float
    loss: Array
    c: Array
    bulk: Array
    outliers: Array
    phase: list[str | None]
    diverged_at: int | None
    fixed_dimensions: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Recursion:
    """Gradient descent in terms of |w + v|^2 / 2 and |w - v|^2 / 2, for given data."""

    s2: float
    mean_yx: float
    floor: float  # smallest loss

    def d(self, plus: float, minus: float) -> float:
        return (plus - minus) / 2 * self.s2 - self.mean_yx

    def loss(self, plus: float, minus: float) -> float:
        d = self.d(plus, minus)
        return self.floor + (d * (d / self.s2) / 2 if self.s2 else 0.0)

    def phase(self, plus: float, minus: float) -> str | None:
        d, c = self.d(plus, minus), (plus - minus) / 2
        return learning_phase(s2=self.s2, mean_yx=self.mean_yx, c=c, d=d, turning=d + 2 * self.s2 * c)

    def outliers(self, plus: float, minus: float) -> tuple[float, float]:
        d, c = self.d(plus, minus), (plus - minus) / 2
        root = math.hypot(self.s2 * math.sqrt(plus) * math.sqrt(minus), d + self.s2 * c)
        large = self.s2 * (plus + minus) / 2 + root
        return large, -d * ((d + 2 * self.s2 * c) / large) if large else 0.0


@np.errstate(over="ignore", invalid="ignore")
def linear_descent(
    *, w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike, learning_rate: float, num_steps: int
) -> Descent:
    """Spectrum of f(x) = <w, v> x along full-batch gradient descent, w <- w - eta d v, v <- v - eta d w.

    w + v and w - v keep their directions; every step multiplies them by 1 - eta d and 1 + eta d, d = mean(delta x). The
    spectrum therefore depends on two numbers only, |w ± v|^2, and no descent is simulated. The outlier eigenvectors
    stay in the span of the first step's, and those of the bulk, (z, s z) with z orthogonal to w + s v, never change: 2
    (m - 1) dimensions.

    Args:
        w: Initial outgoing weights of shape (m,).
        v: Initial incoming weights of shape (m,).
        x: Inputs of shape (n,).
        y: Targets of shape (n,).
        learning_rate: eta > 0, in squared parameter per loss.
        num_steps: Number of steps, >= 1.

    Returns:
        The path, of at most num_steps + 1 points.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input, or eta or num_steps out of range.

    References:
        Cracking the Hessian, Corollary 3.1.
    """
    w, v = matching_arrays(("w", "v"), (w, v), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 1)
    rate = float(finite_array("learning_rate", learning_rate, 0))
    if not rate > 0 or num_steps < 1:
        raise TheoryError("learning_rate must be positive and num_steps at least 1")
    s2, mean_yx = float(np.mean(x * x)), float(np.mean(y * x))
    residual = y - (mean_yx / s2 if s2 else 0.0) * x
    recursion = _Recursion(s2, mean_yx, float(np.mean(residual * residual)) / 2)
    plus, minus = (float((w + sign * v) @ (w + sign * v)) / 2 for sign in (1, -1))
    limit = DIVERGED * max(plus, minus, 1.0)
    states, diverged_at = [(plus, minus)], None
    for step in range(1, num_steps + 1):
        shift = rate * recursion.d(plus, minus)
        plus, minus = plus * (1 - shift) * (1 - shift), minus * (1 + shift) * (1 + shift)
        if not max(plus, minus) <= limit:
            diverged_at = step
            break
        states.append((plus, minus))
    return _trajectory(
        recursion, states, learning_rate=rate, diverged_at=diverged_at, fixed_dimensions=2 * (w.size - 1)
    )


def _trajectory(
    recursion: _Recursion,
    states: list[tuple[float, float]],
    *,
    learning_rate: float,
    diverged_at: int | None,
    fixed_dimensions: int,
) -> Descent:
    note = f"gradient descent diverges: step {diverged_at} leaves the range of floating point, {len(states)} are given"
    descent = Descent(
        learning_rate=learning_rate,
        loss=np.array([recursion.loss(*state) for state in states]),
        c=np.array([(plus - minus) / 2 for plus, minus in states]),
        bulk=np.array([recursion.d(*state) for state in states]),
        outliers=np.array([recursion.outliers(*state) for state in states]),
        phase=[recursion.phase(*state) for state in states],
        diverged_at=diverged_at,
        fixed_dimensions=fixed_dimensions,
        notes=(note,) if diverged_at is not None else (),
    )
    for values in (descent.loss, descent.bulk, descent.outliers):
        if not np.isfinite(values).all():
            raise TheoryError("the trajectory overflows float64: rescale the weights or the data")
    return descent
