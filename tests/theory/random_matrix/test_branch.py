"""Oracle: the branch that decays like 1/z, followed in 40 digits from Im z = 1000 down to the real line."""

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pytest

from hessian_spectrum.theory.random_matrix.law import FreeLaw

START, DIGITS = 1000, 40


def continued(z: Callable[[Any], Any], position: float, height: float) -> Any:
    """u at position + i height, by Newton's method along heights that halve."""
    with mp.workdps(DIGITS):
        inverse, eta = mp.mpc(position, START), mp.mpf(START)
        while True:
            target = mp.mpc(position, eta)
            for _ in range(60):
                slope = (z(inverse * (1 + mp.mpf(10) ** -20)) - z(inverse)) / (inverse * mp.mpf(10) ** -20)
                step = (target - z(inverse)) / slope
                inverse += step
                if abs(step) < mp.mpf(10) ** -30 * abs(inverse):
                    break
            if eta == height:
                return inverse
            eta = max(eta * mp.mpf("0.5"), mp.mpf(height))


def test_density_everywhere_between_and_beyond_the_edges(law: FreeLaw, equation: Any) -> None:
    z = equation(law)
    spread = law.support[-1].high - law.support[0].low
    points = law.support[0].low + spread * np.array([-0.05, 0.03, 0.21, 0.48, 0.83, 1.02])
    for point, density in zip(points, law.density(points), strict=True):
        inverse = continued(z, float(point), 1e-22 * spread)
        assert density == pytest.approx(float(inverse.imag / abs(inverse) ** 2 / mp.pi), abs=1e-12 / spread)


def test_inside_gaps_and_small_intervals(law: FreeLaw, equation: Any) -> None:
    z = equation(law)
    points = [(first.high + second.low) / 2 for first, second in zip(law.support, law.support[1:], strict=False)]
    points += [interval.low + 0.3 * (interval.high - interval.low) for interval in law.support]
    spread = law.support[-1].high - law.support[0].low
    for point, density in zip(points, law.density(points), strict=True):
        inverse = continued(z, point, 1e-22 * spread)
        expected = float(inverse.imag / abs(inverse) ** 2 / mp.pi)
        if abs(inverse) > 1e-10 * spread:  # not on the atom
            assert density == pytest.approx(expected, rel=1e-9, abs=1e-12 / spread)


def test_transform_at_complex_points(law: FreeLaw, equation: Any) -> None:
    z = equation(law)
    for point in (0.3 + 0.7j, -1.5 + 0.01j, 4.0 + 2.0j):
        expected = 1 / complex(continued(z, point.real, point.imag))
        assert law.stieltjes([point])[0] == pytest.approx(expected, rel=1e-12)
        assert law.stieltjes([point.conjugate()])[0] == pytest.approx(expected.conjugate(), rel=1e-12)
