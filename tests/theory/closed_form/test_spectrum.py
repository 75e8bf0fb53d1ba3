import dataclasses
import math

import numpy as np
import pytest

from hessian_spectrum.theory.closed_form.spectrum import (
    ZERO_MULTIPLE,
    ZERO_NOTE,
    Eigenvalue,
    Inertia,
    Parameter,
    Spectrum,
    Statistic,
)
from hessian_spectrum.theory.exceptions import TheoryError

EPS = float(np.finfo(np.float64).eps)


def make(
    *pairs: tuple[float, int],
    trace: float = 0.0,
    statistics: dict[str, Statistic] | None = None,
    num_parameters: int | None = None,
    notes: tuple[str, ...] = (),
) -> Spectrum:
    entries = tuple(Eigenvalue(value, multiplicity, "bulk") for value, multiplicity in pairs)
    total = sum(multiplicity for _, multiplicity in pairs) if num_parameters is None else num_parameters
    return Spectrum.of(
        kind="test",
        parameters=(Parameter("w", (total,)),),
        method="closed-form",
        source="none",
        eigenvalues=entries,
        trace=trace,
        statistics=statistics or {},
        notes=notes,
    )


def test_sorted_descending_without_empty_entries() -> None:
    spectrum = make((-1.0, 2), (3.0, 1), (7.0, 0), (2.0, 1))
    assert [(entry.value, entry.multiplicity) for entry in spectrum.eigenvalues] == [(3.0, 1), (2.0, 1), (-1.0, 2)]
    np.testing.assert_array_equal(spectrum.dense(), [-1.0, -1.0, 2.0, 3.0])
    assert (spectrum.sharpness, spectrum.smallest, spectrum.condition_number) == (3.0, -1.0, 3.0)


def test_negative_zero_leaves_as_zero() -> None:
    spectrum = make((-0.0, 1), (1.0, 1), trace=-0.0)
    assert math.copysign(1.0, spectrum.smallest) == 1.0
    assert math.copysign(1.0, spectrum.trace) == 1.0


@pytest.mark.parametrize("num_parameters", [1, 3])
def test_multiplicities_must_sum(num_parameters: int) -> None:
    with pytest.raises(TheoryError, match="2 eigenvalues for"):
        make((1.0, 2), num_parameters=num_parameters)


def test_no_parameters_is_refused() -> None:
    with pytest.raises(TheoryError, match="0 eigenvalues"):
        make((1.0, 0))


def test_negative_multiplicity_is_refused() -> None:
    with pytest.raises(TheoryError, match="negative multiplicity"):
        make((1.0, 3), (2.0, -1))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["eigenvalue", "trace"])
def test_nothing_but_finite_eigenvalues(bad: float, place: str) -> None:
    with pytest.raises(TheoryError, match=f"{place} overflows"):
        make((bad if place == "eigenvalue" else 1.0, 1), (2.0, 1), trace=bad if place == "trace" else 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_statistic_beyond_float64_is_none_and_a_note_says_so(bad: float) -> None:
    statistics = {
        "xi": bad,
        "d": [1.0, bad],
        "c": [1.0, 2.0],
        "phase": "early",
        "theta_star": None,
        "T": 1e308,
        "B": 1e308,
    }
    spectrum = make((1.0, 1), statistics=statistics)
    assert spectrum.statistics == statistics | {"xi": None, "d": None}
    assert spectrum.notes == ("xi, d: null, as float64 does not hold it",)
    assert make((1.0, 1), statistics={"T": 1e308, "B": 1e308}).notes == ()


@pytest.mark.parametrize(
    ("pairs", "inertia", "critical_point"),
    [
        (((1.0, 2),), Inertia(0, 0, 2), "minimum"),
        (((-1.0, 2),), Inertia(2, 0, 0), "maximum"),
        (((-1.0, 2), (3.0, 1)), Inertia(2, 0, 1), "saddle"),
        (((-1.0, 2), (0.0, 4), (3.0, 1)), Inertia(2, 4, 1), "saddle"),
        (((0.0, 4), (3.0, 1)), Inertia(0, 4, 1), "degenerate"),
        (((0.0, 4), (-3.0, 1)), Inertia(1, 4, 0), "degenerate"),
        (((0.0, 4),), Inertia(0, 4, 0), "degenerate"),
    ],
)
def test_inertia_and_critical_point(
    pairs: tuple[tuple[float, int], ...], inertia: Inertia, critical_point: str
) -> None:
    spectrum = make(*pairs)
    assert spectrum.inertia == inertia
    assert spectrum.critical_point == critical_point
    assert (spectrum.condition_number is None) == (inertia.zero > 0)
    assert (ZERO_NOTE in spectrum.notes) == (inertia.zero > 0)


@pytest.mark.parametrize("scale", [1e-290, 1.0, 1e290])
def test_zero_is_relative_to_the_scale(scale: float) -> None:
    inside, outside = 0.99 * ZERO_MULTIPLE * EPS * scale, 1.01 * ZERO_MULTIPLE * EPS * scale
    assert make((scale, 1), (inside, 1), (-inside, 1)).inertia == Inertia(0, 2, 1)
    assert make((scale, 1), (outside, 1), (-outside, 1)).inertia == Inertia(1, 0, 2)


def test_zero_note_comes_once_and_last() -> None:
    spectrum = make((0.0, 1), (1.0, 1), notes=("first",))
    assert spectrum.notes == ("first", ZERO_NOTE)
    assert dataclasses.replace(spectrum).notes == spectrum.notes


def test_statistics_are_a_copy() -> None:
    statistics = {"a": 1.0}
    spectrum = make((1.0, 1), statistics=statistics)
    statistics["a"] = math.nan
    assert spectrum.statistics == {"a": 1.0}
