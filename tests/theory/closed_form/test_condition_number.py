"""A condition number shows the digits that are known, between bounds that hold the truth."""

from decimal import Decimal

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.quadratic import quadratic_spectrum
from hessian_spectrum.theory.closed_form.spectrum import ConditionNumber, Spectrum, condition_number
from hessian_spectrum.theory.closed_form.two_layer_linear import two_layer_linear_spectrum
from tests.fixtures.longer import examples


def assert_known(found: ConditionNumber, exact: mpmath.mpf) -> None:
    """Between the bounds, and within one and a half units of the last decimal place that is shown."""
    assert found.lower is None or found.lower <= exact
    assert found.upper is None or exact <= found.upper
    if found.value is None:
        assert found.note is not None
        return
    shown = Decimal(repr(found.value)).normalize()
    unit = Decimal(10) ** int(shown.as_tuple().exponent)
    assert abs(mpmath.mpf(found.value) - exact) <= max(1.5 * mpmath.mpf(str(unit)), 8 * exact * 2.0**-52)


def exact_condition(values: list[mpmath.mpf]) -> mpmath.mpf:
    magnitudes = [abs(value) for value in values]
    return max(magnitudes) / min(magnitudes) if min(magnitudes) else mpmath.inf


@given(seed=st.integers(0, 10**9), power=st.floats(0, 18), size=st.integers(2, 6))
@settings(deadline=None, max_examples=examples(100))
def test_a_quadratic_form_shows_what_is_known(seed: int, power: float, size: int) -> None:
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.normal(size=(size, size)))
    matrix = (basis * 10.0 ** -np.linspace(0, power, size)) @ basis.T
    matrix = (matrix + matrix.T) / 2
    with mpmath.workdps(60):
        exact = exact_condition(list(mpmath.eigsy(mpmath.matrix(matrix.tolist()), eigvals_only=True)))
        assert_known(quadratic_spectrum(matrix).conditioning, exact)


def turned(small: float) -> Spectrum:
    """Of a 2 x 2 matrix with the eigenvalues 1 and about `small`."""
    cosine, sine = np.cos(0.4), np.sin(0.4)
    basis = np.array([[cosine, -sine], [sine, cosine]])
    matrix = (basis * [1.0, small]) @ basis.T
    return quadratic_spectrum((matrix + matrix.T) / 2)


def num_digits(value: float) -> int:
    return len(Decimal(repr(value)).normalize().as_tuple().digits)


@pytest.mark.parametrize(("small", "most_digits"), [(1e-3, 14), (1e-9, 7), (1e-11, 5), (1e-13, 3)])
def test_digits_end_where_the_smallest_eigenvalue_does(small: float, most_digits: int) -> None:
    value = turned(small).condition_number
    assert value is not None
    assert num_digits(value) <= most_digits


def test_a_smallest_eigenvalue_within_its_error_gives_a_bound_and_a_note() -> None:
    random = np.random.default_rng(1)
    basis, _ = np.linalg.qr(random.normal(size=(400, 400)))
    matrix = (basis * np.append(np.ones(399), 3e-14)) @ basis.T
    spectrum = quadratic_spectrum((matrix + matrix.T) / 2)
    conditioning = spectrum.conditioning
    assert conditioning.value is None
    assert conditioning.lower is not None
    assert conditioning.lower > 1e12
    assert any("known to ±" in note for note in spectrum.notes)


def test_diagonal_matrices_and_closed_forms_keep_every_digit() -> None:
    assert quadratic_spectrum(np.diag([1.0, 3e-12])).condition_number == 1 / 3e-12
    w, v, x, y = np.array([1.0, 1.0]), np.array([1.0, -1.0 + 1e-5]), np.array([1.0, -2.0]), np.array([1e-6, 2e-6])
    spectrum = linear_spectrum(w=w, v=v, x=x, y=y)
    with mpmath.workdps(60):
        s2, c = mpmath.mpf(5) / 2, mpmath.fdot(map(mpmath.mpf, w), map(mpmath.mpf, v))
        d = c * s2 - mpmath.fdot(map(mpmath.mpf, x), map(mpmath.mpf, y)) / 2
        t = s2 * (mpmath.fdot(w, w) + mpmath.fdot(map(mpmath.mpf, v), map(mpmath.mpf, v)))
        root = mpmath.sqrt(t * t + 4 * d * (d + 2 * s2 * c))
        exact = exact_condition([(t + root) / 2, (t - root) / 2, d])
    assert spectrum.condition_number == pytest.approx(float(exact), rel=4e-16)
    assert exact > 1e9


def test_zero_has_a_lower_bound_alone() -> None:
    found = condition_number(1.0, 0.0, None)
    assert (found.value, found.upper) == (None, None)
    assert found.lower == pytest.approx(2.0**52 / 65)
    assert condition_number(0.0, 0.0, 1e-13)[:3] == (None, None, None)


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1.0, 1.7e308])
@pytest.mark.parametrize("resolution", [None, 1e-13])
def test_any_scale_will_do(scale: float, resolution: float | None) -> None:
    assert condition_number(scale, scale, resolution).value == 1.0


@pytest.mark.parametrize("resolution", [1e-15, 1e-3, 0.3, 0.9, 2.0])
def test_the_bound_beside_a_zero_holds_for_the_least_that_the_largest_may_be(resolution: float) -> None:
    found = condition_number(1.0, 0.0, resolution)
    largest, smallest = max(1 - resolution, 0.0), resolution
    assert found.lower is not None
    assert 1.0 <= found.lower <= max(1.0, largest / smallest)


def test_a_float64_reduction_shows_few_digits_of_a_large_number() -> None:
    random = np.random.default_rng(0)
    W1, W2, x = random.normal(size=(2, 2)), random.normal(size=(2, 2)), random.normal(size=(5, 2)) * [1, 1e-5]
    spectrum = two_layer_linear_spectrum(W1=W1, W2=W2, x=x, y=x @ (W2 @ W1).T + 1e-9 * random.normal(size=(5, 2)))
    conditioning = spectrum.conditioning
    assert conditioning.lower is not None
    assert conditioning.lower > 1e8
    if conditioning.value is not None:
        assert num_digits(conditioning.value) <= 5
