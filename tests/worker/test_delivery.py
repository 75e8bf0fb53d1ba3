"""A message that cannot be acknowledged, because Redis is away just then, takes no place of the worker for ever."""

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue
from kombu.transport import redis as redis_transport
from redis.exceptions import ConnectionError as RedisAwayError

from jobs.connection import broker_url
from worker.delivery import SteadyQoS


@pytest.fixture
def message(redis_client: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The one that a channel with one place holds."""
    monkeypatch.setattr(redis_transport.Channel, "QoS", SteadyQoS)
    with Connection(broker_url(redis_url)) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        queue = Queue("places", routing_key="places")(channel)
        queue.declare()
        with connection.Producer() as producer:
            producer.publish({}, routing_key="places")
        message = queue.get()
        assert message is not None
        assert not message.channel.qos.can_consume()
        yield message


@pytest.mark.parametrize("end", ["ack", "reject", "requeue"])
def test_its_place_is_given_back(message: Any, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise RedisAwayError

    monkeypatch.setattr(SteadyQoS, "_remove_from_indices", away)
    monkeypatch.setattr(SteadyQoS, "restore_by_tag", away)
    with pytest.raises(RedisAwayError):
        getattr(message, end)()
    assert message.channel.qos.can_consume()


def test_one_that_is_acknowledged_is_gone(message: Any, redis_client: Any) -> None:
    message.ack()
    assert message.channel.qos.can_consume()
    assert redis_client.hlen("unacked") == 0
