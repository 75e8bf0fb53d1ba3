"""Formulas by the kinds of models that have one; modules list theirs as `SPECTRA`, and one that is added is found."""

from collections.abc import Callable
from functools import cache

from hessian_spectrum.planning.registry import merged
from hessian_spectrum.theory import closed_form
from hessian_spectrum.theory.closed_form.spectrum import Spectrum


@cache
def spectra() -> dict[str, Callable[..., Spectrum]]:
    """Return the function for each kind that computes the spectrum from weights and samples as keyword arguments."""
    return merged(closed_form, "SPECTRA")
