"""Any request that the messages accept gets a finite compute in every format."""

import io
import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from hessian_spectrum.service.routes.random_matrix import compute, render
from hessian_spectrum.theory.random_matrix.ensembles import RATIOS, SCALES
from tests.fixtures.longer import examples


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    exponents = st.floats(math.log10(low), math.log10(high))
    return st.one_of(st.sampled_from([low, 1.0, high]), exponents.map(lambda x: min(max(10**x, low), high)))


VARIANCES = powers(*SCALES)
NUMBERS = st.one_of(st.floats(-1e50, 1e50), st.sampled_from([0.0, -0.0, 1.0, 1e-250, 1e50]), st.floats(-3, 3)).map(
    lambda number: number if abs(number) >= 1e-250 else 0.0
)
RATIO_VALUES = st.one_of(st.sampled_from([0.5, 2.0, 1 + 2**-52, 1 - 2**-53]), powers(*RATIOS))


def of_like_size(laws: list[dict[str, Any]]) -> bool:
    """Whether a free sum of them is answered: by second moments, of wigner v, wishart v^2 (1 + ratio), hessian."""
    squares = []
    for law in laws:
        v, ratio, energy = law.get("variance", 1.0), law.get("ratio", 0.0), law.get("energy", 0.0)
        linear = 2 * energy if law.get("activation") == "linear" else energy * ratio / 2
        squares.append(v if law["law"] == "wigner" else v * v * (1 + ratio) + linear)
    return max(squares) <= 1e15 * min(squares)


SINGLE = st.one_of(
    st.fixed_dictionaries({"law": st.just("wigner"), "variance": VARIANCES}),
    st.fixed_dictionaries({"law": st.just("wishart"), "variance": VARIANCES, "ratio": RATIO_VALUES}),
    st.fixed_dictionaries(
        {
            "law": st.just("hessian"),
            "activation": st.sampled_from(["linear", "relu"]),
            "energy": st.one_of(st.just(0.0), VARIANCES),
            "ratio": RATIO_VALUES,
        }
    ),
)
LAW = st.one_of(
    SINGLE,
    st.fixed_dictionaries(
        {"law": st.just("free-sum"), "laws": st.lists(SINGLE, min_size=2, max_size=2).filter(of_like_size)}
    ),
)
WHERE = st.one_of(
    st.fixed_dictionaries(
        {"points": st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9)}
    ),
    st.fixed_dictionaries({"num_points": st.integers(2, 40)}),
)
MORE = st.fixed_dictionaries(
    {},
    optional={
        "transform_points": st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=5),
        "sample": st.fixed_dictionaries({"size": st.integers(2, 12), "num_bins": st.integers(1, 6)}),
    },
)


def request_of(fields: dict[str, Any]) -> RandomMatrixRequest:
    return RandomMatrixRequest.model_validate_json(json.dumps(fields))


def refuse_constant(name: str) -> None:
    raise AssertionError(name)


@settings(deadline=None, max_examples=examples(150))
@given(LAW, WHERE, MORE)
def test_every_answer_is_finite(law: dict[str, Any], where: dict[str, Any], more: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = json.loads(render(request_of(law | where | more), "json"), parse_constant=refuse_constant)
    assert sum(found["interval_masses"]) + found["atom_at_zero"] == pytest.approx(1, abs=1e-9)
    assert len(found["density"]) == len(found["cumulative"]) == len(found["grid"])
    nulls = [found["density"], found["r_transform"], found["stieltjes"]]
    assert sum(None in values for values in nulls) == sum("is null at" in note for note in found["notes"])
    if "sample" in more:
        counted = sum(found["sample"]["counts"]) / more["sample"]["size"]
        assert counted == pytest.approx(1 if not found["atom_at_zero"] else 1 - found["sample"]["zero_fraction"])


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["linear", "relu"]), st.lists(RATIO_VALUES, min_size=1, max_size=3), st.integers(2, 20))
def test_every_index_curve_is_finite_and_grows(activation: str, ratios: list[float], num_points: int) -> None:
    fields = {"law": "index-curve", "activation": activation, "ratios": ratios, "num_points": num_points}
    found = json.loads(render(request_of(fields), "json"), parse_constant=refuse_constant)
    for curve, ratio in zip(found["curves"], ratios, strict=True):
        assert (curve["critical_energy"] is None) is (ratio >= 1)
        assert (np.diff(curve["index"]) >= -1e-9).all()
        assert curve["index"][0] == 0


@settings(deadline=None, max_examples=10)
@given(LAW)
@example({"law": "hessian", "activation": "relu", "energy": 1e-50, "ratio": 1000**0.5})
@example({"law": "wigner", "variance": 1.0, "points": [5.0, 6.0]})
def test_every_law_can_be_drawn(law: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert render(request_of(law), "png").startswith(b"\x89PNG")


def test_npz_holds_every_array_and_marks_what_is_undefined() -> None:
    fields = {"law": "hessian", "activation": "relu", "energy": 0.3, "ratio": 2.0, "points": [0.0, 1.0]}
    more = {"transform_points": [[0.0, 0.0], [1.0, 2.0]], "sample": {"size": 20, "num_bins": 4}}
    request = request_of(fields | more)
    found, arrays = compute(request).model_dump(), np.load(io.BytesIO(render(request, "npz")))
    for name in ("grid", "cumulative", "support", "interval_masses", "atom_at_zero", "index", "moments"):
        np.testing.assert_array_equal(arrays[name], found[name])
    np.testing.assert_array_equal(arrays["density_defined"], [False, True])
    assert (arrays["density"][0], arrays["density"][1]) == (0, found["density"][1])
    np.testing.assert_array_equal(arrays["stieltjes_defined"], [False, True])
    assert arrays["stieltjes"][1] == complex(*found["stieltjes"][1])
    assert arrays["r_transform"].dtype == np.complex128
    np.testing.assert_array_equal(arrays["sample_counts"], found["sample"]["counts"])
    document = json.loads(str(arrays["document"]))
    assert document["parameters"]["energy"] == 0.3
    assert document["notes"] == found["notes"]


def test_npz_of_index_curves() -> None:
    request = request_of(
        {"law": "index-curve", "activation": "linear", "ratios": [0.5, 1.5], "energies": [0.0, 1.0, 2.0]}
    )
    arrays = np.load(io.BytesIO(render(request, "npz")))
    assert arrays["index"].shape == (2, 3)
    np.testing.assert_array_equal(arrays["energies"], [0, 1, 2])
    np.testing.assert_array_equal(arrays["critical_energy_defined"], [True, False])


@pytest.mark.parametrize(
    "fields",
    [
        {"law": "hessian", "activation": "relu", "energy": 1.0, "ratio": 3.0, "sample": {"size": 50}},
        {"law": "wishart", "ratio": 1.0},
        {"law": "hessian", "activation": "linear", "energy": 1e-6, "ratio": 3.0},
        {"law": "index-curve", "activation": "linear", "ratios": [0.1 * k for k in range(1, 21)], "num_points": 20},
    ],
)
def test_pictures_are_the_same_every_time(fields: dict[str, Any]) -> None:
    first, again = (render(request_of(fields), "svg") for _ in range(2))
    assert first.startswith(b"<?xml")
    assert len(first) == len(again)
