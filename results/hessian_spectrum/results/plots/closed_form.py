"""Plot of a spectrum of few eigenvalues with multiplicities, and of its change along gradient descent."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from hessian_spectrum.results.plots.figure import BLUE, GREY, RED, Drawing, axis_unit, decade_ticks, unit_suffix

Role: TypeAlias = Literal["outlier", "bulk", "zero"]

COLOURS: dict[Role, str] = {"outlier": RED, "bulk": BLUE, "zero": GREY}

LINEAR_RANGE = 100
"""Ratio of magnitudes above which the axis is logarithmic."""

_MAX_DECADES = 6  # smaller magnitudes are drawn beside zero
_MAX_LABELS = 16
_LABEL_WIDTH, _LABEL_LEVELS = 62, 3  # pixels
_FARTHEST_THRESHOLD = 3  # in heights of the curves, beyond which 2 / learning rate would flatten them
_FOOT = 0.5  # lower end of stems: below 1, the smallest multiplicity, on a logarithmic axis


class Stem(NamedTuple):
    """An eigenvalue in the unit of the axis."""

    value: float
    multiplicity: int
    role: Role


class ClosedForm(Protocol):
    """What is drawn of a closed form: a message, or what the service computes for one."""

    @property
    def kind(self) -> str:
        """Kind of the model."""

    @property
    def num_parameters(self) -> int:
        """Number of rows of the matrix."""

    @property
    def method(self) -> str:
        """How the eigenvalues were derived."""

    @property
    def eigenvalues(self) -> Sequence[Any]:
        """Distinct eigenvalues with `value`, `multiplicity` and `role`, at least one."""

    @property
    def trace(self) -> float:
        """Sum of the eigenvalues."""

    @property
    def sharpness(self) -> float:
        """Largest eigenvalue."""


class Path(Protocol):
    """What is drawn of gradient descent: a message, or what the service computes for one."""

    @property
    def learning_rate(self) -> float:
        """Learning rate of the steps."""

    @property
    def outliers(self) -> Any:
        """Pair of outliers at each point, the larger one first."""

    @property
    def bulk(self) -> Any:
        """Value d at each point, where the bulk is d and -d."""


def plot_closed_form(spectrum: ClosedForm, descent: Path | None = None) -> Drawing:
    """Plot stems at the eigenvalues, as high as their multiplicities, coloured by role.

    Args:
        spectrum: The spectrum.
        descent: Gradient descent from the same weights, along which the eigenvalues are drawn below.

    Returns:
        The picture.
    """
    unit = axis_unit(max(abs(each.value) for each in spectrum.eigenvalues))
    stems = [Stem(each.value / unit, each.multiplicity, each.role) for each in spectrum.eigenvalues]

    def draw(figure: Figure) -> str:
        axes = figure.subplots(1 if descent is None else 2, squeeze=False)[0, 0]
        if descent is not None:
            _draw_descent(figure.axes[1], descent)
        for role, colour in COLOURS.items():
            _draw_stems(axes, [stem for stem in stems if stem.role == role], role=role, colour=colour)
        _scale_axes(axes, stems)
        if len(stems) <= _MAX_LABELS:
            _label_stems(axes, stems)
        axes.set_xlabel(f"eigenvalue of the Hessian (loss per squared parameter){unit_suffix(unit)}")
        return (
            f"{spectrum.kind}: {spectrum.num_parameters:,} parameters, trace {spectrum.trace:.4g}, "
            f"sharpness {spectrum.sharpness:.4g}, {spectrum.method}"
        )

    return Drawing(draw, (8, 4.5 if descent is None else 8))


def _draw_descent(axes: Any, descent: Path) -> None:
    outliers, bulk = np.asarray(descent.outliers), np.asarray(descent.bulk)
    threshold = 2 / descent.learning_rate
    unit = axis_unit(max(float(np.abs(outliers).max()), float(np.abs(bulk).max())))
    for values, label in ((outliers[:, 0], "outliers"), (outliers[:, 1], "_")):
        axes.plot(values / unit, color=RED, linewidth=1.4, label=label)
    for values, label in ((bulk, "bulk"), (-bulk, "_")):
        axes.plot(values / unit, color=BLUE, linewidth=1.1, linestyle="--", label=label)
    low, high = axes.get_ylim()
    if threshold / unit < high + _FARTHEST_THRESHOLD * (high - low):
        axes.axhline(threshold / unit, color=GREY, linestyle=":", linewidth=1.2, label="2 / learning rate")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"step of gradient descent with the learning rate {descent.learning_rate:.4g}")
    axes.set_ylabel(f"eigenvalue{unit_suffix(unit)}")
    axes.grid(alpha=0.25)
    axes.legend(loc="best", fontsize="small")


def _draw_stems(axes: Any, stems: Sequence[Stem], *, role: Role, colour: str) -> None:
    if not stems:
        return
    values = [stem.value for stem in stems]
    multiplicities = [stem.multiplicity for stem in stems]
    size = 7 if len(values) <= _MAX_LABELS else 3
    axes.vlines(values, _FOOT, multiplicities, color=colour, linewidth=1.6 if size == 7 else 0.6)
    axes.plot(values, multiplicities, "o", color=colour, markersize=size, label=f"{role}: {sum(multiplicities):,}")


def _scale_axes(axes: Any, stems: Sequence[Stem]) -> None:
    magnitudes = np.abs([stem.value for stem in stems])
    largest = float(magnitudes.max())
    distinguishable = magnitudes[magnitudes >= largest * 10.0**-_MAX_DECADES]
    if largest > LINEAR_RANGE * distinguishable.min():
        axes.set_xscale("symlog", linthresh=float(distinguishable.min()))
        axes.xaxis.set_major_locator(FixedLocator(decade_ticks(float(distinguishable.min()), largest)))
    axes.axvline(0.0, color="black", linewidth=0.8, alpha=0.4)
    axes.margins(x=0.08)
    axes.set_yscale("log")
    axes.set_ylim(_FOOT, 6 * max(stem.multiplicity for stem in stems))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("multiplicity")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", fontsize="small", title="eigenvalues", title_fontsize="small")


def _label_stems(axes: Any, stems: Sequence[Stem]) -> None:
    """Label each stem with value and multiplicity, higher where another label is near."""
    last: dict[int, tuple[float, int]] = {}  # position and height of the last label, by multiplicity
    for stem in reversed(stems):
        position = float(axes.transData.transform((stem.value, stem.multiplicity))[0])
        before, level = last.get(stem.multiplicity, (-np.inf, 0))
        level = (level + 1) % _LABEL_LEVELS if position - before < _LABEL_WIDTH else 0
        last[stem.multiplicity] = position, level
        times = f"\n× {stem.multiplicity:,}" if stem.multiplicity > 1 else ""
        axes.annotate(
            f"{stem.value:.3g}{times}",
            (stem.value, stem.multiplicity),
            xytext=(0, 7 + (20 if times else 10) * level),
            textcoords="offset points",
            ha="center",
            fontsize="x-small",
            color=COLOURS[stem.role],
        )
