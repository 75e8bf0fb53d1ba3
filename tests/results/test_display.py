"""Results as they are shown in notebooks."""

from collections.abc import Iterator

import matplotlib as mpl
import pytest
from matplotlib import pyplot

from hessian_spectrum.api_schemas.experiments.sweep import SweepResult
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.results.plots.drawings import drawing_of
from tests.service.serialization.test_render import lanczos


@pytest.fixture(autouse=True)
def _without_windows() -> Iterator[None]:
    before = mpl.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(before)


def test_a_curve_has_a_figure_of_its_own_unless_axes_are_given() -> None:
    result = lanczos([2.0, -1.0])
    assert isinstance(result, LanczosResult)
    whole = result.plot()[0]
    own = result.density.plot(label="first")
    assert own.figure is not whole.figure
    assert result.cumulative.plot(own, label="second") is own
    assert {"first", "second"} <= set(own.get_legend_handles_labels()[1])
    assert result.density.plot().figure is not own.figure


def test_a_sweep_over_names_has_the_names_on_its_axis_and_no_lines() -> None:
    columns = {
        "model.activation": ["tanh", "tanh", "relu", "relu"],
        "seed": [0, 1, 0, 1],
        "largest": [1.0, 2.0, 3.0, 4.0],
    }
    sweep = SweepResult.model_construct(kind="sweep", over=["model.activation", "seed"], columns=columns)
    axes = drawing_of(sweep).figure().axes[0]
    assert axes.get_xlabel() == "model.activation"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["tanh", "relu"]
    first = axes.get_lines()[0]
    assert first.get_linestyle() == "None"
    assert [list(point) for point in first.get_xydata()] == [[0, 1], [1, 3]]
