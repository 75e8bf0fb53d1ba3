"""Intervals of trace, Frobenius norm and diagonal hold the exact numbers, from the first probe, in every precision."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from hessian_spectrum.curvature.algorithms.intervals import LEVEL, deviation_factor, sum_estimate
from hessian_spectrum.curvature.algorithms.probe_sums import PairSums, RowRegression
from hessian_spectrum.curvature.algorithms.trace import Estimator, TraceEstimator
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import DenseOperator, assemble, sphere_probe
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.quadrature.results import FloatArray, Interval, StochasticTrace
from tests.curvature.algorithms.coverage import LEAST, METHODS, SPECTRA, Reflected, cells
from tests.fixtures.longer import pairs

F32, F64, CPU = torch.float32, torch.float64, torch.device("cpu")
ESTIMATORS: tuple[Estimator, ...] = ("hutchinson", "hutch++", "xtrace")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def holds(interval: Interval, exact: float) -> bool:
    assert interval.lower is not None
    assert interval.upper is not None
    return interval.lower <= exact <= interval.upper


def half_width(interval: Interval) -> float:
    assert interval.lower is not None
    assert interval.upper is not None
    return (interval.upper - interval.lower) / 2


def share_of_entries(found: StochasticTrace, diagonal: FloatArray) -> float:
    assert found.diagonal is not None
    return float(((found.diagonal.lower <= diagonal) & (diagonal <= found.diagonal.upper)).mean())


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("num_probes", [4, 6])
def test_what_lies_below_the_precision_of_a_large_eigenvalue_is_not_zero(
    estimator: Estimator, dtype: torch.dtype, num_probes: int
) -> None:
    diagonal = torch.tensor([1e8, 1, 1, 1, 1, 1], dtype=dtype)
    traces, norms, entries = [], [], []
    for seed in range(60):
        operator = DenseOperator(torch.diag(diagonal))
        found = run(TraceEstimator(estimator, num_probes=num_probes, diagonal=True), operator, generator=seeded(seed))
        assert found.diagonal is not None
        assert found.trace.standard_error is not None
        assert found.trace.standard_error > 0
        assert (found.diagonal.standard_error > 0).all()
        traces.append(holds(found.trace.interval, 100_000_005))
        norms.append(holds(found.frobenius.interval, math.hypot(1e8, math.sqrt(5))))
        entries.append(share_of_entries(found, diagonal.numpy()))
    assert min(np.mean(traces), np.mean(norms), np.mean(entries)) >= LEAST
    if estimator != "hutchinson":
        assert abs(found.trace.value - 100_000_005) < 1e10 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("estimator", "dtype"), pairs(ESTIMATORS, [F32, F64]))
def test_an_unnormalised_column_leaves_the_other_entries_of_the_diagonal(
    estimator: Estimator, dtype: torch.dtype
) -> None:
    inputs = torch.randn(50, 12, generator=seeded(0), dtype=F64)
    inputs[:, 3] = 2e4 * inputs[:, 3].abs()
    inputs = inputs.float().double()
    model = Mlp((12, 1), "linear")
    data = Dataset(inputs, torch.zeros(50, 1, dtype=F64))
    exact = assemble(
        HessianOperator(EmpiricalRisk(model, Mse(), [data]), model.initial_parameters(seeded(0), F64, CPU))
    )
    operator = HessianOperator(
        EmpiricalRisk(model, Mse(), [data.to(dtype, CPU)]), model.initial_parameters(seeded(0), dtype, CPU)
    )
    traces, entries = [], []
    for seed in range(50):
        found = run(TraceEstimator(estimator, num_probes=10, diagonal=True), operator, generator=seeded(seed))
        traces.append(holds(found.trace.interval, float(exact.trace())))
        entries.append(share_of_entries(found, exact.diagonal().numpy()))
    assert min(np.mean(traces), np.mean(entries)) >= LEAST


def test_reduced_products_read_off_column_by_column_state_their_deviation() -> None:
    model, data = Mlp((64, 10), "linear"), digits(100, seeded(0))
    weights = model.initial_parameters(seeded(0), F32, CPU)
    wide = {name: weight.double() for name, weight in weights.items()}
    exact = assemble(HessianOperator(EmpiricalRisk(model, CrossEntropy(), [data.to(F64, CPU)]), wide))
    risk = EmpiricalRisk(model, CrossEntropy(), [data.to(F32, CPU)])
    operator = HessianOperator(risk, weights, matmul_precision="bfloat16")
    # the first pixel is always dark, so that its columns are zero
    found = run(TraceEstimator("hutch++", num_probes=operator.dim, diagonal=True), operator, generator=seeded(0))
    assert operator.precision_deviation is not None
    assert operator.precision_deviation > 1e-4
    error = abs(found.trace.value - float(exact.trace()))
    assert 1e-6 < error <= half_width(found.trace.interval) < 0.01 * float(exact.trace())
    assert holds(found.frobenius.interval, float(exact.norm()))
    assert share_of_entries(found, exact.diagonal().numpy()) == 1


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_tolerance_below_the_error_of_the_products_is_not_met(estimator: Estimator) -> None:
    operator = DenseOperator(torch.diag(torch.linspace(1, 2, 200, dtype=F32)))
    found = run(TraceEstimator(estimator, tolerance=1e-8, max_products=1_000), operator, generator=seeded(0))
    assert not found.converged
    assert found.num_products < 300
    assert holds(found.trace.interval, 300)


@pytest.mark.parametrize(("method", "spectrum"), pairs(METHODS, ["outlier 1e3 above ones", "100, -100, tiny bulk"]))
def test_intervals_of_few_probes_hold(method: str, spectrum: str) -> None:
    for num_probes in {METHODS[method].num_probes[0], 5}:
        for cell in cells(spectrum, method, num_probes, num_seeds=100, dtype=F64, rotated=True, dim=60):
            assert cell.coverage >= LEAST - 0.03, cell  # of 100 seeds; the long test takes 300


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_intervals_hold_over_300_seeds(method: str, spectrum: str) -> None:
    for num_probes in METHODS[method].num_probes:
        for cell in cells(spectrum, method, num_probes, num_seeds=300, dtype=F32, rotated=True):
            assert cell.coverage >= LEAST, cell


def test_intervals_of_a_flat_spectrum_are_hardly_wider_than_they_must_be() -> None:
    eigenvalues = np.random.default_rng(0).standard_normal(400)
    operator = Reflected(eigenvalues, F64, rotated=True)
    found = run(TraceEstimator("hutchinson", num_probes=30), operator, generator=seeded(0))
    deviation = math.sqrt(2 / 30 * 400 / 402 * float(((eigenvalues - eigenvalues.mean()) ** 2).sum()))
    assert 1.96 * deviation < half_width(found.trace.interval) < 1.25 * 1.96 * deviation
    squares = eigenvalues**2
    deviation = math.sqrt(2 / 30 * 400 / 402 * float(((squares - squares.mean()) ** 2).sum()))
    deviation /= 2 * np.linalg.norm(eigenvalues)
    assert 1.96 * deviation < half_width(found.frobenius.interval) < 1.6 * 1.96 * deviation


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_a_single_eigenvalue_is_held_as_often_as_promised(count: int) -> None:
    share = np.linspace(0.5e-5, 1 - 0.5e-5, 100_000)
    estimates = chi2.ppf(share, count) / count  # of 1, by all seeds alike
    reach = deviation_factor(count) * np.sqrt(2 / count * estimates)
    assert (np.abs(estimates - 1) <= reach).mean() == pytest.approx(LEVEL, abs=1e-4)
    # ||W - tr W / n||_F^2 = (g^T g)^2 (1 - 1/n) for W = g g^T, and (n - 1) (n + 2) as many estimate 1
    freedom = (count - 1) * (count + 2) / 2
    for total in estimates[::5_000]:
        root = total * math.sqrt(count / (count + 2)) if count > 1 else None
        found = sum_estimate(total, root, degrees=count, freedom=freedom, dim=10**9)
        expected = total * count / chi2.ppf((1 - LEVEL) / 2, count)
        assert found.limits.upper == pytest.approx(expected, rel=1e-6)


def test_pairs_estimate_the_sum_of_fourth_powers() -> None:
    eigenvalues = torch.linspace(-1, 2, 50, dtype=F64)
    squares = []
    for seed in range(400):
        generator = seeded(seed)
        probes = torch.stack([sphere_probe(50, generator) for _ in range(5)])
        products = probes * eigenvalues
        pairs = PairSums(0.7)
        pairs.add(probes, products)
        found = pairs.root_square(np.linalg.norm(products.numpy(), axis=1) / 0.7, 50)
        assert found is not None
        squares.append((found * 0.7**2) ** 2)
    fourth = float((eigenvalues**4).sum() - (eigenvalues**2).sum() ** 2 / 50)
    assert np.mean(squares) == pytest.approx(fourth, rel=0.1)
    same = PairSums(2.0)
    same.add(probes, 2 * probes)
    assert same.root_square(np.ones(5), 50) == pytest.approx(0, abs=1e-12)


def test_rows_are_fitted_by_least_squares() -> None:
    generator = seeded(0)
    x, y = torch.randn(2, 6, 30, generator=generator, dtype=F64)
    regression = RowRegression.empty(x)
    for one, other in zip(x, y, strict=True):
        regression.add(one.clone(), other.clone())
    for row in range(30):
        (slope,), (rest,), _, _ = np.linalg.lstsq(x[:, row : row + 1].numpy(), y[:, row].numpy(), rcond=None)
        assert float(regression.slopes[row]) == pytest.approx(slope, rel=1e-12)
        assert float(regression.residuals[row]) == pytest.approx(rest, rel=1e-12)
    np.testing.assert_allclose(regression.mean_squares, (y**2).mean(dim=0), rtol=1e-12)
