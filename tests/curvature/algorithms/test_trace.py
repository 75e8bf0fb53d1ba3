"""Trace, Frobenius norm and diagonal: exactness where it can be had, error bars that hold, tolerances, errors."""

import math
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hessian_spectrum.curvature.algorithms.sketch import Sketch, extend_basis, multiply_basis
from hessian_spectrum.curvature.algorithms.trace import Estimator, TraceEstimator
from hessian_spectrum.curvature.algorithms.xtrace import leave_one_out
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import DenseOperator, assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import Estimate, FloatArray, Interval
from tests.fixtures.longer import pairs

F64, CPU = torch.float64, torch.device("cpu")
ESTIMATORS: tuple[Estimator, ...] = ("hutchinson", "hutch++", "xtrace")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    dim = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=seeded(seed), dtype=F64))
    matrix = basis * eigenvalues.double() @ basis.T
    return (matrix + matrix.T) / 2


def network() -> Tensor:
    """Hessian of a small network on digits; pixels that are always dark leave rows of zeros."""
    model, data = Mlp((64, 3, 10), "tanh"), digits(60, seeded(1)).to(F64, CPU)
    risk = EmpiricalRisk(model, CrossEntropy(), [data])
    return assemble(HessianOperator(risk, model.initial_parameters(seeded(0), F64, CPU)))


@cache
def spectrum(name: str) -> Tensor:
    if name == "network":
        return network()
    k = torch.arange(120, dtype=F64)
    values = {"flat": 1 + k / 60, "signed": torch.sin(k), "geometric": 0.8**k, "power": (1 + k) ** -2}
    return symmetric(values[name])


@pytest.mark.parametrize(
    ("name", "estimator", "num_probes"),
    pairs(["network", "flat", "signed", "geometric", "power"], product(ESTIMATORS, [12, 40])),
)
def test_error_bars_hold(name: str, estimator: Estimator, num_probes: int) -> None:
    matrix = spectrum(name)
    operator = DenseOperator(matrix)
    norm, diagonal = float(matrix.norm()), matrix.diagonal().numpy()
    scores, of_norm, of_entries = [], [], []
    for seed in range(50):
        found = run(TraceEstimator(estimator, num_probes=num_probes, diagonal=True), operator, generator=seeded(seed))
        assert found.num_products <= num_probes
        assert found.diagonal is not None
        assert found.frobenius.standard_error is not None
        scores.append((found.trace.value - float(matrix.trace())) / found.trace.standard_error)
        of_norm.append((found.frobenius.value - norm) / found.frobenius.standard_error)
        certain = found.diagonal.standard_error == 0
        assert (found.diagonal.values[certain] == diagonal[certain]).all()
        of_entries.append(((found.diagonal.values - diagonal) / (found.diagonal.standard_error + certain))[~certain])
    assert abs(np.mean(scores)) < 0.6
    assert 0.5 < np.std(scores) < 1.35
    assert covered(np.array(scores)) >= 0.85
    assert covered(np.array(of_norm)) >= 0.8
    assert covered(np.array(of_entries)) >= 0.85


def held(estimate: Estimate, exact: float) -> bool:
    """Whether the interval holds the exact number."""
    lower, upper = estimate.interval.lower, estimate.interval.upper
    assert lower is not None
    assert upper is not None
    assert lower <= estimate.value <= upper
    return lower <= exact <= upper


def covered(scores: FloatArray) -> float:
    return float((np.abs(scores) < 1.96).mean())


def test_sketches_win_where_eigenvalues_decay() -> None:
    operator = DenseOperator(spectrum("power"))
    plain, sketched, exchangeable = (
        run(TraceEstimator(estimator, num_probes=60), operator, generator=seeded(0)).trace.standard_error
        for estimator in ESTIMATORS
    )
    assert exchangeable < sketched < plain / 20


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("extra", [0, 5])
def test_p_products_are_exact(estimator: Estimator, extra: int) -> None:
    matrix = spectrum("signed")
    found = run(
        TraceEstimator(estimator, num_probes=120 + extra, diagonal=True), DenseOperator(matrix), generator=seeded(0)
    )
    assert found.trace.value == pytest.approx(float(matrix.trace()), abs=1e-12)
    assert 0 < found.trace.standard_error < 1e-13
    assert found.num_products == 120
    assert found.frobenius.value == pytest.approx(float(matrix.norm()), rel=1e-12)
    assert found.diagonal is not None
    np.testing.assert_allclose(found.diagonal.values, matrix.diagonal(), atol=1e-14)
    assert (found.diagonal.standard_error > 0).all()
    assert (found.diagonal.standard_error < 1e-13).all()


@pytest.mark.parametrize("estimator", ["hutch++", "xtrace"])
@settings(max_examples=15, deadline=None)
@given(rank=st.integers(0, 8), scale=st.sampled_from([1e-200, 1.0, 1e200]), seed=st.integers(0, 99))
def test_a_sketch_of_the_whole_range_is_exact(estimator: Estimator, rank: int, scale: float, seed: int) -> None:
    values = torch.cat([torch.linspace(-2, 3, rank, dtype=F64), torch.zeros(40 - rank, dtype=F64)])
    matrix = symmetric(values, seed) * scale
    found = run(TraceEstimator(estimator, num_probes=36, diagonal=True), DenseOperator(matrix), generator=seeded(seed))
    assert abs(found.trace.value - float(matrix.trace())) <= 1e-12 * scale
    assert found.trace.standard_error <= 1e-12 * scale
    assert held(found.trace, float(matrix.trace()))
    assert (found.trace.standard_error > 0) == (rank > 0)
    assert found.frobenius.value / scale == pytest.approx(float((matrix / scale).norm()), rel=1e-10)
    assert found.diagonal is not None
    assert (np.abs(found.diagonal.values - matrix.diagonal().numpy()) <= 1e-12 * scale).all()


def test_xtrace_leaves_each_vector_out() -> None:
    """Against a sketch made anew for each vector that is left out."""
    matrix, count = spectrum("power"), 10
    dim = len(matrix)
    vectors = torch.randn(count, dim, generator=seeded(0), dtype=F64)
    operator, sketch = DenseOperator(matrix), Sketch.empty(DenseOperator(matrix))
    extend_basis(operator, sketch, vectors @ matrix)
    multiply_basis(operator, sketch)
    found = leave_one_out(sketch, vectors, vectors @ matrix, diagonal=True, product_error=1e-15)
    traces, squares, along, across = [], [], [], []
    for i in range(count):
        others = torch.cat([vectors[:i], vectors[i + 1 :]])
        Q, _ = torch.linalg.qr((others @ matrix).T)
        complement = torch.eye(dim, dtype=F64) - Q @ Q.T
        g = torch.nn.functional.normalize(complement @ vectors[i], dim=0)
        rest = dim - count + 1
        traces.append((Q.T @ matrix @ Q).trace() + rest * g @ matrix @ g)
        squares.append((matrix @ Q).square().sum() + rest * (matrix @ g).square().sum())
        # A g is the diagonal times x and noise, but for what Q explains
        x = g / complement.diagonal()
        along.append(x * (matrix @ g + (matrix @ Q @ Q.T).diagonal() * x))
        across.append(x * x)
    assert found.trace.value == pytest.approx(float(torch.stack(traces).mean()), rel=1e-10)
    assert found.frobenius.value == pytest.approx(float(torch.stack(squares).mean().sqrt()), rel=1e-10)
    assert found.diagonal is not None
    diagonal = torch.stack(along).sum(dim=0) / torch.stack(across).sum(dim=0)
    np.testing.assert_allclose(found.diagonal.values, diagonal, rtol=0, atol=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["flat", "signed", "power"])
def test_tolerance_is_met(estimator: Estimator, name: str) -> None:
    matrix = spectrum(name)
    exact, norm = float(matrix.trace()), float(matrix.norm())
    calls: list[tuple[str, int, int]] = []
    found = run(
        TraceEstimator(estimator, tolerance=0.02),
        DenseOperator(matrix),
        generator=seeded(0),
        progress=lambda *call: calls.append(call),
    )
    assert found.converged
    lower, upper = found.trace.interval.lower, found.trace.interval.upper
    assert lower is not None
    assert upper is not None
    error = max(found.trace.standard_error, (upper - lower) / 2 / 1.96)
    assert error <= 0.02 * max(abs(found.trace.value), found.frobenius.value)
    assert abs(found.trace.value - exact) <= 4 * 0.02 * max(abs(exact), norm)
    assert calls[-1][1] == found.num_products
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    short = run(TraceEstimator(estimator, tolerance=1e-9, max_products=50), DenseOperator(matrix), generator=seeded(0))
    assert not short.converged
    assert short.num_products <= 50


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_zero_and_tiny_matrices(estimator: Estimator, dtype: torch.dtype) -> None:
    zero = run(
        TraceEstimator(estimator, num_probes=12), DenseOperator(torch.zeros(50, 50, dtype=dtype)), generator=seeded(0)
    )
    assert (zero.trace.value, zero.trace.standard_error, zero.frobenius.value) == (0, 0, 0)
    assert zero.trace.interval == Interval(0, 0)
    one = run(
        TraceEstimator(estimator, tolerance=0.1),
        DenseOperator(torch.full((1, 1), -3.0, dtype=dtype)),
        generator=seeded(0),
    )
    assert (one.trace.value, one.num_products) == (-3, 1)
    assert 0 < one.trace.standard_error <= 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_float32_and_same_seed_same_bits(estimator: Estimator) -> None:
    matrix = spectrum("geometric")
    one, again = (
        run(TraceEstimator(estimator, num_probes=30), DenseOperator(matrix.float()), generator=seeded(0))
        for _ in range(2)
    )
    double = run(TraceEstimator(estimator, num_probes=30), DenseOperator(matrix), generator=seeded(0))
    assert (one.trace, one.frobenius) == (again.trace, again.frobenius)
    assert one.trace.value == pytest.approx(double.trace.value, abs=1e-4)


def test_a_single_probe_has_an_error_bar() -> None:
    scores = []
    for seed in range(200):
        found = run(
            TraceEstimator("hutchinson", num_probes=1), DenseOperator(spectrum("signed")), generator=seeded(seed)
        )
        assert found.frobenius.standard_error is None
        scores.append((found.trace.value - float(spectrum("signed").trace())) / found.trace.standard_error)
    assert 0.85 < np.std(scores) < 1.15


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_probes": 3, "tolerance": 0.1},
        {"num_probes": 0},
        {"tolerance": 0.0},
        {"tolerance": math.nan},
        {"tolerance": 0.1, "max_products": 0},
    ],
)
def test_bad_options_are_errors(options: Any) -> None:
    with pytest.raises(InvalidProblemError):
        run(TraceEstimator("hutch++", **options), DenseOperator(torch.eye(9, dtype=F64)), generator=seeded(0))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_products_that_are_not_finite_are_errors(estimator: Estimator) -> None:
    with pytest.raises(NonFiniteError):
        run(
            TraceEstimator(estimator, num_probes=6),
            DenseOperator(torch.full((9, 9), math.inf, dtype=F64)),
            generator=seeded(0),
        )
    with pytest.raises(InvalidProblemError):
        run(TraceEstimator("xtrace", num_probes=3), DenseOperator(torch.eye(9, dtype=F64)), generator=seeded(0))
