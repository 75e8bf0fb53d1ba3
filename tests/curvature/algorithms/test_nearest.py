"""Eigenpairs nearest to a value against dense answers: inside, beyond and at eigenvalues, and what cannot converge."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hessian_spectrum.curvature.algorithms.folded import FoldedState
from hessian_spectrum.curvature.algorithms.nearest import NearestLanczos
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import DenseOperator
from hessian_spectrum.curvature.serialization import deserialize, serialize
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import NearestEigenpairs
from tests.fixtures.longer import long, pairs

F64 = torch.float64
Array = npt.NDArray[np.float64]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(eigenvalues: Sequence[float] | Tensor, seed: int = 0) -> Tensor:
    eigenvalues = torch.as_tensor(eigenvalues, dtype=F64)
    dim = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=seeded(seed), dtype=F64))
    matrix: Tensor = basis * eigenvalues @ basis.T
    return (matrix + matrix.T) / 2


def search(matrix: Tensor, k: int, target: float, tolerance: float = 1e-6, **settings: Any) -> NearestEigenpairs:
    return run(NearestLanczos(k, target, tolerance, **settings), DenseOperator(matrix), generator=seeded(0))


def check(matrix: Tensor, found: NearestEigenpairs, target: float, *, converged: bool = True) -> None:
    """Residuals bound those of the vectors; where pairs converged, distances are those of the dense answer."""
    dense = matrix.double().numpy()
    every, k = np.linalg.eigvalsh(dense), len(found.eigenvalues)
    eps = 30 * float(torch.finfo(matrix.dtype).eps)
    scale = abs(every).max() + abs(target)
    vectors = found.eigenvectors.astype(np.float64)
    residuals = np.linalg.norm(vectors @ dense - found.eigenvalues[:, None] * vectors, axis=1)
    assert (residuals <= found.residuals + eps * scale).all()
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), rtol=0, atol=10 * eps)
    gaps = np.abs(every[:, None] - found.eigenvalues).min(axis=0)
    assert (gaps <= found.residuals + eps * scale).all()
    distances = np.abs(found.eigenvalues - target)
    assert (np.diff(distances) >= 0).all()
    wanted = np.sort(np.abs(every - target))[:k]
    for interval, value, distance in zip(found.intervals, found.eigenvalues, wanted, strict=True):
        assert interval.lower is not None
        assert interval.upper is not None
        assert interval.lower <= value <= interval.upper
        # where eigenvalues are equally far but for rounding, each of them is the requested one
        requested = every[np.abs(np.abs(every - target) - distance) <= eps * scale]
        assert ((interval.lower - eps * scale <= requested) & (requested <= interval.upper + eps * scale)).any()
    assert [each.why is None for each in found.intervals] == found.converged.tolist()
    assert (np.abs(distances - wanted)[found.converged] <= found.absolute_tolerance + eps * scale).all()
    if converged:
        assert found.converged.all(), found.intervals


OUTLIERS = [30.0, 20.0, 12.0, 7.0, 5.0, -1.0, -0.5]
NETWORK = symmetric([*OUTLIERS, *np.logspace(-5, -1, 60), *-np.logspace(-5, -2, 20), *[0.0] * 300])
CASES = {
    "repeated": symmetric([5.0] * 7 + [3.0] * 12 + [1.0] * 20 + [0.0] * 100 + [-2.0] * 9),
    "pairs": symmetric([s * x for x in (4.0, 3.0, 2.0) for s in (1, -1) for _ in range(3)]),
    "two values": symmetric([0.0] * 30 + [1.0] * 30),
    "zero": torch.zeros(30, 30, dtype=F64),
    "one": torch.full((1, 1), -3.0, dtype=F64),
    "two": symmetric([1.0, -1.0]),
}


@pytest.mark.parametrize("target", [50.0, 20.0, 15.5, 10.0, 6.9, 0.0, -0.7, -8.0])
def test_the_spectrum_of_a_network(target: float) -> None:
    """Beyond both edges, at an eigenvalue, between outliers, and where hundreds of eigenvalues are zero."""
    check(NETWORK, search(NETWORK, 3, target, 1e-4), target)


@pytest.mark.parametrize(("case", "target"), pairs(CASES, [0.5, -1.0, 3.0, 100.0]))
def test_repeated_eigenvalues(case: str, target: float) -> None:
    matrix = CASES[case]
    for k in {1, 2, min(8, len(matrix)), min(25, len(matrix)), len(matrix)}:
        if k <= len(matrix):
            check(matrix, search(matrix, k, target), target)


def test_eigenvalues_at_the_same_distance_on_both_sides_are_taken_apart() -> None:
    """The folded matrix has one eigenvalue for both, and any mixture of their vectors is one of its vectors."""
    found = search(CASES["two values"], 7, 0.5)
    np.testing.assert_allclose(np.abs(found.eigenvalues - 0.5), 0.5, rtol=1e-12)
    assert found.residuals.max() < 1e-12


@pytest.mark.parametrize(("target", "which"), [(1e3, "largest"), (-1e3, "smallest")])
def test_beyond_an_edge_they_are_those_of_the_end(target: float, which: str) -> None:
    matrix = symmetric([*OUTLIERS, *np.linspace(-0.4, 0.4, 100)])
    found = search(matrix, 4, target, 1e-9)
    other = run(ThickRestartLanczos(4, which, 1e-9), DenseOperator(matrix), generator=seeded(0))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.eigenvalues, other.eigenvalues, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=25),
    target=st.sampled_from([-3.0, -1.5, -1.0, 0.0, 0.1, 0.75, 5.0]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_few_distinct_values(values: list[float], target: float, seed: int, data: st.DataObject) -> None:
    k, matrix = data.draw(st.integers(1, len(values))), symmetric(values, seed)
    # where all values are the target, nothing but rounding is left of the matrix: an absolute tolerance says so
    check(matrix, search(matrix, k, target, absolute_tolerance=1e-9), target)


def some_spectrum(rng: np.random.Generator) -> Array:
    values = rng.normal(size=rng.integers(20, 80))
    match rng.integers(6):
        case 0:
            return values
        case 1:
            return np.concatenate([values, 0.6 - values])
        case 2:
            return np.concatenate([values, 0.6 - values + 1e-4 * rng.normal(size=len(values))])
        case 3:
            return values.round(1)
        case 4:
            return np.concatenate([OUTLIERS, 0.1 * values])
        case _:
            return np.logspace(-6, 1, len(values)) * rng.choice([1, -1], len(values))


@pytest.mark.parametrize("seed", [0, 1, *map(long, range(2, 8))])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_interval_has_the_requested_eigenvalue_whatever_side_it_is_on(seed: int, dtype: torch.dtype) -> None:
    """Spectra with pairs of s + d and s - d, exact and nearly so, repeated values, outliers, and dense parts."""
    rng = np.random.default_rng(seed)
    for _ in range(8):
        values = some_spectrum(rng)
        targets = [0.3, rng.normal(), rng.choice(values), 3 * rng.normal(), 1.5 * values.max()]
        tolerance, k = 10.0 ** rng.integers(-6, 0), int(rng.integers(1, 6))
        matrix, target = symmetric(values.tolist(), seed).to(dtype), float(rng.choice(targets))
        check(matrix, search(matrix, k, target, tolerance), target, converged=False)


def test_an_interval_has_both_sides_only_where_neither_is_excluded() -> None:
    """Of 1 and -1.001, seen from 0 with a tolerance of 0.02, either may be the nearest; 1 alone is far from others."""
    rest = np.linspace(5, 20, 40).tolist()
    for values, is_excluded in (([1.0, -1.001], False), ([1.0], True), ([-1.0], True)):
        found = search(symmetric([*values, *rest]), 1, 0.0, 1e-3)
        (interval,) = found.intervals
        assert found.converged.all()
        assert (interval.upper - interval.lower < 0.1) == is_excluded  # type: ignore[operator]
    both = search(symmetric([1.0, -1.001, *rest]), 2, 0.0, 1e-5)
    assert both.converged.all()
    assert all(each.upper - each.lower < 1e-9 for each in both.intervals)  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_inside_a_dense_part_it_says_what_has_not_converged(dtype: torch.dtype) -> None:
    matrix = symmetric(torch.linspace(-1, 1, 300, dtype=F64)).to(dtype)
    found = search(matrix, 4, 0.1003, 1e-4, max_products=200)
    assert found.num_products <= 200
    assert not found.converged.any()
    assert all(each.why and "max_products" in each.why for each in found.intervals)
    check(matrix, found, 0.1003, converged=False)


def test_float32_says_what_it_cannot_tell_apart() -> None:
    matrix = NETWORK.float()
    for target in (0.0, 10.0):
        check(matrix, search(matrix, 3, target), target, converged=False)
    check(matrix, search(matrix, 3, 25.0, absolute_tolerance=0.05), 25.0)


def test_an_absolute_tolerance_is_the_larger_one() -> None:
    found = search(NETWORK, 3, 6.9, absolute_tolerance=0.5)
    assert found.absolute_tolerance == pytest.approx(0.5)
    assert search(NETWORK, 3, 6.9, absolute_tolerance=1e-9).absolute_tolerance > 1e-6


@pytest.mark.parametrize("factor", [1e-200, 1e-9, 1e200])
def test_the_unit_does_not_matter(factor: float) -> None:
    plain, scaled = search(NETWORK, 3, 9.0), search(NETWORK * factor, 3, 9.0 * factor)
    assert scaled.converged.all()
    np.testing.assert_allclose(scaled.eigenvalues / factor, plain.eigenvalues, rtol=1e-9)


def test_a_saved_state_gives_the_same_bits() -> None:
    operator, method = DenseOperator(NETWORK), NearestLanczos(5, 10.0, 1e-9)
    whole = run(method, operator, generator=seeded(0))
    for stop in (0, 1, 5, 12):
        state = method.init(operator, generator=seeded(0))
        for _ in range(stop):
            state = state if method.is_finished(state) else method.step(operator, state)
        saved = serialize(state)
        document, tensors = copy.deepcopy(saved.document), [each.clone() for each in saved.tensors]
        state = deserialize(document, tensors, torch.device("cpu"))
        assert isinstance(state, FoldedState)
        while not method.is_finished(state):
            state = method.step(operator, state)
        found = method.result(operator, state)
        assert found.eigenvalues.tobytes() == whole.eigenvalues.tobytes()
        assert found.eigenvectors.tobytes() == whole.eigenvectors.tobytes()
        assert found.num_products == whole.num_products


class CountingOperator(DenseOperator):
    """Counts the columns that it multiplies."""

    num_columns = 0

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v."""
        self.num_columns += 1
        return super().matvec(vector)

    def matmat(self, matrix: Tensor) -> Tensor:
        """Return A V."""
        self.num_columns += matrix.shape[1]
        return super().matmat(matrix)


@pytest.mark.parametrize("limit", [13, 14, 60, 1000])
def test_every_product_is_counted_and_none_exceeds_the_limit(limit: int) -> None:
    operator = CountingOperator(NETWORK)
    calls: list[tuple[str, int, int]] = []
    method = NearestLanczos(3, 0.4, 1e-9, max_products=limit)
    found = run(method, operator, generator=seeded(0), progress=lambda *call: calls.append(call))
    assert found.num_products == operator.num_columns <= limit
    assert all(done <= total == limit for _, done, total in calls)
    assert calls[-1][1] <= found.num_products


@pytest.mark.parametrize("vectors", [9, 14, 30])
def test_little_memory(vectors: int) -> None:
    matrix = symmetric([3.0, 2.5, 2.0, 2.0] + [1 - j / 100 for j in range(96)])
    memory = vectors * 100 * 8
    found = search(matrix, 4, 2.4, memory_bytes=memory)
    check(matrix, found, 2.4, converged=vectors > 9)


def test_bad_options_are_errors() -> None:
    cases: tuple[tuple[int, float, dict[str, Any]], ...] = (
        (0, 0.0, {}),
        (10, 0.0, {}),
        (2, math.nan, {}),
        (2, 0.0, {"max_products": 8}),
        (2, 0.0, {"absolute_tolerance": math.inf}),
        (2, 0.0, {"memory_bytes": 8}),
    )
    for k, target, options in cases:
        with pytest.raises(InvalidProblemError):
            search(torch.eye(9, dtype=F64), k, target, **options)
    with pytest.raises(NonFiniteError):
        search(torch.full((3, 3), math.inf, dtype=F64), 1, 0.0)
