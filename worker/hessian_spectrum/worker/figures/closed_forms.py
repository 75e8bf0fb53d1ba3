"""Numbers of closed-form spectra."""

from hessian_spectrum.theory.closed_form.spectrum import Spectrum


def statistic(spectrum: Spectrum, name: str) -> float | None:
    """A statistic that is a number; None where the closed form has none."""
    value = spectrum.statistics[name]
    return value if isinstance(value, float) else None


def number(spectrum: Spectrum, name: str) -> float:
    """A statistic that every spectrum of its kind has.

    Args:
        spectrum: A closed form.
        name: Name of the statistic.

    Returns:
        The number.
    """
    value = statistic(spectrum, name)
    assert value is not None
    return value
