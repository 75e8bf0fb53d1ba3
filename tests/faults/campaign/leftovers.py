"""What must not be there once every job has ended and the stack has rested."""

import time
from pathlib import Path

import redis

from jobs.queue import KEY_PREFIX, QUEUE

REST_SECONDS = 20.0
"""Within which messages are taken and checkpoints removed."""


def leftovers(client: redis.Redis, results: Path, known: set[str]) -> list[str]:
    """What stays after the rest: messages, leases, keys and files of jobs that nobody knows, checkpoints, drafts."""
    deadline = time.monotonic() + REST_SECONDS
    while (found := _found(client, results, known)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def held_by_the_dead(client: redis.Redis) -> int:
    """Messages that killed workers had taken: the broker delivers them again after an hour, and they are dropped."""
    return int(client.hlen(KEY_PREFIX + "unacked"))


def _found(client: redis.Redis, results: Path, known: set[str]) -> list[str]:
    found = [f"{client.llen(KEY_PREFIX + QUEUE)} messages"] if client.llen(KEY_PREFIX + QUEUE) else []
    found += _orphans(client, known)
    found += [f"checkpoint {path.name}" for path in results.glob("job-checkpoints/*")]
    found += [f"draft {path.name}" for path in [*results.glob("draft-*"), *results.glob("*/draft-*")]]
    digests = {client.hget(f"spectrum:job:{job_id}", "result_digest") for job_id in known}
    stored = {path.stem for path in results.glob("[0-9a-f][0-9a-f]/*.json")}
    found += [f"result {digest} of no job" for digest in stored - digests]
    found += [f"result {digest} is missing" for digest in digests - stored - {None}]
    return found


def _orphans(client: redis.Redis, known: set[str]) -> list[str]:
    found: list[str] = []
    for kind in ("job", "request"):
        ids = {key.rpartition(":")[2] for key in client.scan_iter(match=f"spectrum:{kind}:*", count=1000)}
        found += [f"{kind} {job_id} that nobody knows" for job_id in ids - known]
        found += [f"{kind} {job_id} is missing" for job_id in known - ids if kind == "job"]
    for state in ("queued", "running", "cancelling"):
        found += [f"job {job_id} still {state}" for job_id in client.zrange(f"spectrum:jobs:{state}", 0, -1)]
    in_all = set(client.zrange("spectrum:jobs:all", 0, -1))
    return found + [f"index names {job_id}" for job_id in in_all - known]
