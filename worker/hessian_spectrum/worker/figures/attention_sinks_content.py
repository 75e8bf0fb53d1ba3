"""Claims on attention sinks, and the content of figure 9 of Cracking the Hessian."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from hessian_spectrum.api_schemas.figures.attention_spectra import AttentionSinkParameters
from hessian_spectrum.api_schemas.figures.results import Cell, Choice, Panel, Verdict
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import Estimate
from hessian_spectrum.worker.figures.attention_spectra import repeated_pairs
from hessian_spectrum.worker.figures.claims import EVERY, Range, curve, in_every, verdict
from hessian_spectrum.worker.figures.measurement import FigureContent, Measured

Array = NDArray[np.float64]


def rank_correlation(x: Array, columns: Sequence[Array]) -> Estimate:
    """Mean over seeds of Spearman's coefficient between what varies and a quantity; 1 where it only grows."""
    return estimates.mean([_coefficient(x, column) for column in columns], within=(-1.0, 1.0))


def _coefficient(x: Array, column: Array) -> float:
    """Spearman's coefficient of the values that exist; 0 if they do not vary, NaN if there are fewer than three."""
    known = np.isfinite(column)
    if known.sum() < 3:
        return np.nan
    return float(spearmanr(x[known], column[known]).statistic) if np.ptp(column[known]) > 0 else 0.0


def last_over_first(columns: Sequence[Array]) -> Estimate:
    """Median over seeds of the last value over the first one."""
    return estimates.median_ratio([abs(c[-1]) for c in columns], [abs(c[0]) for c in columns])


class Sinks:
    """Quantities against the strength of a sink: under the chosen data, under others, and for a part of the biases."""

    def __init__(self, biases: Sequence[float], columns: Callable[[str], Mapping[str, Sequence[Array]]]) -> None:
        self._biases, self._columns = np.array(biases), columns
        middle = len(biases) // 2
        self._parts = {
            f"biases up to {biases[middle]:g}": slice(None, middle + 1),
            f"biases from {biases[middle]:g} on": slice(middle, None),
        }

    def _estimates(
        self, name: str, of: Callable[[Array, Sequence[Array]], Estimate]
    ) -> tuple[Estimate, dict[str, Estimate]]:
        """An estimate for the chosen data, which are the first, and for everything else."""
        columns = dict(self._columns(name))
        found = {label: of(self._biases, each) for label, each in columns.items()}
        chosen, *_ = columns
        for label, part in self._parts.items():
            if len(self._biases[part]) >= 3:
                found[label] = of(self._biases[part], [column[part] for column in columns[chosen]])
        return found.pop(chosen), found

    def monotonic(self, claim: str, name: str, label: str, holds_for: Range, note: str) -> Verdict:
        """Verdict on whether a quantity grows or falls at every step."""
        estimate, variants = self._estimates(name, rank_correlation)
        quantity = f"mean rank correlation of {label} with the bias"
        return verdict(claim, quantity=quantity, estimate=estimate, holds_for=holds_for, variants=variants, note=note)

    def vanishing(self, claim: str, name: str, label: str, note: str | None = None) -> Verdict:
        """Verdict on whether a quantity falls far below its largest value."""
        estimate, variants = self._estimates(
            name, lambda _, columns: estimates.median([column[-1] / column.max() for column in columns])
        )
        return verdict(
            claim,
            quantity=f"median of {label} at the largest bias over its largest value",
            estimate=estimate,
            holds_for=Range(below=0.5),
            variants=variants,
            note=note,
        )

    def growth(self, claim: str, name: str, label: str, note: str | None = None) -> Verdict:
        """Verdict on whether a quantity is larger with the largest bias than with the smallest one."""
        estimate, variants = self._estimates(name, lambda _, columns: last_over_first(columns))
        quantity = f"median of {label} at the largest bias over that at the smallest one"
        return verdict(
            claim, quantity=quantity, estimate=estimate, holds_for=Range(above=1.0), variants=variants, note=note
        )


def sink_verdicts(sinks: Sinks, where: str, missing: str | None = None) -> list[Verdict]:
    """The claims of section 3.3 on sinks; `missing` says what is not known of the bulk."""
    grows, falls = Range(above=0.9), Range(below=-0.9)
    massive = "-1 where the bulk falls at every step; at small biases, a massive token raises the bulk"
    return [
        sinks.monotonic(
            f"The larger the attention sink, the smaller the bulk ({where}).",
            "bulk",
            "the magnitude of the bulk",
            falls,
            "; ".join(filter(None, (massive, missing))),
        ),
        sinks.vanishing(
            f"The bulk shrinks towards zero as attention concentrates on one token ({where}).",
            "bulk",
            "the bulk",
            missing,
        ),
        sinks.monotonic(
            f"The larger the attention sink, the larger the outlier eigenvalues ({where}).",
            "largest",
            "the largest eigenvalue",
            grows,
            "1 where it grows at every step",
        ),
        sinks.monotonic(
            f"As an attention sink on a massive token grows, the first attention moment m1 grows ({where}).",
            "mean_norm",
            "the norm of m1",
            grows,
            "1 where it grows at every step",
        ),
        *(
            sinks.vanishing(
                f"As attention concentrates on one token, the central moment {moment} shrinks towards zero ({where}).",
                name,
                f"the norm of {moment}",
            )
            for moment, name in (("m2", "second_norm"), ("m3", "third_norm"))
        ),
        sinks.growth(
            f"A sink results in a badly conditioned landscape ({where}).",
            "condition",
            "the condition number",
            "the largest magnitude of an eigenvalue over the smallest one, which may be that of an outlier near 0",
        ),
    ]


def layer_numbers(each: Measured, percent: float) -> dict[str, float]:
    """Bulk, outliers and condition number of a layer, and its attention moments.

    Args:
        each: A spectrum.
        percent: Largest share of all eigenvalues that count as outliers, in percent.

    Returns:
        The largest magnitude and the mean magnitude of the repeated eigenvalues, NaN if none repeat; the largest and
        the mean outlier, which are the largest of the other eigenvalues; numbers of both; the condition number, which
        float64 does not tell above 1e16; and the numbers of the measurement.
    """
    values = each.arrays["eigenvalues"]
    bulk, others = repeated_pairs(values)
    magnitudes = np.abs(values)
    count = min(len(others), max(1, int(percent / 100 * len(values))))
    outliers = others[len(others) - count :]
    return {
        "bulk_largest": float(np.abs(bulk).max()) if len(bulk) else np.nan,
        "bulk_mean": float(np.abs(bulk).mean()) if len(bulk) else np.nan,
        "num_bulk": len(bulk),
        "num_outliers": count,
        "outlier_largest": float(outliers.max(initial=-np.inf)),
        "outlier_mean": float(outliers.mean()) if count else np.nan,
        "condition": float(magnitudes.max() / max(magnitudes.min(), np.finfo(float).eps * magnitudes.max())),
        **{name: float(value) for name, value in each.values.items()},
    }


_COLUMNS = {"bulk": "bulk_mean", "largest": "outlier_largest"}
"""Names of numbers of a layer, by the names of those of attention on scalars."""


class _Layers:
    """The spectra of figure 9 by first token: of each, the numbers by seed and bias."""

    def __init__(self, parameters: AttentionSinkParameters, measured: Sequence[Measured]) -> None:
        self.parameters = parameters
        numbers = [layer_numbers(each, parameters.outlier_percent) for each in measured]
        size = len(measured) // len(parameters.massive_values)
        labels = [_token_label(value) for value in parameters.massive_values]
        self.by_token = {label: numbers[i * size : (i + 1) * size] for i, label in enumerate(labels)}
        self.num_without_bulk = sum(not row["num_bulk"] for row in numbers)
        self.num_spectra = len(numbers)

    def columns(self, name: str) -> dict[str, list[Array]]:
        """A number over the biases for each seed, by first token."""
        count, name = len(self.parameters.sink_biases), _COLUMNS.get(name, name)
        return {
            label: [np.array([row[name] for row in rows[k : k + count]]) for k in range(0, len(rows), count)]
            for label, rows in self.by_token.items()
        }

    def rows(self) -> list[dict[str, Cell]]:
        """One row for each spectrum."""
        biases, seed = self.parameters.sink_biases, self.parameters.seed
        return [
            {
                "first_token": label,
                "seed": seed + i // len(biases),
                "bias": float(biases[i % len(biases)]),
                **{name: value if np.isfinite(value) else None for name, value in row.items()},
            }
            for label, rows in self.by_token.items()
            for i, row in enumerate(rows)
        ]


def _token_label(value: float | None) -> str:
    return "no massive token" if value is None else f"first token of {value:g}"


def _repetition(layers: _Layers) -> Verdict:
    d, key_dim = layers.parameters.embedding_dim, layers.parameters.key_dim
    expected = 2 * d * max(0, key_dim - 2 * d + 1)
    rows = [row for of_token in layers.by_token.values() for row in of_token]
    return verdict(
        "The bulk consists of repeated eigenvalues.",
        quantity="share of spectra with 2 d eigenvalues that are each repeated d_K - 2 d + 1 times",
        estimate=in_every([row["num_bulk"] == expected for row in rows] if expected else []),
        holds_for=EVERY,
        note="from the dense spectrum; W_Q W_K^T acts as a two-layer linear network, with its multiplicities",
    )


def figure_9(parameters: AttentionSinkParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 9: bulk and outliers of a self-attention layer on vectors against the attention sink.

    Args:
        parameters: Parameters of the figure.
        measured: Spectra by first token, seed and bias.

    Returns:
        The content.
    """
    biases, layers = np.array(parameters.sink_biases), _Layers(parameters, measured)
    missing = f"no bulk is found in {layers.num_without_bulk} of {layers.num_spectra} spectra"
    verdicts = sink_verdicts(
        Sinks(parameters.sink_biases, layers.columns), "figure 9", missing if layers.num_without_bulk else None
    )
    verdicts.append(_repetition(layers))
    choices = [
        Choice(
            name="sink_biases",
            value=f"up to {biases[-1]:g}",
            reason="The range is not printed. Its smaller and its larger half are variants.",
        ),
        Choice(
            name="massive_value",
            value=f"{parameters.massive_value:g} in every coordinate",
            reason="Not printed. An ordinary first token and other values are variants.",
        ),
        Choice(name="initial_std", value=f"{parameters.initial_std:g}", reason="Not printed."),
        Choice(name="targets", value=parameters.targets, reason="Not printed."),
        Choice(
            name="outlier_percent",
            value=f"the largest {parameters.outlier_percent:g} % by value among eigenvalues that do not repeat",
            reason="By magnitude, repeated eigenvalues of the bulk would be among them.",
        ),
    ]
    panel = _layer_panel(parameters, measured[: len(biases)], biases)
    return FigureContent(layers.rows(), [panel], verdicts, choices)


def _layer_panel(parameters: AttentionSinkParameters, measured: Sequence[Measured], biases: Array) -> Panel:
    outliers, bulk = [], []
    for bias, each in zip(biases, measured, strict=True):
        values = each.arrays["eigenvalues"]
        repeated, others = repeated_pairs(values)
        count = max(1, int(parameters.outlier_percent / 100 * len(values)))
        outliers += [(bias, value) for value in others[-count:]]
        bulk += [(bias, value) for value in np.unique(repeated.round(12))]
    columns = [np.array(pairs).reshape(-1, 2).T for pairs in (outliers, bulk)]
    return Panel(
        title=f"Embedding dimension {parameters.embedding_dim}",
        x_label="bias of the first token",
        y_label="eigenvalue",
        y_scale="symlog",
        curves=[
            curve("outliers", *columns[0], style="markers"),
            curve("bulk", *columns[1], style="markers"),
        ],
    )


FIGURE_CONTENTS = {"cracking-9": figure_9}
