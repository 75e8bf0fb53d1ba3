"""Each figure of few numbers, from its parameters to its verdicts, at sizes that take seconds."""

import json
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.api_schemas.figures.results import Verdict
from hessian_spectrum.statistics.estimates import Estimate, unknown
from hessian_spectrum.worker.figures.claims import Range, curve, exact, share, thinned, verdict
from hessian_spectrum.worker.figures.measurement import FigureContent, content_of, measure
from tests.worker.figures.context import CONTEXT

TINY: dict[str, dict[str, Any]] = {
    "cracking-1": {"num_seeds": 20, "num_samples": 100},
    "cracking-2": {
        "key_dim": 200,
        "num_seeds": 6,
        "query_key_norms": [0.5, 2.0, 10.0],
        "wide_query_key_norms": [1.0, 10.0, 100.0],
        "value_norms": [0.5, 2.0, 10.0],
        "sink_biases": [0.0, 2.0, 4.0, 10.0],
    },
    "cracking-7": {"num_samples": 5000, "num_seeds": 5, "variances": [1.0, 5.0, 20.0]},
    "cracking-8": {"num_steps": 200, "num_seeds": 4, "varies": False},
    "cracking-9": {
        "embedding_dim": 2,
        "key_dim": 10,
        "batch_size": 3,
        "length": 4,
        "num_seeds": 6,
        "sink_biases": [0.0, 4.0, 10.0],
        "other_massive_values": [20.0],
    },
    "cracking-27": {"num_steps": 700, "num_seeds": 6, "varies": False},
    "poster-evolution": {"num_steps": 200, "num_seeds": 4, "varies": False},
    "poster-bulk": {"num_seeds": 20, "num_samples": 100},
    "lecture-1": {"size": 150, "num_matrices": 3, "ratios": [0.5], "energies": [0.0, 0.1, 1.0]},
    "lecture-6": {
        "width": 3,
        "ratios": [0.3, 0.5],
        "num_searches": 100,
        "num_minimizers": 30,
        "max_descent_steps": 200,
    },
}

HOLD = {
    "cracking-1": [
        "whole Hessian spectrum",
        "cell-wise decomposition",
        "belongs to one cell",
        "signed pairs",
        "larger one of the outliers",
    ],
    "cracking-2": ["depend on w_V", "shrinks towards zero", "larger the outlier", "m1 grows", "badly conditioned"],
    "cracking-7": ["whole Hessian spectrum", "the larger outlier", "distinguished from the bulk"],
    "cracking-8": ["exist as pairs", "sum to the trace", "every point of training", "late one at most"],
    "cracking-9": ["larger the outlier", "shrinks towards zero", "m1 grows", "badly conditioned"],
    "cracking-27": ["settles around", "opposite phases", "consistently", "the spectrum along training"],
    "poster-evolution": ["exist as pairs", "sum to the trace", "every point of training"],
    "poster-bulk": ["cell-wise decomposition", "signed pairs"],
    "lecture-1": ["semicircular", "negative eigenvalues emerge", "critical energy alone"],
    "lecture-6": ["larger index", "obeys (1 - phi / 2)", "nonlinear activation"],
}
"""Parts of claims that hold at these sizes, too."""

FAIL = {
    "cracking-27": ["the attention moment m2"],
    "poster-bulk": ["Poster's formula", "outside the bulk"],
    "lecture-6": ["end at critical points"],
}
"""Parts of claims that are reported as not holding."""

FAILING_VARIANTS = {
    "cracking-8": ("every point of training", "cells of the start kept"),
    "poster-bulk": ("outside the bulk", "the smaller outlier of the pair alone"),
    "lecture-1": ("limit of the eigenvalues", "energy 50 % too large"),
    "lecture-6": ("obeys (1 - phi / 2)", "(1 - phi) / 2, as printed"),
}
"""Variants, as controls or printed formulas, that are reported as not holding."""


@pytest.fixture(scope="module", params=TINY)
def figure(request: pytest.FixtureRequest) -> tuple[str, FigureContent]:
    name: str = request.param
    entry = FIGURES[name]
    parameters = entry.parameters.model_validate(json.loads(json.dumps(entry.defaults("quick") | TINY[name])))
    measured = [measure(point, CONTEXT) for point in entry.points(parameters)]
    return name, content_of(name, parameters, measured)


def claims(content: FigureContent, part: str) -> list[Verdict]:
    found = [each for each in content.verdicts if part in each.claim]
    assert found, part
    return found


def test_claims_hold_or_fail_as_the_numbers_say(figure: tuple[str, FigureContent]) -> None:
    name, content = figure
    for part in HOLD[name]:
        assert all(each.holds is True for each in claims(content, part)), part
    for part in FAIL.get(name, []):
        assert all(each.holds is False for each in claims(content, part)), part
    if name in FAILING_VARIANTS:
        part, choice = FAILING_VARIANTS[name]
        (each,) = claims(content, part)
        assert {variant.choice: variant.holds for variant in each.variants}[choice] is False


def test_every_number_is_finite_or_null_and_every_choice_has_a_reason(figure: tuple[str, FigureContent]) -> None:
    _, content = figure
    text = json.dumps([dict(point) for point in content.points], allow_nan=False)
    assert len(json.loads(text)) > 0
    for message in (*content.panels, *content.verdicts, *content.choices):
        assert type(message).model_validate_json(message.model_dump_json()) == message
    for panel in content.panels:
        assert panel.curves
        for each in panel.curves:
            assert len(each.y) in (len(each.x), 1, 0)
    assert all(choice.reason for choice in content.choices)
    for each in content.verdicts:
        if each.lower is not None and each.value is not None and each.upper is not None:
            assert each.lower <= each.value + 1e-12
            assert each.value <= each.upper + 1e-12


def test_ranges_decide_by_the_whole_interval() -> None:
    assert Range(above=1.0).contains(Estimate(2.0, 1.5, 3.0)) is True
    assert Range(above=1.0).contains(Estimate(2.0, 0.5, 3.0)) is None
    assert Range(above=1.0).contains(Estimate(0.5, 0.1, 0.9)) is False
    assert Range(above=1.0, below=2.0).contains(Estimate(1.5, 1.4, 1.6)) is True
    assert Range(above=1.0, below=2.0).contains(Estimate(1.5, 1.4, 2.6)) is None
    assert Range(above=1.0, below=2.0).contains(Estimate(3.0, 2.5, 3.6)) is False
    assert Range(below=1.0).contains(unknown("no data")) is None
    assert Range(below=1.0).contains(exact(0.3)) is True
    assert (Range(below=1.0).thresholds, Range(above=1.0, below=2.0).thresholds) == ((1.0, None), (1.0, 2.0))


def test_a_verdict_tells_its_variants_and_why_a_number_is_missing() -> None:
    made = verdict(
        "a claim",
        quantity="a number",
        estimate=unknown("no data"),
        holds_for=Range(below=1.0),
        note="a note",
        variants={"other": exact(2.0), "none": unknown("all diverged")},
    )
    assert (made.holds, made.note, made.threshold) == (None, "a note; no data", 1.0)
    variants = [(each.choice, each.holds, each.value, each.note) for each in made.variants]
    assert variants == [("other", False, 2.0, None), ("none", None, None, "all diverged")]
    between = verdict("a claim", quantity="a number", estimate=exact(1.5), holds_for=Range(above=1.0, below=2.0))
    assert (between.holds, between.threshold, between.threshold_upper) == (True, 1.0, 2.0)


def test_curves_leave_out_what_is_not_finite() -> None:
    made = curve("a", [1, 2], [np.nan, 3.0], lower=[np.inf, 1.0], style="line")
    assert (made.y, made.lower, made.style) == ([None, 3.0], [None, 1.0], "line")
    assert thinned(10, 4) == [0, 3, 6, 9]
    assert thinned(3, 10) == [0, 1, 2]
    assert share([True, True, False]).value == pytest.approx(2 / 3)
