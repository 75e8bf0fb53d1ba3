"""Who is there: those that said so lately, by the clock of Redis."""

import redis

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.jobs.worker_registry import register, registered_result_versions, registered_workers, unregister


def status(name: str, code_version: str | None = None) -> WorkerStatus:
    return WorkerStatus(name=name, device="cpu", memory_bytes=1, concurrency=1, code_version=code_version)


def test_workers_come_and_go(redis_client: redis.Redis) -> None:
    assert registered_workers(redis_client) == []
    for each in (status("b", "2"), status("a", "1"), status("c"), status("a", "2")):
        register(redis_client, each)
    there = registered_workers(redis_client)
    assert all(abs(worker.clock_skew_seconds) < 1 for worker in there)  # one machine has one clock
    told = [worker.model_copy(update={"clock_skew_seconds": None}) for worker in there]
    assert told == [status("a", "2"), status("b", "2"), status("c")]
    assert registered_result_versions(redis_client) == ["2"]
    unregister(redis_client, "b")
    assert [worker.name for worker in registered_workers(redis_client)] == ["a", "c"]


def test_who_is_silent_is_gone(redis_client: redis.Redis) -> None:
    for name in ("silent", "there"):
        register(redis_client, status(name))
    redis_client.zincrby("spectrum:workers-seen", -16, "silent")
    assert [worker.name for worker in registered_workers(redis_client)] == ["there"]
    register(redis_client, status("there"))
    assert redis_client.hkeys("spectrum:workers") == ["there"]
