"""The curve of the loss is made of means over all steps, in a bounded number, for one run and for many at once."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hessian_spectrum.curvature.training.loss_curve import MAX_MEANS, LossCurve

LOSSES = st.lists(st.floats(0.0, 1e6), max_size=40).flatmap(
    lambda some: st.integers(1, 100).map(lambda repeats: some * repeats)
)


def curve_of(losses: list[float]) -> LossCurve:
    curve = LossCurve()
    for loss in losses:
        curve.add(loss)
    return curve


@given(LOSSES)
def test_points_are_means_of_the_steps_between_them(losses: list[float]) -> None:
    steps, means = curve_of(losses).points()
    assert len(steps) == len(means) <= MAX_MEANS
    assert not losses or steps[-1] == len(losses)
    stretches = list(pairwise([0, *steps]))
    assert len({end - start for start, end in stretches[:-1]}) <= 1
    for (start, end), mean in zip(stretches, means, strict=True):
        assert mean == pytest.approx(np.mean(losses[start:end]), rel=1e-12)


@pytest.mark.parametrize("num_steps", [1, MAX_MEANS, MAX_MEANS + 1, 2 * MAX_MEANS + 1, 5 * MAX_MEANS])
def test_long_runs_have_at_least_half_as_many_points_as_can_be(num_steps: int) -> None:
    steps, _ = curve_of([1.0] * num_steps).points()
    assert min(num_steps, MAX_MEANS // 2) <= len(steps) <= MAX_MEANS


def test_runs_of_different_lengths_are_recorded_together() -> None:
    generator, lengths = torch.Generator().manual_seed(0), [700, 3, 0, 514]
    losses = torch.rand(700, 4, generator=generator, dtype=torch.float64)
    together = LossCurve()
    for step, row in enumerate(losses):
        together.add(torch.where(torch.tensor(lengths) > step, row, 0.0))
    for run, length in enumerate(lengths):
        steps, means = together.of_run(run, length).points()
        assert (steps[-1] if steps else 0) == length
        for (start, end), mean in zip(pairwise([0, *steps]), means, strict=True):
            assert mean == pytest.approx(float(losses[start:end, run].mean()), rel=1e-12)
