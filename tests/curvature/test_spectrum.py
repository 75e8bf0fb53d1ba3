"""Exact and Lanczos spectra against numpy and against each other."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curvature.algorithms.density import spectral_density
from curvature.algorithms.spectrum import (
    advance_sweep,
    exact_spectrum,
    lanczos_spectrum,
    sphere_probe,
    start_sweep,
    summarise_sweep,
)
from curvature.algorithms.trace import trace_estimate
from curvature.errors import InvalidProblemError, NonFiniteError
from curvature.operators import dense
from curvature.operators.base import SymmetricOperator
from curvature.operators.dense import DenseOperator, assemble
from curvature.operators.hessian import HessianOperator
from curvature.results import ExactSpectrum, LanczosSpectrum, Quadrature

Seeded = Callable[[int], torch.Generator]

F64 = torch.float64


def random_symmetric(dim: int, generator: torch.Generator, dtype: torch.dtype = F64) -> Tensor:
    matrix = torch.randn(dim, dim, generator=generator, dtype=F64)
    return ((matrix + matrix.T) / 2).to(dtype)


def lanczos(
    operator: SymmetricOperator, num_steps: int, num_probes: int, seed: int = 0, **options: Any
) -> LanczosSpectrum:
    generator = torch.Generator().manual_seed(seed)
    return lanczos_spectrum(
        operator, num_steps, num_probes, **({"num_points": 64, "kappa": 3.0} | options), generator=generator
    )


class Asymmetric(SymmetricOperator):
    """Products whose rounding is not symmetric, exaggerated."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    dim = property(lambda self: len(self.matrix))
    dtype = property(lambda self: self.matrix.dtype)
    device = property(lambda self: self.matrix.device)

    def matvec(self, vector: Tensor) -> Tensor:
        return self.matrix @ vector

    def matmat(self, matrix: Tensor) -> Tensor:
        return self.matrix @ matrix


# exact


def test_exact_eigenvalues_and_inertia(seeded: Seeded) -> None:
    values = torch.tensor([-2.0] * 3 + [0.0] * 4 + [1e-3] * 2 + [5.0], dtype=F64)
    basis, _ = torch.linalg.qr(torch.randn(10, 10, generator=seeded(0), dtype=F64))
    matrix = basis * values @ basis.T
    spectrum = exact_spectrum(DenseOperator((matrix + matrix.T) / 2))
    np.testing.assert_allclose(spectrum.eigenvalues, values.sort().values, atol=1e-14)
    inertia = spectrum.inertia
    assert (inertia.negative, inertia.zero, inertia.positive) == (3, 4, 3)
    assert spectrum.num_products == 10
    assert spectrum.eigenvalues.dtype == np.float64


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_inertia_does_not_depend_on_the_unit(scale: float, seeded: Seeded) -> None:
    matrix = random_symmetric(12, seeded(0))
    matrix[:4] = 0
    matrix[:, :4] = 0
    inertia = exact_spectrum(DenseOperator(matrix * scale)).inertia
    assert inertia == exact_spectrum(DenseOperator(matrix)).inertia
    assert inertia.zero == 4


def test_zero_matrix_is_all_zero() -> None:
    spectrum = exact_spectrum(DenseOperator(torch.zeros(5, 5, dtype=F64)))
    assert spectrum.inertia.zero == 5
    assert not spectrum.eigenvalues.any()


def test_assembly_in_blocks_and_tiles(seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "BLOCK_COLUMNS", 7)
    monkeypatch.setattr(dense, "TILE", 5)
    matrix = torch.randn(23, 23, generator=seeded(0), dtype=F64)
    calls = []
    found = assemble(Asymmetric(matrix), progress=lambda *call: calls.append(call))
    assert torch.equal(found, (matrix + matrix.T) / 2)
    assert calls == [("products", done, 23) for done in (7, 14, 21, 23)]


def test_not_finite_products_are_errors() -> None:
    with pytest.raises(NonFiniteError):
        exact_spectrum(DenseOperator(torch.full((3, 3), math.inf, dtype=F64)))
    with pytest.raises(NonFiniteError):
        lanczos(DenseOperator(torch.full((3, 3), math.inf, dtype=F64)), 2, 1)


def test_dense_operator_refuses_what_is_not_symmetric(seeded: Seeded) -> None:
    for matrix in (torch.randn(3, 3, generator=seeded(0)), torch.ones(2, 3), torch.ones(3)):
        with pytest.raises(InvalidProblemError):
            DenseOperator(matrix)


# lanczos


def test_extremes_and_trace_of_the_digits_network(
    digits_operator: Callable[[torch.dtype], HessianOperator], digits_spectrum: ExactSpectrum
) -> None:
    spectrum = lanczos(digits_operator(F64), 80, 4, num_points=1024)
    exact = digits_spectrum.eigenvalues
    assert spectrum.largest.value == pytest.approx(exact[-1], abs=1e-6 * exact[-1])
    assert spectrum.smallest.value == pytest.approx(exact[0], abs=1e-6 * exact[-1])
    assert spectrum.largest.residual < 1e-6 * exact[-1]
    assert spectrum.num_products == 320
    assert [len(each.nodes) for each in spectrum.quadrature] == [80] * 4
    assert np.trapezoid(spectrum.density.values, spectrum.density.grid) == pytest.approx(1, abs=0.01)
    assert abs(spectrum.trace.value - exact.sum()) < 4 * spectrum.trace.standard_error


def test_float32_sees_the_same_spectrum(digits_operator: Callable[[torch.dtype], HessianOperator]) -> None:
    double, single = (lanczos(digits_operator(dtype), 40, 2) for dtype in (F64, torch.float32))
    scale = double.largest.value
    assert single.largest.value == pytest.approx(double.largest.value, abs=1e-5 * scale)
    assert single.smallest.value == pytest.approx(double.smallest.value, abs=1e-5 * scale)
    assert single.trace.value == pytest.approx(double.trace.value, rel=1e-3)
    assert single.largest.residual >= 1e-7 * scale  # no better than a float32 product
    np.testing.assert_allclose(single.density.values, double.density.values, atol=0.01 * double.density.values.max())


def test_same_seed_same_bits(digits_operator: Callable[[torch.dtype], HessianOperator]) -> None:
    first, again, other = (lanczos(digits_operator(torch.float32), 12, 2, seed) for seed in (0, 0, 1))
    for one, two in zip(first.quadrature, again.quadrature, strict=True):
        assert one.nodes.tobytes() == two.nodes.tobytes()
        assert one.weights.tobytes() == two.weights.tobytes()
    assert first.density.values.tobytes() == again.density.values.tobytes()
    assert first.trace == again.trace
    assert first.trace != other.trace


def test_full_runs_have_the_density_of_the_exact_spectrum(seeded: Seeded) -> None:
    """m = P steps: each probe's measure is exact, and the mean over probes tends to the eigenvalues' own."""
    matrix = random_symmetric(20, seeded(0))
    spectrum = lanczos(DenseOperator(matrix), 20, 400)
    eigenvalues = np.linalg.eigvalsh(matrix.numpy())
    for quadrature in spectrum.quadrature[:20]:
        np.testing.assert_allclose(quadrature.nodes, eigenvalues, atol=1e-12)
    smoothed = spectral_density([Quadrature(eigenvalues, np.full(20, 1 / 20))], 20, 64, 3.0)
    np.testing.assert_allclose(spectrum.density.grid, smoothed.grid, atol=1e-11)
    gap = np.abs(spectrum.density.values - smoothed.values)
    assert (gap < 5 * spectrum.density.standard_error + 1e-12).all()
    assert gap.max() < 0.1 * smoothed.values.max()


def test_standard_errors_shrink_with_probes(seeded: Seeded) -> None:
    operator = DenseOperator(random_symmetric(60, seeded(0)))
    few, many = lanczos(operator, 10, 20), lanczos(operator, 10, 320)
    assert 0.15 < many.trace.standard_error / few.trace.standard_error < 0.4
    ratio = many.density.standard_error.mean() / few.density.standard_error.mean()
    assert 0.15 < ratio < 0.4
    single = lanczos(operator, 10, 1)
    assert single.trace.standard_error is None
    assert single.density.standard_error is None


def test_trace_is_unbiased_and_its_error_bar_honest(seeded: Seeded) -> None:
    matrix = random_symmetric(30, seeded(0)) + torch.eye(30, dtype=F64)
    operator, exact = DenseOperator(matrix), float(matrix.trace())
    estimates = [lanczos(operator, 1, 50, seed).trace for seed in range(40)]
    scores = np.array([(each.value - exact) / each.standard_error for each in estimates])
    assert np.abs(scores).max() < 4
    assert abs(scores.mean()) < 4 / math.sqrt(40)
    assert 0.7 < scores.std() < 1.4


def test_trace_from_numbers() -> None:
    estimate = trace_estimate([1.0, 2.0, 6.0], 10)
    assert estimate.value == pytest.approx(30)
    assert estimate.standard_error == pytest.approx(10 * math.sqrt(7 / 3))
    with pytest.raises(InvalidProblemError):
        trace_estimate([], 10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("factor", [0.0, 1.0, -2.5])
def test_multiples_of_the_identity(factor: float, dtype: torch.dtype) -> None:
    spectrum = lanczos(DenseOperator(factor * torch.eye(9, dtype=dtype)), 6, 3, num_points=401)
    eps = torch.finfo(dtype).eps
    assert [len(each.nodes) for each in spectrum.quadrature] == [1, 1, 1]
    assert spectrum.num_products == 3
    assert spectrum.largest.value == pytest.approx(factor, abs=5 * eps)
    assert spectrum.smallest.value == pytest.approx(factor, abs=5 * eps)
    assert spectrum.trace.value == pytest.approx(9 * factor, abs=100 * eps)
    assert np.isfinite(spectrum.density.values).all()
    assert np.trapezoid(spectrum.density.values, spectrum.density.grid) == pytest.approx(1, abs=1e-4)


def test_one_parameter() -> None:
    spectrum = lanczos(DenseOperator(torch.tensor([[-4.0]], dtype=F64)), 10, 2)
    assert spectrum.largest.value == spectrum.smallest.value == -4
    assert spectrum.trace.value == pytest.approx(-4)
    assert spectrum.trace.standard_error == pytest.approx(0, abs=1e-14)
    assert exact_spectrum(DenseOperator(torch.tensor([[-4.0]], dtype=F64))).inertia.negative == 1


def test_more_steps_than_parameters_are_not_taken(seeded: Seeded) -> None:
    matrix = random_symmetric(6, seeded(0))
    spectrum = lanczos(DenseOperator(matrix), 50, 2)
    assert spectrum.num_products == 12
    for quadrature in spectrum.quadrature:
        np.testing.assert_allclose(quadrature.nodes, np.linalg.eigvalsh(matrix.numpy()), atol=1e-13)
        assert quadrature.weights.sum() == pytest.approx(1)
    assert spectrum.largest.residual < 1e-13


def test_probes_are_uniform_on_the_sphere(seeded: Seeded) -> None:
    generator = seeded(0)
    probes = torch.stack([sphere_probe(5, generator) for _ in range(4000)])
    torch.testing.assert_close(probes.norm(dim=1), torch.ones(4000, dtype=F64))
    torch.testing.assert_close(probes.T @ probes / 4000, torch.eye(5, dtype=F64) / 5, rtol=0, atol=0.02)


def test_a_sweep_stopped_anywhere_goes_on_to_the_same_bits(seeded: Seeded) -> None:
    operator = DenseOperator(random_symmetric(15, seeded(0)))
    whole = lanczos(operator, 7, 3)
    for stop in (1, 6, 7, 8, 20):
        sweep = start_sweep(operator, 7, 3, seeded(0))
        for _ in range(stop):
            advance_sweep(operator, sweep)
        assert sweep.num_products == stop
        generator = torch.Generator()
        generator.set_state(sweep.generator.get_state())
        resumed = copy.deepcopy({**vars(sweep), "generator": None})
        sweep = type(sweep)(**(resumed | {"generator": generator}))
        while not sweep.finished:
            advance_sweep(operator, sweep)
        found = summarise_sweep(operator, sweep, 64, 3.0)
        assert found.density.values.tobytes() == whole.density.values.tobytes()
        assert found.largest == whole.largest
        assert found.num_products == whole.num_products == 21


def test_progress_counts_products_and_may_cancel(seeded: Seeded) -> None:
    operator = DenseOperator(random_symmetric(9, seeded(0)))
    calls = []
    lanczos(operator, 4, 2, progress=lambda *call: calls.append(call))
    assert calls == [("products", done, 8) for done in range(1, 9)]
    calls.clear()
    lanczos(DenseOperator(torch.eye(9, dtype=F64)), 4, 2, progress=lambda *call: calls.append(call))
    assert calls == [("products", 4, 8), ("products", 8, 8)]
    calls.clear()
    exact_spectrum(operator, progress=lambda *call: calls.append(call))
    assert calls == [("products", 9, 9), ("eigenvalues", 1, 1)]

    def cancel(phase: str, done: int, total: int) -> None:
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        lanczos(operator, 4, 2, progress=cancel)


@pytest.mark.parametrize(
    "options",
    [
        {"num_steps": 0, "num_probes": 1},
        {"num_steps": 1, "num_probes": 0},
        {"num_steps": 1, "num_probes": 1, "kappa": 1.0},
        {"num_steps": 1, "num_probes": 1, "num_points": 1},
    ],
)
def test_bad_options_are_errors_before_any_product(options: Any) -> None:
    class Untouchable(DenseOperator):
        def matvec(self, vector: Tensor) -> Tensor:
            raise AssertionError("a product was spent")

    with pytest.raises(InvalidProblemError):
        lanczos(Untouchable(torch.eye(3, dtype=F64)), **options)
