"""Every digit: inner products, the small eigenproblem, and whole spectra against 50 digits from the same inputs."""

import math
import re
from decimal import Decimal, localcontext
from fractions import Fraction
from math import isqrt

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.attention import MAX_DECIMAL_STEPS, self_attention_spectrum
from hessian_spectrum.theory.closed_form.attention_response import ACTIVATIONS, Activation, attention_response
from hessian_spectrum.theory.closed_form.ball import DECIMAL, EXTENDED
from hessian_spectrum.theory.closed_form.coordinates import multi_output_spectrum
from hessian_spectrum.theory.closed_form.homogeneous import leaky_relu_spectrum, relu_spectrum
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.precision import (
    CHUNK,
    exact_decimal,
    extended_float,
    inner_products,
    many_digits,
    symmetric_eigenpairs,
)
from tests.fixtures.longer import examples

Array = NDArray[np.float64]

seeds = st.integers(0, 10**9)
scales = st.floats(-6, 6).map(lambda power: 10.0**power)

# "Of itself" needs a size: what is smaller than this, relative to the spectrum's scale, is zero in 50 digits.
VANISHING = mpmath.mpf(10) ** -40


def exactly(a: Array, b: Array) -> Fraction:
    return sum((Fraction(p) * Fraction(q) for p, q in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))


@given(seed=seeds, size=st.integers(1, 1200), spread=st.integers(0, 200))
@settings(deadline=None, max_examples=examples(60))
def test_inner_products_hold_twice_float64(seed: int, size: int, spread: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, size)) * 10.0 ** random.uniform(-spread, spread, size=(2, size))
    with localcontext(many_digits):
        (found,) = inner_products((a, b))
    magnitude = exactly(np.abs(a), np.abs(b))
    assert abs(Fraction(found) - exactly(a, b)) <= magnitude * Fraction(1, 2**98)


def test_many_products_are_summed_in_chunks() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 2 * CHUNK + 77))
    with localcontext(many_digits):
        found, short = inner_products((a, b), (a[:5], b[:5]))
    assert abs(Fraction(found) - exactly(a, b)) <= exactly(np.abs(a), np.abs(b)) / 2**98
    assert abs(Fraction(short) - exactly(a[:5], b[:5])) <= exactly(np.abs(a[:5]), np.abs(b[:5])) / 2**98


@given(seed=seeds, size=st.integers(1, 6), repeated=st.booleans())
@settings(deadline=None, max_examples=30)
def test_small_eigenproblem_holds_sixty_digits(seed: int, size: int, repeated: bool) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(size, size if not repeated else 1)) * 10.0 ** random.uniform(-8, 8, size=(size, 1))
    matrix = rows @ rows.T if repeated else rows + rows.T
    values, vectors = symmetric_eigenpairs([[Decimal(entry) for entry in row] for row in matrix.tolist()])
    with mpmath.workdps(100), localcontext(many_digits):
        exact = sorted(mpmath.eigsy(mpmath.matrix(matrix.tolist()), eigvals_only=True))
        scale = max(map(abs, exact))
        for value, wanted in zip(sorted(values), exact, strict=True):
            assert abs(mpmath.mpf(str(value)) - wanted) <= scale * mpmath.mpf(10) ** -70
        products = [[sum(p * q for p, q in zip(u, v, strict=True)) for v in vectors] for u in vectors]
        assert all(abs(products[i][j] - (i == j)) <= Decimal("1e-70") for i in range(size) for j in range(size))


@pytest.mark.parametrize("value", ["1.25", "1e-4000", "-3.7e+2000", "0.1"])
def test_extended_precision_goes_both_ways(value: str) -> None:
    number = np.longdouble(value)
    with localcontext(many_digits):
        assert extended_float(exact_decimal(number)) == number


def assert_every_digit(found: Array, exact: list[mpmath.mpf], of_itself: float = 1e-15) -> None:
    """Within 1e-13 of the scale as promised, and 1e-12 of itself; here far below both."""
    scale = max(abs(value) for value in exact)
    for value, wanted in zip(found.tolist(), sorted(exact), strict=True):
        if abs(wanted) <= VANISHING * scale:
            assert abs(value) <= VANISHING * scale
        else:
            assert abs(mpmath.mpf(value) - wanted) <= of_itself * abs(wanted)


def digits(array: Array) -> list[mpmath.mpf]:
    return [mpmath.mpf(value) for value in array.tolist()]


def exact_linear(w: Array, v: Array, x: Array, y: Array) -> list[mpmath.mpf]:
    """Theorem 3.1, the square root as printed: 60 digits bear its cancellation."""
    w, v, x, y = (digits(array) for array in (w, v, x, y))
    s2, c = mpmath.fdot(x, x) / len(x), mpmath.fdot(w, v)
    d, t = c * s2 - mpmath.fdot(x, y) / len(x), s2 * (mpmath.fdot(w, w) + mpmath.fdot(v, v))
    root = mpmath.sqrt(t * t + 4 * d * (d + 2 * s2 * c))
    return [(t + root) / 2, (t - root) / 2, *[d, -d] * (len(w) - 1)]


def exact_homogeneous(w: Array, v: Array, x: Array, y: Array, slope: float) -> list[mpmath.mpf]:
    """Eigenvalues of the dense Hessian, summed sample by sample."""
    w, v, x, y, size = digits(w), digits(v), digits(x), digits(y), 2 * len(w)
    total = mpmath.zeros(size)
    for x_i, y_i in zip(x, y, strict=True):
        slopes = [mpmath.mpf(1) if v_j * x_i > 0 else mpmath.mpf(slope) for v_j in v]
        gradient = [v_j * x_i * k for v_j, k in zip(v, slopes, strict=True)]
        gradient += [w_j * x_i * k for w_j, k in zip(w, slopes, strict=True)]
        delta = mpmath.fdot(w, gradient[: len(w)]) - y_i
        total += mpmath.matrix(gradient) * mpmath.matrix(gradient).T
        for j, k in enumerate(slopes):
            total[j, len(w) + j] += delta * x_i * k
            total[len(w) + j, j] += delta * x_i * k
    return list(mpmath.eigsy(total / len(x), eigvals_only=True))


def attention_moments(keys: list[mpmath.mpf], scores: list[mpmath.mpf], activation: str) -> list[mpmath.mpf]:
    """h = A x of one row, and its derivatives by the score over the query and its square."""
    match activation:
        case "softmax":
            weights = [mpmath.exp(score - max(scores)) for score in scores]
            weights = [weight / mpmath.fsum(weights) for weight in weights]
            mean = mpmath.fdot(weights, keys)
            return [mean, *(mpmath.fdot(weights, [(key - mean) ** power for key in keys]) for power in (2, 3))]
        case "sigmoid":
            weights = [1 / (1 + mpmath.exp(-score)) for score in scores]
            slopes = [weight * (1 - weight) for weight in weights]
            curvatures = [slope * (1 - 2 * weight) for slope, weight in zip(slopes, weights, strict=True)]
            orders = enumerate((weights, slopes, curvatures), 1)
            return [mpmath.fdot(factors, [key**power for key in keys]) for power, factors in orders]
        case _:
            return [mpmath.fdot(scores, keys), mpmath.fdot(keys, keys), mpmath.mpf(0)]


def exact_attention(
    w_v: float, w_q: Array, w_k: Array, x: Array, y: Array, sink_bias: float = 0.0, activation: str = "softmax"
) -> list[mpmath.mpf]:
    """Theorem 3.5: the bulk, and the outliers by the reduced matrix."""
    size, w_v, w_q, w_k = len(w_q), mpmath.mpf(w_v), digits(w_q), digits(w_k)
    inner, norms = mpmath.fdot(w_q, w_k), mpmath.fdot(w_q, w_q) + mpmath.fdot(w_k, w_k)
    root = mpmath.sqrt(size)
    alpha = beta = gamma = zeta = mpmath.mpf(0)
    for row, targets in zip(x, y, strict=True):
        keys = digits(row)
        for query, target in zip(keys, digits(targets), strict=True):
            scores = [inner / root * query * key for key in keys]
            scores[0] += sink_bias
            h, slope, curvature = attention_moments(keys, scores, activation)
            delta = w_v * h - target
            alpha += h * h
            beta += (w_v * h + delta) * query * slope
            gamma += w_v * delta * query * slope
            zeta += (w_v * query * slope) ** 2 + w_v * delta * query**2 * curvature
    alpha, beta, gamma, zeta = alpha / x.size, beta / x.size / root, gamma / x.size / root, zeta / x.size / size
    plus, minus = (mpmath.sqrt(max(norms / 2 + sign * inner, 0)) for sign in (1, -1))
    reduced = [
        [alpha, beta * plus, beta * minus],
        [beta * plus, gamma + zeta * plus**2, zeta * plus * minus],
        [beta * minus, zeta * plus * minus, zeta * minus**2 - gamma],
    ]
    return [*mpmath.eigsy(mpmath.matrix(reduced), eigvals_only=True), *[gamma, -gamma] * (size - 1)]


@given(seed=seeds, m=st.integers(1, 12), n=st.integers(1, 12), size=st.tuples(scales, scales, scales, scales))
@settings(deadline=None, max_examples=examples(200))
def test_linear_to_the_last_digit(seed: int, m: int, n: int, size: tuple[float, ...]) -> None:
    random = np.random.default_rng(seed)
    w, v, x, y = (random.normal(size=k) * s for k, s in zip((m, m, n, n), size, strict=True))
    with mpmath.workdps(60):
        assert_every_digit(linear_spectrum(w=w, v=v, x=x, y=y).dense(), exact_linear(w, v, x, y))


@given(
    seed=seeds,
    m=st.integers(1, 4),
    n=st.integers(1, 5),
    size=st.tuples(scales, scales, scales, scales),
    slope=st.sampled_from([0.0, 0.1, -1.0, -2.5, 1.0]),
)
@settings(deadline=None, max_examples=40)
def test_homogeneous_to_the_last_digit(seed: int, m: int, n: int, size: tuple[float, ...], slope: float) -> None:
    random = np.random.default_rng(seed)
    w, v, x, y = (random.normal(size=k) * s for k, s in zip((m, m, n, n), size, strict=True))
    with mpmath.workdps(80):
        exact = exact_homogeneous(w, v, x, y, slope)
        assert_every_digit(leaky_relu_spectrum(w=w, v=v, x=x, y=y, negative_slope=slope).dense(), exact)
        if slope == 0.0:
            assert_every_digit(relu_spectrum(w=w, v=v, x=x, y=y).dense(), exact)


@given(
    seed=seeds,
    size=st.integers(1, 5),
    length=st.integers(1, 5),
    batch=st.integers(1, 2),
    scale=st.tuples(scales, scales, scales, scales, scales),
)
@settings(deadline=None, max_examples=examples(60))
def test_self_attention_to_the_last_digit(
    seed: int, size: int, length: int, batch: int, scale: tuple[float, ...]
) -> None:
    random = np.random.default_rng(seed)
    w_q, w_k = random.normal(size=(2, size)) * np.array(scale[:2])[:, None]
    x, y = random.normal(size=(2, batch, length)) * np.array(scale[2:4])[:, None, None]
    w_v = random.normal() * scale[4]
    with mpmath.workdps(60):
        exact = exact_attention(w_v, w_q, w_k, x, y)
        assert_every_digit(self_attention_spectrum(w_v=w_v, w_q=w_q, w_k=w_k, x=x, y=y).dense(), exact)


def test_a_small_outlier_survives_moments_that_cancel() -> None:
    """<w, v> is 1e-12 of |w| |v|: float64 would keep 4 of its digits."""
    w, v, x, y = np.array([1.0, 1.0]), np.array([1.0, -1.0 + 1e-12]), np.array([1.0, -2.0]), np.array([1e-13, 2e-13])
    with mpmath.workdps(60):
        assert_every_digit(linear_spectrum(w=w, v=v, x=x, y=y).dense(), exact_linear(w, v, x, y))


@pytest.mark.parametrize("difference", [1e-3, 1e-9, 1e-15])
def test_nearly_parallel_layers_at_convergence(difference: float) -> None:
    """The one flat direction between w and v is as flat as they are parallel."""
    w, x = np.array([1.0, 2.0, -0.5]), np.array([1.0, 2.0])
    v = w * (1 + np.array([difference, -difference, 0.0]))
    with mpmath.workdps(60):
        y = x * float(np.float64(mpmath.fdot(digits(w), digits(v))))
        assert_every_digit(linear_spectrum(w=w, v=v, x=x, y=y).dense(), exact_linear(w, v, x, y))


def assert_last_place(found: Array, exact: list[mpmath.mpf]) -> None:
    """Within one unit in the last place; what is below 1e-60 of the largest counts as zero."""
    scale = max(abs(value) for value in exact)
    for value, wanted in zip(found.tolist(), sorted(exact), strict=True):
        if abs(wanted) > scale * mpmath.mpf(10) ** -60:
            assert abs(mpmath.mpf(value) - wanted) <= math.ulp(float(wanted)), (value, wanted)


def nasty(random: np.random.Generator, *shape: int) -> Array:
    """Numbers that make sums cancel: halves, hundredths, and any size."""
    numbers = random.normal(size=shape)
    match random.integers(4):
        case 0:
            return np.asarray(np.round(2 * numbers) / 2)
        case 1:
            return np.round(numbers, 2)
        case 2:
            return numbers * 10.0 ** random.integers(-6, 7)
        case _:
            return numbers


def nasty_pair(random: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Two vectors: unrelated, equal, opposite or nearly parallel."""
    first = nasty(random, size)
    others = (nasty(random, size), first.copy(), -first, first * (1 + 1e-9 * random.normal(size=size)))
    return first, others[random.integers(4)]


def nearly_met(random: np.random.Generator, outputs: Array) -> Array:
    """Targets that the outputs meet to rounding, to ten digits, in some places, or not at all."""
    missed = nasty(random, *outputs.shape)
    close = outputs * (1 + 1e-10 * random.normal(size=outputs.shape))
    return (missed, outputs, close, np.where(random.random(outputs.shape) < 0.5, outputs, missed))[random.integers(4)]


@given(seed=seeds)
@settings(deadline=None, max_examples=examples(150))
def test_nasty_networks_to_the_last_place(seed: int) -> None:
    random = np.random.default_rng(seed)
    (w, v), x = nasty_pair(random, int(random.integers(1, 5))), nasty(random, int(random.integers(1, 5)))
    y = nearly_met(random, x * (w @ v))
    slope = float(random.choice([0.0, 0.1, -1.0, -2.5, 1.0, 1e-9]))
    with mpmath.workdps(100):
        assert_last_place(linear_spectrum(w=w, v=v, x=x, y=y).dense(), exact_linear(w, v, x, y))
        assert_last_place(
            leaky_relu_spectrum(w=w, v=v, x=x, y=y, negative_slope=slope).dense(), exact_homogeneous(w, v, x, y, slope)
        )


@given(seed=seeds)
@settings(deadline=None, max_examples=40)
def test_nasty_outputs_to_the_last_place(seed: int) -> None:
    random = np.random.default_rng(seed)
    num_outputs, size = (int(number) for number in random.integers(1, 4, size=2))
    w, v, x = nasty(random, num_outputs, size), nasty(random, num_outputs, size), nasty(random, 3)
    y = nearly_met(random, np.outer(x, (w * v).sum(axis=1)))
    with mpmath.workdps(100):
        exact = [each for k in range(num_outputs) for each in exact_linear(w[k], v[k], x, y[:, k])]
        assert_last_place(multi_output_spectrum(w=w, v=v, x=x, y=y).dense(), exact)


@given(seed=seeds, activation=st.sampled_from(ACTIVATIONS))
@settings(deadline=None, max_examples=examples(150))
def test_nasty_attention_to_the_last_place(seed: int, activation: Activation) -> None:
    random = np.random.default_rng(seed)
    w_q, w_k = nasty_pair(random, int(random.integers(1, 4)))
    x, w_v = nasty(random, 2, int(random.integers(1, 5))), float(nasty(random))
    sink_bias = float(random.choice([0.0, 30.0, -30.0, 1e3, 0.5, -700.0, 1e-8]))
    score = EXTENDED.number(float(w_q @ w_k / np.sqrt(w_q.size)))
    response = attention_response(EXTENDED, x, score=score, sink_bias=sink_bias, activation=activation)
    outputs = response.value.value.astype(float)
    y = nearly_met(random, w_v * outputs.reshape(x.shape))
    with mpmath.workdps(100):
        exact = exact_attention(w_v, w_q, w_k, x, y, sink_bias, activation)
        assert_last_place(
            self_attention_spectrum(
                w_v=w_v, w_q=w_q, w_k=w_k, x=x, y=y, sink_bias=sink_bias, activation=activation
            ).dense(),
            exact,
        )


def test_an_attention_residual_that_cancels_in_extended_precision() -> None:
    """The score <w_q, w_k> / sqrt(2) has 64 bits there, which a residual of 1e-6 turns into 3 units of an outlier."""
    y = [[-0.09999655026583741, 2.5705007707898164]]
    spectrum = self_attention_spectrum(
        w_v=1.5, w_q=[1.5, 1.5], w_k=[1.5, 1.5], x=[[2.0, 0.0]], y=y, sink_bias=30.0, activation="linear"
    )
    outliers = sorted(entry.value for entry in spectrum.eigenvalues if entry.role == "outlier")
    wanted = mpmath.mpf("-0.41812960638780298408")
    assert abs(outliers[1] - wanted) <= math.ulp(float(wanted))


def test_more_scores_than_decimals_bear_are_told_with_their_error() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(1, isqrt(MAX_DECIMAL_STEPS) + 1))
    w_q, w_k = random.normal(size=(2, 2))
    spectrum = self_attention_spectrum(w_v=1.5, w_q=w_q, w_k=w_k, x=x, y=1.5 * x.mean() + 1e-9 * x)
    (note,) = (note for note in spectrum.notes if "may be off" in note)
    stated = float(re.search(r"up to (\S+):", note).group(1))
    with mpmath.workdps(40):
        exact = exact_attention(1.5, w_q, w_k, x, 1.5 * x.mean() + 1e-9 * x)
        errors = [float(abs(a - b)) for a, b in zip(spectrum.dense().tolist(), sorted(exact), strict=True)]
    assert max(errors) <= stated + math.ulp(spectrum.scale) <= 1e-13 * spectrum.scale


@given(st.floats(-99_000, 0))
def test_exponentials_of_decimals(value: float) -> None:
    with localcontext(many_digits):
        (found,) = DECIMAL.exp(DECIMAL.array(np.array([value])))
        assert abs(found / Decimal(value).exp() - 1) <= DECIMAL.unit * (1 + abs(Decimal(value)))
