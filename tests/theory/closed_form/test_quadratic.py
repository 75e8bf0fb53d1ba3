import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.quadratic import quadratic_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Inertia
from hessian_spectrum.theory.exceptions import TheoryError

Array = NDArray[np.float64]
RATES = ("best_step", "best_contraction", "stability_limit")


def with_eigenvalues(values: list[float], seed: int) -> Array:
    """Oracle by construction: Q diag(values) Q^T with Q orthogonal."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    product = (basis * np.asarray(values)) @ basis.T
    return (product + product.T) / 2


def test_day_27_example() -> None:
    spectrum = quadratic_spectrum([[4, 4], [4, 16]])
    root = 2 * np.sqrt(13)
    np.testing.assert_allclose(spectrum.dense(), [10 - root, 10 + root], rtol=1e-14)
    kappa = (10 + root) / (10 - root)
    assert spectrum.condition_number == pytest.approx(kappa, rel=1e-13)
    assert round(kappa, 2) == 6.17
    assert spectrum.statistics == pytest.approx(
        {"best_step": 0.1, "best_contraction": (kappa - 1) / (kappa + 1), "stability_limit": 2 / (10 + root)}
    )
    assert (spectrum.critical_point, spectrum.method, spectrum.notes) == ("minimum", "exact-reduction", ())


@given(st.lists(st.floats(-9, 9, allow_subnormal=False), min_size=1, max_size=8), st.integers(0, 10**6))
@settings(deadline=None)
def test_eigenvalues_and_trace_identity(values: list[float], seed: int) -> None:
    spectrum = quadratic_spectrum(with_eigenvalues(values, seed))
    tolerance = 1e-13 * np.abs(values).max()
    np.testing.assert_allclose(spectrum.dense(), np.sort(values), rtol=0, atol=tolerance)
    assert abs(spectrum.trace - sum(values)) <= tolerance * len(values)
    assert sum(entry.multiplicity for entry in spectrum.eigenvalues) == len(values)


def test_rates_hold_for_gradient_descent() -> None:
    matrix = with_eigenvalues([0.5, 1.0, 3.0, 8.0], 3)
    rates = quadratic_spectrum(matrix).statistics
    worst = {}
    for step in (
        rates["best_step"],
        0.9 * rates["best_step"],
        1.1 * rates["best_step"],
        1.01 * rates["stability_limit"],
    ):
        worst[step] = np.linalg.norm(np.eye(4) - step * matrix, 2)
    best = worst.pop(rates["best_step"])
    assert best == pytest.approx(rates["best_contraction"], rel=1e-12)
    assert all(other > best for other in worst.values())
    assert worst[1.01 * rates["stability_limit"]] > 1
    assert np.linalg.norm(np.eye(4) - 0.99 * rates["stability_limit"] * matrix, 2) < 1


@pytest.mark.parametrize("values", [[-1.0, 2.0], [0.0, 2.0], [-3.0, -1.0], [0.0]])
def test_no_rates_unless_positive_definite(values: list[float]) -> None:
    spectrum = quadratic_spectrum(with_eigenvalues(values, 1))
    assert spectrum.statistics == dict.fromkeys(RATES)
    assert any("not positive definite" in note for note in spectrum.notes)


def test_rank_deficiency_is_seen_at_size_400() -> None:
    spectrum = quadratic_spectrum(with_eigenvalues([0.0] * 150 + list(np.linspace(0.1, 5.0, 250)), 2))
    assert spectrum.inertia == Inertia(0, 150, 250)
    assert sum(entry.role == "zero" for entry in spectrum.eigenvalues) == 150
    assert spectrum.critical_point == "degenerate"
    assert spectrum.condition_number is None


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e300])
def test_extreme_scale(scale: float) -> None:
    spectrum = quadratic_spectrum(scale * np.array([[4.0, 4.0], [4.0, 16.0]]))
    assert spectrum.sharpness / scale == pytest.approx(10 + 2 * np.sqrt(13), rel=1e-13)
    assert spectrum.statistics["best_contraction"] == pytest.approx(np.sqrt(13) / 5, rel=1e-13)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.0, 2.0]], "square, not 1 x 2"),
        ([1.0, 2.0], "2 dimension"),
        ([[1.0, 2.0], [3.0]], "rectangular"),
        ([], "2 dimension"),
        ([[]], "empty"),
        ([[1.0, float("nan")], [0.0, 1.0]], "finite"),
        ([[1.0, 1e-11], [0.0, 1.0]], "symmetric"),
        ([[1e-20, 1e-21], [0.0, 1e-20]], "symmetric"),
        ([[1e308, 1e308], [1e308, 1e308]], "overflows"),
        ([[1e308, 1e308], [-1e308, 1e308]], "symmetric"),
    ],
)
def test_bad_input(matrix: object, message: str) -> None:
    with pytest.raises(TheoryError, match=message):
        quadratic_spectrum(matrix)


def test_asymmetry_of_rounding_is_accepted() -> None:
    spectrum = quadratic_spectrum([[1e6, 5e-7], [0.0, 1e6]])
    assert spectrum.dense() == pytest.approx([1e6, 1e6])


def test_a_step_beyond_float64_does_not_cost_the_spectrum() -> None:
    spectrum = quadratic_spectrum([[1e-310, 0.0], [0.0, 2e-310]])
    assert spectrum.sharpness == 2e-310
    assert spectrum.statistics["best_step"] is None
    assert any("best_step" in note for note in spectrum.notes)
