"""Stochastic Lanczos quadrature against exact spectra; groups of probes, their memory, and where they stop."""

import copy
import math
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hessian_spectrum.curvature.algorithms.lanczos import (
    SLQState,
    StochasticLanczosQuadrature,
    lockstep,
)
from hessian_spectrum.curvature.iteration import iterates, last_state, run
from hessian_spectrum.curvature.linear_algebra import DenseOperator, SymmetricOperator, sphere_probe
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.planning.work import probe_bytes
from hessian_spectrum.quadrature.curves import Smoothing, cumulative_spectrum, spectral_density
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import ExactSpectrum, LanczosSpectrum, Quadrature, Reorthogonalisation

Seeded = Callable[[int], torch.Generator]

F64 = torch.float64


def random_symmetric(dim: int, generator: torch.Generator, dtype: torch.dtype = F64) -> Tensor:
    matrix = torch.randn(dim, dim, generator=generator, dtype=F64)
    return ((matrix + matrix.T) / 2).to(dtype)


def lanczos(
    operator: SymmetricOperator, num_steps: int, num_probes: int, *, seed: int = 0, **options: Any
) -> LanczosSpectrum:
    generator = torch.Generator().manual_seed(seed)
    curves = {
        name: options.pop(name)
        for name in ("num_points", "kappa", "margin", "log_kappa", "log_epsilon")
        if name in options
    }
    smoothing = Smoothing(**({"num_points": 64, "kappa": 3.0} | curves))
    rest = {name: options.pop(name) for name in ("progress", "checkpointer") if name in options}
    method = StochasticLanczosQuadrature(num_steps, num_probes, smoothing, **options)
    return run(method, operator, generator=generator, **rest)


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


def test_not_finite_products_are_errors() -> None:
    with pytest.raises(NonFiniteError):
        lanczos(DenseOperator(torch.full((3, 3), math.inf, dtype=F64)), 2, 1)


def test_same_seed_same_bits(digits_operator: Callable[[torch.dtype], HessianOperator]) -> None:
    first, again, other = (lanczos(digits_operator(torch.float32), 12, 2, seed=seed) for seed in (0, 0, 1))
    for one, two in zip(first.quadrature, again.quadrature, strict=True):
        assert one.nodes.tobytes() == two.nodes.tobytes()
        assert one.weights.tobytes() == two.weights.tobytes()
    assert first.density.values.tobytes() == again.density.values.tobytes()
    assert first.trace == again.trace
    assert first.trace != other.trace


def test_full_runs_have_the_density_of_the_exact_spectrum(seeded: Seeded) -> None:
    """m = P steps: each probe's measure is exact, and the mean over probes tends to the eigenvalues' own."""
    matrix = random_symmetric(20, seeded(0))
    spectrum = lanczos(DenseOperator(matrix), 20, 200)
    eigenvalues = np.linalg.eigvalsh(matrix.numpy())
    for quadrature in spectrum.quadrature[:20]:
        np.testing.assert_allclose(quadrature.nodes, eigenvalues, atol=1e-12)
    smoothed = spectral_density(
        [Quadrature(eigenvalues, np.full(20, 1 / 20))], dim=20, num_steps=20, num_points=64, kappa=3.0
    )
    np.testing.assert_allclose(spectrum.density.grid, smoothed.grid, atol=1e-11)
    gap = np.abs(spectrum.density.values - smoothed.values)
    assert (gap < 5 * spectrum.density.standard_error + 1e-12).all()
    assert gap.max() < 0.15 * smoothed.values.max()


def test_interim_bands_and_intervals_hold_the_exact_spectrum(seeded: Seeded) -> None:
    """At every step of every group the cumulative spectrum and its largest eigenvalue lie within what is stated."""
    matrix = random_symmetric(40, seeded(0))
    operator, eigenvalues = DenseOperator(matrix), np.linalg.eigvalsh(matrix.numpy())
    memory = 4 * probe_bytes(40, 12, itemsize=8, reorthogonalisation="full")
    method = StochasticLanczosQuadrature(12, 12, Smoothing(64, 3.0), memory_bytes=memory)
    shares, ends = list[float](), list[bool]()
    for seed in range(5):
        widths: dict[int, float] = {}
        for state in iterates(method, operator, generator=seeded(seed)):
            found = method.interim(operator, [state])
            if found is None:
                assert state.num_products <= 8
                continue
            band = found.cumulative.band
            exact = np.array([np.mean(eigenvalues <= point) for point in found.cumulative.grid])
            shares.append(float(np.mean((band.lower <= exact) & (exact <= band.upper))))
            upper = found.largest.interval.upper
            ends.append(upper is None or upper >= eigenvalues[-1])
            if state.current is None:
                widths[len(state.tridiagonals)] = float(np.mean(band.upper - band.lower))
        assert widths[4] > widths[8] > widths[12]
    assert np.mean(shares) > 0.95
    assert np.mean(ends) > 0.95


def test_an_interim_result_of_many_steps_and_probes_costs_little(seeded: Seeded) -> None:
    """Of 200 probes with 160 steps those are shown that a run of 128 steps with 16 probes has, up to rounding."""
    operator = DenseOperator(random_symmetric(170, seeded(0)))
    method = StochasticLanczosQuadrature(160, 200, Smoothing(1024, 3.0))
    found = method.interim(operator, [last_state(method, operator, generator=seeded(1))])
    assert found is not None
    expected = lanczos(operator, 128, 16, seed=1, num_points=512)
    for one, other in zip(found.quadrature, expected.quadrature, strict=True):
        np.testing.assert_allclose(one.nodes, other.nodes, rtol=0, atol=1e-12 * other.nodes.max())
        np.testing.assert_allclose(one.residuals, other.residuals, rtol=0, atol=1e-9 * other.nodes.max())
    np.testing.assert_allclose(found.density.values, expected.density.values, rtol=0, atol=1e-9)
    assert found.num_products == 128 * 16


def test_standard_errors_shrink_with_probes(seeded: Seeded) -> None:
    operator = DenseOperator(random_symmetric(60, seeded(0)))
    few, many = lanczos(operator, 10, 20), lanczos(operator, 10, 320)
    assert 0.15 < many.trace.standard_error / few.trace.standard_error < 0.4
    ratio = many.density.standard_error.mean() / few.density.standard_error.mean()
    assert 0.15 < ratio < 0.4
    single = lanczos(operator, 10, 1)
    assert single.trace.standard_error == pytest.approx(math.sqrt(20) * few.trace.standard_error, rel=0.3)


@pytest.mark.parametrize("num_probes", [1, 4])
def test_trace_and_frobenius_are_unbiased_and_their_error_bars_honest(num_probes: int, seeded: Seeded) -> None:
    matrix = random_symmetric(30, seeded(0)) + torch.eye(30, dtype=F64)
    operator = DenseOperator(matrix)
    found = [lanczos(operator, 4, num_probes, seed=seed, num_points=2) for seed in range(100)]
    for name, exact in (("trace", float(matrix.trace())), ("frobenius", float(matrix.norm()))):
        estimates = [getattr(each, name) for each in found]
        scores = np.array([(each.value - exact) / each.standard_error for each in estimates])
        assert abs(scores.mean()) < 0.4
        assert 0.8 < scores.std() < 1.25
        assert (np.abs(scores) < 1.96).mean() >= 0.88


@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_moments_are_those_of_the_probes(num_steps: int, seeded: Seeded) -> None:
    matrix = random_symmetric(20, seeded(0))
    spectrum = lanczos(DenseOperator(matrix), num_steps, 3, seed=5)
    generator = seeded(5)
    probes = torch.stack([sphere_probe(20, generator) for _ in range(3)])
    assert spectrum.trace.value == pytest.approx(20 * float(((probes @ matrix) * probes).sum()) / 3)
    assert spectrum.frobenius.value == pytest.approx(math.sqrt(20 * float((probes @ matrix).square().sum()) / 3))


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_every_number_scales_with_the_operator(factor: float, seeded: Seeded) -> None:
    matrix = random_symmetric(20, seeded(0))
    plain, scaled = lanczos(DenseOperator(matrix), 8, 3), lanczos(DenseOperator(matrix * factor), 8, 3)
    for name in ("trace", "frobenius"):
        one, other = getattr(plain, name), getattr(scaled, name)
        assert other.value == pytest.approx(one.value * factor, abs=1e-9 * factor)
        assert other.standard_error == pytest.approx(one.standard_error * factor, rel=1e-9)
    for name in ("largest", "smallest"):
        assert getattr(scaled, name).residual == pytest.approx(getattr(plain, name).residual * factor, rel=1e-6)
    np.testing.assert_allclose(scaled.density.grid / factor, plain.density.grid, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scaled.density.values * factor, plain.density.values, rtol=0, atol=1e-9)
    np.testing.assert_allclose(scaled.density.band.upper * factor, plain.density.band.upper, rtol=0, atol=1e-8)
    np.testing.assert_allclose(scaled.cumulative.band.upper, plain.cumulative.band.upper, rtol=0, atol=1e-9)


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


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("memory_vectors", [9, 20, None])
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(
    mode: Reorthogonalisation, memory_vectors: int | None, seeded: Seeded
) -> None:
    operator = DenseOperator(random_symmetric(15, seeded(0)))
    memory = None if memory_vectors is None else memory_vectors * 15 * 8

    method = StochasticLanczosQuadrature(7, 3, Smoothing(64, 3.0), reorthogonalisation=mode, memory_bytes=memory)

    def fresh() -> SLQState:
        return method.init(operator, generator=seeded(0))

    def finish(state: SLQState) -> LanczosSpectrum:
        while not method.is_finished(state):
            state = method.step(operator, state)
        return method.result(operator, state)

    whole = finish(fresh())
    for stop in (1, 6, 7):
        state = fresh()
        for _ in range(stop):
            state = method.step(operator, state)
        generator = torch.Generator()
        generator.set_state(state.generator.get_state())
        resumed = copy.deepcopy({**vars(state), "generator": None})
        found = finish(SLQState(**(resumed | {"generator": generator})))
        assert found.density.values.tobytes() == whole.density.values.tobytes()
        assert found.largest == whole.largest
        assert found.num_products == whole.num_products == 21


def test_groups_do_not_change_the_result(seeded: Seeded) -> None:
    operator = DenseOperator(random_symmetric(25, seeded(0)))
    together = lanczos(operator, 9, 5)
    for size in (1, 2, 4):
        alone = lanczos(operator, 9, 5, memory_bytes=size * 11 * 25 * 8)
        assert alone.reorthogonalisation == "full"
        for one, other in zip(together.quadrature, alone.quadrature, strict=True):
            np.testing.assert_allclose(one.nodes, other.nodes, rtol=0, atol=1e-11)
            np.testing.assert_allclose(one.weights, other.weights, rtol=0, atol=1e-11)


def test_memory_decides_how_probes_run() -> None:
    assert lockstep(100, 9, 8, itemsize=4, reorthogonalisation=None, memory_bytes=None) == ("full", 8)
    assert lockstep(100, 9, 8, itemsize=4, reorthogonalisation="none", memory_bytes=None) == ("none", 8)
    assert lockstep(100, 9, 8, itemsize=4, reorthogonalisation=None, memory_bytes=11 * 400) == ("full", 1)
    assert lockstep(100, 9, 8, itemsize=4, reorthogonalisation=None, memory_bytes=11 * 400 - 1) == ("none", 3)
    assert lockstep(100, 9, 8, itemsize=4, reorthogonalisation="none", memory_bytes=300 * 400) == ("none", 8)
    for mode, memory in ((None, 3 * 400 - 1), ("full", 11 * 400 - 1)):
        with pytest.raises(InvalidProblemError):
            lockstep(100, 9, 8, itemsize=4, reorthogonalisation=mode, memory_bytes=memory)


class Diagonal(SymmetricOperator):
    """A matrix that is large, and takes no memory beside its products."""

    dim, dtype, device = 2**17, torch.float64, torch.device("cpu")

    def matvec(self, vector: Tensor) -> Tensor:
        return self.matmat(vector[:, None])[:, 0]

    def matmat(self, matrix: Tensor) -> Tensor:
        product = torch.empty_like(matrix)
        for start in range(0, self.dim, 2**12):
            numbers = torch.arange(start, start + 2**12, dtype=F64).sin()
            product[start : start + 2**12] = numbers[:, None] * matrix[start : start + 2**12]
        return product


class PeakVectors(TorchDispatchMode):
    """Most bytes that tensors of at least half a vector's size held at once, in vectors."""

    def __init__(self, vector_bytes: int) -> None:
        super().__init__()
        self.vector_bytes, self.alive, self.peak = vector_bytes, 0, 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.note(tensor.untyped_storage())
        return result

    def note(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), storage._cdata
        if size < self.vector_bytes / 2 or key in self.seen:
            return
        self.seen.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.forget, size, key)

    def forget(self, size: int, key: int) -> None:
        self.alive -= size
        self.seen.discard(key)


@pytest.mark.parametrize(
    ("mode", "num_steps", "num_probes", "vectors"),
    [
        ("none", 4, 1, 3),
        ("none", 16, 1, 3),
        ("none", 8, 3, 9),
        ("full", 4, 1, 6),
        ("full", 16, 1, 18),
        ("full", 4, 2, 12),
    ],
)
def test_parameter_sized_vectors_are_counted(
    mode: Reorthogonalisation, num_steps: int, num_probes: int, vectors: int
) -> None:
    operator = Diagonal()
    vector_bytes = operator.dim * 8
    assert (
        num_probes * probe_bytes(operator.dim, num_steps, itemsize=8, reorthogonalisation=mode)
        == vectors * vector_bytes
    )
    with PeakVectors(vector_bytes) as counted:
        lanczos(operator, num_steps, num_probes, num_points=2_000, reorthogonalisation=mode)
    assert counted.peak <= (vectors + 0.2) * vector_bytes
    assert counted.alive == 0


def test_smoothing_takes_no_memory_per_node_and_point() -> None:
    """A table of the exponentials of one probe would take 100 numbers a point."""
    rng = np.random.default_rng(0)
    probes = [Quadrature(np.sort(rng.normal(size=100)), np.full(100, 1 / 100)) for _ in range(2)]
    tracemalloc.start()
    spectral_density(probes, dim=10**6, num_steps=100, num_points=100_000, kappa=3.0)
    cumulative_spectrum(probes, dim=10**6, num_points=100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 100_000 * 8


def test_progress_counts_products_and_may_cancel(seeded: Seeded) -> None:
    operator = DenseOperator(random_symmetric(9, seeded(0)))
    calls = []
    lanczos(operator, 4, 2, progress=lambda *call: calls.append(call))
    assert calls == [("products", done, 8) for done in (2, 4, 6, 8)]
    calls.clear()
    lanczos(DenseOperator(torch.eye(9, dtype=F64)), 4, 2, progress=lambda *call: calls.append(call))
    assert calls == [("products", 8, 8)]

    def cancel(phase: str, done: int, total: int) -> None:
        if done == 4:
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
        {"num_steps": 1, "num_probes": 1, "margin": -0.1},
        {"num_steps": 1, "num_probes": 1, "log_kappa": 1.0},
        {"num_steps": 1, "num_probes": 1, "log_epsilon": 0.0},
        {"num_steps": 1, "num_probes": 1, "memory_bytes": 10},
    ],
)
def test_bad_options_are_errors_before_any_product(options: Any) -> None:
    class Untouchable(DenseOperator):
        def matmat(self, matrix: Tensor) -> Tensor:
            raise AssertionError("a product was spent")

    with pytest.raises(InvalidProblemError):
        lanczos(Untouchable(torch.eye(3, dtype=F64)), **options)
