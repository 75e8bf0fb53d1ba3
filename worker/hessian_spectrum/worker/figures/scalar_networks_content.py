"""Contents of figures 1 and 7 of Cracking the Hessian and of the Poster's bulk: networks of one variable."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.figures.results import Choice, Panel, Verdict
from hessian_spectrum.api_schemas.figures.scalar_networks import CellParameters, VarianceParameters
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate, unknown
from hessian_spectrum.worker.figures.claims import EVERY, Range, curve, exact, in_every, share, thinned, verdict
from hessian_spectrum.worker.figures.measurement import FigureContent, Measured
from hessian_spectrum.worker.figures.scalar_networks import CELL_NAMES, ROUNDING, PairedSpectrum

Array = NDArray[np.float64]


def _values(measured: Sequence[Measured], name: str) -> Array:
    """One value of each measurement, NaN where there is none."""
    found = [each.values.get(name) for each in measured]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _worst(measured: Sequence[Measured], name: str) -> Estimate:
    """The largest of one value over all measurements that have it."""
    found = _values(measured, name)
    return (
        exact(float(np.nanmax(found))) if np.isfinite(found).any() else unknown("networks of this size have no check")
    )


def _agreement(measured: Sequence[Measured]) -> Verdict:
    return verdict(
        "The closed form is the whole Hessian spectrum.",
        quantity="largest difference to dense automatic differentiation over the largest eigenvalue, over all seeds",
        estimate=_worst(measured, "dense_difference"),
        holds_for=Range(below=ROUNDING),
    )


def _pair_of(each: Measured, cell: str) -> PairedSpectrum | None:
    """Dense outliers and bulk of a cell; None for a cell without neurons, or a network without a dense check."""
    fields = [_values([each], f"dense_{cell}_{field}")[0] for field in PairedSpectrum._fields]
    return PairedSpectrum(*fields) if np.isfinite(fields[0]) else None


def _is_paired(each: Measured) -> bool | None:
    """Whether each cell has one outlying pair beside signed pairs ±d, densely; None if a cell has no neurons."""
    pairs = [_pair_of(each, cell) for cell in CELL_NAMES]
    if any(pair is None for pair in pairs):
        return None
    tolerance = ROUNDING * float(each.values["dense_largest"])
    return all(
        pair.departure <= tolerance and (np.isnan(pair.bulk) or pair.is_outside(tolerance))
        for pair in pairs
        if pair is not None
    )


def _decoupling(measured: Sequence[Measured]) -> list[Verdict]:
    return [
        verdict(
            "The Hessian undergoes a cell-wise decomposition, which is fully decoupled.",
            quantity="largest Hessian entry between parameters of different cells over the largest eigenvalue",
            estimate=_worst(measured, "coupling"),
            holds_for=Range(below=ROUNDING),
            note="from dense automatic differentiation, over all seeds",
        ),
        verdict(
            "Each eigenvalue belongs to one cell.",
            quantity="largest share of a dense eigenvector outside its cell",
            estimate=_worst(measured, "impurity"),
            holds_for=Range(below=ROUNDING),
            note="over simple eigenvalues of all seeds; the others belong to one cell by the decomposition",
        ),
        verdict(
            "The bulk of the cells consists of q - 1 and m - q - 1 signed pairs, and each cell has one outlying pair.",
            quantity="share of networks with neurons in both cells in which each dense spectrum is of this form",
            estimate=in_every([is_paired for each in measured if (is_paired := _is_paired(each)) is not None]),
            holds_for=EVERY,
            note="a network that has a cell without neurons has no eigenvalues of that cell",
        ),
    ]


def _cell_panel(first: Measured, parameters: CellParameters) -> Panel:
    values, positive = first.arrays["eigenvalues"], first.arrays["is_positive_cell"]
    rank, num_negative = np.arange(1, len(values) + 1), int((values < 0).sum())
    return Panel(
        title=f"ReLU network, width m = {parameters.width}",
        x_label="rank of the eigenvalue",
        y_label="eigenvalue",
        curves=[
            curve("positive cell", rank[positive], values[positive], style="markers"),
            curve("negative cell", rank[~positive], values[~positive], style="markers"),
            curve("sign change", [num_negative + 0.5], [], style="vertical"),
        ],
    )


def _cell_rows(measured: Sequence[Measured], parameters: CellParameters) -> list[dict[str, float | int | None]]:
    return [{"seed": parameters.seed + index, **each.values} for index, each in enumerate(measured)]


def _cell_choices(parameters: CellParameters) -> list[Choice]:
    return [
        Choice(
            name="data",
            value=f"{parameters.data}, {parameters.num_samples} normal inputs",
            reason="The source does not state the data.",
        ),
        Choice(name="initialization", value=parameters.initialization, reason="The source does not state the weights."),
        Choice(
            name="activation",
            value="max(a, 0)",
            reason="Section 3.2 prints (a)+ = 1{a > 0}, the derivative; a 1{a > 0} is meant.",
        ),
    ]


def figure_1(parameters: CellParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 1: eigenvalues of a ReLU network by cell.

    Args:
        parameters: Parameters of the figure.
        measured: One spectrum for each seed.

    Returns:
        The content.
    """
    largest = _values(measured, "dense_largest")
    cells = np.fmax(_values(measured, "dense_positive_large"), _values(measured, "dense_negative_large"))
    is_outside = [_largest_is_outside(each) for each in measured]
    known = np.isfinite(largest)
    top = verdict(
        "The largest eigenvalue is the larger one of the outliers of the two cells.",
        quantity="share of networks in which the largest dense eigenvalue is, and does not belong to a bulk",
        estimate=in_every(((np.abs(largest - cells) <= ROUNDING * largest) & is_outside)[known]),
        holds_for=EVERY,
        note="in each cell the larger outlier is at least |d|, as the pair interlaces with the bulk ±d",
    )
    return FigureContent(
        points=_cell_rows(measured, parameters),
        panels=[_cell_panel(measured[0], parameters)],
        verdicts=[_agreement(measured), *_decoupling(measured), top],
        choices=_cell_choices(parameters),
    )


def _largest_is_outside(each: Measured) -> bool:
    """Whether the largest dense eigenvalue exceeds the bulk of each cell by more than rounding."""
    bulks = np.concatenate([_values([each], f"dense_{cell}_bulk") for cell in CELL_NAMES])
    return bool(np.nanmax(bulks, initial=0.0) < _values([each], "dense_largest")[0] * (1 - ROUNDING))


def _outside(measured: Sequence[Measured], which: Sequence[Literal["large", "small"]]) -> list[bool]:
    """Whether these outliers exceed the bulk in magnitude in each cell with a bulk, densely, for each network."""
    found = []
    for each in measured:
        pairs = [pair for cell in CELL_NAMES if (pair := _pair_of(each, cell)) is not None and np.isfinite(pair.bulk)]
        if pairs:
            found.append(all(abs(getattr(pair, name)) > pair.bulk for pair in pairs for name in which))
    return found


def _poster_error(measured: Sequence[Measured]) -> Array:
    """Relative error of the larger outlier by the Poster's formula: for each network, that of the worse cell."""
    of_cells = [_values(measured, f"{name}_poster") / _values(measured, f"{name}_large") for name in CELL_NAMES]
    errors = np.fmax(*(np.abs(ratio - 1) for ratio in of_cells))
    return errors[np.isfinite(errors)]


def poster_bulk(parameters: CellParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make the Poster's picture of bulk and outliers.

    Args:
        parameters: Parameters of the figure.
        measured: One spectrum for each seed.

    Returns:
        The content.
    """
    first = measured[0]
    values, is_bulk = first.arrays["eigenvalues"], first.arrays["is_bulk"]
    rank = np.arange(1, len(values) + 1)
    panel = Panel(
        title=f"Bulk and outliers, width {parameters.width}",
        x_label="rank of the eigenvalue",
        y_label="eigenvalue",
        curves=[
            curve("bulk", rank[is_bulk], values[is_bulk], style="markers"),
            curve("outliers", rank[~is_bulk], values[~is_bulk], style="markers"),
            curve("", [], [0.0], style="horizontal"),
        ],
    )
    verdicts = [
        _agreement(measured),
        *_decoupling(measured),
        verdict(
            "The pair of outliers lies outside the bulk.",
            quantity="share of networks in all cells of which both outliers exceed the bulk in magnitude, densely",
            estimate=share(_outside(measured, ("large", "small"))),
            holds_for=Range(above=0.9),
            variants={
                "the larger outlier of the pair alone": share(_outside(measured, ("large",))),
                "the smaller outlier of the pair alone": share(_outside(measured, ("small",))),
            },
            note="section 3.1 says that the smaller one may be hidden within the bulk. It always is: the pair are the "
            "eigenvalues of diag(d, -d) plus a positive semidefinite matrix of rank one, which interlace with ±d; so "
            "the larger one never is",
        ),
        verdict(
            "The outliers are given by the Poster's formula, whose last square is 4 (2 <w, v> - mean(yx))^2.",
            quantity="median over networks of the relative error of the larger outlier, in the worse cell",
            estimate=estimates.median(_poster_error(measured)),
            holds_for=Range(below=ROUNDING),
            note="the square lacks the variance of the inputs; with it, the formula is exact",
        ),
    ]
    return FigureContent(_cell_rows(measured, parameters), [panel], verdicts, _cell_choices(parameters))


def _exponents(measured: Sequence[Measured], name: str) -> Array:
    """Slope of log |eigenvalue| against log variance, one for each seed; 1 where they are proportional."""
    slopes = []
    for each in measured:
        values = np.abs(each.arrays[name])
        known = values > 0
        slopes.append(np.polyfit(np.log(each.arrays["s2"][known]), np.log(values[known]), 1)[0])
    return np.array(slopes)


def _rank_panel(first: Measured, width: int) -> Panel:
    """All eigenvalues, from the most negative to the most positive, for a few variances."""
    curves, rank = [], np.arange(1, 2 * width + 1)
    for index in thinned(len(first.arrays["s2"]), 4):
        large, small, bulk = (float(first.arrays[name][index]) for name in ("large", "small", "bulk"))
        values = np.sort([large, small, *[bulk] * (width - 1), *[-bulk] * (width - 1)])
        curves.append(curve(f"variance {first.arrays['s2'][index]:.3g}", rank, values))
    title = "Eigenvalues in ascending order"
    return Panel(title=title, x_label="rank of the eigenvalue", y_label="eigenvalue", curves=curves)


def _variance_panel(first: Measured) -> Panel:
    s2, bulk = first.arrays["s2"], first.arrays["bulk"]
    return Panel(
        title="Spectrum at initialization",
        x_label="variance of the inputs",
        y_label="eigenvalue",
        curves=[
            curve("larger outlier", s2, first.arrays["large"]),
            curve("smaller outlier", s2, first.arrays["small"]),
            curve("bulk", s2, bulk, group=2),
            curve("", s2, -bulk, group=2),
        ],
    )


def _variance_choices(parameters: VarianceParameters) -> list[Choice]:
    return [
        Choice(name="width", value=str(parameters.width), reason="The source does not state the width."),
        Choice(
            name="initialization",
            value=parameters.initialization,
            reason="Gaussian with the variance of the standard parametrisation, which is 1/(3 fan-in) in PyTorch.",
        ),
        Choice(
            name="shares_weights",
            value=str(parameters.shares_weights).lower(),
            reason="The source does not say whether weights are drawn anew for each variance; the other choice is a "
            "variant.",
        ),
    ]


def figure_7(parameters: VarianceParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 7: the spectrum of a linear network against the variance of its inputs.

    Args:
        parameters: Parameters of the figure.
        measured: One measurement for each seed, under both choices of the weights.

    Returns:
        The content.
    """
    chosen, other = measured[: parameters.num_seeds], measured[parameters.num_seeds :]
    names = ("other weights for each variance", "the same weights for all variances")
    choice = names[0] if parameters.shares_weights else names[1]
    verdicts = [_agreement(measured)]
    for name, label in (("large", "larger outlier"), ("small", "smaller outlier"), ("bulk", "bulk")):
        verdicts.append(
            verdict(
                f"Eigenvalues scale in proportion to the variance of the inputs: the {label}.",
                quantity="mean exponent of the magnitude as a power of the variance",
                estimate=estimates.mean(_exponents(chosen, name)),
                holds_for=Range(above=0.95, below=1.05),
                variants={choice: estimates.mean(_exponents(other, name))},
                note="exact where mean(yx) = 0; for random targets it vanishes like 1/sqrt(n)",
            )
        )
    verdicts.append(
        verdict(
            "Two outliers are distinguished from the bulk.",
            quantity="share of dense spectra that are two outliers and m - 1 pairs of one other magnitude",
            estimate=in_every([each.values["is_paired"] for each in chosen if each.values["is_paired"] is not None]),
            holds_for=EVERY,
            note="at the first variance; the smaller outlier lies between -d and d, within the bulk",
        )
    )
    rows = [
        {"seed": parameters.seed + index, "variance": variance, **{k: float(v[i]) for k, v in each.arrays.items()}}
        for index, each in enumerate(chosen)
        for i, variance in enumerate(parameters.variances)
    ]
    panels = [_rank_panel(chosen[0], parameters.width), _variance_panel(chosen[0])]
    return FigureContent(rows, panels, verdicts, _variance_choices(parameters))


FIGURE_CONTENTS = {"cracking-1": figure_1, "cracking-7": figure_7, "poster-bulk": poster_bulk}
