"""Counters over all jobs, which `lua/include/counters.lua` changes together with the jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import redis

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE
from hessian_spectrum.jobs.scripts import COUNTERS, DURATION_BOUNDS, index_key
from hessian_spectrum.jobs.worker_registry import registered_workers

STATES: tuple[JobState, ...] = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired")


@dataclass(frozen=True)
class Durations:
    """A histogram of durations: cumulative counts up to each of `DURATION_BOUNDS` and of all, and the sum."""

    counts: tuple[float, ...]
    sum_seconds: float


@dataclass(frozen=True, kw_only=True)
class JobCounters:
    """The current jobs of a deployment, and what was counted since its Redis was empty."""

    num_jobs: Mapping[JobState, int]
    num_messages: int
    oldest_queued_seconds: float  # 0 without a queued job
    counted: Mapping[str, float]
    workers: list[WorkerStatus]

    def number(self, name: str) -> float:
        """Value of one counter."""
        return self.counted.get(name, 0.0)

    def durations(self, name: str) -> Durations:
        """Durations of `wait`, the time of jobs in the queue, or of `run`, the time of an attempt."""
        counts: list[float] = []
        total = 0.0
        for bound in (*(f"{bound:g}" for bound in DURATION_BOUNDS), "+Inf"):
            total += self.number(f"{name}:{bound}")
            counts.append(total)
        return Durations(tuple(counts), self.number(f"{name}:sum"))


def read_counters(client: redis.Redis) -> JobCounters:
    """Read all counters at one moment.

    Args:
        client: Client of Redis.

    Returns:
        The counters.

    Raises:
        RedisError: Redis does not answer.
    """
    with client.pipeline(transaction=False) as pipeline:
        for state in STATES:
            pipeline.zcard(index_key(state))
        pipeline.llen(KEY_PREFIX + QUEUE)
        pipeline.zrange(index_key("queued"), 0, 0)
        pipeline.hgetall(COUNTERS)
        pipeline.time()
        *numbers, num_messages, oldest, counted, (seconds, microseconds) = pipeline.execute()
    return JobCounters(
        num_jobs=dict(zip(STATES, numbers, strict=True)),
        num_messages=num_messages,
        # An id begins with the microsecond of its creation.
        oldest_queued_seconds=max(0.0, seconds + (microseconds - int(oldest[0][:16], 16)) / 1e6) if oldest else 0.0,
        counted={name: float(number) for name, number in cast("dict[str, str]", counted).items()},
        workers=registered_workers(client),
    )
