"""Every eigenvector against the dense autograd Hessian: golden cases, degenerate ones, random ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.spectrum import Spectrum
from tests.fixtures.longer import examples

Array = NDArray[np.float64]
Case = dict[str, Any]
SpectrumOf = Callable[[Case], Spectrum]
Dense = Callable[[Case], Array]

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "closed_form.json").read_text())["cases"]


def check(case: Case, spectrum_of: SpectrumOf, autograd_hessian: Dense) -> None:
    hessian, spectrum = autograd_hessian(case), spectrum_of(case)
    scale = np.abs(np.linalg.eigvalsh(hessian)).max()
    size = len(hessian)
    np.testing.assert_allclose(spectrum.dense(), np.linalg.eigvalsh(hessian), rtol=0, atol=1e-13 * scale * size)
    assert spectrum.trace == pytest.approx(np.trace(hessian), abs=1e-13 * scale * size)

    found = spectrum.eigenvectors("all")
    assert found.vectors.shape == (size, size)
    np.testing.assert_array_equal(found.eigenvalues, spectrum.dense()[::-1])
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(size), rtol=0, atol=1e-13)
    residuals = np.linalg.norm(found.vectors @ hessian - found.eigenvalues[:, None] * found.vectors, axis=1)
    assert residuals.max() <= 1e-12 * scale

    outliers = spectrum.eigenvectors("outliers")
    assert len(outliers.vectors) == spectrum.num_eigenvectors("outliers")
    assert len(outliers.vectors) == sum(e.multiplicity for e in spectrum.eigenvalues if e.role == "outlier")
    np.testing.assert_allclose(outliers.vectors @ outliers.vectors.T, np.eye(len(outliers.vectors)), atol=1e-13)
    residuals = outliers.vectors @ hessian - outliers.eigenvalues[:, None] * outliers.vectors
    assert np.abs(residuals).max(initial=0.0) <= 1e-12 * scale


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden(case: Case, spectrum_of: SpectrumOf, autograd_hessian: Dense) -> None:
    check(case, spectrum_of, autograd_hessian)


RANDOM = np.random.default_rng(20261121)
X, Y = RANDOM.normal(size=(2, 12))
W, V, B = RANDOM.normal(size=(3, 5))
XS, YS = RANDOM.normal(size=(12, 3)), RANDOM.normal(size=(12, 2))
SEQUENCES = RANDOM.normal(size=(2, 4))


def scalar(kind: str, w: Array, v: Array, x: Array = X, y: Array = Y, **others: object) -> Case:
    return {"model": {"kind": kind, "w": w, "v": v, **others}, "data": {"x": x, "y": y}}


def attention(w_q: Array, w_k: Array, w_v: float = 0.8, **others: object) -> Case:
    model = {"kind": "self-attention", "w_v": w_v, "w_q": w_q, "w_k": w_k, **others}
    return {"model": model, "data": {"x": SEQUENCES, "y": SEQUENCES[::-1].copy()}}


def matrices(W1: Array, W2: Array, x: Array = XS, y: Array = YS) -> Case:
    return {"model": {"kind": "two-layer-linear", "W1": W1, "W2": W2}, "data": {"x": x, "y": y}}


WIDE = RANDOM.normal(size=(9, 3)), RANDOM.normal(size=(2, 9))
TARGETS_MET = XS @ (WIDE[1] @ WIDE[0]).T
ORTHOGONAL = np.linalg.qr(RANDOM.normal(size=(12, 3)))[0] * np.sqrt(12)
TURNED = np.linalg.qr(RANDOM.normal(size=(5, 5)))[0]
DEGENERATE = {
    "w = v": scalar("linear", W, W),
    "w = -v": scalar("linear", W, -W),
    "w = 0": scalar("linear", 0 * W, V),
    "all weights 0": scalar("linear", 0 * W, 0 * V),
    "all weights and targets 0": scalar("linear", 0 * W, 0 * V, y=0 * Y),
    "no residual covariance": scalar("linear", W, V, y=(W @ V) * X),
    "w = v, no residual covariance": scalar("linear", W, W, y=(W @ W) * X),
    "nearly w = v": scalar("linear", W, W + 1e-12 * V),
    "double outlier: c = d = 0": scalar("linear", np.array([1.0, 0.0]), np.array([0.0, 1.0]), y=0 * Y),
    "x = 0": scalar("linear", W, V, x=0 * X),
    "far apart scales": scalar("linear", 1e6 * W, 1e-6 * V),
    "m = 1, w = -v": scalar("linear", W[:1], -W[:1]),
    "relu, dead neuron, empty cell": scalar("relu", W[:3], np.array([0.7, 0.0, 0.2])),
    "relu, cell without samples": scalar("relu", W, V, x=np.abs(X)),
    "leaky, dead neuron": scalar("leaky-relu", W, np.where(V > 0.5, 0.0, V), negative_slope=0.3),
    "leaky, all dead": scalar("leaky-relu", W, 0 * V, negative_slope=0.3),
    "leaky, w = v": scalar("leaky-relu", W, W, negative_slope=-0.5),
    "absolute value": scalar("leaky-relu", W, V, negative_slope=-1.0),
    "steep negative side": scalar("leaky-relu", W, V, negative_slope=40.0),
    "slope 1": scalar("leaky-relu", W, V, negative_slope=1.0),
    "bias, all weights 0": scalar("linear-bias", 0 * W, 0 * V, b=0 * B),
    "bias, m = 1": scalar("linear-bias", W[:1], V[:1], b=B[:1]),
    "bias, m = 2": scalar("linear-bias", W[:2], V[:2], b=B[:2]),
    "bias, parallel": scalar("linear-bias", W, 2 * W, b=-W),
    "bias, m = 30": scalar("linear-bias", *RANDOM.normal(size=(2, 30)), b=RANDOM.normal(size=30)),
    "inputs equal": scalar("multi-input", np.stack((W, V)), np.stack((V, B)), x=np.stack((X, X), axis=1)),
    "inputs uncorrelated and alike": scalar("multi-input", np.stack((W,) * 3), np.stack((V,) * 3), x=ORTHOGONAL),
    "outputs alike": scalar("multi-output", np.stack((W, W)), np.stack((V, V)), y=np.stack((Y, Y), axis=1)),
    "matrices 0": matrices(0 * WIDE[0], 0 * WIDE[1]),
    "matrices 0, targets 0": matrices(0 * WIDE[0], 0 * WIDE[1], y=0 * YS),
    "matrices, targets met": matrices(*WIDE, y=TARGETS_MET),
    "matrices, W2 = 0": matrices(WIDE[0], 0 * WIDE[1]),
    "matrices, W2 in the range of W1": matrices(WIDE[0], WIDE[0].T[:2]),
    "matrices, more coordinates than samples": matrices(*WIDE, x=XS[:2], y=YS[:2]),
    "matrices, equal singular values": matrices(0 * WIDE[0], 0 * WIDE[1], x=ORTHOGONAL, y=ORTHOGONAL[:, :2]),
    "matrices, m = 1": matrices(WIDE[0][:1], WIDE[1][:, :1]),
    "w_q = w_k": attention(W, W),
    "w_q = -w_k": attention(W, -W),
    "w_q = w_k = 0": attention(0 * W, 0 * W),
    "w_q orthogonal to w_k": attention(TURNED[0], TURNED[1]),
    "w_v = 0": attention(W, V, w_v=0.0),
    "sigmoid": attention(W, V, activation="sigmoid", sink_bias=-1.0),
    "linear scores": attention(W, V, activation="linear", sink_bias=0.5),
    "a sink that takes all": attention(W, V, sink_bias=60.0),
    "identity": {"model": {"kind": "quadratic", "matrix": np.eye(6)}},
    "repeated": {"model": {"kind": "quadratic", "matrix": TURNED @ np.diag([2.0, 2.0, 0.0, 0.0, -1.0]) @ TURNED.T}},
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate(name: str, spectrum_of: SpectrumOf, autograd_hessian: Dense) -> None:
    case = DEGENERATE[name]
    if name == "repeated":
        matrix = case["model"]["matrix"]
        case = {"model": {"kind": "quadratic", "matrix": (matrix + matrix.T) / 2}}
    check(case, spectrum_of, autograd_hessian)


@st.composite
def random_cases(draw: st.DrawFn) -> Case:
    random = np.random.default_rng(draw(st.integers(0, 10**9)))
    kind = draw(st.sampled_from(["linear", "relu", "leaky-relu", "linear-bias", "multi", "two-layer-linear"]))
    m, n, D, K = (draw(st.integers(1, bound)) for bound in (6, 6, 4, 4))
    w, v, b = random.normal(size=(3, m))
    x, y = random.normal(size=(2, n))
    if kind == "leaky-relu":
        return scalar(kind, w, v, x, y, negative_slope=draw(st.sampled_from([-1.0, -0.3, 0.0, 0.1, 1.0, 2.0])))
    if kind == "linear-bias":
        return scalar(kind, w, v, x, y, b=b)
    if kind == "multi":
        w, v = random.normal(size=(2, D, m))
        if draw(st.booleans()):
            return scalar("multi-output", w, v, x, random.normal(size=(n, D)))
        return scalar("multi-input", w, v, random.normal(size=(n, D)), y)
    if kind == "two-layer-linear":
        rank = draw(st.integers(0, m))
        W1 = random.normal(size=(m, rank)) @ random.normal(size=(rank, D))
        return matrices(W1, random.normal(size=(K, m)), random.normal(size=(n, D)), random.normal(size=(n, K)))
    return scalar(kind, w, v, x, y)


@given(case=random_cases())
@settings(deadline=None, max_examples=examples(150))
def test_random(case: Case, spectrum_of: SpectrumOf, autograd_hessian: Dense) -> None:
    check(case, spectrum_of, autograd_hessian)
