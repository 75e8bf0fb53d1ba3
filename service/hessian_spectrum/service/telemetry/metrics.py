"""Prometheus metrics of the jobs, workers and disk of the deployment; `RequestTelemetry` has those of requests."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from hessian_spectrum.jobs.counters import JobCounters, read_counters
from hessian_spectrum.jobs.scripts import DURATION_BOUNDS
from hessian_spectrum.storage.blob_store import BlobStore

_SECONDS_BETWEEN_WALKS = 60.0
"""Pause between walks through the results directory, which may hold many files."""

_COUNTERS = (
    ("accepted", "spectrum_jobs_accepted", "Jobs that were put into the queue"),
    ("cached", "spectrum_jobs_cached", "Jobs whose result was stored already"),
    ("attempts", "spectrum_attempts", "Attempts at jobs that workers began"),
    ("given_back", "spectrum_requeues", "Attempts at jobs that a stopping worker requeued"),
    ("given_back", "spectrum_give_backs", "The same as spectrum_requeues, under its former name"),
    ("lease_losses", "spectrum_lease_losses", "Attempts at jobs whose worker was lost"),
    ("poisoned", "spectrum_poison_failures", "Jobs that failed because they lost too many workers"),
    ("products", "spectrum_products", "Matrix-vector products that workers computed"),
)
"""Counters of Redis, and name and help text of their metrics."""
_ENDED = "ended:"
_WEBHOOK = "webhook:"

_logger = logging.getLogger(__name__)


class JobMetrics(Collector):
    """Metrics of jobs, queue, workers and disk, read at each scrape; those of jobs are left out without Redis.

    Args:
        client: Connection to Redis.
        num_waiting_requests: Counts the requests that wait at this service.
        blobs: All files of the deployment.
        directory: A directory on the disk that holds these files, or those that are being written.
    """

    def __init__(
        self, *, client: redis.Redis, num_waiting_requests: Callable[[], int], blobs: BlobStore, directory: Path
    ) -> None:
        self._client = client
        self._num_waiting_requests = num_waiting_requests
        self._blobs = blobs
        self._directory = directory
        self._walked_at = -_SECONDS_BETWEEN_WALKS
        self._results_bytes = 0

    def describe(self) -> list[Metric]:
        """Describe no metrics in advance, since registration must not query Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read all metrics."""
        try:
            totals = read_counters(self._client)
        except RedisError as error:
            _logger.warning("job metrics are unavailable: %s", error)
            totals = None
        yield _gauge("spectrum_redis_up", "1 while Redis answers", 0 if totals is None else 1)
        yield _gauge(
            "spectrum_event_listeners",
            "Streams of events and long polls at this service",
            self._num_waiting_requests(),
        )
        yield _gauge("spectrum_results_bytes", "Files of results, checkpoints and uploads", self._bytes_of_results())
        free = shutil.disk_usage(self._directory).free if self._directory.is_dir() else 0
        yield _gauge("spectrum_results_free_bytes", "Free on their disk", free)
        if totals is not None:
            yield from _of_jobs(totals)
            yield from _of_workers(totals)

    def _bytes_of_results(self) -> int:
        if time.monotonic() - self._walked_at >= _SECONDS_BETWEEN_WALKS:
            try:
                self._results_bytes = sum(info.num_bytes for info in self._blobs.list())
            except OSError as error:
                _logger.warning("the size of the results is unavailable: %s", error)
                self._results_bytes = 0
            self._walked_at = time.monotonic()
        return self._results_bytes


def _of_jobs(totals: JobCounters) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("spectrum_jobs", "Jobs by state", labels=["state"])
    for state, num_jobs in totals.num_jobs.items():
        jobs.add_metric([state], num_jobs)
    yield jobs
    yield _gauge("spectrum_queue_messages", "Messages that wait for a worker", totals.num_messages)
    yield _gauge(
        "spectrum_oldest_queued_seconds", "Since the creation of the oldest queued job", totals.oldest_queued_seconds
    )
    for counter, metric, text in _COUNTERS:
        yield CounterMetricFamily(metric, text, value=totals.number(counter))
    yield _by_label("spectrum_jobs_ended", "Jobs that came into a final state", totals, prefix=_ENDED, label="state")
    yield _by_label(
        "spectrum_webhook_attempts",
        "Attempts to send a message about an ended job",
        totals,
        prefix=_WEBHOOK,
        label="outcome",
    )
    yield _histogram("spectrum_job_wait_seconds", "Time in the queue before an attempt", totals, counted="wait")
    yield _histogram("spectrum_job_run_seconds", "Time of an attempt", totals, counted="run")


def _of_workers(totals: JobCounters) -> Iterator[Metric]:
    yield _gauge("spectrum_workers", "Workers that are there", len(totals.workers))
    memory = GaugeMetricFamily("spectrum_worker_resident_bytes", "Memory of a worker", labels=["worker"])
    slots = GaugeMetricFamily("spectrum_worker_concurrency", "Jobs that a worker runs at once", labels=["worker"])
    for worker in totals.workers:
        memory.add_metric([worker.name], worker.resident_bytes)
        slots.add_metric([worker.name], worker.concurrency)
    yield memory
    yield slots


def _by_label(name: str, text: str, totals: JobCounters, *, prefix: str, label: str) -> Metric:
    """Return all counters whose names begin with the prefix, as one metric with the rest of their names as label."""
    family = CounterMetricFamily(name, text, labels=[label])
    for counter, number in totals.counted.items():
        if counter.startswith(prefix):
            family.add_metric([counter.removeprefix(prefix)], number)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, totals: JobCounters, *, counted: str) -> Metric:
    durations = totals.durations(counted)
    bounds = [*(f"{bound:g}" for bound in DURATION_BOUNDS), "+Inf"]
    return HistogramMetricFamily(name, text, list(zip(bounds, durations.counts, strict=True)), durations.sum_seconds)
