"""Oracle: the dense Hessian, the mean over samples of grad f grad f^T + delta Hess f, written out sample by sample."""

from collections.abc import Callable, Sequence

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.homogeneous import relu_spectrum
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Inertia, Spectrum
from hessian_spectrum.theory.exceptions import TheoryError
from tests.fixtures.longer import examples

Array = NDArray[np.float64]
Problem = tuple[Array, Array, Array, Array]  # w, v, x, y


def dense_hessian(w: Array, v: Array, x: Array, y: Array, *, relu: bool) -> Array:
    """Rows ordered (w, v)."""
    m = len(w)
    total = np.zeros((2 * m, 2 * m))
    for x_i, y_i in zip(x, y, strict=True):
        active = (v * x_i > 0).astype(float) if relu else np.ones(m)
        gradient = np.concatenate([active * v * x_i, active * w * x_i])
        delta = np.sum(active * w * v) * x_i - y_i
        mixed = np.diag(active * x_i)
        zeros = np.zeros((m, m))
        total += np.outer(gradient, gradient) + delta * np.block([[zeros, mixed], [mixed, zeros]])
    return total / len(x)


def natural_scale(w: Array, v: Array, x: Array, y: Array) -> float:
    """Size of the terms that the Hessian sums, so of its rounding."""
    return np.mean(x * x) * (w @ w + v @ v) + np.mean(np.abs(x * y))


def named(problem: Sequence[Array]) -> dict[str, Array]:
    return dict(zip(("w", "v", "x", "y"), problem, strict=True))


def normals(m: int, n: int) -> Problem:
    random = np.random.default_rng(20240601)
    return random.normal(size=m), random.normal(size=m), random.normal(size=n), random.normal(size=n)


def assert_matches_dense(spectrum: Spectrum, problem: Problem, *, relu: bool) -> None:
    hessian = dense_hessian(*problem, relu=relu)
    tolerance = 1e-12 * natural_scale(*problem)
    np.testing.assert_allclose(spectrum.dense(), np.linalg.eigvalsh(hessian), rtol=0, atol=tolerance)
    assert abs(spectrum.trace - np.trace(hessian)) <= tolerance
    assert abs(spectrum.dense().sum() - spectrum.trace) <= tolerance
    assert sum(entry.multiplicity for entry in spectrum.eigenvalues) == spectrum.num_parameters == 2 * len(problem[0])


numbers = st.integers(-8000, 8000).map(lambda thousandths: thousandths / 1000)  # zeros, ties, and no underflow


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    m, n = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    return tuple(draw(hnp.arrays(np.float64, size, elements=numbers)) for size in (m, m, n, n))


@given(problems())
@settings(deadline=None, max_examples=examples(200))
def test_linear_against_dense(problem: Problem) -> None:
    assert_matches_dense(linear_spectrum(**named(problem)), problem, relu=False)


@given(problems())
@settings(deadline=None, max_examples=examples(300))
def test_relu_against_dense(problem: Problem) -> None:
    assert_matches_dense(relu_spectrum(**named(problem)), problem, relu=True)


@pytest.mark.parametrize("function", [linear_spectrum, relu_spectrum])
@given(problem=problems(), data=st.data())
@settings(deadline=None)
def test_order_of_neurons_and_samples_does_not_matter(
    function: Callable[..., Spectrum], problem: Problem, data: st.DataObject
) -> None:
    w, v, x, y = problem
    neurons = np.array(data.draw(st.permutations(range(w.size))))
    samples = np.array(data.draw(st.permutations(range(x.size))))
    there, here = function(w=w[neurons], v=v[neurons], x=x[samples], y=y[samples]), function(w=w, v=v, x=x, y=y)
    tolerance = 1e-12 * natural_scale(*problem)
    np.testing.assert_allclose(there.dense(), here.dense(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("function", [linear_spectrum, relu_spectrum])
@given(problem=problems(), weight_power=st.integers(-20, 20), data_power=st.integers(-20, 20))
@settings(deadline=None)
def test_scaling_law(function: Callable[..., Spectrum], problem: Problem, weight_power: int, data_power: int) -> None:
    w, v, x, y = problem
    a, b = 2.0**weight_power, 2.0**data_power
    there, here = function(w=a * w, v=a * v, x=b * x, y=a * a * b * y), function(w=w, v=v, x=x, y=y)
    tolerance = 1e-13 * (a * b) ** 2 * natural_scale(*problem)
    np.testing.assert_allclose(there.dense(), (a * b) ** 2 * here.dense(), rtol=0, atol=tolerance)


@given(problems())
@settings(deadline=None)
def test_relu_with_everything_positive_is_linear(problem: Problem) -> None:
    w, v, x, y = problem[0], np.abs(problem[1]) + 0.1, np.abs(problem[2]) + 0.1, problem[3]
    relu, linear = relu_spectrum(w=w, v=v, x=x, y=y), linear_spectrum(w=w, v=v, x=x, y=y)
    np.testing.assert_allclose(relu.dense(), linear.dense(), rtol=1e-14)
    assert relu.trace == pytest.approx(linear.trace, rel=4e-16)  # one rounding of sums in another order
    assert all(entry.group == "+" for entry in relu.eigenvalues)
    for name, value in linear.statistics.items():
        if name != "mean_loss":
            expected = value if value is None or isinstance(value, str) else pytest.approx(value, rel=1e-14)
            assert relu.statistics[name + "_plus"] == expected


@given(problems())
@settings(deadline=None)
def test_smallest_is_minus_the_magnitude_of_d_and_bounded_by_the_loss(problem: Problem) -> None:
    spectrum = linear_spectrum(**named(problem))
    d, s2, loss = (spectrum.statistics[name] for name in ("d", "s2", "mean_loss"))
    tolerance = 1e-12 * natural_scale(*problem)
    if len(problem[0]) >= 2:
        assert abs(spectrum.smallest + abs(d)) <= tolerance
    assert spectrum.smallest >= -np.sqrt(2 * loss * s2) - tolerance


def test_print_says_the_smallest_is_minus_d_which_fails_for_negative_d() -> None:
    w, v, x, y = np.array([1.0, 0.5]), np.array([0.2, 0.1]), np.array([1.0, 2.0]), np.array([3.0, 5.0])
    spectrum = linear_spectrum(w=w, v=v, x=x, y=y)
    smallest = np.linalg.eigvalsh(dense_hessian(w, v, x, y, relu=False))[0]
    assert spectrum.statistics["d"] < -1
    assert spectrum.smallest == pytest.approx(smallest, rel=1e-12)
    assert abs(-spectrum.statistics["d"] - smallest) > 1


def test_three_squares_and_the_last_square_of_the_poster() -> None:
    w, v, x, y = normals(5, 9)
    x *= 1.7
    spectrum = linear_spectrum(w=w, v=v, x=x, y=y)
    named = spectrum.statistics
    s2, c = np.mean(x * x), w @ v
    rest = named["imbalance"] + named["non_collinearity"]
    top = np.linalg.eigvalsh(dense_hessian(w, v, x, y, relu=False))[-1]
    assert (spectrum.trace + np.sqrt(rest + named["target_deviation"])) / 2 == pytest.approx(top, rel=1e-13)
    printed = 4 * (2 * c - np.mean(y * x)) ** 2
    assert abs((spectrum.trace + np.sqrt(rest + printed)) / 2 - top) > 1e-3 * top
    assert named["imbalance"] == pytest.approx((s2 * (w @ w) - s2 * (v @ v)) ** 2, rel=1e-12)
    assert named["non_collinearity"] == pytest.approx(4 * s2**2 * ((w @ w) * (v @ v) - c**2), rel=1e-12)
    assert named["trace_w"] == pytest.approx(s2 * (w @ w), rel=1e-14)
    assert named["trace_v"] == pytest.approx(s2 * (v @ v), rel=1e-14)


def exact_statistics(w: Array, v: Array, x: Array, y: Array) -> tuple[float, float, float]:
    """Outlier pair and 4 s2^2 (|w|^2 |v|^2 - c^2) from eq. 1 in 60 digits."""
    with mpmath.workdps(60):
        w, v, x, y = ([mpmath.mpf(float(value)) for value in array] for array in (w, v, x, y))
        s2, mean_yx = mpmath.fdot(x, x) / len(x), mpmath.fdot(x, y) / len(x)
        c, ww, vv = mpmath.fdot(w, v), mpmath.fdot(w, w), mpmath.fdot(v, v)
        d, t = c * s2 - mean_yx, s2 * (ww + vv)
        root = mpmath.sqrt(t * t + 4 * d * (d + 2 * s2 * c))
        return float((t + root) / 2), float((t - root) / 2), float(4 * s2**2 * (ww * vv - c * c))


def test_small_outlier_keeps_its_digits() -> None:
    w, v, x, y = np.array([1e5, 2e5]), np.array([1e-5, -2e-5]), np.array([1.0, -0.5, 2.0]), np.array([0.3, 0.1, -0.2])
    large, small, _ = exact_statistics(w, v, x, y)
    spectrum = linear_spectrum(w=w, v=v, x=x, y=y)
    outliers = [entry.value for entry in spectrum.eigenvalues if entry.role == "outlier"]
    assert outliers == pytest.approx([large, small], rel=1e-13)
    t, d = spectrum.trace, spectrum.statistics["d"]
    textbook = (t - np.sqrt(t * t + 4 * d * (d + 2 * spectrum.statistics["s2"] * (w @ v)))) / 2
    assert abs(textbook - small) > 1e-3 * abs(small)


def test_non_collinearity_keeps_its_digits() -> None:
    w, direction, x, y = normals(6, 4)
    v = w + 1e-7 * direction
    exact = exact_statistics(w, v, x, y)[2]
    assert linear_spectrum(w=w, v=v, x=x, y=y).statistics["non_collinearity"] == pytest.approx(exact, rel=1e-7)
    textbook = 4 * np.mean(x * x) ** 2 * ((w @ w) * (v @ v) - (w @ v) ** 2)
    assert abs(textbook - exact) > 1e-4 * exact


def test_roles_pairs_and_multiplicities_of_linear() -> None:
    spectrum = linear_spectrum(**named(normals(7, 5)))
    assert sorted((entry.role, entry.multiplicity, entry.group, entry.pair) for entry in spectrum.eigenvalues[1:]) == [
        ("bulk", 6, None, None),
        ("bulk", 6, None, None),
        ("outlier", 1, None, 0),
    ]
    assert spectrum.eigenvalues[0].role == "outlier"
    assert (spectrum.method, spectrum.num_parameters) == ("closed-form", 14)


def test_one_neuron_has_no_bulk() -> None:
    assert [entry.role for entry in linear_spectrum(w=[0.4], v=[2.0], x=[1.0, 2.0], y=[0.0, 1.0]).eigenvalues] == [
        "outlier"
    ] * 2


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("c", "phase"),
    [(-1.0, "early"), (0.0, "early"), (0.9, "early"), (1.1, "late"), (2.9, "late"), (3.0, "late"), (3.1, "divergent")],
)
def test_phase(sign: float, c: float, phase: str) -> None:
    x = np.array([1.0, -2.0, 0.5])
    spectrum = linear_spectrum(w=[1.0, 0.3], v=[sign * c, 0.0], x=x, y=3 * sign * x)
    large, small = (entry.value for entry in spectrum.eigenvalues if entry.role == "outlier")
    assert spectrum.statistics["theta_star"] == pytest.approx(3 * sign)
    assert spectrum.statistics["phase"] == phase
    if phase == "late":
        assert large <= spectrum.trace * (1 + 1e-14)
        assert small >= -1e-14 * spectrum.trace
    else:
        assert large > spectrum.trace
        assert small < 0


def test_phase_is_undefined_without_a_target() -> None:
    spectrum = linear_spectrum(w=[1.0], v=[2.0], x=[1.0, 2.0], y=[0.0, 0.0])
    assert spectrum.statistics["phase"] is None
    assert spectrum.statistics["theta_star"] == 0.0
    assert any("theta* = 0" in note for note in spectrum.notes)


def test_inputs_that_are_all_zero() -> None:
    spectrum = linear_spectrum(w=[1.0], v=[2.0], x=[0.0, 0.0], y=[1.0, 2.0])
    assert spectrum.inertia == Inertia(0, 2, 0)
    assert (spectrum.statistics["phase"], spectrum.statistics["theta_star"]) == (None, None)
    assert any("every input is 0" in note for note in spectrum.notes)


def test_at_convergence_rank_one_and_late() -> None:
    w, v, x, _ = normals(6, 40)
    spectrum = linear_spectrum(w=w, v=v, x=x, y=(w @ v) * x)
    assert spectrum.inertia == Inertia(0, 11, 1)
    assert spectrum.critical_point == "degenerate"
    assert spectrum.statistics["phase"] == "late"
    assert spectrum.statistics["mean_loss"] == 0.0


def test_relu_cells_groups_and_counts() -> None:
    w, v = np.array([1.0, -0.5, 0.7, 2.0, 0.3, 1.0]), np.array([0.5, 0.6, 0.9, -1.0, -0.4, 0.0])
    x, y = np.array([1.0, -2.0, 0.0, 0.5]), np.array([0.3, 1.0, 4.0, -0.2])
    spectrum = relu_spectrum(w=w, v=v, x=x, y=y)
    found = {}
    for entry in spectrum.eigenvalues:
        key = (entry.role, entry.group, entry.pair)
        found[key] = found.get(key, 0) + entry.multiplicity
    assert found == {
        ("outlier", "+", 0): 2,
        ("bulk", "+", None): 4,
        ("outlier", "-", 1): 2,
        ("bulk", "-", None): 2,
        ("zero", "0", None): 2,
    }
    named = spectrum.statistics
    assert (named["num_neurons_plus"], named["num_neurons_minus"], named["num_dead_neurons"]) == (3, 2, 1)
    assert (named["num_samples_plus"], named["num_samples_minus"]) == (2, 1)
    assert (named["fraction_plus"], named["fraction_minus"]) == (0.5, 0.25)
    outputs = np.maximum(np.outer(x, v), 0) @ w
    assert named["mean_loss"] == pytest.approx(np.mean((outputs - y) ** 2) / 2, rel=1e-14)
    assert any("v = 0" in note for note in spectrum.notes)


def test_relu_cell_statistics_are_those_of_the_linear_cell() -> None:
    w, v, x, y = normals(9, 30)
    spectrum = relu_spectrum(w=w, v=v, x=x, y=y)
    for sign, group, suffix in ((1, "+", "_plus"), (-1, "-", "_minus")):
        neurons, samples = sign * v > 0, sign * x > 0
        cell = linear_spectrum(w=w[neurons], v=v[neurons], x=x[samples], y=y[samples])
        fraction = np.mean(samples)
        values = np.sort([e.value for e in spectrum.eigenvalues if e.group == group])
        np.testing.assert_allclose(values, fraction * np.sort([e.value for e in cell.eigenvalues]), rtol=1e-13)
        assert spectrum.statistics["fraction" + suffix] == fraction
        for name in cell.statistics.keys() - {"mean_loss"}:
            assert spectrum.statistics[name + suffix] == cell.statistics[name]


def test_relu_cell_without_samples_is_structurally_zero() -> None:
    spectrum = relu_spectrum(w=[1.0, 2.0, 0.5], v=[-1.0, -2.0, 1.0], x=[1.0, 3.0], y=[0.0, 1.0])
    zeros = [entry for entry in spectrum.eigenvalues if entry.role == "zero"]
    assert [(entry.multiplicity, entry.group, entry.value) for entry in zeros] == [(4, "-", 0.0)]
    assert spectrum.statistics["s2_minus"] is None
    assert any("cell - has no samples" in note for note in spectrum.notes)


def test_relu_empty_cell_gives_nothing_and_the_other_pair_is_the_first() -> None:
    spectrum = relu_spectrum(w=[1.0, 2.0], v=[-1.0, -2.0], x=[1.0, -3.0], y=[0.0, 1.0])
    assert {entry.group for entry in spectrum.eigenvalues} == {"-"}
    assert {entry.pair for entry in spectrum.eigenvalues if entry.role == "outlier"} == {0}
    assert spectrum.statistics["d_plus"] is None


@pytest.mark.parametrize("function", [linear_spectrum, relu_spectrum])
@pytest.mark.parametrize(
    ("w", "v", "x", "y", "message"),
    [
        ([], [], [1.0], [1.0], "w must not be empty"),
        ([1.0], [1.0], [], [], "x must not be empty"),
        ([1.0, 2.0], [1.0], [1.0], [1.0], "w and v must have one shape"),
        ([1.0], [1.0], [1.0], [1.0, 2.0], "x and y must have one shape"),
        ([[1.0]], [[1.0]], [1.0], [1.0], r"w must have 1 dimension\(s\), not 2"),
        ([float("nan")], [1.0], [1.0], [1.0], "w must be finite"),
        ([1.0], [1.0], [1.0], [float("inf")], "y must be finite"),
        ([1j], [1.0], [1.0], [1.0], "real numbers"),
        (["a"], [1.0], [1.0], [1.0], "w must be a rectangular array"),
        ([1e200], [1.0], [1.0], [1.0], "overflows float64"),
        ([1e160, 1.0], [1e160, 2.0], [1.0, 2.0], [1.0, 1.0], "overflows float64"),
        ([1.0], [1.0], [1e200], [1.0], "overflows float64"),
    ],
)
def test_bad_input(
    function: Callable[..., Spectrum], w: list[object], v: list[object], x: list[object], y: list[object], message: str
) -> None:
    with pytest.raises(TheoryError, match=message):
        function(w=w, v=v, x=x, y=y)


@pytest.mark.parametrize("function", [linear_spectrum, relu_spectrum])
@given(exponents=st.tuples(*[st.integers(-320, 308)] * 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=examples(300))
def test_extreme_magnitudes_answer_finitely_or_refuse(
    function: Callable[..., Spectrum], exponents: tuple[int, ...], seed: int
) -> None:
    random = np.random.default_rng(seed)
    arrays = [random.uniform(-1, 1, size=3) * 10.0**exponent for exponent in exponents]
    try:
        spectrum = function(**named(arrays))
    except TheoryError as error:
        assert "overflows float64" in str(error)  # noqa: PT017
        assert max(map(abs, exponents)) > 30
    else:
        assert np.isfinite(spectrum.dense()).all()


@pytest.mark.parametrize(("w", "v", "beyond"), [(1e78, 1.0, "imbalance"), (1e153, 1e-3, "imbalance")])
def test_a_square_that_overflows_does_not_cost_the_spectrum(w: float, v: float, beyond: str) -> None:
    spectrum = linear_spectrum(w=[w], v=[v], x=[1.0], y=[1.0])
    assert spectrum.sharpness == pytest.approx(w * w, rel=1e-12)
    assert spectrum.statistics[beyond] is None
    assert any(beyond in note for note in spectrum.notes)
