"""What holds exactly of transformed data."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.data.gaussian import gaussian, gaussian_sequences
from hessian_spectrum.curvature.data.transforms import decorrelated, standardised, standardised_pixels
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
F64 = torch.float64
TOLERANCE = 1e-12


def largest(values: Tensor) -> float:
    return float(values.abs().max())


def check_moments(columns: Tensor) -> None:
    assert largest(columns.mean(dim=0)) < TOLERANCE
    assert largest(columns.square().mean(dim=0) - 1) < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 3), st.integers(2, 30), st.sampled_from(["linear", "relu"]), st.integers(0, 99)
)
def test_decorrelated(dim: int, num_targets: int, excess: int, teacher: str, seed: int) -> None:
    size = dim + excess
    data = gaussian(
        size,
        dim,
        num_targets,
        teacher=teacher,
        noise=1e-3,
        generator=torch.Generator().manual_seed(seed),
        input_std=20.0,
    )
    found = decorrelated(Dataset(data.inputs + 100, data.targets - 7))
    check_moments(found.inputs)
    check_moments(found.targets)
    assert largest(found.inputs.T @ found.inputs / size - torch.eye(dim, dtype=F64)) < TOLERANCE
    assert largest(found.inputs.T @ found.targets / size) < TOLERANCE
    # the first column keeps its direction
    centred = data.inputs[:, 0] - data.inputs[:, 0].mean()
    assert float(found.inputs[:, 0] @ centred) == pytest.approx(float(centred.norm()) * size**0.5, rel=1e-9)


def test_the_assumptions_of_the_linear_network_with_bias_hold(seeded: Seeded) -> None:
    """mean(x) = mean(y) = mean(yx) = 0, mean(x^2) = 1, at the fewest samples."""
    data = decorrelated(gaussian(3, 1, 1, teacher="linear", noise=0.1, generator=seeded(0)))
    x, y = data.inputs[:, 0], data.targets[:, 0]
    for mean in (x.mean(), y.mean(), (x * y).mean(), x.square().mean() - 1):
        assert abs(float(mean)) < TOLERANCE


def test_standardised(seeded: Seeded) -> None:
    drawn = gaussian(9, 4, 2, teacher="linear", noise=0.3, generator=seeded(0))
    data = standardised(drawn)
    check_moments(data.inputs)
    check_moments(data.targets)
    assert torch.allclose(torch.corrcoef(data.inputs.T), torch.corrcoef(drawn.inputs.T))


def test_pixels_that_never_change_become_0(seeded: Seeded) -> None:
    drawn = digits(300, seeded(0))
    data = standardised_pixels(drawn)
    constant = drawn.inputs.amax(dim=0) == drawn.inputs.amin(dim=0)
    assert 0 < int(constant.sum()) < 20
    assert not data.inputs[:, constant].any()
    check_moments(data.inputs[:, ~constant])
    assert torch.equal(data.targets, drawn.targets)


def test_what_cannot_be_transformed(seeded: Seeded) -> None:
    drawn = gaussian(5, 3, 1, teacher="linear", noise=0.1, generator=seeded(0))
    with pytest.raises(InvalidProblemError, match="need 5 samples, not 4"):
        decorrelated(Dataset(drawn.inputs[:4], drawn.targets[:4]))
    with pytest.raises(InvalidProblemError, match="a target is a linear function"):
        decorrelated(gaussian(9, 3, 1, teacher="linear", noise=0.0, generator=seeded(0)))
    with pytest.raises(InvalidProblemError, match="a target is a linear function"):
        decorrelated(gaussian(9, 3, 1, teacher="none", noise=0.0, generator=seeded(0)))
    with pytest.raises(InvalidProblemError, match="linearly dependent"):
        decorrelated(Dataset(drawn.inputs[:, [0, 1, 0]], drawn.targets))
    with pytest.raises(InvalidProblemError, match="targets is constant"):
        standardised(gaussian(9, 3, 1, teacher="none", noise=0.0, generator=seeded(0)))
    with pytest.raises(InvalidProblemError, match="inputs is constant"):
        standardised(Dataset(drawn.inputs * torch.tensor([1.0, 0.0, 1.0]) + 3, drawn.targets))


def test_gaussian_sequences(seeded: Seeded) -> None:
    reversal, linear, none = (
        gaussian_sequences(6, 5, 2, task=task, noise=0.0, generator=seeded(0))
        for task in ("reversal", "linear", "none")
    )
    assert torch.equal(reversal.inputs, linear.inputs)
    assert torch.equal(reversal.targets, reversal.inputs.flip(1))
    assert not none.targets.any()
    solution = torch.linalg.lstsq(linear.inputs.reshape(-1, 2), linear.targets.reshape(-1, 2)).solution
    torch.testing.assert_close(linear.inputs @ solution, linear.targets)
    wide = gaussian_sequences(500, 4, 3, task="none", noise=0.5, generator=seeded(1), input_std=3.0)
    assert float(wide.inputs.std()) == pytest.approx(3.0, rel=0.05)
    assert float(wide.targets.std()) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("counts", "task", "noise"),
    [((0, 1, 1), "none", 0.0), ((1, 1, 0), "none", 0.0), ((1, 1, 1), "sorting", 0.0), ((1, 1, 1), "none", -1.0)],
)
def test_bad_sequence_options(counts: tuple[int, int, int], task: str, noise: float, seeded: Seeded) -> None:
    with pytest.raises(InvalidProblemError):
        gaussian_sequences(*counts, task=task, noise=noise, generator=seeded(0))
