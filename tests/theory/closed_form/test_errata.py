"""What the sources print about eigenvectors and the bias, where it fails, and what holds instead.

The misprinted eigenvalues, squares, q and xi are tested beside their families.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.descent import linear_descent
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.linear_bias import linear_bias_spectrum
from hessian_spectrum.theory.closed_form.two_layer_linear import two_layer_linear_spectrum

Array = NDArray[np.float64]

RANDOM = np.random.default_rng(33)
W, V = RANDOM.normal(size=(2, 6))
X = RANDOM.normal(size=20)


def hessian(w: Array, v: Array, x: Array, y: Array) -> Array:
    """Rows ordered (v, w), as the source has them."""
    s2, d = np.mean(x * x), np.mean(((w @ v) * x - y) * x)
    gradient = np.concatenate((w, v))
    off = np.block([[np.zeros((w.size, w.size)), np.eye(w.size)], [np.eye(w.size), np.zeros((w.size, w.size))]])
    return s2 * np.outer(gradient, gradient) + d * off


@pytest.mark.parametrize("target", [-5.0, 5.0])
def test_theorem_33_prints_the_sign_of_the_eigenvalue_where_its_product_with_d_belongs(target: float) -> None:
    y = target * X
    H = hessian(W, V, X, y)
    d = linear_spectrum(w=W, v=V, x=X, y=y).statistics["d"]
    for eigenvalue in (d, -d):
        for sign, holds in ((np.sign(eigenvalue * d), True), (np.sign(eigenvalue), d > 0)):
            direction = W + sign * V
            z = RANDOM.normal(size=W.size)
            z -= (z @ direction) / (direction @ direction) * direction
            vector = np.concatenate((z, sign * z))
            residual = np.linalg.norm(H @ vector - eigenvalue * vector) / np.linalg.norm(vector)
            assert bool(residual <= 1e-13 * np.linalg.norm(H, 2)) is bool(holds)


def test_the_spanning_vectors_of_the_outliers_are_not_orthonormal_but_span_them() -> None:
    y = 2 * X
    spectrum = linear_spectrum(w=W, v=V, x=X, y=y)
    first, second = np.concatenate((W, V)), np.concatenate((V, W))
    assert abs(first @ second) > 0.1
    assert abs(first @ first - 1) > 0.1
    span = np.linalg.qr(np.column_stack((first, second)))[0]
    outliers = spectrum.eigenvectors("outliers").vectors
    np.testing.assert_allclose(outliers @ span @ span.T, outliers, atol=1e-14)
    for entry, vector in zip((e for e in spectrum.eigenvalues if e.role == "outlier"), outliers, strict=True):
        d = spectrum.statistics["d"]
        formula = np.concatenate((d * W + entry.value * V, entry.value * W + d * V))  # w first, the source has v first
        formula /= np.linalg.norm(formula)
        assert abs(abs(formula @ vector) - 1) <= 1e-12


def test_the_outlier_formula_gives_nothing_at_w_equal_v_and_ours_a_vector() -> None:
    y = 2 * X
    spectrum = linear_spectrum(w=W, v=W, x=X, y=y)
    d = spectrum.statistics["d"]
    degenerate = next(e for e in spectrum.eigenvalues if e.role == "outlier" and abs(e.value + d) <= 1e-12 * abs(d))
    assert np.linalg.norm(degenerate.value * W + d * W) <= 1e-12 * abs(d)
    assert degenerate.basis is not None
    vector = degenerate.basis()[0]
    assert np.linalg.norm(vector) == pytest.approx(1.0, rel=1e-14)


def test_theorem_b1_outside_its_assumptions() -> None:
    b, y = RANDOM.normal(size=6), RANDOM.normal(size=20)
    spectrum = linear_bias_spectrum(w=W, v=V, b=b, x=X, y=y)
    n = V @ V + W @ W
    printed = n / 2 + np.sqrt(n * n + 12 * ((W @ V) ** 2 + (W @ b) ** 2)) / 2
    assert min(abs(e.value - printed) for e in spectrum.eigenvalues) > 1e-3 * printed
    assert (spectrum.method, spectrum.statistics["N"]) == ("exact-reduction", None)
    note = next(note for note in spectrum.notes if "Theorem B.1 does not apply" in note)
    for assumption in ("<v, b> = 0", "|v| = |b|", "mean(x) = 0", "mean(y) = 0", "mean(yx) = 0", "mean(x^2) = 1"):
        assert assumption in note


def test_gradient_descent_follows_the_recursion_and_leaves_the_bulk_where_it_is() -> None:
    w, v, y, rate = W.copy(), V.copy(), 1.5 * X + 0.1, 0.02
    descent = linear_descent(w=w, v=v, x=X, y=y, learning_rate=rate, num_steps=40)
    bulk = [e for e in linear_spectrum(w=w, v=v, x=X, y=y).eigenvalues if e.role == "bulk"]
    spaces = np.vstack([e.basis() for e in bulk if e.basis is not None])
    for step in range(41):
        spectrum = linear_spectrum(w=w, v=v, x=X, y=y)
        outliers = [e.value for e in spectrum.eigenvalues if e.role == "outlier"]
        np.testing.assert_allclose(descent.outliers[step], outliers, rtol=1e-11)
        assert descent.phase[step] == spectrum.statistics["phase"]
        assert descent.bulk[step] == pytest.approx(spectrum.statistics["d"], rel=1e-10)
        assert descent.loss[step] == pytest.approx(spectrum.statistics["mean_loss"], rel=1e-10)
        here = hessian(w, v, X, y)
        reordered = np.hstack((spaces[:, w.size :], spaces[:, : w.size]))
        images = reordered @ here
        np.testing.assert_allclose(np.abs(images), abs(spectrum.statistics["d"]) * np.abs(reordered), atol=1e-11)
        np.testing.assert_allclose(reordered @ np.concatenate((v, w)), 0.0, atol=1e-12)
        d = np.mean(((w @ v) * X - y) * X)
        w, v = w - rate * d * v, v - rate * d * w
    assert (descent.diverged_at, descent.fixed_dimensions) == (None, len(spaces))


def test_descent_that_diverges_ends_where_it_leaves_floating_point() -> None:
    descent = linear_descent(w=W, v=V, x=X, y=3 * X, learning_rate=50.0, num_steps=1000)
    assert descent.diverged_at is not None
    assert len(descent.loss) == len(descent.outliers) == descent.diverged_at
    assert np.isfinite(descent.outliers).all()
    assert any("diverges" in note for note in descent.notes)


def test_edge_of_stability_in_the_late_phase() -> None:
    """At a step just below 2 / sharpness gradient descent converges, just above it does not stay there."""
    w, v = np.array([1.0, 0.5]), np.array([0.9, 0.4])
    y = (w @ v) * X
    sharpness = linear_spectrum(w=w, v=v, x=X, y=y).sharpness
    shaken = w + 1e-6
    below = linear_descent(w=shaken, v=v, x=X, y=y, learning_rate=1.9 / sharpness, num_steps=400)
    above = linear_descent(w=shaken, v=v, x=X, y=y, learning_rate=2.1 / sharpness, num_steps=400)
    assert below.loss[-1] <= 1e-3 * below.loss[0]
    assert above.loss.max() >= 10 * above.loss[0]


@pytest.mark.parametrize(("scale", "is_bounded"), [(1.0, True), (0.3, False)])
def test_squared_spectral_norms_bound_the_largest_eigenvalue_if_inputs_have_the_covariance_i(
    scale: float, is_bounded: bool
) -> None:
    """Appendix D.3.3 states the bound for every Hessian; its proof assumes the second moment I."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        W1, W2 = rng.normal(size=(6, 3)), rng.normal(size=(3, 6))
        x, y = np.linalg.qr(rng.normal(size=(12, 3)))[0] * 12**0.5, rng.normal(size=(12, 3))
        fitted = (x * scale) @ (W2 @ W1).T + 1e-3 * y  # near the end of training
        largest = two_layer_linear_spectrum(W1=W1, W2=W2, x=scale * x, y=fitted).sharpness
        bound = max(np.linalg.norm(W1, 2), np.linalg.norm(W2, 2)) ** 2
        assert bool(largest >= bound) is is_bounded


@pytest.mark.parametrize("num_inputs", [1, 2, 5, 6])
def test_the_pair_of_figure_3a_is_exact_whatever_the_residual(num_inputs: int) -> None:
    rng = np.random.default_rng(num_inputs)
    x = rng.normal(size=(12, num_inputs))
    basis = np.linalg.qr(np.column_stack((np.ones(12), x, rng.normal(size=12))))[0] * 12**0.5
    W1, w = np.linalg.qr(rng.normal(size=(6, num_inputs)))[0], rng.normal(size=6)
    spectrum = two_layer_linear_spectrum(W1=W1, W2=w[None], x=basis[:, 1:-1], y=basis[:, -1:])
    values = [value.value for value in spectrum.eigenvalues]
    total = w @ w + 1
    root = np.sqrt(total**2 + 12 * np.sum((W1.T @ w) ** 2))
    for expected in ((total + root) / 2, (total - root) / 2):
        assert np.abs(np.array(values) - expected).min() < 1e-13 * total
    assert spectrum.trace == pytest.approx(num_inputs * total)
