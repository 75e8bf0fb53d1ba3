"""Pictures of panels: ticks that can be read, curves that do not hide each other, and lines of titles."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from hessian_spectrum.api_schemas.figures.results import Curve, Panel
from hessian_spectrum.results.plots import panels as panel_plot
from hessian_spectrum.results.plots.figure import balanced


def drawn(curves: Sequence[Curve], monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Axes:
    """Axes of one panel with these curves, after they were written to a file."""
    kept: list[Axes] = []
    draw = panel_plot._draw_panel

    def keeping(axes: Axes, panel: Panel) -> None:
        draw(axes, panel)
        kept.append(axes)

    monkeypatch.setattr(panel_plot, "_draw_panel", keeping)
    panel = Panel(title="", x_label="", y_label="", curves=list(curves), **fields)
    panel_plot.plot_panels([panel], "").file("png")
    return kept[0]


def line(label: str, y: Any, x: Any = None, **fields: Any) -> Curve:
    values = np.asarray(y, float).tolist()
    positions = list(range(len(values))) if x is None else np.asarray(x, float).tolist()
    return Curve(label=label, x=positions, y=values, **({"style": "line"} | fields))


def test_ranks_have_ticks_at_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = line("a", range(20), np.arange(1, 21))
    reference = Curve(label="sign change", x=[10.5], y=[], style="vertical")
    for tick in drawn([ranks, reference], monkeypatch).get_xticks():
        assert float(tick).is_integer()
    other = drawn([line("a", range(4), [0.5, 1.0, 1.5, 2.25])], monkeypatch)
    assert not all(float(tick).is_integer() for tick in other.get_xticks())


@pytest.mark.parametrize("least", [8e-4, 9.9e-4, 1e-3, 1.01e-3, 3e-3])
def test_ticks_of_a_symmetric_logarithmic_axis_stay_apart(least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn([line("a", [-8.0, -least, least, 0.1, 7.0])], monkeypatch, y_scale="symlog")
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert 0.0 in axes.get_yticks()
    assert len(boxes) >= 5
    gaps = [upper.y0 - lower.y1 for lower, upper in pairwise(boxes)]
    assert min(gaps) > 0


@pytest.mark.parametrize(("count", "num_names"), [(3, 3), (12, 12), (30, 10)])
def test_positions_of_categories_have_names(count: int, num_names: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"[64, {width}, 10]" for width in range(count)]
    axes = drawn([line("a", range(count), style="markers")], monkeypatch, x_categories=names)
    shown = [
        (int(tick), label.get_text()) for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    ]
    assert len(shown) == num_names
    assert all(names[place] == name for place, name in shown)


def test_oscillations_lie_below_curves_that_oscillate_less(monkeypatch: pytest.MonkeyPatch) -> None:
    swing = (-1.0) ** np.arange(200)
    axes = drawn([line("narrow", 1 + 0.1 * swing), line("wide", 1 + 0.2 * swing), line("flat", swing * 0)], monkeypatch)
    places = {each.get_label(): each.get_zorder() for each in axes.get_lines()}
    assert places["wide"] < places["narrow"] < places["flat"]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_line_that_would_hide_another_one_is_dashed_above_it(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.linspace(1, 2, 50)
    curves = [line("first", first), line("same", first + 1e-4 * (np.arange(50) > 3)), line("other", first + 0.5)]
    lines = {str(each.get_label()): each for each in drawn(curves, monkeypatch, y_scale=scale).get_lines()}
    assert {name: each.get_linestyle() for name, each in lines.items()} == {"first": "-", "same": "--", "other": "-"}
    assert lines["same"].get_zorder() > lines["first"].get_zorder()


def test_lines_of_a_title_are_about_equally_long() -> None:
    assert balanced("Cracking the Hessian, figure 1 and Theorem 3.4, at quick scale", 58).splitlines() == [
        "Cracking the Hessian, figure 1",
        "and Theorem 3.4, at quick scale",
    ]
    assert balanced("one line", 20) == "one line"
    assert balanced("", 20) == ""
    assert balanced("a" * 30 + " b", 20) == "a" * 20 + "\n" + "a" * 10 + " b"
