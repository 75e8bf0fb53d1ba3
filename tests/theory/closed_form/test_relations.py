"""Laws that hold between the families, and within each: traces, scalings, permutations, interlacing, special cases."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.theory.closed_form.coordinates import multi_input_spectrum, multi_output_spectrum
from hessian_spectrum.theory.closed_form.homogeneous import leaky_relu_spectrum, relu_spectrum
from hessian_spectrum.theory.closed_form.linear import linear_spectrum
from hessian_spectrum.theory.closed_form.linear_bias import linear_bias_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Spectrum
from hessian_spectrum.theory.closed_form.two_layer_linear import two_layer_linear_spectrum
from tests.fixtures.longer import examples

Array = NDArray[np.float64]
Case = dict[str, Any]
SpectrumOf = Callable[[Case], Spectrum]

KINDS = (
    *("linear", "relu", "leaky-relu", "linear-bias", "multi-input", "multi-output"),
    *("two-layer-linear", "self-attention"),
)
SLOPES = st.sampled_from([-2.0, -1.0, -0.3, 0.0, 0.2, 1.0, 3.0])


def random_case(kind: str, seed: int, m: int, n: int, D: int, K: int) -> Case:
    random = np.random.default_rng(seed)
    w, v, b = random.normal(size=(3, m))
    x, y = random.normal(size=(2, n))
    model: dict[str, Any] = {"kind": kind, "w": w, "v": v}
    data = {"x": x, "y": y}
    if kind == "leaky-relu":
        model["negative_slope"] = 0.2
    if kind == "linear-bias":
        model["b"] = b
    if kind.startswith("multi"):
        model |= dict(zip("wv", random.normal(size=(2, D, m)), strict=True))
        data["x" if kind == "multi-input" else "y"] = random.normal(size=(n, D))
    if kind == "two-layer-linear":
        model = {"kind": kind, "W1": random.normal(size=(m, D)), "W2": random.normal(size=(K, m))}
        data = {"x": random.normal(size=(n, D)), "y": random.normal(size=(n, K))}
    if kind == "self-attention":
        model = {"kind": kind, "w_v": float(random.normal()), "w_q": w, "w_k": v}
        data = {"x": random.normal(size=(D, n)), "y": random.normal(size=(D, n))}
    return {"model": model, "data": data}


sizes = {
    "seed": st.integers(0, 10**9),
    "m": st.integers(1, 7),
    "n": st.integers(1, 6),
    "D": st.integers(1, 3),
    "K": st.integers(1, 3),
}


def cases_of(*kinds: str) -> st.SearchStrategy[Case]:
    return st.builds(random_case, kind=st.sampled_from(kinds), **sizes)


cases = cases_of(*KINDS)
homogeneous_cases = cases_of(*(kind for kind in KINDS if kind not in ("self-attention", "linear-bias")))


def assert_same(one: Spectrum, other: Spectrum, factor: float = 1.0) -> None:
    scale = max(one.scale, abs(factor) * other.scale)
    tolerance = 1e-13 * scale * max(1, one.num_parameters) ** 0.5
    np.testing.assert_allclose(np.sort(one.dense()), np.sort(factor * other.dense()), rtol=0, atol=tolerance)


@given(case=cases)
@settings(deadline=None, max_examples=examples(150))
def test_eigenvalues_sum_to_the_trace(case: Case, spectrum_of: SpectrumOf) -> None:
    spectrum = spectrum_of(case)
    values = [entry.value * entry.multiplicity for entry in spectrum.eigenvalues]
    assert sum(values) == pytest.approx(spectrum.trace, abs=1e-13 * sum(map(abs, values)))
    assert sum(entry.multiplicity for entry in spectrum.eigenvalues) == spectrum.num_parameters
    inertia = spectrum.inertia
    assert inertia.negative + inertia.zero + inertia.positive == spectrum.num_parameters
    assert all(np.isfinite(entry.value) for entry in spectrum.eigenvalues)


def permuted(case: Case, random: np.random.Generator) -> Case:
    """Neurons, samples, and where there are several the coordinates, in another order."""
    model, data = dict(case["model"]), dict(case["data"])
    kind = model["kind"]
    if kind == "two-layer-linear":
        neurons = random.permutation(len(model["W1"]))
        model |= {"W1": model["W1"][neurons], "W2": model["W2"][:, neurons]}
    elif kind == "self-attention":
        neurons = random.permutation(len(model["w_q"]))
        model |= {"w_q": model["w_q"][neurons], "w_k": model["w_k"][neurons]}
    else:
        neurons = random.permutation(model["w"].shape[-1])
        model |= {name: model[name][..., neurons] for name in ("w", "v", "b") if name in model}
    samples = random.permutation(len(data["x"]))
    return {"model": model, "data": {name: values[samples] for name, values in data.items()}}


@given(case=cases, seed=st.integers(0, 10**9))
@settings(deadline=None, max_examples=examples(100))
def test_order_of_neurons_and_samples_does_not_matter(case: Case, seed: int, spectrum_of: SpectrumOf) -> None:
    other = spectrum_of(permuted(case, np.random.default_rng(seed)))
    assert_same(spectrum_of(case), other)
    assert spectrum_of(case).trace == pytest.approx(other.trace, abs=1e-13 * other.scale * other.num_parameters)


@given(case=homogeneous_cases, weights=st.integers(-8, 8), data=st.integers(-8, 8))
@settings(deadline=None, max_examples=examples(100))
def test_scaling_laws(case: Case, weights: int, data: int, spectrum_of: SpectrumOf) -> None:
    """f has degree 2 in the weights and 1 in x: so the Hessian has degree 2 in both, if y follows f."""
    a, b = 2.0**weights, 2.0**data
    samples = case["data"]
    scaled = {"x": b * samples["x"], "y": a * a * b * samples["y"]}
    there = spectrum_of({"model": with_scaled_weights(case["model"], a), "data": scaled})
    assert_same(there, spectrum_of(case), (a * b) ** 2)


@given(case=cases_of("linear-bias"), weights=st.integers(-8, 8))
@settings(deadline=None)
def test_scaling_law_with_a_bias(case: Case, weights: int, spectrum_of: SpectrumOf) -> None:
    """The constant input coordinate stays 1, so only weights and targets scale."""
    a, samples = 2.0**weights, case["data"]
    scaled = {"x": samples["x"], "y": a * a * samples["y"]}
    there = spectrum_of({"model": with_scaled_weights(case["model"], a), "data": scaled})
    assert_same(there, spectrum_of(case), a * a)


def with_scaled_weights(model: Case, factor: float) -> Case:
    return {name: factor * value if isinstance(value, np.ndarray) else value for name, value in model.items()}


@given(**sizes)
@settings(deadline=None)
def test_relu_is_leaky_relu_without_a_negative_side(seed: int, m: int, n: int, D: int, K: int) -> None:
    w, v, x, y = random_arrays(seed, m, n)
    v[::3] = 0.0
    assert_same(relu_spectrum(w=w, v=v, x=x, y=y), leaky_relu_spectrum(w=w, v=v, x=x, y=y, negative_slope=0.0))
    assert roles(relu_spectrum(w=w, v=v, x=x, y=y)) == roles(
        leaky_relu_spectrum(w=w, v=v, x=x, y=y, negative_slope=0.0)
    )


def random_arrays(seed: int, m: int, n: int) -> tuple[Array, Array, Array, Array]:
    random = np.random.default_rng(seed)
    return (*random.normal(size=(2, m)), *random.normal(size=(2, n)))


def roles(spectrum: Spectrum) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in spectrum.eigenvalues:
        found[entry.role] = found.get(entry.role, 0) + entry.multiplicity
    return found


@given(**sizes)
@settings(deadline=None)
def test_linear_in_all_its_disguises(seed: int, m: int, n: int, D: int, K: int) -> None:
    w, v, x, y = random_arrays(seed, m, n)
    linear = linear_spectrum(w=w, v=v, x=x, y=y)
    for other in (
        leaky_relu_spectrum(w=w, v=v, x=x, y=y, negative_slope=1.0),
        two_layer_linear_spectrum(W1=v[:, None], W2=w[None], x=x[:, None], y=y[:, None]),
        multi_input_spectrum(w=w[None], v=v[None], x=x[:, None], y=y),
        multi_output_spectrum(w=w[None], v=v[None], x=x, y=y[:, None]),
    ):
        assert_same(linear, other)
        assert roles(linear) == roles(other)
        assert other.trace == pytest.approx(linear.trace, rel=1e-13)
        assert other.statistics["mean_loss"] == pytest.approx(linear.statistics["mean_loss"], rel=1e-12)


@given(slope=SLOPES, **sizes)
@settings(deadline=None)
def test_leaky_relu_slopes_that_slide_leave_no_gap(slope: float, seed: int, m: int, n: int, D: int, K: int) -> None:
    """The spectrum is continuous in the slope, also where a special case answers."""
    w, v, x, y = random_arrays(seed, m, n)
    here, near = (
        leaky_relu_spectrum(w=w, v=v, x=x, y=y, negative_slope=slope),
        leaky_relu_spectrum(w=w, v=v, x=x, y=y, negative_slope=slope + 1e-9),
    )
    np.testing.assert_allclose(near.dense(), here.dense(), rtol=0, atol=1e-6 * (1 + here.scale))


@given(**sizes)
@settings(deadline=None)
def test_absolute_value_sees_no_sign_of_the_inner_weights(seed: int, m: int, n: int, D: int, K: int) -> None:
    w, v, x, y = random_arrays(seed, m, n)
    signs = np.random.default_rng(seed + 1).choice([-1.0, 1.0], size=m)
    there = leaky_relu_spectrum(w=w, v=signs * v, x=x, y=y, negative_slope=-1.0)
    assert_same(leaky_relu_spectrum(w=w, v=v, x=x, y=y, negative_slope=-1.0), there)
    assert_same(linear_spectrum(w=w, v=np.abs(v), x=np.abs(x), y=y), there)


@given(**sizes)
@settings(deadline=None)
def test_a_bias_is_a_constant_input_coordinate(seed: int, m: int, n: int, D: int, K: int) -> None:
    w, v, x, y = random_arrays(seed, m, n)
    b = np.random.default_rng(seed + 1).normal(size=m)
    inputs = np.stack((x, np.ones(n)), axis=1)
    bias = linear_bias_spectrum(w=w, v=v, b=b, x=x, y=y)
    matrices = two_layer_linear_spectrum(W1=np.stack((v, b), axis=1), W2=w[None], x=inputs, y=y[:, None])
    assert_same(bias, matrices)
    assert roles(bias) == roles(matrices)


@given(seed=st.integers(0, 10**9), m=st.integers(2, 9), n=st.integers(3, 20))
@settings(deadline=None)
def test_theorem_b1_is_the_reduction_under_its_assumptions(seed: int, m: int, n: int) -> None:
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(m, m)))[0]
    length = random.uniform(0.1, 3.0)
    w, v, b = random.normal(size=m), length * basis[0], length * basis[1]
    centred = np.linalg.qr(np.column_stack((np.ones(n), random.normal(size=(n, 2)))))[0]
    x, y = centred[:, 1] * np.sqrt(n), random.normal() * centred[:, 2]
    spectrum = linear_bias_spectrum(w=w, v=v, b=b, x=x, y=y)
    assert spectrum.method == "closed-form"
    matrices = two_layer_linear_spectrum(
        W1=np.stack((v, b), axis=1), W2=w[None], x=np.stack((x, np.ones(n)), axis=1), y=y[:, None]
    )
    assert_same(spectrum, matrices)
    bulk = [e for e in spectrum.eigenvalues if e.role == "bulk"]
    assert [e.multiplicity for e in bulk] == ([m - 2, m - 2] if m > 2 else [])
    assert sum(e.multiplicity for e in spectrum.eigenvalues if e.role == "zero") == m - 1
    assert sum(e.role == "outlier" for e in spectrum.eigenvalues) == 5


@given(**sizes)
@settings(deadline=None)
def test_multi_output_is_one_scalar_network_per_output(seed: int, m: int, n: int, D: int, K: int) -> None:
    case = random_case("multi-output", seed, m, n, D, K)
    w, v, x, y = case["model"]["w"], case["model"]["v"], case["data"]["x"], case["data"]["y"]
    apart = np.sort(np.concatenate([linear_spectrum(w=w[k], v=v[k], x=x, y=y[:, k]).dense() for k in range(len(w))]))
    together = multi_output_spectrum(w=w, v=v, x=x, y=y)
    np.testing.assert_allclose(together.dense(), apart, rtol=0, atol=1e-14 * together.scale)


@given(seed=st.integers(0, 10**9), m=st.integers(1, 6), D=st.integers(1, 6))
@settings(deadline=None)
def test_multi_input_with_uncorrelated_inputs_is_one_scalar_network_per_coordinate(seed: int, m: int, D: int) -> None:
    """Corollary B.1: coordinate d sees the target without what the others predict, to which it is blind."""
    random = np.random.default_rng(seed)
    x = np.linalg.qr(random.normal(size=(D + 5, D)))[0] * random.uniform(0.5, 2.0, size=D)
    w, v, y = *random.normal(size=(2, D, m)), random.normal(size=D + 5)
    spectrum = multi_input_spectrum(w=w, v=v, x=x, y=y)
    apart = np.sort(np.concatenate([linear_spectrum(w=w[d], v=v[d], x=x[:, d], y=y).dense() for d in range(D)]))
    np.testing.assert_allclose(spectrum.dense(), apart, rtol=0, atol=1e-13 * spectrum.scale)
    assert spectrum.method == "closed-form"
    assert {e.group for e in spectrum.eigenvalues} == {str(d) for d in range(D)}


@given(case=homogeneous_cases)
@settings(deadline=None, max_examples=examples(100))
def test_outliers_interlace_with_the_bulk(case: Case, spectrum_of: SpectrumOf) -> None:
    """The Gauss-Newton part is positive of rank at most r: l_i(H) >= l_i(F) >= l_{i+r}(H), F the functional part."""
    kind = case["model"]["kind"]
    spectrum = spectrum_of(case)
    rank = {
        "linear": 1,
        "relu": 2,
        "leaky-relu": 2,
        "multi-input": len(case["data"]["x"].T) if case["data"]["x"].ndim == 2 else 1,
        "multi-output": case["data"]["y"].shape[-1],
        "two-layer-linear": case["data"]["x"].shape[-1] * case["data"]["y"].shape[-1],
    }[kind]
    rank = min(rank, case["data"]["x"].shape[0] * (case["data"]["y"].shape[1] if case["data"]["y"].ndim == 2 else 1))
    functional = functional_eigenvalues(case, spectrum)
    rank = min(rank, len(functional))
    hessian = spectrum.dense()[::-1]
    slack = 1e-12 * spectrum.scale
    assert np.all(hessian >= functional - slack)
    assert np.all(functional[: len(functional) - rank] >= hessian[rank:] - slack)


def functional_eigenvalues(case: Case, spectrum: Spectrum) -> Array:
    """Descending: the Hessian with every output's gradient left out, ±e for each neuron."""
    model, x, y = case["model"], case["data"]["x"], case["data"]["y"]
    kind, w = model["kind"], model.get("w")
    if kind == "two-layer-linear":
        delta = x @ (model["W2"] @ model["W1"]).T - y
        sigma = np.linalg.svd(delta.T @ x / len(x), compute_uv=False)
        values = np.repeat(np.concatenate((sigma, -sigma)), len(model["W1"]))
        return np.sort(np.concatenate((values, np.zeros(spectrum.num_parameters - len(values)))))[::-1]
    if kind in ("multi-input", "multi-output"):
        couplings = np.repeat(spectrum.statistics["d"], w.shape[1])
    elif kind == "linear":
        couplings = np.full(len(w), spectrum.statistics["d"])
    else:
        slope = model.get("negative_slope", 0.0)
        factors = np.where(np.outer(x, model["v"]) > 0, 1.0, slope)
        delta = (np.outer(x, model["v"]) * factors) @ w - y
        couplings = (delta * x) @ factors / len(x)
    return np.sort(np.concatenate((couplings, -couplings)))[::-1]


@given(seed=st.integers(0, 10**9), activation=st.sampled_from(["softmax", "sigmoid", "linear"]), n=st.integers(1, 5))
@settings(deadline=None)
def test_a_head_of_one_dimension_is_its_cubic(seed: int, activation: str, n: int, autograd_hessian: Any) -> None:
    case = random_case("self-attention", seed, 1, n, 2, 1)
    case["model"]["activation"] = activation
    model, data = case["model"], case["data"]
    spectrum = self_attention_spectrum(**{k: v for k, v in model.items() if k != "kind"}, **data)
    named = spectrum.statistics
    assert [e.role for e in spectrum.eigenvalues] == ["outlier"] * 3
    tolerance = 1e-12 * max(spectrum.scale, 1e-300)
    np.testing.assert_allclose(spectrum.dense(), np.linalg.eigvalsh(autograd_hessian(case)), rtol=0, atol=tolerance)
    for value in spectrum.dense():
        terms = (value**3, -named["T"] * value**2, -named["B"] * value, -named["C"])
        assert abs(sum(terms)) <= 1e-11 * sum(map(abs, terms)) + 1e-12 * spectrum.scale**3
