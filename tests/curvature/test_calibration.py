"""The speed of a machine is taken from the least disturbed of a few timings, on a clock that the test moves."""

from collections.abc import Callable, Iterator

import pytest
import torch

from hessian_spectrum.curvature.calibration import (
    NUM_TIMINGS,
    NUM_VECTORS,
    VECTOR_NUMBERS,
    eigenvalue_seconds,
    vector_rate,
)

SHORTEST = 0.25


def clock_of(durations: list[float]) -> Callable[[], float]:
    def readings() -> Iterator[float]:
        now = 0.0
        for duration in durations:
            yield now
            now += duration
            yield now

    return readings().__next__


@pytest.mark.parametrize("position", range(NUM_TIMINGS + 1))
def test_the_shortest_timing_counts(position: int) -> None:
    durations = [1.0 + number for number in range(NUM_TIMINGS + 1)]
    durations[position] = SHORTEST
    assert eigenvalue_seconds(clock_of(durations)) == SHORTEST
    num_bytes = 2 * 4 * NUM_VECTORS * VECTOR_NUMBERS  # the basis is read twice, in float32
    assert vector_rate(torch.device("cpu"), clock_of(durations)) == num_bytes / SHORTEST


def test_a_clock_that_stands_still_gives_a_finite_rate() -> None:
    assert 0 < vector_rate(torch.device("cpu"), lambda: 1.0) < float("inf")
