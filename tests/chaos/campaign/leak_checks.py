"""What must not be there once every job has ended and the stack has rested."""

import time
from pathlib import Path

import redis

from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE

REST_SECONDS = 20.0
"""Within which messages are taken and checkpoints removed."""


def leftovers(client: redis.Redis, results: Path, known: set[str]) -> list[str]:
    """What stays after the rest: messages, keys of jobs that nobody knows, checkpoints; and results that lack."""
    deadline = time.monotonic() + REST_SECONDS
    while (found := _found(client, results, known)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def removed_later(client: redis.Redis, results: Path, known: set[str]) -> str:
    """What killed workers leave, of which the server rids itself: messages that they held, which the broker delivers
    again after an hour to be dropped; drafts, and results that they had written but not handed in, after six hours."""
    unused = len(_stored(results) - _used(client, known))
    drafts = len([*results.glob("draft-*"), *results.glob("*/draft-*")])
    return f"{client.hlen(KEY_PREFIX + 'unacked')} messages, {unused} results, {drafts} drafts"


def _found(client: redis.Redis, results: Path, known: set[str]) -> list[str]:
    found = [f"{client.llen(KEY_PREFIX + QUEUE)} messages"] if client.llen(KEY_PREFIX + QUEUE) else []
    found += _orphans(client, known)
    found += [f"checkpoint {path.name}" for path in results.glob("job-checkpoints/*")]
    found += [f"request {path.name}" for path in results.glob("requests/*") if path.stem in known]
    return found + [f"result {digest} is missing" for digest in _used(client, known) - _stored(results)]


def _used(client: redis.Redis, known: set[str]) -> set[str]:
    return {digest for job_id in known if (digest := client.hget(f"spectrum:job:{job_id}", "result_digest"))}


def _stored(results: Path) -> set[str]:
    return {path.stem for path in results.glob("[0-9a-f][0-9a-f]/*.json")}


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
