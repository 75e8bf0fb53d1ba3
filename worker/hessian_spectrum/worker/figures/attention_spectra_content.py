"""Content of figure 2 of Cracking the Hessian, made of spectra of self-attention on scalars."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.figures.attention_spectra import ScalarAttentionParameters
from hessian_spectrum.api_schemas.figures.results import Cell, Choice, Panel, Verdict
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate
from hessian_spectrum.worker.figures.attention_sinks_content import (
    Sinks,
    last_over_first,
    rank_correlation,
    sink_verdicts,
)
from hessian_spectrum.worker.figures.claims import EVERY, Range, curve, in_every, verdict
from hessian_spectrum.worker.figures.measurement import FigureContent, Measured

Array = NDArray[np.float64]

NARROW = 3.0
"""Norm of queries and keys up to which a variant of figure 2a goes."""


def _relative_change(columns: Sequence[Array]) -> Estimate:
    """Median over seeds of (largest - smallest) / largest."""
    return estimates.median([np.ptp(column) / column.max() for column in columns])


def _largest(each: Measured) -> Array:
    outliers: Array = each.arrays["outliers"][:, 0]
    return outliers


class _Series:
    """The measurements of figure 2 by series."""

    def __init__(self, parameters: ScalarAttentionParameters, measured: Sequence[Measured]) -> None:
        count = parameters.num_seeds
        names = [name for name, _ in parameters.series()]
        self._of = {name: measured[i * count : (i + 1) * count] for i, name in enumerate(names)}

    def __getitem__(self, name: str) -> Sequence[Measured]:
        return self._of[name]

    def columns(self, name: str, array: str) -> list[Array]:
        """One array of each seed."""
        if array == "largest":
            return [_largest(each) for each in self._of[name]]
        return [each.arrays[array] for each in self._of[name]]

    def all_points(self, array: str) -> Array:
        """One array of all series and seeds, joined."""
        return np.concatenate([each.arrays[array] for of in self._of.values() for each in of])

    @property
    def largest(self) -> Array:
        """The largest outliers of all series and seeds, joined."""
        return np.concatenate([_largest(each) for of in self._of.values() for each in of])


def _bulk_variants(series: _Series, norms: Array) -> dict[str, Estimate]:
    """Change of the bulk over small norms alone, if there are two of them, and beside that of the largest outlier."""
    bulk, largest = (series.columns("a", of) for of in ("bulk", "largest"))
    changes = [np.ptp(b) / np.ptp(o) for b, o in zip(bulk, largest, strict=True)]
    found = {"change beside that of the largest outlier": estimates.median(changes)}
    narrow = norms <= NARROW
    if narrow.sum() >= 2:
        found[f"norms up to {NARROW:g}"] = _relative_change([each[narrow] for each in bulk])
    return found


def _norm_verdicts(series: _Series, parameters: ScalarAttentionParameters) -> list[Verdict]:
    norms = np.array(parameters.query_key_norms)
    wide = np.array(parameters.wide_query_key_norms)
    names = {"a aligned": "queries and keys of one direction", "a wide": f"norms up to {wide[-1]:g}"}
    changes = _bulk_variants(series, norms)
    changes |= {label: _relative_change(series.columns(name, "bulk")) for name, label in names.items()}
    growth = {label: last_over_first(series.columns(name, "largest")) for name, label in names.items()}
    bound = {
        label: rank_correlation(x, series.columns(name, "condition_lower"))
        for (name, label), x in zip(names.items(), (norms, wide), strict=True)
    }
    kappa = {
        label: rank_correlation(x, series.columns(name, "condition"))
        for (name, label), x in zip(names.items(), (norms, wide), strict=True)
    }
    return [
        verdict(
            "The norms of the query and key weights do not affect the bulk eigenvalues (figure 2a).",
            quantity=f"median change of the bulk between norms {norms[0]:g} and {norms[-1]:g}, over its largest value",
            estimate=_relative_change(series.columns("a", "bulk")),
            holds_for=Range(below=0.2),
            variants=changes,
            note="the bulk depends on the scores; they are near 0 while |w_Q| |w_K| is small beside d_K",
        ),
        verdict(
            "The outliers, and so the largest eigenvalue, grow with the norms of query and key weights (figure 2a).",
            quantity="median of the largest outlier at the largest norm over that at the smallest one",
            estimate=last_over_first(series.columns("a", "largest")),
            holds_for=Range(above=1.0),
            variants=growth,
        ),
        verdict(
            "The lower bound of the condition number is monotonic in the magnitude of key and query weights.",
            quantity="mean rank correlation of the bound of Remark 3.1 with the norm",
            estimate=rank_correlation(norms, series.columns("a", "condition_lower")),
            holds_for=Range(above=0.95),
            variants=bound,
            note="zeta is not constant: where it falls or gamma grows with the score, the bound falls",
        ),
        verdict(
            "The condition number grows with the magnitude of key and query weights.",
            quantity="mean rank correlation of the condition number with the norm",
            estimate=rank_correlation(norms, series.columns("a", "condition")),
            holds_for=Range(above=0.9),
            variants=kappa,
            note="the smallest magnitude is often that of a third outlier rather than the bulk, and passes through 0",
        ),
    ]


def _bound_verdicts(series: _Series) -> list[Verdict]:
    """Two theorems, each refuted by a single spectrum."""
    largest, rounding = series.largest, 1 + 1e-12
    kappa, least = series.all_points("condition"), series.all_points("condition_lower")
    known = np.isfinite(kappa) & np.isfinite(least)
    upper, printed = series.all_points("upper"), series.all_points("printed_upper")
    return [
        verdict(
            "The condition number is at least (2 T + 3 xi) / (6 |gamma|) (Remark 3.1).",
            quantity="share of all spectra in which it is",
            estimate=in_every(kappa[known] * rounding >= least[known]),
            holds_for=EVERY,
            note="xi with squared norms",
        ),
        verdict(
            "The outliers are at most T/3 + xi (Theorem 3.5).",
            quantity="share of all spectra in which the largest is",
            estimate=in_every(largest <= upper * rounding),
            holds_for=EVERY,
            variants={"xi as printed, whose norms are not squared": in_every(largest <= printed * rounding)},
            note="xi with squared norms; a bound that is not a real number counts as failing",
        ),
    ]


def _value_verdict(series: _Series, of: str, name: str) -> Verdict:
    return verdict(
        f"The {name} depend on w_V (figure 2b).",
        quantity="median of the change over the range of w_V, over the largest value",
        estimate=_relative_change(series.columns("b", of)),
        holds_for=Range(above=0.5),
    )


def _figure_2_panels(series: _Series, parameters: ScalarAttentionParameters) -> list[Panel]:
    axes = [
        ("a", "norms of queries and keys", parameters.query_key_norms),
        ("b", "value weight", parameters.value_norms),
        ("c", "bias of the first token", parameters.sink_biases),
    ]
    panels = []
    for name, label, x in axes:
        arrays = series[name][0].arrays
        outliers = arrays["outliers"]
        curves = [curve(f"outlier {i + 1}", x, outliers[:, i]) for i in range(3)]
        curves += [curve("bulk", x, arrays["bulk"], group=3), curve("", x, -arrays["bulk"], group=3)]
        panels.append(Panel(title=f"({name})", x_label=label, y_label="eigenvalue", y_scale="symlog", curves=curves))
    kappa = [series.columns("a", of)[0] for of in ("condition", "condition_lower")]
    curves = [
        curve("condition number", parameters.query_key_norms, kappa[0]),
        curve("lower bound", parameters.query_key_norms, kappa[1]),
    ]
    label = "norms of queries and keys"
    return [*panels, Panel(title="Remark 3.1", x_label=label, y_label="condition number", y_scale="log", curves=curves)]


def _figure_2_rows(series: _Series, parameters: ScalarAttentionParameters) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for name, fields in parameters.series():
        for index, each in enumerate(series[name]):
            for i, value in enumerate(fields["values"]):
                numbers = {key: column[i] for key, column in each.arrays.items() if column.ndim == 1}
                numbers |= {f"outlier_{k + 1}": each.arrays["outliers"][i, k] for k in range(3)}
                found = {key: float(number) if np.isfinite(number) else None for key, number in numbers.items()}
                rows.append({"series": name, "seed": parameters.seed + index, "value": value, **found})
    return rows


def figure_2(parameters: ScalarAttentionParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make panels a to c of figure 2: spectra of self-attention on scalars.

    Args:
        parameters: Parameters of the figure.
        measured: Measurements by series and seed.

    Returns:
        The content.
    """
    series = _Series(parameters, measured)
    other = "reversed sequences" if parameters.targets == "normal" else "normal numbers"
    names = {"c": "chosen", "c ordinary": "no massive token", "c targets": f"targets: {other}"}
    sinks = Sinks(
        parameters.sink_biases, lambda array: {label: series.columns(name, array) for name, label in names.items()}
    )
    verdicts = [
        *_norm_verdicts(series, parameters),
        *_bound_verdicts(series),
        _value_verdict(series, "bulk", "bulk eigenvalues"),
        _value_verdict(series, "largest", "outliers"),
        *sink_verdicts(sinks, "figure 2c"),
    ]
    choices = [
        Choice(
            name="query_key_norms, value_norms, sink_biases",
            value="up to "
            f"{parameters.query_key_norms[-1]:g}, {parameters.value_norms[-1]:g}, {parameters.sink_biases[-1]:g}",
            reason="The ranges are not printed, and decide whether scores leave the neighbourhood of 0. Other ranges, "
            "and equal directions of queries and keys, are variants.",
        ),
        Choice(name="targets", value=parameters.targets, reason="Not stated; the other choice is a variant."),
        Choice(
            name="massive_value",
            value=f"{parameters.massive_value:g}, in panel c alone",
            reason="The text assumes a massive first token and does not print its value; an ordinary one is a variant.",
        ),
    ]
    panels = _figure_2_panels(series, parameters)
    return FigureContent(_figure_2_rows(series, parameters), panels, verdicts, choices)


FIGURE_CONTENTS = {"cracking-2": figure_2}
