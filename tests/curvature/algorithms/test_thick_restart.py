"""Extreme eigenpairs against dense answers and ARPACK, with multiplicities, limits of memory and products."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from torch import Tensor

from hessian_spectrum.curvature.algorithms.ritz import Which
from hessian_spectrum.curvature.algorithms.subspace import SubspaceState
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import DenseOperator
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import FloatArray, TopEigenpairs
from tests.fixtures.longer import long, pairs

F64 = torch.float64
WHICH: tuple[Which, ...] = ("largest", "smallest", "both-ends", "magnitude")
TOLERANCE = 1e-9


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(eigenvalues: Sequence[float] | Tensor, seed: int = 0) -> Tensor:
    eigenvalues = torch.as_tensor(eigenvalues, dtype=F64)
    dim = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=seeded(seed), dtype=F64))
    matrix = basis * eigenvalues @ basis.T
    return (matrix + matrix.T) / 2


def wanted(exact: FloatArray, k: int, which: Which) -> FloatArray:
    descending = exact[::-1]
    if which == "largest":
        return descending[:k]
    if which == "smallest":
        return exact[:k]
    if which == "both-ends":
        upper = (k + 1) // 2
        return np.concatenate([descending[:upper], exact[: k - upper][::-1]])
    return descending[np.argsort(-np.abs(descending), kind="stable")][:k]


def check(matrix: Tensor, found: TopEigenpairs, which: Which, *, tolerance: float = 1e-8, eps: float = 2.3e-16) -> None:
    """Values against numpy, each with its multiplicity; residuals measured; vectors orthonormal."""
    dense = matrix.double().numpy()
    exact = np.linalg.eigvalsh(dense)
    scale, k = abs(exact).max(), len(found.eigenvalues)
    one, other = found.eigenvalues, wanted(exact, k, which)
    if which == "magnitude":  # the order of l and -l is arbitrary
        one, other = np.abs(one), np.abs(other)
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)
    vectors = found.eigenvectors.astype(np.float64)
    residuals = np.linalg.norm(vectors @ dense - found.eigenvalues[:, None] * vectors, axis=1)
    assert (residuals <= found.residuals * (1 + 1e-9) + 30 * eps * scale).all()
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), rtol=0, atol=300 * eps)


def random_model(seed: int) -> Tensor:
    """A bulk like that of a ReLU network: a few outliers, copies of them, +/- pairs, and a heap of zeros."""
    rng = np.random.default_rng(seed)
    outliers = rng.normal(size=rng.integers(1, 8)) * 5
    copies = np.repeat(rng.choice(outliers, 3), rng.integers(1, 6))
    pairs = rng.exponential(size=rng.integers(0, 20))
    bulk = rng.normal(size=rng.integers(5, 80)) * 0.3
    zeros = np.zeros(rng.integers(0, 100))
    block = np.full(rng.integers(0, 15), rng.normal())  # a block of the identity
    return symmetric(np.concatenate([outliers, copies, pairs, -pairs, bulk, zeros, block]), seed)


@pytest.mark.parametrize("seed", [*range(8), *map(long, range(8, 30))])
def test_random_models(seed: int) -> None:
    matrix = random_model(seed)
    for which in WHICH:
        k = min(int(np.random.default_rng(seed).integers(1, 25)), len(matrix))
        found = run(ThickRestartLanczos(k, which, TOLERANCE), DenseOperator(matrix), generator=seeded(seed))
        check(matrix, found, which)
        assert found.converged.all()


CASES = {
    "repeated": symmetric([5.0] * 7 + [3.0] * 12 + [1.0] * 20 + [0.0] * 100 + [-2.0] * 9),
    "identity": 2 * torch.eye(30, dtype=F64),
    "zero": torch.zeros(30, 30, dtype=F64),
    "low rank": symmetric([3.0, 2.0, 2.0, -1.0] + [0.0] * 60),
    "pairs": symmetric([s * x for x in (4.0, 3.0, 2.0) for s in (1, -1) for _ in range(3)] + [0.0] * 40),
    "nearly equal": symmetric([1.0 + 1e-10 * j for j in range(8)] + [0.5] * 30),
    "one": torch.full((1, 1), -3.0, dtype=F64),
    "two": symmetric([1.0, -1.0]),
}


@pytest.mark.parametrize(("case", "which"), pairs(CASES, WHICH))
def test_degenerate_spectra(case: str, which: Which) -> None:
    matrix = CASES[case]
    for k in {1, 2, min(8, len(matrix)), min(25, len(matrix)), len(matrix)}:
        if k <= len(matrix):
            found = run(ThickRestartLanczos(k, which, TOLERANCE), DenseOperator(matrix), generator=seeded(0))
            check(matrix, found, which)
            assert found.converged.all()


@pytest.mark.parametrize(("case", "which"), pairs(CASES, WHICH))
def test_degenerate_spectra_one_vector_at_a_time(case: str, which: Which, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hessian_spectrum.planning.work.TOP_K_SINGLE_DIM", 1)
    matrix = CASES[case]
    for k in {1, 2, min(8, len(matrix)), len(matrix)}:
        if k <= len(matrix):
            method, operator = ThickRestartLanczos(k, which, TOLERANCE), DenseOperator(matrix)
            assert method.init(operator, generator=seeded(0)).block_size == 1
            found = run(method, operator, generator=seeded(0))
            check(matrix, found, which)
            assert found.converged.all()


@pytest.mark.parametrize(("which", "name"), [("largest", "LA"), ("smallest", "SA"), ("magnitude", "LM")])
def test_against_arpack(which: Which, name: str) -> None:
    matrix = symmetric(torch.randn(300, generator=seeded(0), dtype=F64))
    found = run(ThickRestartLanczos(12, which, TOLERANCE), DenseOperator(matrix), generator=seeded(0))
    expected, vectors = eigsh(matrix.numpy(), 12, which=name)
    np.testing.assert_allclose(np.sort(found.eigenvalues), np.sort(expected), atol=1e-11)
    overlap = np.abs(found.eigenvectors @ vectors).max(axis=1)
    np.testing.assert_allclose(overlap, 1, atol=1e-9)
    assert found.num_products < 600


@settings(max_examples=40, deadline=None)
@given(
    dim=st.integers(1, 25),
    values=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]), min_size=25, max_size=25),
    which=st.sampled_from(WHICH),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_few_distinct_values(dim: int, values: list[float], which: Which, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, dim))
    matrix = symmetric(values[:dim], seed)
    check(matrix, run(ThickRestartLanczos(k, which, TOLERANCE), DenseOperator(matrix), generator=seeded(seed)), which)


@pytest.mark.parametrize("vectors", [9, 14, 30])
def test_little_memory(vectors: int) -> None:
    matrix = symmetric([3.0, 2.5, 2.0, 2.0] + [1 - j / 100 for j in range(96)])
    memory = vectors * 100 * 8
    method = ThickRestartLanczos(4, "largest", TOLERANCE, memory_bytes=memory)
    state = method.init(DenseOperator(matrix), generator=seeded(0))
    assert (len(state.basis) + state.block_size) * 100 * 8 <= memory
    check(
        matrix,
        run(method, DenseOperator(matrix), generator=seeded(0)),
        "largest",
    )


@pytest.mark.parametrize("factor", [1e-200, 1e-9, 1e200])
def test_the_unit_does_not_matter(factor: float) -> None:
    matrix = random_model(0)
    plain, scaled = (
        run(ThickRestartLanczos(6, "magnitude", TOLERANCE), DenseOperator(each), generator=seeded(0))
        for each in (matrix, matrix * factor)
    )
    assert scaled.converged.all()
    np.testing.assert_allclose(np.abs(scaled.eigenvalues) / factor, np.abs(plain.eigenvalues), rtol=1e-12)


def test_float32_says_what_it_cannot_do() -> None:
    matrix = symmetric(torch.linspace(-1, 1, 80, dtype=F64) ** 3).float()
    found = run(ThickRestartLanczos(5, "largest", 1e-9), DenseOperator(matrix), generator=seeded(0))
    assert not found.converged.any()
    assert found.eigenvectors.dtype == np.float32
    check(matrix, found, "largest", tolerance=2e-6, eps=1.2e-7)
    assert run(ThickRestartLanczos(5, "largest", 1e-5), DenseOperator(matrix), generator=seeded(0)).converged.all()


def test_what_has_not_converged_says_so() -> None:
    matrix = symmetric(torch.linspace(-1, 1, 300, dtype=F64))
    found = run(
        ThickRestartLanczos(10, "largest", TOLERANCE, max_products=40), DenseOperator(matrix), generator=seeded(0)
    )
    assert found.num_products <= 40
    assert not found.converged.all()
    check(matrix, found, "largest", tolerance=1.0)
    exact = np.linalg.eigvalsh(matrix.numpy())
    for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
        assert np.abs(exact - value).min() <= residual


def test_same_generator_same_bits_and_a_copy_goes_on() -> None:
    operator = DenseOperator(random_model(3))
    method = ThickRestartLanczos(7, "both-ends", TOLERANCE)
    whole = run(method, operator, generator=seeded(0))
    for stop in (1, 5, 12, 17):
        state = method.init(operator, generator=seeded(0))
        for _ in range(stop):
            if not method.is_finished(state):
                state = method.step(operator, state)
        generator = torch.Generator()
        generator.set_state(state.generator.get_state())
        copied = copy.deepcopy({**vars(state), "generator": None})
        state = SubspaceState(**(copied | {"generator": generator}))
        while not method.is_finished(state):
            state = method.step(operator, state)
        found = method.result(operator, state)
        assert found.eigenvalues.tobytes() == whole.eigenvalues.tobytes()
        assert found.eigenvectors.tobytes() == whole.eigenvectors.tobytes()


def test_progress_counts_products() -> None:
    calls = []
    found = run(
        ThickRestartLanczos(3, "largest", TOLERANCE),
        DenseOperator(random_model(1)),
        generator=seeded(0),
        progress=lambda *call: calls.append(call),
    )
    assert calls[0] == ("products", 3, 1000)
    assert all(phase == "products" for phase, _, _ in calls)
    assert calls[-1][1] <= found.num_products


def test_bad_options_are_errors() -> None:
    operator = DenseOperator(torch.eye(9, dtype=F64))
    for k in (0, 10):
        with pytest.raises(InvalidProblemError):
            run(ThickRestartLanczos(k, "largest", TOLERANCE), operator, generator=seeded(0))
    for options in ({"max_products": 1}, {"memory_bytes": 5 * 9 * 8}):
        with pytest.raises(InvalidProblemError):
            run(ThickRestartLanczos(3, "largest", TOLERANCE, **options), operator, generator=seeded(0))
    with pytest.raises(InvalidProblemError):
        run(ThickRestartLanczos(3, "largest", math.nan), operator, generator=seeded(0))
    with pytest.raises(NonFiniteError):
        run(
            ThickRestartLanczos(1, "largest", TOLERANCE),
            DenseOperator(torch.full((3, 3), math.inf, dtype=F64)),
            generator=seeded(0),
        )


def wide_spectrum() -> Tensor:
    """Large eigenvalues, a bulk over three orders of magnitude beside zero, and what is asked for beyond the bulk."""
    bulk = torch.logspace(-6, -3, 196, dtype=F64)
    return torch.cat([torch.tensor([1e4, 1e3], dtype=F64), bulk, torch.tensor([-0.01, -0.02], dtype=F64)])


def check_intervals(found: TopEigenpairs, exact: FloatArray, *, error: float, every: FloatArray | None = None) -> None:
    """Every wanted eigenvalue lies in its interval, up to the error of `exact`; reasons stand where they belong.

    Of `every` eigenvalue the wanted ones are those of the largest magnitude: all that are equally large but for the
    error may be the wanted one.
    """
    for interval, value, right, converged in zip(
        found.intervals, found.eigenvalues, exact, found.converged, strict=True
    ):
        lower = -math.inf if interval.lower is None else interval.lower
        upper = math.inf if interval.upper is None else interval.upper
        assert lower <= value <= upper
        equal = np.asarray([right]) if every is None else every[np.abs(np.abs(every) - np.abs(right)) <= error]
        assert ((lower - error <= equal) & (equal <= upper + error)).any()
        assert (interval.why is None) == bool(converged)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_lies_far_below_the_norm_is_found(seed: int, rotated: bool) -> None:
    spectrum = wide_spectrum()
    matrix = symmetric(spectrum, seed) if rotated else torch.diag(spectrum)
    lowest = run(ThickRestartLanczos(2, "smallest", 1e-5), DenseOperator(matrix), generator=seeded(seed))
    assert lowest.converged.all()
    np.testing.assert_allclose(lowest.eigenvalues, [-0.02, -0.01], atol=2e-7)
    highest = run(ThickRestartLanczos(2, "largest", 1e-5), DenseOperator(-matrix), generator=seeded(seed))
    assert highest.converged.all()
    np.testing.assert_allclose(highest.eigenvalues, [0.02, 0.01], atol=2e-7)
    for found, exact in ((lowest, [-0.02, -0.01]), (highest, [0.02, 0.01])):
        check_intervals(found, np.asarray(exact), error=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_float32_does_not_call_found_what_its_products_cannot_tell(seed: int) -> None:
    found = run(
        ThickRestartLanczos(2, "smallest", 1e-5),
        DenseOperator(symmetric(wide_spectrum(), seed).float()),
        generator=seeded(seed),
    )
    assert not found.converged.any()
    for interval, exact in zip(found.intervals, (-0.02, -0.01), strict=True):
        assert interval.lower is not None
        assert interval.upper is not None
        assert interval.lower <= exact <= interval.upper
        assert interval.why is not None
        assert "error of the products" in interval.why


def test_an_absolute_tolerance_is_enough() -> None:
    matrix = torch.diag(torch.cat([torch.logspace(0, 4, 40, dtype=F64), torch.zeros(60, dtype=F64)]))
    operator = DenseOperator(matrix)
    zeros = run(ThickRestartLanczos(3, "smallest", 1e-5), operator, generator=seeded(0))
    assert not zeros.converged.any()
    assert all(interval.why and "absolute_tolerance" in interval.why for interval in zeros.intervals)
    allowed = run(ThickRestartLanczos(3, "smallest", 1e-5, absolute_tolerance=1e-6), operator, generator=seeded(0))
    assert allowed.converged.all()
    np.testing.assert_allclose(allowed.eigenvalues, 0, atol=1e-6)
    for tolerance in (-1.0, math.nan, math.inf):
        with pytest.raises(InvalidProblemError):
            run(ThickRestartLanczos(3, "smallest", 1e-5, absolute_tolerance=tolerance), operator, generator=seeded(0))


def test_what_has_converged_is_known_to_be_right_where_the_rest_has_not() -> None:
    spectrum = torch.cat([torch.tensor([3.0, 2.0], dtype=F64), 1 - torch.linspace(0, 1, 298, dtype=F64) ** 3])
    found = run(
        ThickRestartLanczos(4, "largest", 1e-9, max_products=300),
        DenseOperator(torch.diag(spectrum)),
        generator=seeded(0),
    )
    assert found.converged.tolist() == [True, True, False, False]
    assert all("max_products" in (interval.why or "") for interval in found.intervals[2:])
    check_intervals(found, np.asarray([3.0, 2.0, 1.0, 1.0]), error=1e-7)


def nasty_spectrum(kind: str, rng: np.random.Generator, dim: int = 90) -> FloatArray:
    """Of wide range, with clusters at its end, with its end near zero, or with an end that hardly any vector has."""
    match kind:
        case "wide":
            return rng.choice([-1, 1], dim) * 10.0 ** rng.uniform(-8, 8, dim)
        case "positive":
            return 10.0 ** rng.uniform(-8, 8, dim)
        case "below a bulk":
            return np.concatenate([10.0 ** rng.uniform(0, 6, 5), rng.normal(size=dim - 8) / 1e3, -rng.uniform(size=3)])
        case "clusters":
            return np.concatenate([1 - 10.0 ** rng.uniform(-7, -3, 10), rng.uniform(-0.5, 0.9, dim - 10)])
        case "near zero":
            return np.concatenate(
                [10.0 ** rng.uniform(-2, 4, 20), np.zeros(dim - 23), -(10.0 ** rng.uniform(-9, -4, 3))]
            )
        case _:
            return np.append(np.linspace(0, 1, dim - 1), 1 + 10.0 ** rng.uniform(-4, 0))


NASTY = ("wide", "positive", "below a bulk", "clusters", "near zero", "a hidden end")


def check_nasty(kind: str, seed: int, counts: Sequence[int]) -> None:
    exact = np.sort(nasty_spectrum(kind, np.random.default_rng(seed)))
    operator, error = DenseOperator(torch.diag(torch.from_numpy(exact))), 1e-15 * np.abs(exact).max()
    for which in WHICH:
        for k in counts:
            found = run(ThickRestartLanczos(k, which, 1e-5, max_products=120), operator, generator=seeded(seed))
            right = wanted(exact, k, which)
            one, other = (found.eigenvalues, right) if which != "magnitude" else map(np.abs, (found.eigenvalues, right))
            scale = np.full(k, np.abs(right).max())
            if which == "both-ends" and k > 1:
                upper = (k + 1) // 2
                scale[:upper], scale[upper:] = np.abs(right[:upper]).max(), np.abs(right[upper:]).max()
            off = np.abs(one - other) > 1e-5 * scale + error
            assert not (off & found.converged).any(), (kind, seed, which, k)
            check_intervals(found, right, error=error, every=exact if which == "magnitude" else None)


@pytest.mark.parametrize("kind", NASTY)
def test_what_is_called_converged_is_what_was_asked_for(kind: str) -> None:
    check_nasty(kind, 0, (1, 3))


@pytest.mark.long
@pytest.mark.parametrize("kind", NASTY)
def test_what_is_called_converged_is_what_was_asked_for_over_many_seeds(kind: str) -> None:
    for seed in range(1, 9):
        check_nasty(kind, seed, (1, 2, 5))


def nearly_opposite(rng: np.random.Generator, tolerance: float) -> FloatArray:
    """Pairs of d and -d (1 - delta) with delta about the tolerance, in a bulk that is smaller or as large."""
    count = int(rng.integers(1, 6))
    tops = (1 + rng.exponential(size=count)) * rng.choice([1, -1], count)
    deltas = tolerance * 10 ** rng.uniform(-2, 1, count) * rng.choice([1, -1], count)
    bulk = rng.uniform(-1, 1, int(rng.integers(10, 60))) * rng.choice([0.8, 1.5])
    return np.concatenate([tops, -tops * (1 - deltas), bulk])


@pytest.mark.parametrize("seed", [0, 1, *map(long, range(2, 8))])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_by_magnitude_every_interval_has_the_wanted_eigenvalue_whatever_its_sign(seed: int, dtype: torch.dtype) -> None:
    """Nearly equal magnitudes of both signs, with and without enough products."""
    rng = np.random.default_rng(seed)
    for _ in range(10):
        tolerance = 10.0 ** rng.integers(-5, 0)
        spectrum = nearly_opposite(rng, tolerance)
        k = int(rng.integers(1, 11))
        limit = None if rng.random() < 0.5 else int(rng.integers(2 * k + 1, 80))
        matrix = symmetric(spectrum.tolist(), seed).to(dtype)
        method = ThickRestartLanczos(k, "magnitude", tolerance, max_products=limit)
        found = run(method, DenseOperator(matrix), generator=seeded(seed))
        every = np.linalg.eigvalsh(matrix.double().numpy())
        error = 30 * float(torch.finfo(dtype).eps) * np.abs(every).max()
        check_intervals(found, wanted(every, k, "magnitude"), error=error, every=every)


def test_by_magnitude_an_interval_has_both_signs_only_where_neither_is_excluded() -> None:
    """Of 1 and -0.999 either may be the largest with a tolerance of 0.02; a dense part beyond the last is no reason."""
    bulk = np.linspace(-0.3, 0.3, 200)
    for spectrum, k, tolerance, is_excluded in (
        ([1.0, -0.999], 1, 0.02, False),
        ([1.0, -0.999], 2, 1e-5, True),
        ([1.0], 1, 0.02, True),
        ([-1.0], 1, 0.02, True),
        ([1.0, -0.9, 0.8, *(0.8 - 1e-4 * np.arange(1, 40))], 3, 1e-2, True),
    ):
        matrix = symmetric([*spectrum, *bulk])
        found = run(ThickRestartLanczos(k, "magnitude", tolerance), DenseOperator(matrix), generator=seeded(0))
        assert found.converged.all()
        for interval in found.intervals:
            assert interval.lower is not None
            assert interval.upper is not None
            assert (interval.lower * interval.upper > 0) == is_excluded
            assert not is_excluded or interval.upper - interval.lower <= 2 * tolerance
