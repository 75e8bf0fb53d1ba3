"""Estimate of a job's duration from the speed of its first products."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from hessian_spectrum.api_schemas.methods import method_kind
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.calibration import eigenvalue_seconds, vector_rate
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.planning.work import Rates, Work, dense_seconds, moving_seconds

LEAST_MOVED_BYTES = 10**9  # less takes no time that is worth a measurement
LEAST_ORDER = 200  # order of a dense eigenvalue problem, likewise


class RemainingTime:
    """Passes progress on, and estimates the duration of the whole job from the second report of products on.

    Args:
        request: Request of the job.
        plan: Planned cost of the job.
        device: Device on which the job runs.
        report: Called with the progress that this object receives.
        expect: Called with the seconds from the beginning of the job to its end, again whenever twice as much is done.
        clock: Returns a time in seconds.
    """

    def __init__(
        self,
        request: SpectrumRequest,
        plan: ComputationPlan,
        device: torch.device,
        *,
        report: Progress,
        expect: Callable[[float], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._work, self._device = plan.work, device
        self._itemsize = 8 if request.vector_precision == "float64" else 4
        self._report, self._expect, self._clock = report, expect, clock
        self._is_fixed = method_kind(request.method).has_fixed_products(request.method)
        self._started = clock()
        self._first: tuple[float, int] | None = None  # when products were first reported, and how many
        self._next = 0  # products at which to look again
        self._rates: Rates | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note of the progress, and pass it on."""
        if phase == "products" and self._is_fixed and 0 < done < total and done >= self._next:
            self._look(done, total)
        self._report(phase, done, total)

    def _look(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:  # recording included, which says nothing of what follows
            self._first, self._next = (now, done), done + 1
            self._measure()
            return
        rates = self._measure()
        seconds_per_product = (now - self._first[0]) / (done - self._first[1])
        left = 1 - done / total
        moving = left * moving_seconds(self._work, rates, self._itemsize)
        dense = dense_seconds(self._work, rates)
        self._expect(now - self._started + (total - done) * seconds_per_product + moving + dense)
        self._next = 2 * done

    def _measure(self) -> Rates:
        """Return the best rates measured so far, since disturbances only slow a measurement of milliseconds."""
        new, old = _rates(self._work, self._device, self._itemsize), self._rates
        if old is not None:
            new = replace(
                new,
                bytes_per_second=max(new.bytes_per_second, old.bytes_per_second),
                eigenvalue_seconds=min(new.eigenvalue_seconds, old.eigenvalue_seconds),
            )
        self._rates = new
        return new


def _rates(work: Work, device: torch.device, itemsize: int) -> Rates:
    """Measure the rates that matter for this work."""
    moves = work.moved_numbers * itemsize > LEAST_MOVED_BYTES
    return Rates(
        recording_seconds=0.0,
        seconds_per_product=0.0,
        bytes_per_second=vector_rate(device) if moves else float("inf"),
        eigenvalue_seconds=eigenvalue_seconds() if work.dense_order > LEAST_ORDER else 0.0,
    )
