"""The two closest pairs, against a look at every pair."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessian_spectrum.curvature.ensembles.pairs import closest_pairs, distinct_eigenvalues
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

integers = st.integers(-6, 6)


def all_sums(spectrum: list[float]) -> list[float]:
    """Distance of every sum to be found later, from all pairs i < j."""
    return [a + b for i, a in enumerate(spectrum) for b in spectrum[i + 1 :]]


@given(values=st.lists(integers, min_size=2, max_size=14), target=st.integers(-14, 14), shift=st.floats(-0.4, 0.4))
def test_pairs_of_repeated_values_are_those_of_an_exhaustive_search(
    values: list[int], target: int, shift: float
) -> None:
    spectrum = [float(value) for value in values]
    gaps = sorted({abs(total - target - shift) for total in all_sums(spectrum)})
    distinct_sums = sorted(set(all_sums(spectrum)), key=lambda total: abs(total - target - shift))
    best, second = closest_pairs(distinct_eigenvalues(np.array(spectrum)), target + shift)
    assert best.gap == pytest.approx(gaps[0])
    assert best.num_copies == sum(total == best.low + best.high for total in all_sums(spectrum))
    if len(distinct_sums) == 1:
        assert second is None
    else:
        assert second is not None
        assert second.gap == pytest.approx(abs(distinct_sums[1] - target - shift))
        assert second.low + second.high != best.low + best.high


@pytest.mark.parametrize("seed", range(20))
def test_pairs_of_random_spectra_are_those_of_an_exhaustive_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(rng.integers(2, 60)) * 10.0 ** rng.integers(-3, 3)
    target = float(rng.standard_normal() * np.abs(values).max())
    sums = sorted(all_sums(values.tolist()), key=lambda total: abs(total - target))
    best, second = closest_pairs(distinct_eigenvalues(values), target)
    assert best.gap == abs(sums[0] - target)
    ascending = np.sort(values)
    assert (ascending[best.low_index], ascending[best.high_index]) == (best.low, best.high)
    if second is not None:
        assert second.gap == abs(sums[1] - target)


def test_copies_of_the_best_pair_are_not_the_second_best() -> None:
    """The bulk of a linear network: +-d many times, whose sums are 0, 2 d and -2 d."""
    spectrum = distinct_eigenvalues(np.array([-0.5] * 4 + [0.5] * 4 + [3.0]), num_zeros=2)
    best, second = closest_pairs(spectrum, 0.1)
    assert (best.low + best.high, second.low + second.high) == (0.0, 0.5)
    assert (best.low_index, best.high_index) in {(0, 9), (4, 5)}


def test_a_value_is_its_own_partner_only_if_it_is_repeated() -> None:
    once, twice = np.array([1.0, 5.0, 40.0]), np.array([1.0, 5.0, 5.0, 40.0])
    assert closest_pairs(distinct_eigenvalues(once), 10.0)[0].gap == 4
    best = closest_pairs(distinct_eigenvalues(twice), 10.0)[0]
    assert (best.gap, best.low_index, best.high_index) == (0, 1, 2)


def test_rounding_does_not_make_values_distinct() -> None:
    values = np.array([1.0, 1 + 4e-16, 1 - 4e-16, 7.0, 1e-15, -1e-15])
    spectrum = distinct_eigenvalues(values, num_zeros=10**6)
    assert spectrum.counts.tolist() == [10**6 + 2, 3, 1]
    np.testing.assert_allclose(spectrum.values, [0, 1, 7], atol=1e-15)
    best, second = closest_pairs(spectrum, 8.0)
    assert best.gap < 1e-14
    assert second.gap == pytest.approx(1)
    assert best.high_index == 10**6 + 5
    assert (best.num_copies, second.num_copies) == (3, 10**6 + 2)


def test_zeros_count_as_eigenvalues() -> None:
    spectrum = distinct_eigenvalues(np.array([3.0]), num_zeros=1)
    best, second = closest_pairs(spectrum, 2.5)
    assert (best.gap, best.low, best.high, second) == (0.5, 0.0, 3.0, None)


def test_the_search_does_not_look_at_every_pair() -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    start = time.perf_counter()
    best, second = closest_pairs(distinct_eigenvalues(values), 0.123)
    assert time.perf_counter() - start < 20  # 2 * 10^10 pairs
    assert best.gap <= second.gap < 1e-7


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_spectra_without_pairs(values: list[float]) -> None:
    with pytest.raises(InvalidProblemError):
        distinct_eigenvalues(np.array(values, dtype=np.float64))


def test_one_eigenvalue_is_no_pair() -> None:
    with pytest.raises(InvalidProblemError, match="two eigenvalues"):
        closest_pairs(distinct_eigenvalues(np.array([1.0])), 1.0)
