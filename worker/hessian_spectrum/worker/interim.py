"""Interim results: what is known of a spectrum while it is computed."""

import logging
import time
from collections.abc import Callable
from typing import TypeAlias

from hessian_spectrum.api_schemas.methods import AnySpectrumResult
from hessian_spectrum.storage.results import ResultStore

SECONDS_BETWEEN = 1.0
"""Least time in seconds between interim results, and before the first one."""

LARGEST_SHARE = 0.02
"""Largest share of a job's time that interim results may take; the longer one takes, the rarer they are."""

_logger = logging.getLogger(__name__)

OfferInterim: TypeAlias = Callable[[Callable[[], AnySpectrumResult | None]], None]
"""Receives a function that makes an interim result, and calls it if an interim result is due."""


def ignore_interim(make: Callable[[], AnySpectrumResult | None]) -> None:
    """Make no interim result; this is the default."""


class InterimResults:
    """Stores the interim results of one job; the retention task deletes those that have been replaced.

    Args:
        results: Store of the results.
        announce: Called with the digest of each interim result.
        clock: Returns a time in seconds.
    """

    def __init__(
        self, results: ResultStore, announce: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._results, self._announce, self._clock = results, announce, clock
        self._due = clock() + SECONDS_BETWEEN
        self._num_products = 0  # of the last one

    def offer(self, make: Callable[[], AnySpectrumResult | None]) -> None:
        """Store what `make` returns, if an interim result is due and says more than the last one.

        If it cannot be written, for example to a full disk, the job continues.

        Args:
            make: Returns the interim result; None if nothing is known yet.
        """
        started = self._clock()
        if started < self._due:
            return
        result = make()
        if result is not None and result.provenance.num_products != self._num_products:
            self._num_products = result.provenance.num_products
            try:
                self._announce(self._results.write(result.model_dump_json().encode()))
            except OSError as error:
                _logger.warning("no interim result could be stored: %s", error)
        now = self._clock()
        self._due = now + max(SECONDS_BETWEEN, (now - started) / LARGEST_SHARE)
