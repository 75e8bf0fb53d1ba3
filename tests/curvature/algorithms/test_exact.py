"""Exact spectra against numpy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import DenseOperator
from hessian_spectrum.quadrature.exceptions import NonFiniteError

Seeded = Callable[[int], torch.Generator]

F64 = torch.float64


def random_symmetric(dim: int, generator: torch.Generator, dtype: torch.dtype = F64) -> Tensor:
    matrix = torch.randn(dim, dim, generator=generator, dtype=F64)
    return ((matrix + matrix.T) / 2).to(dtype)


def test_exact_eigenvalues_and_inertia(seeded: Seeded) -> None:
    values = torch.tensor([-2.0] * 3 + [0.0] * 4 + [1e-3] * 2 + [5.0], dtype=F64)
    basis, _ = torch.linalg.qr(torch.randn(10, 10, generator=seeded(0), dtype=F64))
    matrix = basis * values @ basis.T
    spectrum = run(DenseEigensolver(), DenseOperator((matrix + matrix.T) / 2), generator=torch.Generator())
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
    inertia = run(DenseEigensolver(), DenseOperator(matrix * scale), generator=torch.Generator()).inertia
    assert inertia == run(DenseEigensolver(), DenseOperator(matrix), generator=torch.Generator()).inertia
    assert inertia.zero == 4


def test_zero_matrix_is_all_zero() -> None:
    spectrum = run(DenseEigensolver(), DenseOperator(torch.zeros(5, 5, dtype=F64)), generator=torch.Generator())
    assert spectrum.inertia.zero == 5
    assert not spectrum.eigenvalues.any()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_eigenvectors_in_rows(dtype: torch.dtype, seeded: Seeded) -> None:
    matrix = random_symmetric(140, seeded(0), dtype)
    matrix[:4] = 0
    matrix[:, :4] = 0
    spectrum = run(DenseEigensolver(eigenvectors=True), DenseOperator(matrix), generator=torch.Generator())
    vectors, residuals = spectrum.eigenvectors, spectrum.residuals
    defects = vectors @ matrix.double().numpy() - spectrum.eigenvalues[:, None] * vectors
    np.testing.assert_allclose(np.linalg.norm(defects, axis=1), residuals, rtol=0, atol=1e-13)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(140), rtol=0, atol=1e-13)
    assert residuals.max() < 1e-13 * abs(spectrum.eigenvalues).max() * math.sqrt(140)
    plain = run(DenseEigensolver(), DenseOperator(matrix), generator=torch.Generator())
    np.testing.assert_allclose(plain.eigenvalues, spectrum.eigenvalues, rtol=0, atol=1e-13)
    assert plain.inertia == spectrum.inertia
    assert plain.eigenvectors is None
    assert plain.residuals is None


def test_one_parameter() -> None:
    spectrum = run(
        DenseEigensolver(eigenvectors=True),
        DenseOperator(torch.tensor([[-4.0]], dtype=F64)),
        generator=torch.Generator(),
    )
    assert spectrum.inertia.negative == 1
    assert abs(spectrum.eigenvectors.item()) == 1


def test_progress(seeded: Seeded) -> None:
    calls = []
    run(
        DenseEigensolver(),
        DenseOperator(random_symmetric(9, seeded(0))),
        generator=torch.Generator(),
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("products", 9, 9), ("eigenvalues", 1, 1)]


def test_not_finite_products_are_errors() -> None:
    with pytest.raises(NonFiniteError):
        run(DenseEigensolver(), DenseOperator(torch.full((3, 3), math.inf, dtype=F64)), generator=torch.Generator())
