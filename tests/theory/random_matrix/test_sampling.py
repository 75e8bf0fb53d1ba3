"""Oracle: random matrices; those of 2,000 x 2,000 are in tests/contract, where one thread draws them."""

import numpy as np
import pytest

from hessian_spectrum.theory.random_matrix.ensembles import wigner_law, wishart_law
from hessian_spectrum.theory.random_matrix.hessian import hessian_law
from hessian_spectrum.theory.random_matrix.law import FreeLaw
from hessian_spectrum.theory.random_matrix.sampling import draw_sample, histogram


@pytest.mark.parametrize(
    "law",
    [
        hessian_law("linear", 0.3, 0.5),
        hessian_law("linear", 0.2, 3.0),
        hessian_law("relu", 0.3, 1.5),
        hessian_law("linear", 0.1, 2.0) + wishart_law(0.5, 0.8),
    ],
)
def test_a_matrix_follows_its_law(law: FreeLaw) -> None:
    sample = draw_sample(law, 500, seed=1)
    bins = histogram(law, sample, 15)
    assert np.abs(bins.density - bins.expected).max() < 0.03
    assert sample.negative_fraction == pytest.approx(law.index, abs=0.02)


@pytest.mark.parametrize("law", [wigner_law(0.3), wishart_law(2.0, 0.3), wishart_law(1.0, 2.5)])
def test_moments_of_a_sample(law: FreeLaw) -> None:
    eigenvalues = draw_sample(law, 500, seed=3).eigenvalues
    found = [np.mean(eigenvalues**power) for power in (1, 2, 3, 4)]
    scale = np.sqrt(law.moments[1]) ** np.arange(1, 5)
    np.testing.assert_allclose(found / scale, law.moments / scale, rtol=0.05, atol=0.02)


def test_zeros_stay_apart_from_the_histogram() -> None:
    law = hessian_law("relu", 1.0, 4.0)
    sample = draw_sample(law, 400, seed=0)
    bins = histogram(law, sample, 20)
    assert law.atom_at_zero == pytest.approx(0.5)
    assert sample.zero_fraction == pytest.approx(0.5)
    assert sample.negative_fraction == pytest.approx(0.125)
    assert bins.counts.sum() == 200
    widths = np.diff(bins.edges)
    assert np.sum(bins.density * widths) == pytest.approx(0.5)
    assert np.sum(bins.expected * widths) == pytest.approx(0.5)


def test_the_seed_decides() -> None:
    law = hessian_law("linear", 0.3, 2.0)
    first, again, other = (draw_sample(law, 40, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.eigenvalues, again.eigenvalues)
    assert not np.array_equal(first.eigenvalues, other.eigenvalues)


def test_columns_are_whole_numbers() -> None:
    assert draw_sample(wishart_law(1.0, 3.0), 100, 0).realised_rates == (0.33,)
    assert draw_sample(wishart_law(1.0, 1e9), 100, 0).realised_rates == (0.01,)
    assert draw_sample(wishart_law(1.0, 1e-9), 100, 0).realised_rates == (pytest.approx(1e9),)
