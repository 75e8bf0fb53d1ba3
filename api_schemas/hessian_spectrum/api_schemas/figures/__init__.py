"""Figures of the sources: each file here describes a family of them, and lists it in `FIGURES`."""

import sys

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost, Scale
from hessian_spectrum.planning.registry import listed

__all__ = ["FIGURES", "Figure", "FigureParameters", "Measurement", "MeasurementCost", "Scale"]

FIGURES: dict[str, Figure] = {figure.name: figure for figure in listed(sys.modules[__name__], "FIGURES")}
"""Figures by name."""
