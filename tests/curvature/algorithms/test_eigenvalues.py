"""Eigenvalues in the memory of their matrix, against torch, which works on a copy."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hessian_spectrum.curvature import lapack
from hessian_spectrum.curvature.linear_algebra import eigenvalues


def symmetric(dim: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    matrix = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return scale * (matrix + matrix.T)


@given(
    dim=st.integers(1, 60),
    rank=st.integers(0, 60),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-200, 1e-9, 1.0, 1e9, 1e150]),
    is_transposed=st.booleans(),
)
def test_they_are_those_of_torch(dim: int, rank: int, seed: int, scale: float, is_transposed: bool) -> None:
    matrix = symmetric(dim, seed, scale)
    matrix[rank:] = 0  # of any rank: repeated zeros
    matrix[:, rank:] = 0
    expected = torch.linalg.eigvalsh(matrix)
    found = eigenvalues(matrix.T if is_transposed else matrix)
    assert found.dtype == torch.float64
    tolerance = 1e-13 * dim * float(expected.abs().max())
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=tolerance)
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize("is_transposed", [False, True])
def test_they_are_computed_in_the_memory_of_the_matrix(is_transposed: bool) -> None:
    matrix = symmetric(600, 0)
    original = matrix.clone()
    eigenvalues(matrix.T if is_transposed else matrix)
    assert not torch.equal(matrix, original)


def test_without_the_function_torch_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lapack.dsyevd() is not None  # in the builds of torch that are pinned
    matrix = symmetric(40, 1)
    own = eigenvalues(matrix.clone())
    monkeypatch.setattr(lapack, "dsyevd", lambda: None)
    torch.testing.assert_close(eigenvalues(matrix), own, rtol=0, atol=1e-12 * float(own.abs().max()))


def test_other_threads_run_meanwhile() -> None:
    """They renew the lease of the job, and hear that it is cancelled."""
    matrix, ticks, ended = symmetric(1500, 0), [], threading.Event()

    def tick() -> None:
        while not ended.wait(0.001):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.monotonic()
    eigenvalues(matrix)
    seconds = time.monotonic() - started
    ended.set()
    thread.join()
    gaps = np.diff([started, *(each for each in ticks if each > started)])
    assert gaps.max() < seconds / 2
