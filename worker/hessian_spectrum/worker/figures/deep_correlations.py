"""Contents of figures 17 to 22 of Cracking the Hessian: networks of two layers and more."""

from collections.abc import Callable, Sequence
from functools import partial

from hessian_spectrum.api_schemas.figures.correlations import (
    Activation,
    DeepParameters,
    deep_points,
)
from hessian_spectrum.api_schemas.figures.results import Choice, Curve, Verdict
from hessian_spectrum.statistics.estimates import Estimate, difference_of_independent
from hessian_spectrum.worker.figures.claims import Range
from hessian_spectrum.worker.figures.correlations import (
    STAGES,
    STRONG,
    Group,
    Point,
    Stage,
    choices,
    correlation_curve,
    extreme_over,
    groups,
    mean_over,
    panels_of,
    rows,
)
from hessian_spectrum.worker.figures.measurement import FigureContent, Measured


def _layers(point: Point) -> range:
    return range(1, point.measurement.depth + 1)


def _single(point: Point, norm: str = "spectral") -> list[str]:
    return [f"{norm}_{layer}" for layer in _layers(point)]


def _products(point: Point) -> list[str]:
    return [f"spectral_without_{layer}" for layer in _layers(point)]


def _without_last(point: Point) -> str:
    return f"spectral_without_{point.measurement.depth}"


def _others(point: Point) -> list[str]:
    """Return all quantities but the product without the last matrix, which is the first matrix of a pair."""
    last = _without_last(point)
    same = {last, "spectral_1"} if point.measurement.depth == 2 else {last}
    return [name for name in [*_products(point), *_single(point)] if name not in same]


def _is_strong(group: Group, stage: Stage) -> Verdict:
    return group.decide(
        "The squared norm of the product of all matrices but the last correlates well with sharpness at every depth, "
        f"{STAGES[stage]}",
        lambda points: extreme_over(points, stage, lambda point: [_without_last(point)], which="smallest"),
        quantity="smallest r over depths",
        holds_for=Range(above=STRONG),
    )


def _is_strongest(group: Group, stage: Stage) -> Verdict:
    return group.decide_mean(
        "Among single matrices and products, the product of all but the last correlates most with sharpness, "
        f"{STAGES[stage]}",
        lambda point: point.lead(stage, [_without_last(point)], _others(point)),
        quantity="r of this product, less the largest r of the other quantities; mean over depths",
        holds_for=Range(above=0.0),
    )


def _is_stronger_at_the_end(group: Group) -> Verdict:
    return group.decide_mean(
        "The product of all matrices but the last correlates with sharpness especially near convergence",
        lambda point: point.change(_without_last(point)),
        quantity="r after training, less r at initialization; mean over depths",
        holds_for=Range(above=0.0),
    )


def _product_verdicts(group: Group) -> list[Verdict]:
    strongest = [_is_strongest(group, stage) for stage in STAGES]
    return [*(_is_strong(group, stage) for stage in STAGES), *strongest, _is_stronger_at_the_end(group)]


def _dimension_verdicts(group: Group, dim: int, low: int) -> list[Verdict]:
    """Return the verdicts that compare few inputs and outputs with more of them, from the points of both."""

    def mean_at(size: int, stage: Stage, points: Sequence[Point]) -> Estimate:
        chosen = [point for point in points if point.measurement.dim == size]
        return mean_over(chosen, lambda point: point.correlation(stage, _without_last(point)))

    def decrease(stage: Stage, points: Sequence[Point]) -> Estimate:
        return difference_of_independent(mean_at(low, stage, points), mean_at(dim, stage, points))

    verdicts = [
        group.decide(
            "The product of all matrices but the last correlates with sharpness especially in low-dimensional "
            f"settings, {when}",
            partial(decrease, stage),
            quantity=f"mean over depths of r of this product at D = {low}, less that at D = {dim}",
            holds_for=Range(above=0.0),
        )
        for stage, when in STAGES.items()
    ]
    if group.parametrization == "mup":
        persists = group.decide(
            "The correlation with the product of all matrices but the last partially persists for larger D",
            partial(mean_at, dim, "trained"),
            quantity=f"mean over depths of r of this product at D = {dim} after training",
            holds_for=Range(above=0.0),
        )
        verdicts.append(persists)
    return verdicts


def _single_verdicts(group: Group) -> list[Verdict]:
    """Return the verdicts on figures 19 and 20, whose captions make no claim: section 4.2 compares with products."""

    def lead(stage: Stage, point: Point) -> Estimate:
        return point.lead(stage, [_without_last(point)], _single(point))

    return [
        group.decide_mean(
            f"No single matrix correlates with sharpness as the product of all but the last does, {when}",
            partial(lead, stage),
            among=lambda points: [point for point in points if point.measurement.depth > 2],
            quantity="r of this product, less the largest r of a single matrix; mean over depths above 2",
            holds_for=Range(above=0.0),
            note="for two layers the product is the first matrix",
        )
        for stage, when in STAGES.items()
    ]


def _frobenius_verdicts(group: Group) -> list[Verdict]:
    def lead(stage: Stage, point: Point) -> Estimate:
        return point.lead(stage, _single(point, "frobenius"), _single(point))

    return [
        group.decide_mean(
            f"In ReLU networks, the Frobenius norm of a matrix correlates more than its spectral norm, {when}",
            partial(lead, stage),
            quantity="largest r of a Frobenius norm, less the largest of a spectral norm; mean over depths",
            holds_for=Range(above=0.0),
            note="the caption makes no claim; section 4.2 says so of networks of two layers. For D = 1 both norms of "
            "the first and of the last matrix are equal",
        )
        for stage, when in STAGES.items()
    ]


def _curves(names_of: Callable[[Point], Sequence[str]], group: Group, stage: Stage) -> list[Curve]:
    return [
        correlation_curve(
            f"B = {point.measurement.depth}",
            list(_layers(point)),
            [point.correlation(stage, name) for name in names_of(point)],
            group=index,
        )
        for index, point in enumerate(group.points)
    ]


def _at(group: Group, dim: int) -> Group:
    """Return the group with the points of one size D alone."""

    def kept(points: Sequence[Point]) -> list[Point]:
        return [point for point in points if point.measurement.dim == dim]

    others = {option: kept(points) for option, points in group.others.items()}
    return Group(group.parametrization, kept(group.points), others)


def _content(
    parameters: DeepParameters,
    measured: Sequence[Measured],
    *,
    dim: int,
    names_of: Callable[[Point], Sequence[str]],
    verdicts_of: Callable[[Group], list[Verdict]],
    x_label: str,
    activation: Activation = "linear",
    compared_dim: int | None = None,
) -> FigureContent:
    dims = [dim] if compared_dim is None else [dim, compared_dim]
    everything = groups(deep_points(parameters, activation=activation, dims=dims), measured)
    found = [_at(group, dim) for group in everything]
    panels = [
        panel
        for group in found
        for panel in panels_of(
            group,
            x_label=x_label,
            y_label="Pearson correlation with the sharpness",
            curves=partial(_curves, names_of, group),
        )
    ]
    stated = choices(parameters, found)
    if 1 in dims:
        value = f"{parameters.deep_learning_rate} for more than two layers in SP and muP"
        reason = "The source has another rate for `deeper networks` and D = 1 without saying from which depth on."
        stated.append(Choice(name="deep_learning_rate", value=value, reason=reason))
    verdicts = [verdict for group in found for verdict in verdicts_of(group)]
    if compared_dim is not None:
        verdicts += [each for group in everything for each in _dimension_verdicts(group, dim, compared_dim)]
    return FigureContent(rows(everything, names_of), panels, verdicts, stated)


_products_content = partial(
    _content, names_of=_products, verdicts_of=_product_verdicts, x_label="matrix b that the product leaves out"
)
_single_content = partial(_content, names_of=_single, verdicts_of=_single_verdicts, x_label="matrix b")
_frobenius_content = partial(
    _content, names_of=partial(_single, norm="frobenius"), verdicts_of=_frobenius_verdicts, x_label="matrix b"
)

FIGURE_CONTENTS = {
    "cracking-17": partial(_products_content, dim=1),
    "cracking-18": partial(_products_content, dim=10, compared_dim=1),
    "cracking-19": partial(_single_content, dim=1),
    "cracking-20": partial(_single_content, dim=10),
    "cracking-21": partial(_products_content, dim=1, activation="relu"),
    "cracking-22": partial(_frobenius_content, dim=1, activation="relu"),
}
