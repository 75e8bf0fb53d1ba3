"""Contents of figures 3 and 10 to 13 of Cracking the Hessian, made of the closest pairs of many networks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.figures.pairs import (
    PANELS_OF_FIGURE_3,
    SETTINGS,
    Activation,
    DataSet,
    EigenvaluePairs,
    Initialization,
    PairParameters,
    pair_measurements,
)
from hessian_spectrum.api_schemas.figures.results import Cell, Choice, Panel, Verdict
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate, Which
from hessian_spectrum.worker.figures.claims import Range, curve, extreme_median, share, verdict
from hessian_spectrum.worker.figures.measurement import FigureContent, Measured
from hessian_spectrum.worker.figures.pairs import gap_resolution

Array = NDArray[Any]

ORDERS_OF_MAGNITUDE = 100.0
"""Factor from which a number counts as orders of magnitude larger than another."""

CLEAR_BEST = 10.0
"""Factor by which the second best pair must be farther from the fraction for the best one to stand out clearly."""

MANY_INPUTS = 10
"""Number of inputs from which spectra are dense enough that sums of pairs come close to any number."""

MAJORITY = 0.75
"""Share of wrong targets that must be matched less closely; without a distinguished pair it is about 1/2."""


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Return quotients; a network whose units are all dead has a Hessian of zeros, and 0 / 0 is not a number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerator / denominator)


@dataclass(frozen=True)
class Point:
    """The networks of one measurement."""

    measurement: EigenvaluePairs
    measured: Measured

    @property
    def dim(self) -> int:
        """Number D of entries of the inputs."""
        return self.measurement.input_dim

    def numbers(self, name: str) -> Array:
        """Return an array of the measurement."""
        return np.asarray(self.measured.arrays[name], dtype=np.float64)

    @property
    def gaps(self) -> Array:
        """Gaps of the best pairs; those that float64 cannot tell from zero are as large as its resolution."""
        return np.asarray(np.maximum(self.numbers("gap"), gap_resolution(self.measured)))

    @property
    def control_gaps(self) -> Array:
        """Gaps of the best pairs for wrong targets: (num_networks, number of factors)."""
        return np.asarray(np.maximum(self.numbers("control_gap"), gap_resolution(self.measured)[:, None]))

    @property
    def closeness(self) -> Array:
        """Gaps in units of the mean eigenvalue; 1 is what the source compares with."""
        return _ratio(self.gaps, np.abs(self.numbers("mean_eigenvalue")))

    @property
    def separation(self) -> Array:
        """Gap of the second best pair over that of the best."""
        return _ratio(np.maximum(self.numbers("second_gap"), self.gaps), self.gaps)

    @property
    def separation_with_copies(self) -> Array:
        """As `separation`, where a second pair with the sum of the best would count as the second best."""
        return np.where(self.numbers("num_copies") > 1, 1.0, self.separation)

    @property
    def beaten_controls(self) -> Array:
        """Share of wrong targets that the spectrum matches less closely."""
        return np.asarray(np.mean(self.gaps[:, None] < self.control_gaps, axis=1))

    @property
    def holds_largest(self) -> Array:
        """Whether the best pair contains the largest eigenvalue."""
        return np.asarray(self.numbers("high_index") == self.measurement.num_parameters - 1)

    @property
    def is_predicted(self) -> Array:
        """Whether the best pair is the one that the theory names."""
        tolerance = 1e-9 * self.numbers("largest")
        errors = [np.abs(self.numbers(end) - self.numbers(f"predicted_{end}")) for end in ("low", "high")]
        return np.asarray(np.maximum(*errors) <= tolerance)


@dataclass(frozen=True)
class Setting:
    """The points of one panel, by number of inputs, under the chosen options and under others.

    Attributes:
        width: Width of the networks.
        initialization: How weights are drawn.
        data: Data.
        points: Points under the chosen options.
        others: Points under other options, by the option.
    """

    width: int
    initialization: Initialization
    data: DataSet
    points: Sequence[Point]
    others: Mapping[str, Sequence[Point]]

    @property
    def name(self) -> str:
        """Description in titles and claims."""
        first = "orthonormal first layer" if self.initialization == "orthonormal" else "default initialization"
        return f"{first}, {self.data} data, width {self.width}"

    def estimate(
        self, of: Callable[[Sequence[Point]], Estimate], *, least_dim: int = 1
    ) -> tuple[Estimate, dict[str, Estimate]]:
        """Return a number of the points with at least so many inputs, and the same of the other options."""
        kept = {choice: [p for p in points if p.dim >= least_dim] for choice, points in self.others.items()}
        return of([p for p in self.points if p.dim >= least_dim]), {c: of(points) for c, points in kept.items()}


def _settings(
    parameters: PairParameters, measurements: Sequence[EigenvaluePairs], measured: Sequence[Measured]
) -> list[Setting]:
    groups: dict[tuple[int, Initialization, DataSet], dict[str, list[Point]]] = {}
    for message, numbers in zip(measurements, measured, strict=True):
        options = groups.setdefault((message.width, message.initialization, message.data), {})
        options.setdefault(_option(parameters, message), []).append(Point(message, numbers))
    return [
        Setting(*key, points=options[""], others={name: points for name, points in options.items() if name})
        for key, options in groups.items()
    ]


def _option(parameters: PairParameters, message: EigenvaluePairs) -> str:
    """Return what differs from the chosen options; empty for nothing."""
    if message.shares_data != parameters.shares_data:
        return "one data set for all networks" if message.shares_data else "other data for each network"
    if message.num_samples != message.width + parameters.extra_samples:
        return f"{message.num_samples} samples, as printed"
    if message.teacher != parameters.teacher:
        return f"targets of the teacher {message.teacher!r}"
    return ""


def _extreme_median(name: str, which: Which, points: Sequence[Point]) -> Estimate:
    return extreme_median([getattr(point, name) for point in points], which=which)


def _share_predicted(points: Sequence[Point]) -> Estimate:
    return share(np.concatenate([point.is_predicted for point in points]))


def _beaten_controls(points: Sequence[Point]) -> Estimate:
    """Return the mean, over networks of all points, of the share of wrong targets that are matched less closely."""
    if not points:
        return estimates.unknown("no number of inputs exceeds 1")
    return estimates.mean_share(np.concatenate([point.beaten_controls for point in points]))


def _decided(
    setting: Setting,
    claim: str,
    quantity: str,
    of: Callable[[Sequence[Point]], Estimate],
    holds_for: Range,
    *,
    least_dim: int = 1,
    note: str | None = None,
    further: Mapping[str, Estimate] | None = None,
) -> Verdict:
    estimate, variants = setting.estimate(of, least_dim=least_dim)
    return verdict(
        f"{claim} ({setting.name})",
        quantity=quantity,
        estimate=estimate,
        holds_for=holds_for,
        note=note,
        variants={**variants, **(further or {})},
    )


_COPIES = "copies of the best sum count as second best"

_FLOOR = "a gap that float64 cannot tell from 0 counts as 64 epsilons of the largest eigenvalue"


def _exact_verdicts(setting: Setting) -> list[Verdict]:
    """Return the verdicts where the first layer is orthonormal, and the data are decorrelated."""
    separation = partial(_extreme_median, "separation", "smallest")
    with_copies = partial(_extreme_median, "separation_with_copies", "smallest")
    return [
        _decided(
            setting,
            "At any input size, the sum of two eigenvalues is close to the fraction tr / D.",
            "largest of the medians of the gap over the mean eigenvalue, over all D",
            partial(_extreme_median, "closeness", "largest"),
            Range(below=1 / ORDERS_OF_MAGNITUDE),
            note=f"it is exactly 0 for D <= width: the eigenvalues (N +- sqrt(N^2 + 12 |W1^T w|^2)) / 2 with N = |w|^2 "
            f"+ 1 sum to N, and tr = D N; {_FLOOR}",
        ),
        _decided(
            setting,
            "The difference is orders of magnitude smaller than that of the second closest pair.",
            "smallest of the medians of the second gap over the first, over all D",
            separation,
            Range(above=ORDERS_OF_MAGNITUDE),
            note=_FLOOR,
            further={_COPIES: with_copies(setting.points)},
        ),
        _decided(
            setting,
            "There is one pair of outliers with this sum, which the theory names.",
            "share of networks whose best pair is the predicted one",
            _share_predicted,
            Range(above=MAJORITY),
        ),
        _control(setting),
    ]


def _control(setting: Setting, *, least_dim: int = 1) -> Verdict:
    return _decided(
        setting,
        "The pair is evidence for the fraction tr / D: other multiples of it are matched less closely.",
        "share of wrong targets for which the best pair is farther away",
        _beaten_controls,
        Range(above=MAJORITY),
        least_dim=least_dim,
        note="control: the same search for wrong targets; a spectrum without such a pair gives about 1/2"
        + ("" if least_dim == 1 else "; for D = 1 the theory is exact, and D = 1 is left out"),
    )


def _other_verdicts(setting: Setting, *, is_proved_for_one: bool, says_not_clear: bool) -> list[Verdict]:
    """Return the verdicts beyond the assumptions of the theory."""
    least = 2 if is_proved_for_one else 1
    largest = partial(_extreme_median, "closeness", "largest")
    many = [point for point in setting.points if point.dim >= MANY_INPUTS]
    verdicts = [
        _decided(
            setting,
            "The sum of two eigenvalues is very close to the fraction tr / D.",
            "largest of the medians of the gap over the mean eigenvalue, over D",
            largest,
            Range(below=1.0),
            least_dim=least,
            further={f"D >= {MANY_INPUTS} only": largest(many)} if many else None,
        ),
        _control(setting, least_dim=least),
    ]
    if says_not_clear:
        with_copies = partial(_extreme_median, "separation_with_copies", "largest")
        unclear = _decided(
            setting,
            "There is no clear best pair: the second best is also close to the best.",
            "largest of the medians of the second gap over the first, over D",
            partial(_extreme_median, "separation", "largest"),
            Range(below=CLEAR_BEST),
            least_dim=least,
            further={_COPIES: with_copies([point for point in setting.points if point.dim >= least])},
        )
        verdicts.insert(1, unclear)
    return verdicts


def _panel(setting: Setting) -> Panel:
    dims = [point.dim for point in setting.points]
    resolutions = [float(np.median(gap_resolution(point.measured))) for point in setting.points]
    series: dict[str, list[Array]] = {
        "closest pair": [point.gaps for point in setting.points],
        "second closest pair": [np.maximum(point.numbers("second_gap"), point.gaps) for point in setting.points],
        "mean eigenvalue": [np.abs(point.numbers("mean_eigenvalue")) for point in setting.points],
        "control: closest pair to wrong targets": [np.median(point.control_gaps, axis=1) for point in setting.points],
    }
    curves = []
    for label, samples in series.items():
        medians = [estimates.median(sample) for sample in samples]
        ends = (
            [np.nan if end is None else end for end in column]
            for column in zip(*((m.lower, m.upper) for m in medians), strict=True)
        )
        lower, upper = ends
        curves.append(curve(label, dims, [float(np.median(s)) for s in samples], lower=lower, upper=upper))
    curves.append(curve("resolution of float64", dims, resolutions, style="dashed"))
    return Panel(
        title=setting.name,
        x_label="input size D",
        x_scale="log",
        y_label="|l1 + l2 - tr / D|, median over networks",
        y_scale="log",
        curves=curves,
    )


def _row(setting: Setting, option: str, point: Point) -> dict[str, Cell]:
    closeness, separation = estimates.median(point.closeness), estimates.median(point.separation)
    return {
        "width": setting.width,
        "input_dim": point.dim,
        "initialization": setting.initialization,
        "data": setting.data,
        "option": option,
        "num_networks": point.measurement.num_networks,
        "median_gap": float(np.median(point.numbers("gap"))),
        "median_second_gap": float(np.median(point.numbers("second_gap"))),
        "median_mean_eigenvalue": float(np.median(point.numbers("mean_eigenvalue"))),
        "median_control_gap": float(np.median(point.control_gaps)),
        "gap_over_mean": closeness.value,
        "gap_over_mean_lower": closeness.lower,
        "gap_over_mean_upper": closeness.upper,
        "second_over_first": separation.value,
        "second_over_first_lower": separation.lower,
        "second_over_first_upper": separation.upper,
        "beaten_controls": float(point.beaten_controls.mean()),
        "share_zero": float(np.mean(point.numbers("gap") <= gap_resolution(point.measured))),
        "share_with_largest": float(np.mean(point.holds_largest)),
    }


def _choices(parameters: PairParameters, *, is_dense: bool) -> list[Choice]:
    choices = [
        Choice(
            name="extra_samples",
            value=f"width + {parameters.extra_samples} samples",
            reason="Appendix D.1.2 prints 102 samples for width 10 and 152 for width 150, of which the first is "
            "probably a misprint of 12; points of width 10 are also computed with 102.",
        ),
        Choice(
            name="teacher",
            value=parameters.teacher,
            reason="The source does not say what the targets are before they are standardised; decorrelated targets "
            "do not depend on it.",
        ),
        Choice(
            name="shares_data",
            value="one data set for all networks" if parameters.shares_data else "other data for each network",
            reason="The source does not say whether the networks of a point have the same data.",
        ),
        Choice(
            name="repeated eigenvalues",
            value="pairs with one sum count once; a repeated eigenvalue may be paired with itself",
            reason="The source does not say; otherwise the second best pair would often be a copy of the best.",
        ),
        Choice(
            name="panels",
            value="every width with three combinations of initialization and data",
            reason="The source does not name widths and data of its panels; section 4.1 refers to 13b and 13c where "
            "10b and 10c are probably meant.",
        ),
        Choice(
            name="control_factors",
            value=", ".join(map(str, parameters.control_factors)),
            reason="With N (N - 1) / 2 pairs almost any number is matched closely, so the search is repeated for these "
            "multiples of tr / D.",
        ),
    ]
    if is_dense:
        reason = "At width 150 the Hessian of four layers is dense, with up to 67,650 rows."
        choices.append(Choice(name="widths", value=", ".join(map(str, parameters.widths)), reason=reason))
    return choices


def pair_content(
    activation: Activation,
    num_layers: int,
    settings: Sequence[tuple[Initialization, DataSet]],
    parameters: PairParameters,
    measured: Sequence[Measured],
) -> FigureContent:
    """Make a figure of paired eigenvalues.

    Args:
        activation: Activation function of the networks.
        num_layers: Number of their layers.
        settings: Initialization and data of the panels.
        parameters: Parameters of the figure.
        measured: Its measurements.

    Returns:
        The content.
    """
    measurements = pair_measurements(parameters, activation=activation, num_layers=num_layers, settings=settings)
    panels = _settings(parameters, measurements, measured)
    is_two_layer_linear = (activation, num_layers) == ("linear", 2)
    # section 4.1 says so of figure 3b, and of "13b and 13c", which may mean figure 10 or figure 13
    says_not_clear = is_two_layer_linear or (activation, num_layers) == ("relu", 4)
    verdicts: list[Verdict] = []
    for setting in panels:
        if is_two_layer_linear and setting.initialization == "orthonormal" and setting.data == "decorrelated":
            verdicts += _exact_verdicts(setting)
        else:
            verdicts += _other_verdicts(setting, is_proved_for_one=is_two_layer_linear, says_not_clear=says_not_clear)
    rows = [
        _row(setting, option, point)
        for setting in panels
        for option, points in {"": setting.points, **setting.others}.items()
        for point in points
    ]
    choices = _choices(parameters, is_dense=measurements[0].is_dense)
    return FigureContent(rows, [_panel(setting) for setting in panels], verdicts, choices)


FIGURE_CONTENTS = {
    "cracking-3": partial(pair_content, "linear", 2, PANELS_OF_FIGURE_3),
    "cracking-10": partial(pair_content, "linear", 2, SETTINGS),
    "cracking-11": partial(pair_content, "linear", 4, SETTINGS),
    "cracking-12": partial(pair_content, "relu", 2, SETTINGS),
    "cracking-13": partial(pair_content, "relu", 4, SETTINGS),
}
