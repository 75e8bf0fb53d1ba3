"""Oracle: the dense Hessian by the chain rule through every attention score, no moments and no formula of section 7."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Inertia, Spectrum
from hessian_spectrum.theory.exceptions import TheoryError
from tests.fixtures.longer import examples

Array = NDArray[np.float64]
Problem = tuple[float, Array, Array, Array, Array]  # w_v, w_q, w_k, x, y


def sequence_hessian(w_v: float, w_q: Array, w_k: Array, x: Array, y: Array, sink_bias: float) -> Array:
    """Sum over positions of the Hessian of (f - y)^2 / 2, ordered (w_V, w_Q, w_K), for one sequence."""
    size, root = w_q.size, np.sqrt(w_q.size)
    identity, zeros = np.eye(size), np.zeros((size, size))
    total = np.zeros((2 * size + 1, 2 * size + 1))
    for query, target in zip(x, y, strict=True):
        scores = query * (w_q @ w_k) * x / root
        scores[0] += sink_bias
        a = np.exp(scores - np.max(scores))
        a /= a.sum()
        output = a @ x
        by_score = a * (x - output)
        twice_by_score = np.diag(by_score) - np.outer(a, by_score) - np.outer(by_score, a)
        score_gradient = np.outer(query * x / root, np.concatenate([w_k, w_q]))
        score_hessian = np.block([[zeros, identity], [identity, zeros]])
        by_weights = by_score @ score_gradient
        gradient = np.concatenate([[output], w_v * by_weights])
        second = np.zeros_like(total)
        second[0, 1:] = second[1:, 0] = by_weights
        curvature = score_gradient.T @ twice_by_score @ score_gradient
        second[1:, 1:] = w_v * (curvature + (by_score @ (query * x / root)) * score_hessian)
        total += np.outer(gradient, gradient) + (w_v * output - target) * second
    return total


def dense_hessian(w_v: float, w_q: Array, w_k: Array, x: Array, y: Array, sink_bias: float = 0.0) -> Array:
    sequences = [sequence_hessian(w_v, w_q, w_k, *pair, sink_bias) for pair in zip(x, y, strict=True)]
    return np.sum(sequences, axis=0) / x.size


def random_problem(
    seed: int, size: int, length: int, batch: int, noise: float = 1.0, alignment: float = 0.0
) -> Problem:
    random = np.random.default_rng(seed)
    w_q, other = random.normal(size=(2, size))
    w_k = alignment * w_q + np.sqrt(1 - alignment**2) * other
    x, y = random.normal(size=(2, batch, length))
    return random.normal(), w_q, w_k, x, noise * y


def spectrum_of(problem: Problem, sink_bias: float = 0.0) -> Spectrum:
    w_v, w_q, w_k, x, y = problem
    return self_attention_spectrum(w_v=w_v, w_q=w_q, w_k=w_k, x=x, y=y, sink_bias=sink_bias)


problems = st.builds(
    random_problem,
    seed=st.integers(0, 10**9),
    size=st.integers(1, 6),
    length=st.integers(1, 6),
    batch=st.integers(1, 4),
    noise=st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]),
    alignment=st.sampled_from([-1.0, -0.9, 0.0, 0.9, 1.0]),
)


@given(problem=problems, sink_bias=st.sampled_from([0.0, -3.0, 0.7, 25.0]))
@settings(deadline=None, max_examples=examples(300))
def test_against_dense(problem: Problem, sink_bias: float) -> None:
    spectrum = spectrum_of(problem, sink_bias)
    hessian = dense_hessian(*problem, sink_bias)
    tolerance = 1e-12 * np.abs(hessian).max() * len(hessian)
    np.testing.assert_allclose(spectrum.dense(), np.linalg.eigvalsh(hessian), rtol=0, atol=tolerance)
    assert abs(spectrum.trace - np.trace(hessian)) <= tolerance
    assert abs(spectrum.trace - spectrum.dense().sum()) <= tolerance
    assert sum(entry.multiplicity for entry in spectrum.eigenvalues) == spectrum.num_parameters == len(hessian)
    assert sum(entry.role == "outlier" for entry in spectrum.eigenvalues) == 3


@given(problem=problems)
@settings(deadline=None, max_examples=examples(300))
def test_bounds_of_remark_b4_and_remark_31(problem: Problem) -> None:
    spectrum = spectrum_of(problem)
    named = spectrum.statistics
    slack = 1e-13 * spectrum.scale
    outlier = max(entry.value for entry in spectrum.eigenvalues if entry.role == "outlier")
    assert named["lambda_max_lower"] - slack <= outlier <= named["T"] / 3 + named["xi"] + slack
    assert named["lambda_max_lower"] - slack <= spectrum.sharpness <= named["lambda_max_upper"] + slack
    if named["condition_number_lower"] is not None and spectrum.condition_number is not None:
        assert spectrum.condition_number >= named["condition_number_lower"] * (1 - 1e-10)


@given(problem=problems)
@settings(deadline=None)
def test_outliers_are_the_roots_of_the_cubic(problem: Problem) -> None:
    spectrum = spectrum_of(problem)
    named = spectrum.statistics
    roots = [entry.value for entry in spectrum.eigenvalues if entry.role == "outlier"]
    scale = max(map(abs, roots)) + abs(named["gamma"])
    pairs = roots[0] * roots[1] + roots[1] * roots[2] + roots[2] * roots[0]
    assert named["T"] == pytest.approx(sum(roots), abs=1e-12 * scale)
    assert -named["B"] == pytest.approx(pairs, abs=1e-11 * scale**2)
    assert named["C"] == pytest.approx(roots[0] * roots[1] * roots[2], abs=1e-11 * scale**3)


@given(problem=problems, seed=st.integers(0, 99))
@settings(deadline=None)
def test_symmetries(problem: Problem, seed: int) -> None:
    w_v, w_q, w_k, x, y = problem
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(w_q.size, w_q.size)))
    here = spectrum_of(problem)
    for there in (
        self_attention_spectrum(w_v=w_v, w_q=basis @ w_q, w_k=basis @ w_k, x=x, y=y),
        self_attention_spectrum(w_v=w_v, w_q=w_k, w_k=w_q, x=x, y=y),
        self_attention_spectrum(w_v=-w_v, w_q=w_q, w_k=w_k, x=x, y=-y),
        self_attention_spectrum(w_v=w_v, w_q=w_q, w_k=w_k, x=-x, y=-y),
        self_attention_spectrum(w_v=w_v, w_q=w_q, w_k=w_k, x=x[:, ::-1], y=y[:, ::-1]),
        self_attention_spectrum(w_v=w_v, w_q=w_q, w_k=w_k, x=x[::-1], y=y[::-1]),
    ):
        np.testing.assert_allclose(there.dense(), here.dense(), rtol=0, atol=1e-12 * here.scale)


@given(problem=problems, power=st.integers(-8, 8))
@settings(deadline=None)
def test_scaling_law(problem: Problem, power: int) -> None:
    """Inputs times b and all weights over b leave f as it was, so the Hessian grows by b^2."""
    w_v, w_q, w_k, x, y = problem
    b = 2.0**power
    here, there = spectrum_of(problem), self_attention_spectrum(w_v=w_v / b, w_q=w_q / b, w_k=w_k / b, x=b * x, y=y)
    np.testing.assert_allclose(there.dense(), b * b * here.dense(), rtol=0, atol=1e-13 * there.scale)


def viete(p: float, q: float, trace: float) -> Array:
    angle = np.arccos(np.clip(3 * q / (2 * p) * np.sqrt(-3 / p), -1, 1)) / 3
    return np.sort(2 * np.sqrt(-p / 3) * np.cos(angle - 2 * np.pi / 3 * np.arange(3)) + trace / 3)


def test_corrected_q_gives_the_outliers_and_the_printed_q_does_not() -> None:
    largest_error = 0.0
    for seed in range(20):
        _, w_q, w_k, _, _ = problem = random_problem(seed, 4, 5, 3)
        spectrum = spectrum_of(problem)
        outliers = np.sort([entry.value for entry in spectrum.eigenvalues if entry.role == "outlier"])
        alpha, beta, gamma, zeta, T, B, C = (
            spectrum.statistics[name] for name in ("alpha", "beta", "gamma", "zeta", "T", "B", "C")
        )
        p = -B - T**2 / 3
        ours = -(2 * T**3 + 9 * T * B + 27 * C) / 27
        np.testing.assert_allclose(viete(p, ours, T), outliers, rtol=0, atol=1e-9 * spectrum.scale)
        inside = (beta**2 - alpha * zeta) * (w_q @ w_q + w_k @ w_k)
        outside = 2 * gamma * zeta * (w_k @ w_q) + gamma**2
        printed = -(2 * T**3 + 9 * T * inside + outside + 27 * C) / 27
        largest_error = max(largest_error, np.abs(viete(p, printed, T) - outliers).max() / spectrum.scale)
    assert largest_error > 0.01


def test_printed_xi_fails_as_an_upper_bound_and_ours_never() -> None:
    num_failures = 0
    for seed in range(200):
        problem = random_problem(seed, 4, 5, 2)
        named = spectrum_of(problem).statistics
        top = np.linalg.eigvalsh(dense_hessian(*problem))[-1]
        _, w_q, w_k, _, _ = problem
        printed_sum = named["zeta"] * (np.linalg.norm(w_q) + np.linalg.norm(w_k)) + named["alpha"]
        printed_xi = 2 / 3 * np.sqrt(max(3 * named["B"] + printed_sum**2, 0.0))
        num_failures += named["T"] / 3 + printed_xi < top * (1 - 1e-9)
        assert named["xi"] == pytest.approx(2 / 3 * np.sqrt(3 * named["B"] + named["T"] ** 2), rel=1e-10)
        assert named["lambda_max_upper"] >= top * (1 - 1e-12)
    assert num_failures > 40


def test_remark_b4_misses_a_bulk_above_the_outliers() -> None:
    """With w_K = w_Q, a large residual and zeta < 0 the bulk |gamma| is the largest eigenvalue of the Hessian."""
    problem = bulk_on_top()
    named = spectrum_of(problem).statistics
    top = np.linalg.eigvalsh(dense_hessian(*problem))[-1]
    assert top == pytest.approx(abs(named["gamma"]), rel=1e-12)
    assert named["T"] / 3 + named["xi"] < 0.9 * top
    assert named["lambda_max_upper"] == abs(named["gamma"])
    assert any("Remark B.4" in note for note in spectrum_of(problem).notes)


def bulk_on_top() -> Problem:
    for seed in range(1000):
        problem = random_problem(seed, 2, 4, 1, noise=30.0, alignment=1.0)
        named = spectrum_of(problem).statistics
        if named["T"] / 3 + named["xi"] < 0.9 * abs(named["gamma"]):
            return problem
    raise AssertionError("no such problem among the seeds")


def test_double_outlier_keeps_its_digits() -> None:
    """w_Q = w_K = 0 gives outliers alpha, gamma, -gamma; the targets are chosen so that gamma = alpha."""
    random = np.random.default_rng(8)
    x, direction = random.normal(size=(2, 2, 5))
    zero, w_v = np.zeros(3), 0.8
    unit = self_attention_spectrum(
        w_v=w_v, w_q=zero, w_k=zero, x=x, y=w_v * x.mean(axis=1, keepdims=True) - direction
    ).statistics
    y = w_v * x.mean(axis=1, keepdims=True) - direction * unit["alpha"] / unit["gamma"]
    spectrum = self_attention_spectrum(w_v=w_v, w_q=zero, w_k=zero, x=x, y=y)
    alpha = unit["alpha"]
    outliers = np.sort([entry.value for entry in spectrum.eigenvalues if entry.role == "outlier"])
    np.testing.assert_allclose(outliers, [-alpha, alpha, alpha], rtol=1e-14)


def test_moments_against_forty_digits() -> None:
    x, tau, shift = [0.3, -1.2, 2.5], 0.7, 1.1
    y, w_v = [0.1, 0.4, -0.6], 1.3
    with mpmath.workdps(40):
        rows = []
        for query in x:
            weights = [mpmath.exp(tau * query * key + (shift if j == 0 else 0)) for j, key in enumerate(x)]
            a = [weight / mpmath.fsum(weights) for weight in weights]
            mean = mpmath.fdot(a, x)
            rows.append(
                (mean, *(mpmath.fsum(w * (key - mean) ** k for w, key in zip(a, x, strict=True)) for k in (2, 3)))
            )
        deltas = [w_v * row[0] - target for row, target in zip(rows, y, strict=True)]
        alpha = mpmath.fsum(row[0] ** 2 for row in rows) / 3
        gamma = w_v * mpmath.fsum(d * q * row[1] for d, q, row in zip(deltas, x, rows, strict=True)) / 3
        zeta = mpmath.fsum(
            (w_v * q * row[1]) ** 2 + w_v * d * q * q * row[2] for d, q, row in zip(deltas, x, rows, strict=True)
        )
    named = self_attention_spectrum(w_v=w_v, w_q=[tau], w_k=[1.0], x=[x], y=[y], sink_bias=shift).statistics
    assert named["alpha"] == pytest.approx(float(alpha), rel=1e-14)
    assert named["gamma"] == pytest.approx(float(gamma), rel=1e-13)
    assert named["zeta"] == pytest.approx(float(zeta / 3), rel=1e-13)


def test_softmax_survives_huge_scores() -> None:
    x, y = np.array([[1.0, -2.0, 3.0]]), np.array([[0.0, 1.0, 2.0]])
    spectrum = self_attention_spectrum(w_v=0.5, w_q=[1e3, 0.0], w_k=[1e3, 1.0], x=x, y=y)
    chosen = np.array([3.0, -2.0, 3.0])
    assert spectrum.statistics["alpha"] == np.mean(chosen**2)
    assert spectrum.statistics["mean_loss"] == np.mean((0.5 * chosen - y) ** 2) / 2
    assert spectrum.inertia == Inertia(0, 4, 1)


def test_huge_sink_bias_sends_every_row_to_the_first_key() -> None:
    x, y = np.array([[1.5, -2.0, 3.0]]), np.array([[0.0, 1.0, 2.0]])
    assert self_attention_spectrum(w_v=0.5, w_q=[0.3], w_k=[1.0], x=x, y=y, sink_bias=1e4).statistics["alpha"] == 1.5**2


def test_one_token_leaves_the_value_alone() -> None:
    spectrum = self_attention_spectrum(w_v=0.4, w_q=[1.0, 2.0], w_k=[0.5, -1.0], x=[[2.0], [1.0]], y=[[0.0], [1.0]])
    np.testing.assert_array_equal(spectrum.dense(), [0.0, 0.0, 0.0, 0.0, 2.5])
    assert spectrum.statistics["condition_number_lower"] is None
    assert any("gamma is zero" in note for note in spectrum.notes)


def test_one_dimensional_head_has_no_bulk() -> None:
    spectrum = self_attention_spectrum(w_v=0.4, w_q=[1.0], w_k=[0.5], x=[[2.0, 1.0]], y=[[0.0, 1.0]])
    assert [entry.role for entry in spectrum.eigenvalues] == ["outlier"] * 3
    assert spectrum.statistics["condition_number_lower"] is None
    assert any("d_K = 1" in note for note in spectrum.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w_v": float("nan")}, "w_v must be finite"),
        ({"w_v": [1.0]}, "w_v must have 0 dimension"),
        ({"sink_bias": float("inf")}, "sink_bias must be finite"),
        ({"w_q": [1.0]}, "w_q and w_k must have one shape"),
        ({"w_q": [], "w_k": []}, "w_q must not be empty"),
        ({"x": [1.0, 2.0]}, "x must have 2 dimension"),
        ({"x": [[1.0, 2.0, 3.0]]}, "x and y must have one shape"),
        ({"x": [[1.0, 2.0], [1.0]]}, "x must be a rectangular array"),
        ({"w_v": 1e200}, "overflow"),
        ({"x": [[1e160, 2.0]]}, "overflow"),
        ({"y": [[1e308, -1e308]], "w_v": 1e10}, "overflow"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    sound = {"w_v": 1.0, "w_q": [1.0, 2.0], "w_k": [0.5, 1.0], "x": [[1.0, 2.0]], "y": [[0.0, 1.0]]}
    with pytest.raises(TheoryError, match=message):
        self_attention_spectrum(**{**sound, **changes})
