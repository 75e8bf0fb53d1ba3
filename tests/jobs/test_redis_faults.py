"""What is wrong with Redis is said as it is: away, full, without disk, loading, or refusing."""

import pytest
import redis
from kombu.exceptions import OperationalError

from hessian_spectrum.jobs.connection import Fault, described, eviction_fault, fault_of, require_writable
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.store import JobStore


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (redis.ConnectionError("Connection refused"), "away"),
        (redis.TimeoutError("Timeout reading from socket"), "away"),
        (redis.AuthenticationError("invalid username-password pair"), "away"),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), "disk"),
        (redis.ResponseError("Error running script: -OOM command not allowed when used memory > 'maxmemory'."), "full"),
        (redis.ReadOnlyError("You can't write against a read only replica."), "refusing"),
        (redis.exceptions.NoPermissionError("this user has no permissions"), "refusing"),
        (OperationalError("without a cause"), "away"),
    ],
)
def test_each_error_is_one_fault(error: Exception, fault: Fault) -> None:
    assert fault_of(error) == fault  # type: ignore[arg-type]
    assert described(error).startswith("redis ")  # type: ignore[arg-type]


def test_a_redis_at_its_maxmemory_is_full_for_whoever_writes(redis_client: redis.Redis, redis_url: str) -> None:
    store, jobs = JobStore(redis_client, lease_seconds=30.0, max_attempts=2), JobQueue(redis_url)
    jobs.publish("before")
    require_writable(redis_client)
    redis_client.config_set("maxmemory", 1)
    writes = {
        "probe": lambda: require_writable(redis_client),
        "script": lambda: store.create("spectrum", "{}", {}),
        "transaction": lambda: redis_client.pipeline().set("a", "1").execute(),
        "message": lambda: jobs.publish("a"),
    }
    try:
        for name, write in writes.items():
            with pytest.raises((redis.RedisError, OperationalError)) as refused:
                write()
            assert (name, fault_of(refused.value)) == (name, "full")
    finally:
        redis_client.config_set("maxmemory", 0)
    require_writable(redis_client)
    assert not redis_client.exists("spectrum:probe")
    jobs.close()


def test_a_user_who_may_not_see_the_policy_is_told_nothing_of_it(redis_client: redis.Redis, redis_url: str) -> None:
    redis_client.acl_setuser("reader", enabled=True, nopass=True, keys=["*"], categories=["+@read", "+@connection"])
    redis_client.config_set("maxmemory-policy", "allkeys-random")
    try:
        with redis.Redis.from_url(redis_url, username="reader", password="any") as reader:
            assert eviction_fault(reader) is None
        assert "allkeys-random" in str(eviction_fault(redis_client))
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
        redis_client.acl_deluser("reader")
