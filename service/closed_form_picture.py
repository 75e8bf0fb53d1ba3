"""A spectrum of few eigenvalues with multiplicities as a picture."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from service.representations import DRAWING
from theory.closed_form.spectrum import Eigenvalue, Role, Spectrum

COLOURS: dict[Role, str] = {"outlier": "#c8452f", "bulk": "#1f5fa8", "zero": "#6b7280"}

LINEAR_RANGE = 100
"""Magnitudes that differ by more than this factor need a logarithmic axis to be told apart."""

_MAX_DECADES = 8
_MAX_LABELS = 16
_FOOT = 0.5  # where the stems begin: below 1, the smallest multiplicity, on a logarithmic axis


def draw_spectrum(spectrum: Spectrum, name: str) -> bytes:
    """Stems at the eigenvalues, as high as their multiplicities, coloured by role; `name` is png or svg."""
    with DRAWING:
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for role, colour in COLOURS.items():
            _draw_stems(axes, [e for e in spectrum.eigenvalues if e.role == role], role, colour)
        _scale_axes(axes, spectrum)
        if len(spectrum.eigenvalues) <= _MAX_LABELS:
            _label_stems(axes, spectrum.eigenvalues)
        axes.set_title(
            f"{spectrum.kind}: {spectrum.num_parameters:,} parameters, trace {spectrum.trace:.4g}, "
            f"sharpness {spectrum.sharpness:.4g}, {spectrum.critical_point if False else spectrum.method}",
            fontsize="medium",
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format=name, dpi=120, metadata={"Date": None} if name == "svg" else None)
        return buffer.getvalue()


def _draw_stems(axes: Any, eigenvalues: Sequence[Eigenvalue], role: Role, colour: str) -> None:
    if not eigenvalues:
        return
    values = [e.value for e in eigenvalues]
    multiplicities = [e.multiplicity for e in eigenvalues]
    size = 7 if len(values) <= _MAX_LABELS else 3
    axes.vlines(values, _FOOT, multiplicities, color=colour, linewidth=1.6 if size == 7 else 0.6)
    axes.plot(values, multiplicities, "o", color=colour, markersize=size, label=f"{role}: {sum(multiplicities):,}")


def _scale_axes(axes: Any, spectrum: Spectrum) -> None:
    magnitudes = np.abs([e.value for e in spectrum.eigenvalues])
    nonzero = magnitudes[magnitudes > spectrum.scale * 10.0**-_MAX_DECADES]
    if nonzero.size and nonzero.max() > LINEAR_RANGE * nonzero.min():
        axes.set_xscale("symlog", linthresh=float(nonzero.min()))
    axes.axvline(0.0, color="black", linewidth=0.8, alpha=0.4)
    axes.margins(x=0.08)
    axes.set_yscale("log")
    axes.set_ylim(_FOOT, 4 * max(e.multiplicity for e in spectrum.eigenvalues))
    axes.set_xlabel("eigenvalue of the Hessian (loss per squared parameter)")
    axes.set_ylabel("multiplicity")
    axes.grid(alpha=0.25)
    axes.legend(loc="best", fontsize="small", title="eigenvalues", title_fontsize="small")


def _label_stems(axes: Any, eigenvalues: Sequence[Eigenvalue]) -> None:
    for e in eigenvalues:
        times = f"\n× {e.multiplicity:,}" if e.multiplicity > 1 else ""
        axes.annotate(
            f"{e.value:.3g}{times}",
            (e.value, e.multiplicity),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize="x-small",
            color=COLOURS[e.role],
        )
