"""Pictures: the numbers in them, their size and title, and what is drawn of a trace and of a density."""

import re
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from hessian_spectrum.api_schemas.estimate_text import error_bar, estimated, meaning_of_error, with_error
from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.spectrum_results import Estimate, RitzValue
from hessian_spectrum.results.plots import trace as trace_plot
from hessian_spectrum.results.plots.drawings import drawing_of
from hessian_spectrum.results.plots.figure_style import DEFAULT_STYLE, FIGURE_FORMATS, FigureStyle, FigureTooLargeError
from hessian_spectrum.results.plots.trace import DiagonalSample, diagonal_sample
from hessian_spectrum.service.problems import problem_for
from hessian_spectrum.service.serialization.render import render
from tests.service.serialization.test_render import RANGES, exact, lanczos, result, top_k

TRACE = {"value": 29.149, "standard_error": 0.12, "lower": 28.9, "upper": 29.4, "num_products": 9, "converged": True}


def trace(**change: Any) -> Any:
    norm = {"value": 14.2, "standard_error": 0.1}
    return result("trace", 5, estimator="xtrace", trace=TRACE | change, frobenius=norm)


def sample(values: Any, num_entries: int = 0) -> DiagonalSample:
    entries = np.asarray(values, dtype=np.float64)
    return DiagonalSample(entries, abs(entries) / 10, num_entries or len(entries))


def svg(found: Any, style: FigureStyle = DEFAULT_STYLE, diagonal: DiagonalSample | None = None) -> str:
    return bytes(render(found, "svg", style, diagonal=diagonal)).decode()


def texts(picture: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture)


# numbers


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (29.0, 3e-5, "29.000 ± 3e-05"),
        (29.149, 3e-5, "29.149 ± 3e-05"),
        (9.633, 1.23, "9.6 ± 1.2"),
        (9.9999, 0.1, "10.00 ± 0.10"),
        (0.0999, 0.0096, "0.10 ± 0.01"),
        (0.0, 0.1, "0.00 ± 0.10"),
        (5.3, 120, "5 ± 120"),
        (9633, 1234, "9600 ± 1200"),
        (-134.9, 2.4e-4, "-134.90 ± 0.00024"),
        (1234567, 3, "1.2346e+06 ± 3"),
        (-1e-300, 1e-305, "-1.0000e-300 ± 1.0e-305"),
        (5e-324, 5e-324, "5e-324 ± 5e-324"),
        (99.96, None, "99.960"),
        (99.96, 0.0, "99.960"),
    ],
)
def test_a_number_and_its_error_end_with_the_same_digit(value: float, error: float | None, shown: str) -> None:
    assert with_error(value, error) == shown


def test_an_interval_is_shown_where_there_is_one() -> None:
    both = Estimate(value=3.0, standard_error=0.1, lower=2.5, upper=3.5)
    assert (estimated(both), meaning_of_error(both)) == ("3.0 ± 0.5", "95 % interval")
    assert error_bar(both) == (0.5, 0.5)
    skewed = both.model_copy(update={"lower": 2.9, "upper": 4.9})
    assert estimated(skewed) == "3.0 (2.9 to 4.9)"
    assert error_bar(skewed) == pytest.approx((0.1, 1.9))
    none = Estimate(value=3.0, standard_error=0.3, lower=None, upper=None, why="too few probes")
    assert (estimated(none), meaning_of_error(none)) == ("3.0 ± 0.3", "standard error")
    assert meaning_of_error(RitzValue(value=3.0, residual=0.3)) == "residual"
    for error, meaning in ((None, "error not known"), (0.0, "exact but for rounding")):
        assert meaning_of_error(Estimate(value=3.0, standard_error=error)) == meaning


def test_numbers_of_one_picture_have_the_same_digits() -> None:
    spectra = []
    for value in (29.0, 29.149):
        found = lanczos([1.0, value]).model_dump()
        spectra.append(found | {"largest": {"value": value, "residual": 3e-5}, "block": f"blocks.{value}"})
    picture = " ".join(texts(svg(SpectrumSetResult.model_validate({"spectra": spectra}))))
    assert "largest 29.000 ± 3e-05" in picture
    assert "largest 29.149 ± 3e-05" in picture


# size, title, formats


@pytest.mark.parametrize("make", [exact, top_k, lanczos, lambda _: trace()])
def test_text_in_svg_is_text(make: Callable[[list[float]], Any]) -> None:
    assert any(text.startswith("Gauss-Newton matrix") for text in texts(svg(make([2.0, -1.0, 0.5]))))


@pytest.mark.parametrize(
    ("matrix", "preconditioner", "shift", "title"),
    [
        ("ggn", None, 0.0, "Gauss-Newton matrix"),
        ("hessian", "0" * 64, 0.25, "Preconditioned Hessian + 0.25 I"),
        ("empirical-fisher", "0" * 64, 0.0, "Preconditioned empirical Fisher matrix"),
        ("gradient-covariance", None, -1e-3, "Covariance of gradients - 0.001 I"),
    ],
)
def test_a_title_names_the_matrix_with_its_options(
    matrix: str, preconditioner: str | None, shift: float, title: str
) -> None:
    change = {"matrix": matrix, "preconditioner": preconditioner, "shift": shift}
    found = exact([1.0, 2.0]).model_copy(update=change)
    unit = {"ggn": " (loss per squared parameter)", "gradient-covariance": " (squared loss per squared parameter)"}
    assert f"eigenvalue{unit.get(matrix, '')}" in texts(svg(found))
    assert any(text.startswith(f"{title} of ") for text in texts(svg(found)))
    both = SpectrumSetResult(spectra=[found.model_copy(update={"block": None})] * 2)
    assert any(text.startswith(f"{title}, 2 parameters") for text in texts(svg(both)))
    assert f"eigenvalue{unit.get(matrix, '')}" in texts(svg(both))


def test_a_picture_is_the_same_every_time() -> None:
    found = lanczos([2.0, -1.0, 0.5])
    for name, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        first, again = (bytes(render(found, name)) for _ in range(2))
        assert first.startswith(start)
        assert first == again


def test_a_title_is_what_the_caller_says() -> None:
    found = exact([1.0, 2.0])
    picture = svg(found, FigureStyle(title="<script>alert(1)</script> & $x_{$ \\frac"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x_{$ \\frac" in picture
    assert "<script" not in picture
    assert "Gauss-Newton" not in picture
    assert "Gauss-Newton" not in svg(found, FigureStyle(title=""))
    lines = [text for text in texts(svg(found, FigureStyle(title="word " * 30))) if text.startswith("word")]
    assert [len(line) for line in lines] == [74, 74]
    assert {"one,", "two"} <= set(texts(svg(found, FigureStyle(title="one,\ntwo"))))


def test_size_and_resolution() -> None:
    def pixels(style: FigureStyle) -> tuple[int, int]:
        width, height = struct.unpack(">II", bytes(render(exact([1.0, 2.0]), "png", style))[16:24])
        return width, height

    assert pixels(FigureStyle()) == (1350, 750)
    assert pixels(FigureStyle(dpi=300)) == (2700, 1500)
    assert pixels(FigureStyle(width_inches=3.6)) == (540, 300)
    assert pixels(FigureStyle(height_inches=10.0, dpi=30)) == (540, 300)
    assert pixels(FigureStyle(width_inches=4.0, height_inches=3.0, dpi=100)) == (400, 300)
    assert 'width="288pt"' in svg(exact([1.0, 2.0]), FigureStyle(width_inches=4.0, height_inches=3.0))


@pytest.mark.parametrize("name", FIGURE_FORMATS)
def test_nobody_gets_a_picture_of_a_billion_pixels(name: str) -> None:
    message = "12,000 x 12,000 pixels are more than 20,000,000"
    with pytest.raises(FigureTooLargeError, match=message) as caught:
        render(exact([1.0, 2.0]), name, FigureStyle(width_inches=20, height_inches=20, dpi=600))
    known = problem_for(caught.value)
    assert known is not None
    assert known.problem.errors is not None
    assert known.problem.errors[0].loc == ["query", "dpi"]
    assert known.problem.errors[0].msg == message


# traces


def test_a_trace_is_drawn_with_its_interval() -> None:
    found = texts(svg(trace()))
    assert "trace 29.15 ± 0.25" in found
    assert "bar: 95 % interval" in found
    assert "Frobenius norm 14.20 ± 0.10" in found
    assert "bar: standard error" in found
    assert "bar: exact but for rounding" in texts(svg(trace(standard_error=0.0, lower=None, upper=None)))


def test_a_diagonal_is_drawn_as_a_distribution() -> None:
    values = np.concatenate([np.full(40, 1e-6), np.full(30, 2.0), np.full(20, -0.5), np.zeros(10)])
    found = texts(svg(trace(), FigureStyle(), sample(values, 5000)))
    assert "at least 0: 80" in found
    assert "negative: 20" in found
    assert "mean 0.50000" in found
    assert any(text.startswith("100 of 5,000 entries of the diagonal") for text in found)
    assert "trace 29.15 ± 0.25" in found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", RANGES, ids=range(len(RANGES)))
def test_any_trace_and_any_diagonal_are_drawn(values: list[float]) -> None:
    estimate = {"value": values[0], "standard_error": abs(values[-1]), "lower": None, "upper": None}
    assert bytes(render(trace(**estimate), "png", FigureStyle(), diagonal=sample(values))).startswith(b"\x89PNG")


def test_traces_of_several_blocks_share_a_picture() -> None:
    spectra = [trace(value=value).model_dump() | {"block": f"layers.{value}"} for value in (1.0, 2.0)]
    found = " ".join(texts(svg(SpectrumSetResult.model_validate({"spectra": spectra}))))
    assert "layers.1.0 (5), trace 1.00 (28.90 to 29.40)" in found


def test_of_a_long_diagonal_blocks_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_plot, "MAX_ENTRIES", 10_000)
    entries = np.arange(1_000_000.0)
    found = diagonal_sample({"diagonal": entries, "diagonal_standard_error": entries}.__getitem__)
    assert found.num_entries == 1_000_000
    assert len(found.values) == len(found.standard_errors) == 10_000
    assert (found.values.min(), found.values.max()) == (0, 999_999)
    assert abs(found.values.mean() - entries.mean()) < 1


# eigenpairs nearest to a value


def nearest(target: float, *pairs: tuple[float, float, float]) -> Any:
    """Pairs with a value and the ends of its interval each; residuals are smaller than the intervals."""
    found = [
        {"value": value, "residual": 1e-3, "converged": True, "lower": low, "upper": high} for value, low, high in pairs
    ]
    settings = {"which": "nearest", "target": target, "tolerance": 1e-2, "absolute_tolerance": 0.02}
    return result("top-k", 1000, eigenpairs=found, **settings)


@pytest.mark.parametrize("is_set", [False, True])
def test_eigenpairs_nearest_to_a_value_have_intervals_and_a_line_there(
    monkeypatch: pytest.MonkeyPatch, is_set: bool
) -> None:
    drawn: dict[str, list[Any]] = {"errorbar": [], "axhline": []}
    for name, calls in drawn.items():
        original = getattr(Axes, name)

        def record(axes: Axes, *arguments: Any, _original: Any = original, _calls: Any = calls, **options: Any) -> Any:
            _calls.append(arguments)
            return _original(axes, *arguments, **options)

        monkeypatch.setattr(Axes, name, record)
    found = nearest(0.5, (0.6, 0.55, 0.65), (0.3, 0.2, 0.8))
    words = texts(svg(SpectrumSetResult.model_validate({"spectra": [found.model_dump()] * 2}) if is_set else found))
    np.testing.assert_allclose(drawn["errorbar"][0][2], [[0.05, 0.1], [0.05, 0.5]])
    assert [arguments[0] for arguments in drawn["axhline"]] == [0.5]
    if not is_set:
        assert any("2 eigenvalues nearest to 0.5" in word for word in words)
        assert {"target: 0.5", "95 % interval"} <= set(words)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e300])
def test_targets_of_any_size_are_drawn(scale: float) -> None:
    for target in (0.0, scale, -scale):
        found = nearest(target, (target + scale, target - 1.1 * scale, target + 1.1 * scale), (target, target, target))
        assert bytes(render(found, "png")).startswith(b"\x89PNG")


@pytest.mark.parametrize("is_set", [False, True])
def test_both_ends_are_apart_and_the_smallest_is_counted_from_the_end(is_set: bool) -> None:
    found = pairs_of("both-ends", [5.0, 3.0, 1.0, -1.0, -2.0])
    drawing = drawing_of(SpectrumSetResult.model_validate({"spectra": [found.model_dump()]}) if is_set else found)
    axes = drawing.figure().axes[-1]
    label = axes.xaxis.get_major_formatter()
    assert [label(place, None) for place in range(1, 7)] == ["1", "2", "3", "", "-2", "-1"]
    drawn = [each.get_xydata() for each in axes.get_lines()]
    assert all(not {3.0, 5.0} <= set(points[:, 0]) for points in drawn if is_set)  # no line across the bulk
    assert {1.0, 2.0, 3.0, 5.0, 6.0} <= {float(x) for points in drawn for x in points[:, 0]}


@pytest.mark.parametrize(
    ("which", "count", "title"),
    [
        ("largest", 1, "the largest eigenvalue,"),
        ("largest", 3, "the 3 largest eigenvalues,"),
        ("smallest", 2, "the 2 smallest eigenvalues,"),
        ("magnitude", 2, "the 2 eigenvalues of largest magnitude,"),
        ("both-ends", 3, "3 eigenvalues at both ends,"),
    ],
)
def test_a_title_says_which_eigenvalues_are_drawn(which: str, count: int, title: str) -> None:
    assert title in " ".join(texts(svg(pairs_of(which, [3.0, 2.0, 1.0][:count]))))


def pairs_of(which: str, values: list[float]) -> Any:
    return top_k(values).model_copy(update={"which": which})


def test_a_matrix_of_zeros_says_so() -> None:
    words = texts(svg(exact([0.0, 0.0])))
    assert "every eigenvalue is zero" in words


# densities


def test_the_picture_of_an_interim_result_says_so() -> None:
    found = lanczos([2.0, -1.0])
    assert "interim" not in " ".join(texts(svg(found)))
    assert "interim result" in " ".join(texts(svg(found.model_copy(update={"interim": True}))))


@pytest.mark.parametrize("is_set", [False, True])
def test_no_band_is_drawn_without_its_curve(monkeypatch: pytest.MonkeyPatch, is_set: bool) -> None:
    drawn: list[Any] = []
    fill_between = Axes.fill_between

    def record(axes: Axes, *arguments: Any, where: Any = None, **options: Any) -> Any:
        drawn.append(where)
        return fill_between(axes, *arguments, where=where, **options)

    monkeypatch.setattr(Axes, "fill_between", record)
    curve = {"grid": [0.0, 1.0, 2.0, 3.0], "values": [1.0, 1e-12, 0.5, 0.0], "standard_error": [0.0] * 4}
    band = {"lower": [0.5, 0.0, 0.1, 0.0], "upper": [1.5, 0.4, 0.9, 0.4]}
    found = lanczos([0.0, 3.0]).model_dump() | {"density": curve | {"band": band}}
    render(SpectrumSetResult.model_validate({"spectra": [found]}) if is_set else _lanczos(found), "svg")
    np.testing.assert_array_equal(drawn[0], [True, False, True, False])


def _lanczos(fields: dict[str, Any]) -> Any:
    (found,) = SpectrumSetResult.model_validate({"spectra": [fields]}).spectra
    return found


@pytest.mark.parametrize("make", [lanczos, lambda _: trace()])
@pytest.mark.parametrize(
    "style", [FigureStyle(2, 2, 30), FigureStyle(20, 2, 30), FigureStyle(2, 20, 30), FigureStyle(20, 20, 30)]
)
def test_every_size_can_be_drawn(make: Callable[[list[float]], Any], style: FigureStyle) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels that find no room
        assert bytes(render(make([2.0, -1.0, 0.5]), "png", style)).startswith(b"\x89PNG")
