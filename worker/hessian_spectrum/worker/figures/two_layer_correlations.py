"""Contents of figures 4, 14, 15, 16 and 26 of Cracking the Hessian: two-layer networks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from hessian_spectrum.api_schemas.figures.correlations import (
    Activation,
    TwoLayerParameters,
    two_layer_points,
)
from hessian_spectrum.api_schemas.figures.results import Choice, Curve, Verdict
from hessian_spectrum.curvature.ensembles.matrix_norms import NORMS
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate, Which, joint_confidence
from hessian_spectrum.worker.figures.claims import Range, extreme_median, share
from hessian_spectrum.worker.figures.correlations import (
    STAGES,
    STRONG,
    Array,
    Group,
    Point,
    Stage,
    Target,
    choices,
    correlation_curve,
    extreme_over,
    groups,
    mean_over,
    panels_of,
    rows,
)
from hessian_spectrum.worker.figures.measurement import FigureContent, Measured

LAYERS = (1, 2)
ALIGNMENTS = tuple(f"{norm}_alignment" for norm in NORMS)
ALL_NORMS = tuple(f"{norm}_{layer}" for norm in NORMS for layer in LAYERS)

WELL_APPROXIMATED = 0.05
"""Relative error of the largest eigenvalue up to which it counts as well approximated."""

NEGLIGIBLE, LARGE = 0.25, 0.75
"""Ends of the range that section 4.2 states for ReLU networks."""


def _of(norm: str) -> tuple[str, ...]:
    return tuple(f"{norm}_{layer}" for layer in LAYERS)


def _all_but(norm: str) -> tuple[str, ...]:
    return tuple(name for name in ALL_NORMS if name not in _of(norm))


def _with_several(points: Sequence[Point]) -> list[Point]:
    """Return the points with D > 1; for D = 1 all norms are equal."""
    return [point for point in points if point.measurement.dim > 1]


def _small(points: Sequence[Point]) -> list[Point]:
    """Return the points with D <= width / 10, whose first matrix has the larger entries in SP and muP."""
    return [point for point in points if point.measurement.dim <= point.measurement.width / 10]


def _large(points: Sequence[Point]) -> list[Point]:
    """Return the points with D >= width / 2, whose matrices have entries of similar size."""
    return [point for point in points if point.measurement.dim >= point.measurement.width / 2]


def _everywhere(points: Sequence[Point]) -> list[Point]:
    return list(points)


Selection = Callable[[Sequence[Point]], list[Point]]


def norm_leads(group: Group, stage: Stage, *, norm: str, claim: str) -> Verdict:
    """Return the verdict that one norm correlates most with the target."""
    return group.decide_mean(
        f"{claim} {STAGES[stage]}",
        lambda point: point.lead(stage, _of(norm), _all_but(norm)),
        among=_with_several,
        quantity=f"r of the {norm} norm of the matrix with the larger r, less the largest r of other norms; mean over "
        "D > 1",
        holds_for=Range(above=0.0),
    )


def _layer_leads(
    group: Group, stage: Stage, layer: int, select: Selection, claim: str, note: str | None = None
) -> Verdict:
    """Return the verdict that the spectral norm of one matrix correlates more than that of the other."""
    first, second = f"spectral_{layer}", f"spectral_{3 - layer}"

    def lead(point: Point) -> Estimate:
        return point.difference(stage, first, second)

    ranges = {"D <= width / 10 only": _small, "D >= width / 2 only": _large} if select is _everywhere else {}
    return group.decide_mean(
        claim,
        lead,
        among=select,
        further={name: mean_over(part(group.points), lead) for name, part in ranges.items()},
        quantity=f"r of the spectral norm of W{layer}, less that of W{3 - layer}; mean over D",
        holds_for=Range(above=0.0),
        note=note,
    )


def _first_is_strong(group: Group) -> Verdict:
    return group.decide(
        "At initialization and for small D, the spectral norm of the first matrix correlates significantly",
        lambda points: extreme_over(_small(points), "initial", lambda _: ["spectral_1"], which="smallest"),
        quantity="smallest r of the spectral norm of W1 over D <= width / 10",
        holds_for=Range(above=STRONG),
    )


def _none_is_strong(group: Group, select: Selection, which: str) -> Verdict:
    def largest(names: Sequence[str], points: Sequence[Point]) -> Estimate:
        return extreme_over(select(points), "initial", lambda _: names, which="largest")

    return group.decide(
        "At initialization, where both matrices have entries of similar size, the spectral norm of neither correlates "
        "strongly",
        partial(largest, _of("spectral")),
        quantity=f"largest r of the spectral norm of a matrix over {which}",
        holds_for=Range(below=STRONG),
        further={"all norms of both matrices": largest(ALL_NORMS, group.points)},
    )


def _alignment_leads(group: Group, select: Selection, which: str) -> Verdict:
    def lead(norms: Sequence[str], point: Point) -> Estimate:
        return point.lead("initial", ALIGNMENTS, norms)

    return group.decide_mean(
        "At initialization, where both matrices have entries of similar size, alignment correlates more than the "
        "spectral norms do",
        partial(lead, _of("spectral")),
        among=select,
        quantity=f"largest r of an alignment, less the larger r of the two spectral norms; mean over {which}",
        holds_for=Range(above=0.0),
        further={"compared with all norms": mean_over(select(group.points), partial(lead, ALL_NORMS))},
    )


def _grows(group: Group) -> Verdict:
    """Return the verdict that the correlation is most prominent in trained networks."""
    return group.decide_mean(
        "The correlation with the spectral norm is most prominent in trained networks",
        lambda point: point.change(*_of("spectral")),
        quantity="larger r of the two matrices after training, less the larger one at initialization; mean over D",
        holds_for=Range(above=0.0),
    )


def _ggn_is_close(group: Group) -> Verdict:
    def error(points: Sequence[Point]) -> Estimate:
        errors = [
            np.abs(1 - point.numbers("trained", "ggn") / point.numbers("trained", "sharpness")) for point in points
        ]
        return extreme_median(errors, which="largest")

    return group.decide(
        "In trained networks the Hessian is well approximated by the Gauss-Newton matrix",
        error,
        quantity="largest of the medians of the relative error of the largest eigenvalue, over D",
        holds_for=Range(below=WELL_APPROXIMATED),
    )


def _is_bounded(group: Group) -> Verdict:
    """Return the verdict on the lower bound by the squared spectral norms, which needs inputs with covariance I."""

    def share_above(points: Sequence[Point]) -> Estimate:
        return share(np.concatenate([above(point) for point in points]))

    def above(point: Point) -> Array:
        # matrices and ends of training of one network are no independent cases
        kept: dict[Stage, Any] = {"initial": point.has_converged, "trained": slice(None)}
        cases = [
            (point.numbers(stage, "sharpness") >= point.sample(stage, name) * (1 - 1e-3))[kept[stage]]
            for stage in STAGES
            for name in _of("spectral")
        ]
        return np.asarray(np.logical_and.reduce(cases))

    return group.decide(
        "The largest eigenvalue is at least the squared spectral norm of each matrix",
        share_above,
        quantity="share of networks for which this holds of both matrices at both ends of training, up to 0.1 %",
        holds_for=Range(above=0.99),
        note="appendix D.3.3; this needs the second moment of the inputs to be the identity, which that of a sample "
        "is not",
    )


def _drives_trained(group: Group) -> list[Verdict]:
    """Return the verdicts on which matrix drives the correlation after training."""
    if group.parametrization == "ntk":
        verdict = group.decide_mean(
            "After training, the spectral norms of both matrices correlate well with the largest eigenvalue",
            lambda point: point.extreme("trained", _of("spectral"), which="smallest"),
            quantity="smaller of the two r; mean over D",
            holds_for=Range(above=STRONG),
        )
        return [verdict]
    layer = 2 if group.parametrization == "standard" else 1
    note = None if layer == 2 else "appendix D.3.3 prints `the second one`, which would repeat what it says of SP"
    claim = f"After training, it is the {'second' if layer == 2 else 'first'} matrix that drives the correlation"
    verdicts = [_layer_leads(group, "trained", layer, _everywhere, claim, note)]
    if layer == 1:
        claim = "After training, it is the second matrix that drives the correlation, as printed"
        verdicts.append(_layer_leads(group, "trained", 2, _everywhere, claim))
    return verdicts


def _sharpness_verdicts(group: Group) -> list[Verdict]:
    """Return the verdicts on figures 4 and 14."""
    claim = "Sharpness correlates most with the squared spectral norm of a weight matrix"
    verdicts = [norm_leads(group, stage, norm="spectral", claim=claim) for stage in STAGES]
    verdicts += [_grows(group), _ggn_is_close(group)]
    if group.parametrization == "ntk":
        return [*verdicts, _none_is_strong(group, _everywhere, "D"), *_drives_trained(group)]
    early = "At initialization and for small D, it is the first matrix that drives the correlation"
    return [
        *verdicts,
        _first_is_strong(group),
        _layer_leads(group, "initial", 1, _small, early),
        _none_is_strong(group, _large, "D >= width / 2"),
        *_drives_trained(group),
        _is_bounded(group),
    ]


def _alignment_verdicts(group: Group) -> list[Verdict]:
    select, which = (_everywhere, "D") if group.parametrization == "ntk" else (_large, "D >= width / 2")
    return [_alignment_leads(group, select, which)]


def _relu_verdicts(group: Group) -> list[Verdict]:
    return [verdict for stage in STAGES for verdict in _relu_verdicts_at(group, stage)]


def _relu_verdicts_at(group: Group, stage: Stage) -> list[Verdict]:
    """Return the verdicts on figure 16 at one end of training."""

    def first(which: Which, points: Sequence[Point]) -> Estimate:
        return extreme_over(points, stage, lambda _: ["spectral_1"], which=which)

    return [
        group.decide(
            f"The spectral norm of the first matrix has a correlation {STAGES[stage]} of at least {NEGLIGIBLE}",
            partial(first, "smallest"),
            quantity="smallest r over D",
            holds_for=Range(above=NEGLIGIBLE),
        ),
        group.decide(
            f"The spectral norm of the first matrix has a correlation {STAGES[stage]} of at most {LARGE}",
            partial(first, "largest"),
            quantity="largest r over D",
            holds_for=Range(below=LARGE),
        ),
        norm_leads(group, stage, norm="frobenius", claim="Sharpness correlates most with the squared Frobenius norm"),
    ]


def _trace_verdicts(group: Group) -> list[Verdict]:
    verdicts = [verdict for stage in STAGES for verdict in _trace_verdicts_at(group, stage)]
    # outputs of the neural tangent parametrization have factors, with which the formula is another one
    return verdicts if group.parametrization == "ntk" else [*verdicts, _trace_formula(group)]


def _trace_verdicts_at(group: Group, stage: Stage) -> list[Verdict]:
    """Return the verdicts on figure 26 at one end of training."""
    confidence = joint_confidence(len(NORMS))

    def strongest(norm: str, point: Point) -> Estimate:
        return point.extreme(stage, _of(norm), which="largest", confidence=confidence)

    def weakest(points: Sequence[Point]) -> Estimate:
        means = [mean_over(points, partial(strongest, norm)) for norm in NORMS]
        return estimates.extreme(means, which="smallest")

    return [
        group.decide(
            f"All squared norms correlate strongly with the trace {STAGES[stage]}",
            weakest,
            quantity="smallest, over norms, of the mean over D of the r of the matrix with the larger r",
            holds_for=Range(above=STRONG),
        ),
        norm_leads(group, stage, norm="frobenius", claim="The trace correlates most with the squared Frobenius norm"),
    ]


def _trace_formula(group: Group) -> Verdict:
    def error(points: Sequence[Point]) -> Estimate:
        errors = []
        for point in points:
            squares = sum(point.sample("trained", name) for name in _of("frobenius"))
            errors.append(np.abs(point.measurement.dim * squares / point.numbers("trained", "trace") - 1))
        return extreme_median(errors, which="largest")

    return group.decide(
        "The trace is approximately D (|W1|_F^2 + |W2|_F^2)",
        error,
        quantity="largest of the medians of the relative error, over D",
        holds_for=Range(below=0.1),
        note="appendix D.4, for inputs whose second moment is nearly the identity",
    )


def _norm_curves(group: Group, stage: Stage) -> list[Curve]:
    dims = [point.measurement.dim for point in group.points]
    return [
        correlation_curve(
            f"{norm}, W{layer}",
            dims,
            [point.correlation(stage, f"{norm}_{layer}") for point in group.points],
            group=NORMS.index(norm),
            is_dashed=layer == 2,
        )
        for norm in NORMS
        for layer in LAYERS
    ]


def _alignment_curves(group: Group, stage: Stage) -> list[Curve]:
    dims = [point.measurement.dim for point in group.points]
    return [
        correlation_curve(
            f"{name.removesuffix('_alignment')} alignment",
            dims,
            [point.correlation(stage, name) for point in group.points],
            group=index,
        )
        for index, name in enumerate(ALIGNMENTS)
    ]


def _content(
    parameters: TwoLayerParameters,
    measured: Sequence[Measured],
    *,
    verdicts_of: Callable[[Group], list[Verdict]],
    activation: Activation = "linear",
    target: Target = "sharpness",
) -> FigureContent:
    found = groups(two_layer_points(parameters, activation=activation), measured, target)
    is_aligned = verdicts_of is _alignment_verdicts
    curves, quantities = (_alignment_curves, ALIGNMENTS) if is_aligned else (_norm_curves, ALL_NORMS)
    panels = [
        panel
        for group in found
        for panel in panels_of(
            group,
            x_label="input and output size D",
            y_label=f"Pearson correlation with the {target}",
            curves=partial(curves, group),
        )
    ]
    stated = choices(parameters, found)
    if any(group.parametrization == "mup" for group in found):
        rate = f"{parameters.large_mup_learning_rate} from D = {parameters.large_mup_dim}"
        reason = "The source sets the first rate 1 for muP and `large` D without saying from which on."
        stated.append(Choice(name="large_mup_dim", value=rate, reason=reason))
    if is_aligned:
        reason = "The caption has the absolute alignment, and does not say that it is squared as norms are."
        stated.append(Choice(name="alignment", value="absolute value, not squared", reason=reason))
    verdicts = [verdict for group in found for verdict in verdicts_of(group)]
    return FigureContent(rows(found, lambda _: quantities), panels, verdicts, stated)


FIGURE_CONTENTS = {
    "cracking-4": partial(_content, verdicts_of=_sharpness_verdicts),
    "cracking-14": partial(_content, verdicts_of=_sharpness_verdicts),
    "cracking-15": partial(_content, verdicts_of=_alignment_verdicts),
    "cracking-16": partial(_content, verdicts_of=_relu_verdicts, activation="relu"),
    "cracking-26": partial(_content, verdicts_of=_trace_verdicts, target="trace"),
}
