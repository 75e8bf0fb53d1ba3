"""What pictures of spectra share: units that axes can hold, ticks of both signs."""

import math

import numpy as np


def unit_of(scale: float) -> float:
    """1 for most spectra; the power of ten of those so large or small that matplotlib's axes overflow."""
    return 1.0 if 1e-12 < scale < 1e12 or not scale else 10.0 ** max(-307, math.floor(math.log10(scale)))


def in_units(unit: float) -> str:
    """What the label of an axis says of its unit."""
    return "" if unit == 1.0 else f" / {unit:.0e}"


def decades(smallest: float, largest: float) -> list[float]:
    """Ticks at zero and at powers of ten on both sides, none so near to zero that their labels overlap."""
    exponents = np.arange(np.ceil(np.log10(smallest) + 0.5), np.ceil(np.log10(largest)) + 1)
    powers = (10.0 ** exponents[:: 1 + len(exponents) // 6]).tolist()
    return [*(-power for power in reversed(powers)), 0.0, *powers]
