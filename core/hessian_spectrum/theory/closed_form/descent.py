"""Outliers of the two-layer linear network along gradient descent, from a recursion of two numbers."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.linear import learning_phase
from hessian_spectrum.theory.closed_form.spectrum import finite_array, matching_arrays
from hessian_spectrum.theory.errors import TheoryError

Array = NDArray[np.float64]

DIVERGED = 1e100
"""A squared norm beyond this, relative to the first, ends the trajectory."""


@dataclass(frozen=True)
class Descent:
    """Step by step, the first entry before any step; cut off where gradient descent diverges.

    loss, c, bulk, phase (steps + 1,), outliers (steps + 1, 2), large before small; diverged_at is the step that left
    the range of floating point. fixed_dimensions is that of the bulk's eigenspace, which stays what it is.
    """

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
    """|w + v|^2 / 2 and |w - v|^2 / 2 under gradient descent, for these data."""

    s2: float
    mean_yx: float
    floor: float  # the least loss

    def d(self, plus: float, minus: float) -> float:
        return (plus - minus) / 2 * self.s2 - self.mean_yx

    def loss(self, plus: float, minus: float) -> float:
        d = self.d(plus, minus)
        return self.floor + (d * (d / self.s2) / 2 if self.s2 else 0.0)

    def phase(self, plus: float, minus: float) -> str | None:
        d, c = self.d(plus, minus), (plus - minus) / 2
        return learning_phase(self.s2, self.mean_yx, c, d, d + 2 * self.s2 * c)

    def outliers(self, plus: float, minus: float) -> tuple[float, float]:
        d, c = self.d(plus, minus), (plus - minus) / 2
        root = math.hypot(self.s2 * math.sqrt(plus) * math.sqrt(minus), d + self.s2 * c)
        large = self.s2 * (plus + minus) / 2 + root
        return large, -d * ((d + 2 * self.s2 * c) / large) if large else 0.0


@np.errstate(over="ignore", invalid="ignore")
def linear_descent(
    w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike, learning_rate: float, num_steps: int
) -> Descent:
    """Spectrum of f(x) = <w, v> x along w, v <- w - eta d v, v - eta d w: full-batch gradient descent, not simulated.

    w + v and w - v keep their directions; every step multiplies them by 1 - eta d and 1 + eta d, d = mean(delta x).
    Two numbers, |w ± v|^2, hold all that the spectrum depends on. The outlier eigenvectors stay in the span of the
    first step's, and those of the bulk, (z, s z) with z orthogonal to w + s v, never change: 2 (m - 1) dimensions.

    Args:
        w: V (m,).
        x: Y (n,).
        learning_rate: Eta > 0.
        num_steps: >= 1.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input.

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
    return _trajectory(recursion, states, diverged_at, 2 * (w.size - 1))


def _trajectory(
    recursion: _Recursion, states: list[tuple[float, float]], diverged_at: int | None, fixed_dimensions: int
) -> Descent:
    note = f"gradient descent diverges: step {diverged_at} leaves the range of floating point, {len(states)} are given"
    descent = Descent(
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
