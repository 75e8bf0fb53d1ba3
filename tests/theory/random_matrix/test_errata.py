"""What the Lecture prints about Wigner and Wishart matrices, where it fails, and what holds instead."""

import numpy as np

from hessian_spectrum.theory.random_matrix.ensembles import wigner_law, wishart_law
from hessian_spectrum.theory.random_matrix.sampling import draw_sample


def test_wigner_entries_have_the_variance_over_the_size() -> None:
    """Printed: entries of variance sigma^2 have the support ±2 sigma. Drawn so, they reach ±2 sigma sqrt(n)."""
    size, sigma = 400, 1.5
    entries = np.random.default_rng(0).normal(scale=sigma, size=(size, size))
    printed = np.linalg.eigvalsh((entries + entries.T) / np.sqrt(2))
    assert abs(printed).max() > 10 * 2 * sigma
    assert abs(abs(printed / np.sqrt(size)).max() / (2 * sigma) - 1) < 0.05
    (interval,) = wigner_law(sigma**2).support
    drawn = draw_sample(wigner_law(sigma**2), size, seed=1).eigenvalues
    assert abs(abs(drawn).max() / interval.high - 1) < 0.05


def test_marchenko_pastur_takes_the_variance_where_the_standard_deviation_is_printed() -> None:
    size, num_columns, sigma = 300, 600, 3.0
    J = np.random.default_rng(0).normal(scale=sigma / np.sqrt(num_columns), size=(size, num_columns))
    eigenvalues, root = np.linalg.eigvalsh(J @ J.T), np.sqrt(size / num_columns)
    printed = sigma * (1 + root) ** 2
    (interval,) = wishart_law(sigma**2, size / num_columns).support
    assert abs(eigenvalues.max() / interval.high - 1) < 0.05
    assert abs(eigenvalues.min() / interval.low - 1) < 0.1
    assert eigenvalues.max() > 2 * printed


def test_the_printed_marchenko_pastur_density_is_no_density() -> None:
    sigma, ratio = 3.0, 0.5
    low, high = sigma**2 * (1 - np.sqrt(ratio)) ** 2, sigma**2 * (1 + np.sqrt(ratio)) ** 2
    points = (low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, 20001))
    root = np.sqrt(np.maximum((points - low) * (high - points), 0))
    printed = root / (2 * np.pi * points * sigma * ratio)
    assert abs(np.trapezoid(printed, points) - 1) > 1
    assert abs(np.trapezoid(wishart_law(sigma**2, ratio).density(points), points) - 1) < 1e-6
