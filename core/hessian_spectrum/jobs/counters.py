"""What was counted over all jobs: by the scripts of jobs/scripts.py, each thing with the change that it belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import redis

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE
from hessian_spectrum.jobs.worker_registry import registered_workers

COUNTERS = "spectrum:totals"
BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)
"""Of durations, in seconds."""

STATES: tuple[JobState, ...] = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired")

LUA = f"""
local function count(name, number) redis.call('HINCRBYFLOAT', '{COUNTERS}', name, number or 1) end
local function observe(name, seconds)
  count(name .. ':sum', seconds)
  for _, bound in ipairs({{{", ".join(f"'{bound:g}'" for bound in BOUNDS)}}}) do
    if seconds <= tonumber(bound) then return count(name .. ':' .. bound) end
  end
  count(name .. ':+Inf')
end
local function count_move(from, to, time)
  if from == 'none' then count(to == 'queued' and 'accepted' or 'cached') end
  if from == 'queued' then observe('wait', time - (redis.call('HGET', KEYS[1], 'moved_at') or time)) end
  if (from == 'running' or from == 'cancelling') and to ~= 'cancelling' then
    observe('run', time - (redis.call('HGET', KEYS[1], 'claimed_at') or time))
  end
  if to == 'running' then
    count('attempts')
    redis.call('HSET', KEYS[1], 'claimed_at', time)
  elseif to ~= 'queued' and to ~= 'cancelling' then
    count('ended:' .. to)
  end
  redis.call('HSET', KEYS[1], 'moved_at', time)
end
"""


@dataclass(frozen=True)
class Durations:
    """How long something took: how often up to each of `BOUNDS` and beyond, cumulative, and all seconds together."""

    counts: tuple[float, ...]
    sum_seconds: float


@dataclass(frozen=True)
class JobCounters:
    """The jobs of a deployment as they stand, and what was counted since its Redis was new."""

    num_jobs: Mapping[JobState, int]
    num_messages: int
    oldest_queued_seconds: float  # 0 without a queued job
    counted: Mapping[str, float]
    workers: list[WorkerStatus]

    def number(self, name: str) -> float:
        """Times that something happened."""
        return self.counted.get(name, 0.0)

    def durations(self, name: str) -> Durations:
        """Of `wait` in the queue, or of `run`, an attempt."""
        counts: list[float] = []
        total = 0.0
        for bound in (*(f"{bound:g}" for bound in BOUNDS), "+Inf"):
            total += self.number(f"{name}:{bound}")
            counts.append(total)
        return Durations(tuple(counts), self.number(f"{name}:sum"))


def read_counters(client: redis.Redis, index_prefix: str) -> JobCounters:
    """Look once.

    Raises:
        RedisError: Redis does not answer.
    """
    with client.pipeline(transaction=False) as pipeline:
        for state in STATES:
            pipeline.zcard(index_prefix + state)
        pipeline.llen(KEY_PREFIX + QUEUE)
        pipeline.zrange(index_prefix + "queued", 0, 0)
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
