"""Eigenvalues that two runs have found: taken out of every probe exactly, repeated ones included, and counted once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import (
    StochasticLanczosQuadrature,
    advance,
    deflation_of_runs,
    start,
    tridiagonal,
)
from hessian_spectrum.curvature.iteration import last_state, run
from hessian_spectrum.curvature.linear_algebra import DenseOperator, eigenpairs, gauss_quadrature, sphere_probe
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.quadrature.deflation import deflated, known_eigenvalues, known_nodes
from hessian_spectrum.quadrature.results import FloatArray, LanczosSpectrum, Quadrature

DIM = 120
NORM = 50.0
BULK = np.random.default_rng(0).uniform(-1, 1, DIM)
SMOOTHING = Smoothing(200, 3.0)


def matrix_with(*outliers: float) -> Tensor:
    """A dense matrix with these eigenvalues above a bulk between -1 and 1."""
    values = torch.from_numpy(np.concatenate([BULK[len(outliers) :], outliers]))
    basis, _ = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    matrix = basis @ torch.diag(values) @ basis.T
    return (matrix + matrix.T) / 2


def spectrum_of(matrix: Tensor, seed: int, *, num_probes: int = 4, num_steps: int = 40) -> LanczosSpectrum:
    method = StochasticLanczosQuadrature(num_steps, num_probes, SMOOTHING)
    return run(method, DenseOperator(matrix), generator=torch.Generator().manual_seed(seed))


def quadrature_from(matrix: Tensor, probe: Tensor, num_steps: int) -> Quadrature:
    state = start(DenseOperator(matrix), [probe], num_probes=1, num_steps=num_steps)
    while not state.finished:
        advance(DenseOperator(matrix), state)
    return gauss_quadrature(tridiagonal(state))


def ritz_vectors(matrix: Tensor, probe: Tensor, counts: tuple[int, int]) -> Tensor:
    """In rows, those of so many nodes at both ends."""
    state = start(DenseOperator(matrix), [probe], num_probes=1, num_steps=40)
    while not state.finished:
        advance(DenseOperator(matrix), state)
    vectors = eigenpairs(tridiagonal(state))[1]
    return vectors[:, known_nodes(len(vectors), counts)].T @ state.basis[0, : len(vectors)]


def moments(quadrature: Quadrature, count: int) -> FloatArray:
    return np.array([quadrature.weights @ (quadrature.nodes / NORM) ** power for power in range(count)])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), num_probes=st.integers(2, 5))
def test_the_rest_of_a_probe_is_what_a_run_from_its_projection_sees(seed: int, num_probes: int) -> None:
    outliers = (20.0, 30.0, 50.0)
    matrix = matrix_with(*outliers)
    state = last_state(
        StochasticLanczosQuadrature(40, num_probes, SMOOTHING),
        DenseOperator(matrix),
        generator=torch.Generator().manual_seed(seed),
    )
    quadratures = [gauss_quadrature(each) for each in state.tridiagonals]
    deflation = deflation_of_runs(state, quadratures, DIM)
    assert deflation is not None
    generator = torch.Generator().manual_seed(seed)
    probes = [sphere_probe(DIM, generator) for _ in range(num_probes)]
    vectors = [ritz_vectors(matrix, probe, known_eigenvalues(*quadratures[:2], DIM)) for probe in probes[:2]]
    for index, (probe, rest) in enumerate(zip(probes, deflated(quadratures, deflation, DIM), strict=True)):
        others = vectors[1 if index == 0 else 0]
        overlaps = others @ probe
        np.testing.assert_allclose(deflation.weights[index], overlaps.square().numpy(), rtol=0, atol=1e-10)
        alone = quadrature_from(matrix, probe - others.T @ overlaps, 40)
        # A q = lambda q + r: to first order the powers p of A differ by 2 p sum(|q^T v| ||r||)
        images = others @ matrix
        defects = (images - (images * others).sum(dim=1, keepdim=True) * others).norm(dim=1) / NORM
        powers = np.arange(1, 6)
        bound = 2 * powers * float(overlaps.abs() @ defects) + 1e-9
        assert (np.abs(moments(rest, 6) - moments(alone, 6))[1:] <= bound).all()


@pytest.mark.parametrize("outliers", [(40.0, 40.0), (40.0, 40.0, 40.0, -30.0), (25.0, 40.0, 50.0)])
def test_the_mean_is_unbiased_and_repeated_eigenvalues_count_as_often_as_they_are(outliers: tuple[float, ...]) -> None:
    matrix = matrix_with(*outliers)
    exact = float(matrix.trace())
    traces = np.array([spectrum_of(matrix, seed, num_probes=3).trace.value for seed in range(150)])
    assert abs(traces.mean() - exact) < 4 * traces.std() / np.sqrt(len(traces))
    assert traces.std() > 0


def test_errors_of_simple_outliers_vanish() -> None:
    matrix = matrix_with(30.0, 40.0, 60.0)
    exact = torch.linalg.eigvalsh(matrix).numpy()
    errors: dict[bool, list[float]] = {True: [], False: []}
    widths = []
    for seed in range(30):
        found = spectrum_of(matrix, seed)
        plain = DIM * np.mean([each.weights @ each.nodes for each in found.quadrature])
        errors[True].append(found.trace.value - exact.sum())
        errors[False].append(float(plain) - exact.sum())
        interval = found.trace.interval
        assert interval.lower is not None
        assert interval.upper is not None
        widths.append(interval.upper - interval.lower)
    deflated_error, plain_error = (float(np.sqrt(np.mean(np.square(errors[each])))) for each in (True, False))
    assert deflated_error < plain_error / 10
    assert max(widths) < plain_error


def test_a_known_eigenvalue_has_the_height_of_one() -> None:
    matrix = matrix_with(50.0)
    density = spectrum_of(matrix, 3).density
    place = int(np.abs(density.grid - 50).argmin())
    area = np.trapezoid(density.values[density.grid > 25], density.grid[density.grid > 25])
    assert area == pytest.approx(1 / DIM, rel=1e-3)
    width = density.band.upper[place] - density.band.lower[place]
    assert width <= 1e-5 * density.values[place]


@pytest.mark.parametrize("changes", [{"num_probes": 1}, {"reorthogonalisation": "none"}])
def test_what_one_probe_or_no_basis_tells_is_not_deflated(changes: dict[str, object]) -> None:
    options = {"num_steps": 40, "num_probes": 3, "smoothing": SMOOTHING} | changes
    method = StochasticLanczosQuadrature(**options)  # type: ignore[arg-type]
    assert run(method, DenseOperator(matrix_with(50.0)), generator=torch.Generator()).deflation is None


@pytest.mark.parametrize("num_shards", [2, 3, 4])
def test_shards_of_any_size_know_the_same(num_shards: int) -> None:
    operator = DenseOperator(matrix_with(20.0, 50.0))
    method = StochasticLanczosQuadrature(40, 4, SMOOTHING)
    whole = run(method, operator, generator=torch.Generator().manual_seed(5))
    states = [
        last_state(part, operator, generator=torch.Generator().manual_seed(5)) for part in method.split(num_shards)
    ]
    joined = method.result(operator, method.join(states))
    assert whole.deflation is not None
    assert joined.deflation is not None
    np.testing.assert_allclose(joined.deflation.weights, whole.deflation.weights, rtol=0, atol=1e-12)
    np.testing.assert_allclose(joined.deflation.eigenvalues, whole.deflation.eigenvalues, rtol=0, atol=1e-11)
    np.testing.assert_allclose(joined.density.values, whole.density.values, rtol=0, atol=1e-11)


def test_a_spectrum_that_is_known_completely_is_exact() -> None:
    values = torch.tensor([1.0, 2.0, 5.0, 7.0, 11.0], dtype=torch.float64)
    found = spectrum_of(torch.diag(values), 0, num_probes=2, num_steps=5)
    assert found.deflation is not None
    assert len(found.deflation.eigenvalues) == 2
    interval = found.trace.interval
    assert interval.lower is not None
    assert interval.upper is not None
    assert interval.lower <= 26.0 <= interval.upper
    assert (found.cumulative.band.upper <= 1).all()
