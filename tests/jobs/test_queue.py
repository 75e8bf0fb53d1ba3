"""Publishing to a Redis that is silent, away or restarted."""

import pytest
import redis
from kombu.exceptions import OperationalError

from hessian_spectrum.jobs import queue
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE, JobQueue, job_of_message

SILENCE = 1.0


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_silent_redis_is_waited_for_once(
    redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, is_connected: bool
) -> None:
    monkeypatch.setattr(queue, "SOCKET_TIMEOUT_SECONDS", SILENCE)
    jobs = JobQueue(redis_url)
    if is_connected:
        jobs.publish("a")
    connect(redis_url).client_pause(int(1000 * 1.9 * SILENCE))
    with pytest.raises(OperationalError):  # a second wait would last until Redis answers again
        jobs.publish("b")
    redis_client.ping()
    jobs.publish("c")
    assert job_of_message(str(redis_client.lindex(KEY_PREFIX + QUEUE, 0))) == "c"
    jobs.close()


def test_a_connection_that_was_closed_is_made_anew(redis_client: redis.Redis, redis_url: str) -> None:
    jobs = JobQueue(redis_url)
    jobs.publish("a")
    redis_client.client_kill_filter(_type="normal", skipme=True)
    jobs.publish("b")
    assert redis_client.llen(KEY_PREFIX + QUEUE) == 2
    jobs.close()
