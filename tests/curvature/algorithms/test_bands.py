"""Error bars: 95 % bands against exact spectra of real Hessians, over many seeds, and what they are made of."""

import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature, advance, start, tridiagonal
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import (
    DenseOperator,
    Tridiagonal,
    assemble,
    gauss_quadrature,
    sphere_probe,
)
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.quadrature.curves import Smoothing, cumulative_spectrum, log_spectral_density, spectral_density
from hessian_spectrum.quadrature.error_bands import compatible_rules, degree_limits, rules_through
from hessian_spectrum.quadrature.results import Band, FloatArray, Quadrature, Reorthogonalisation
from tests.fixtures.longer import long, pairs

F64, CPU = torch.float64, torch.device("cpu")
NUM_SEEDS, NUM_PROBES, NUM_STEPS, NUM_POINTS = 100, 4, 60, 128
KAPPA, LOG_KAPPA, LOG_EPSILON = 3.0, 1.04, 1e-5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hessian(widths: tuple[int, ...], activation: str, data: Dataset, *, loss: Loss) -> Tensor:
    model = Mlp(widths, activation)
    risk = EmpiricalRisk(model, loss, [data.to(F64, CPU)])
    return assemble(HessianOperator(risk, model.initial_parameters(seeded(0), F64, CPU)))


MODELS: dict[str, Callable[[], Tensor]] = {
    "tanh": lambda: hessian((64, 5, 10), "tanh", digits(100, seeded(1)), loss=CrossEntropy()),
    "relu": lambda: hessian(
        (10, 24, 5), "relu", gaussian(200, 10, 5, teacher="linear", noise=0.1, generator=seeded(1)), loss=Mse()
    ),
    "gelu": lambda: hessian(
        (16, 14, 8, 4), "gelu", gaussian(300, 16, 4, teacher="linear", noise=0.1, generator=seeded(1)), loss=Mse()
    ),
}


@cache
def eigenvalues(model: str) -> FloatArray:
    return torch.linalg.eigvalsh(MODELS[model]()).numpy()


def probes_of(
    exact: FloatArray, num_steps: int, seeds: range, *, num_probes: int = NUM_PROBES
) -> Iterator[list[Quadrature]]:
    """Quadratures of each seed, all seeds in one batch, as `lanczos` would give them.

    Probes are uniform on the sphere, so any basis will do: that of the eigenvectors.
    """
    values = torch.from_numpy(exact)
    generators = [seeded(seed) for seed in seeds]
    probes = torch.stack([sphere_probe(len(exact), each) for each in generators for _ in range(num_probes)])
    limit = min(num_steps, len(exact))
    basis = torch.zeros(len(probes), limit + 1, len(exact), dtype=F64)
    basis[:, 0] = probes
    diagonal, off = torch.zeros(2, len(probes), limit, dtype=F64)
    for step in range(limit):
        rest = values * basis[:, step]
        diagonal[:, step] = (rest * basis[:, step]).sum(dim=1)
        known = basis[:, : step + 1]
        for _ in range(2):
            overlaps = torch.bmm(known, rest[:, :, None])
            rest = rest - torch.bmm(overlaps.mT, known)[:, 0]
        off[:, step] = rest.norm(dim=1)
        basis[:, step + 1] = rest / off[:, step : step + 1]
    runs = [
        Tridiagonal(diagonal=a, off_diagonal=b[:-1], remainder=float(b[-1]), scale=1.0)
        for a, b in zip(diagonal, off, strict=True)
    ]
    for first in range(0, len(runs), num_probes):
        yield [gauss_quadrature(each) for each in runs[first : first + num_probes]]


def test_the_batch_is_what_lanczos_gives() -> None:
    exact = np.linspace(-1, 2, 30)
    operator = DenseOperator(torch.diag(torch.from_numpy(exact)))
    state = start(operator, [sphere_probe(30, seeded(7))], num_probes=1, num_steps=6)
    while not state.finished:
        advance(operator, state)
    expected = gauss_quadrature(tridiagonal(state))
    ((found,),) = probes_of(exact, 6, range(7, 8), num_probes=1)
    for name in ("nodes", "weights", "residuals"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)


def gaussians(grid: FloatArray, centres: FloatArray, num_steps: int, *, kappa: float) -> FloatArray:
    """Mean of Gaussians, of the density's width on this equidistant grid, at the exact eigenvalues."""
    width = (grid[-1] - grid[0]) / 2 * 2 / (num_steps - 1) / np.sqrt(8 * np.log(kappa))
    table = np.exp(-(((grid[:, None] - centres) / width) ** 2) / 2)
    return table.mean(axis=1) / (width * np.sqrt(2 * np.pi))


def share_covered(band: Band, exact: FloatArray) -> float:
    return float(((band.lower <= exact) & (exact <= band.upper)).mean())


@pytest.mark.parametrize("model", ["tanh", long("relu"), long("gelu")])
def test_bands_hold_the_exact_curves(model: str) -> None:
    """At 90 to 99 % of all points, over 100 seeds; the spread of four probes times 1.96 would hold 80 to 85 %."""
    exact = eigenvalues(model)
    dim = len(exact)
    assert 300 <= dim <= 700
    shares = []
    for quadratures in probes_of(exact, NUM_STEPS, range(NUM_SEEDS)):
        density = spectral_density(quadratures, dim=dim, num_steps=NUM_STEPS, num_points=NUM_POINTS, kappa=KAPPA)
        smoothed = gaussians(density.grid, exact, NUM_STEPS, kappa=KAPPA)
        cumulative = cumulative_spectrum(quadratures, dim=dim, num_points=NUM_POINTS)
        counted = np.searchsorted(exact, cumulative.grid, side="right") / dim
        assert (density.band.lower <= density.values).all()
        assert (density.values <= density.band.upper).all()
        shares.append((share_covered(density.band, smoothed), share_covered(cumulative.band, counted)))
    covered = np.mean(shares, axis=0)
    print(f"{model}: density {covered[0]:.3f}, cumulative {covered[1]:.3f}")
    assert (covered > 0.90).all()
    assert (covered < 0.99).all()


@pytest.mark.parametrize("num_probes", [1, 4])
def test_bands_of_the_log_density(num_probes: int) -> None:
    exact = eigenvalues("relu")
    logarithms = np.log(np.abs(exact) + LOG_EPSILON)
    shares = []
    for quadratures in probes_of(exact, NUM_STEPS, range(15), num_probes=num_probes):
        density = log_spectral_density(
            quadratures,
            dim=len(exact),
            num_steps=NUM_STEPS,
            num_points=NUM_POINTS,
            kappa=LOG_KAPPA,
            epsilon=LOG_EPSILON,
        )
        smoothed = gaussians(np.log(density.grid), logarithms, NUM_STEPS, kappa=LOG_KAPPA) / density.grid
        shares.append(share_covered(density.band, smoothed))
    assert 0.88 < np.mean(shares) < 0.995


class Diagonal(DenseOperator):
    """A diagonal matrix, whose products cost next to nothing."""

    def __init__(self, diagonal: FloatArray, dtype: torch.dtype) -> None:
        self._matrix = torch.from_numpy(diagonal).to(dtype)

    def matmat(self, matrix: Tensor) -> Tensor:
        return self._matrix.unsqueeze(1) * matrix


def log_density_of(exact: FloatArray, grid: FloatArray, num_steps: int) -> FloatArray:
    smoothed = gaussians(np.log(grid), np.log(np.abs(exact) + LOG_EPSILON), min(num_steps, len(exact)), kappa=LOG_KAPPA)
    return smoothed / grid


@pytest.mark.parametrize(
    ("num_steps", "dtype", "mode"), pairs([10, 20, 40], product([torch.float32, F64], ["full", "none"]))
)
def test_bands_of_a_bulk_far_below_its_outliers(num_steps: int, dtype: torch.dtype, mode: Reorthogonalisation) -> None:
    """Ghosts take steps from the bulk, and few steps leave it open: the four rules alone would hold 22 to 98 %."""
    exact = np.concatenate([np.geomspace(100, 1, 10), np.random.default_rng(0).normal(0, 0.01, 190)])
    operator, shares = Diagonal(exact, dtype), []
    for seed in range(16):
        found = run(
            StochasticLanczosQuadrature(num_steps, 4, Smoothing(NUM_POINTS, KAPPA), reorthogonalisation=mode),
            operator,
            generator=seeded(seed),
        )
        density, logarithmic, cumulative = found.density, found.log_density, found.cumulative
        shares.append(
            (
                share_covered(density.band, gaussians(density.grid, exact, num_steps, kappa=KAPPA)),
                share_covered(logarithmic.band, log_density_of(exact, logarithmic.grid, num_steps)),
                share_covered(cumulative.band, np.searchsorted(np.sort(exact), cumulative.grid, "right") / 200),
            )
        )
    assert (np.mean(shares, axis=0) > 0.92).all()


def test_what_lies_below_the_precision_of_the_products_is_in_the_band() -> None:
    """float64 resolves what float32 cannot: eigenvalues of 1 and 0.001 beside one of 10^7."""
    exact = np.concatenate([[1e7], np.full(150, 1e-3), np.ones(149)])
    known, unknown = (
        run(
            StochasticLanczosQuadrature(40, 4, Smoothing(NUM_POINTS, KAPPA)),
            Diagonal(exact, dtype),
            generator=seeded(0),
        ).log_density
        for dtype in (F64, torch.float32)
    )
    smoothed = log_density_of(exact, unknown.grid, 40)
    assert share_covered(unknown.band, smoothed) == 1
    middle = np.abs(np.log(unknown.grid)).argmin()  # at 1
    assert unknown.band.upper[middle] > 10 * unknown.band.lower[middle]
    assert share_covered(known.band, log_density_of(exact, known.grid, 40)) > 0.9


@pytest.mark.parametrize(
    ("counts", "dtype"), pairs([{0.0: 119, 5.0: 1}, {2.0: 120}, {-1.0: 60, 1.0: 60}], [torch.float32, F64])
)
def test_bands_of_few_distinct_eigenvalues(counts: dict[float, int], dtype: torch.dtype) -> None:
    """What one probe shows little of still has a height of its own, and its complement is no surer than itself."""
    exact, shares = np.repeat(list(counts), list(counts.values())), []
    for seed in range(60):
        found = run(
            StochasticLanczosQuadrature(10, 1, Smoothing(64, KAPPA)), Diagonal(exact, dtype), generator=seeded(seed)
        )
        density, logarithmic = found.density, found.log_density
        shares.append(
            (
                share_covered(density.band, gaussians(density.grid, exact, 10, kappa=KAPPA)),
                share_covered(logarithmic.band, log_density_of(exact, logarithmic.grid, 10)),
            )
        )
    assert (np.mean(shares, axis=0) > 0.9).all()


@pytest.mark.parametrize("num_steps", [10, 40])
def test_bands_say_where_the_steps_resolve_nothing(num_steps: int) -> None:
    """No gaps, and Gaussians narrower than the nodes' distance: the density is a comb, the exact one is flat."""
    dim = 3000
    exact = np.sort(np.sin(np.linspace(-1.5, 1.5, dim)))
    with_rules, without = [], []
    for quadratures in probes_of(exact, num_steps, range(3)):
        density = spectral_density(quadratures, dim=dim, num_steps=num_steps, num_points=NUM_POINTS, kappa=KAPPA)
        smoothed = gaussians(density.grid, exact, num_steps, kappa=KAPPA)
        with_rules.append(share_covered(density.band, smoothed))
        gauss_only = [Quadrature(each.nodes, each.weights) for each in quadratures]
        without.append(
            share_covered(
                spectral_density(gauss_only, dim=dim, num_steps=num_steps, num_points=NUM_POINTS, kappa=KAPPA).band,
                smoothed,
            )
        )
    assert np.mean(with_rules) > 0.95
    assert np.mean(without) < 0.7


def test_a_lone_eigenvalue_is_covered_as_often_as_promised() -> None:
    """Its weight is chi-square with one degree of freedom per probe; a normal interval would hold 75 % for one."""
    dim, num_seeds = 300, 400
    rng = np.random.default_rng(0)
    nodes = np.array([0.0, 1.0])
    for num_probes in (1, 2, 4):
        inside = []
        for _ in range(num_seeds):
            vectors = rng.normal(size=(num_probes, dim))
            weights = vectors[:, -1] ** 2 / (vectors**2).sum(axis=1)
            quadratures = [Quadrature(nodes, np.array([1 - weight, weight])) for weight in weights]
            band = cumulative_spectrum(quadratures, dim=dim, num_points=2).band
            middle = cumulative_spectrum(quadratures, dim=dim, num_points=3).band
            assert band.lower[0] == band.upper[0] == 0
            inside.append(middle.lower[1] <= 1 - 1 / dim <= middle.upper[1])
        assert 0.92 < np.mean(inside) < 0.98


@pytest.mark.parametrize("num_probes", [1, 5])
def test_standard_error_is_the_spread_over_seeds(num_probes: int) -> None:
    rng = np.random.default_rng(0)
    exact = np.sort(rng.normal(size=40))
    densities = []
    for _ in range(400):
        vectors = rng.normal(size=(num_probes, 40))
        weights = vectors**2 / (vectors**2).sum(axis=1, keepdims=True)
        densities.append(
            spectral_density(
                [Quadrature(exact, each) for each in weights], dim=40, num_steps=8, num_points=30, kappa=KAPPA
            )
        )
    spread = np.std([each.values for each in densities], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([each.standard_error**2 for each in densities], axis=0))
    np.testing.assert_allclose(claimed, spread, rtol=0.15)


@pytest.mark.parametrize("probability", [0.025, 0.975])
def test_degree_limits_against_scipy(probability: float) -> None:
    for nu in np.geomspace(0.02, 1e7, 60):
        quantile = np.array([chi2.ppf(probability, nu)])
        lower, upper = degree_limits(quantile)
        found = (upper if probability < 0.5 else lower) * quantile
        if quantile[0] > 1e-250:
            assert found[0] == pytest.approx(nu, rel=2e-3)


def test_degree_limits_at_the_ends() -> None:
    lower, upper = degree_limits(np.array([0.0, 1e-300, np.inf]))
    assert np.isfinite(lower).all()
    assert np.isfinite(upper).all()
    assert lower[2] == pytest.approx(1, abs=1e-4)
    assert upper[2] == pytest.approx(1, abs=1e-4)


def test_compatible_rules_have_the_moments_of_the_probe() -> None:
    exact = eigenvalues("relu")
    scale = np.abs(exact).max()
    (quadrature,) = next(probes_of(exact, 6, range(1), num_probes=1))
    weights = sphere_probe(len(exact), seeded(0)).numpy() ** 2
    rules = compatible_rules(quadrature)
    assert [len(rule.nodes) for rule in rules] == [6, 7, 7, 7]
    for rule in rules:
        for degree in range(12):
            moment = weights @ (exact / scale) ** degree
            assert rule.weights @ (rule.nodes / scale) ** degree == pytest.approx(moment, abs=1e-13)


def test_rules_through_places_have_the_moments_of_the_probe() -> None:
    exact = eigenvalues("relu")
    scale = np.abs(exact).max()
    (quadrature,) = next(probes_of(exact, 6, range(1), num_probes=1))
    weights = sphere_probe(len(exact), seeded(0)).numpy() ** 2
    places = scale * np.array([-0.05, 0.0, 1e-3, 0.2])
    rules = rules_through(quadrature, places, len(exact))
    assert len(rules) == 4
    for place, rule in zip(places, rules, strict=True):
        assert np.abs(rule.nodes - place).min() < 1e-12 * scale
        for degree in range(12):
            moment = weights @ (exact / scale) ** degree
            assert rule.weights @ (rule.nodes / scale) ** degree == pytest.approx(moment, abs=1e-12)
    assert rules_through(quadrature, np.array([1e9 * scale]), len(exact)) == ()


def test_an_invariant_subspace_has_one_rule() -> None:
    nodes, weights = np.arange(3.0), np.full(3, 1 / 3)
    assert len(compatible_rules(Quadrature(nodes, weights, np.zeros(3)))) == 1
    assert len(compatible_rules(Quadrature(nodes, weights))) == 1


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_rules_at_any_scale(factor: float) -> None:
    (quadrature,) = next(probes_of(np.linspace(-1, 1, 40), 6, range(1), num_probes=1))
    assert quadrature.residuals is not None
    scaled = Quadrature(quadrature.nodes * factor, quadrature.weights, quadrature.residuals * factor)
    for one, other in zip(compatible_rules(quadrature), compatible_rules(scaled), strict=True):
        np.testing.assert_allclose(other.nodes / factor, one.nodes, atol=1e-12)
        np.testing.assert_allclose(other.weights, one.weights, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 4, 12])
def test_cumulative_bands_of_few_eigenvalues(dim: int) -> None:
    exact = np.sort(np.random.default_rng(dim).standard_normal(dim))
    middles = (exact[1:] + exact[:-1]) / 2
    inside = []
    for quadratures in probes_of(exact, dim, range(60)):
        found = cumulative_spectrum(quadratures[:1], dim=dim, num_points=401)
        places = np.searchsorted(found.grid, middles)
        share = np.arange(1, dim) / dim
        inside.append((found.band.lower[places] <= share) & (share <= found.band.upper[places]))
    assert np.mean(inside) >= 0.92


def peak_bytes(step: Callable[[], object]) -> int:
    """Of the arrays that a step makes."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def unresolved(num_nodes: int) -> Quadrature:
    nodes = np.linspace(0, 1, num_nodes)
    return Quadrature(nodes, np.full(num_nodes, 1 / num_nodes), np.full(num_nodes, 1e-3), 1e-6)


def test_many_steps_and_many_probes_take_no_more_memory_than_they_need() -> None:
    long, places = unresolved(300), np.linspace(-0.5, 1.5, 9)
    assert peak_bytes(lambda: rules_through(long, places, 10**6)) < 6 * 8 * 300**2
    few, many = ([unresolved(40) for _ in range(count)] for count in (4, 60))
    one, other = (
        peak_bytes(partial(spectral_density, each, dim=10**6, num_steps=40, num_points=256, kappa=KAPPA))
        for each in (few, many)
    )
    assert other < 2 * one
