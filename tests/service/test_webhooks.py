"""Messages about ended jobs, from real services to real receivers; this test is their worker."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.scripts import COUNTERS, WEBHOOKS
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.jobs.webhooks import WebhookQueue
from tests.conftest import free_port
from tests.fixtures.jobs import EXACT_JOB, create_job
from tests.fixtures.webhook_receiver import SECONDS, SECRET, Receiver, receiving
from tests.service.own_service import Service

Start = Callable[..., Service]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def start(redis_url: str, redis_client: redis.Redis, tmp_path: Path) -> Iterator[Start]:
    """Starts services that may send messages to these hosts; they end with the test."""
    services: list[Service] = []

    def start(*hosts: str, **settings: str) -> Service:
        directory = tmp_path / str(len(services))
        directory.mkdir()
        listed = {"SPECTRUM_WEBHOOK_HOSTS": ",".join(hosts), "SPECTRUM_WEBHOOK_SECRET": SECRET} | settings
        services.append(Service(redis_url, directory, **listed, SPECTRUM_RESULTS_DIR=str(tmp_path / "results")))
        return services[-1]

    yield start
    for service in services:
        if service.process.poll() is None:
            service.stop()


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=60.0, max_attempts=2)


def submit(service: Service, url: str, **fields: Any) -> str:
    answer = httpx.post(f"{service.url}/v1/jobs", json=EXACT_JOB | {"webhook": url} | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def wait_until(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def outcomes(client: redis.Redis) -> dict[str, int]:
    counted = client.hgetall(COUNTERS).items()
    return {name.partition(":")[2]: int(number) for name, number in counted if name.startswith("webhook:")}


def waiting(client: redis.Redis, receiver: Receiver) -> list[str]:
    return [str(each) for each in client.zrange(WEBHOOKS + receiver.host, 0, -1)]


def make_due(client: redis.Redis, receiver: Receiver) -> None:
    """End every pause and every lease."""
    for job_id in waiting(client, receiver):
        client.zadd(WEBHOOKS + receiver.host, {job_id: 0}, xx=True)


def test_a_message_says_what_the_record_says(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    service = start(receiver.host)
    job_id = submit(service, receiver.url + "?token=1", tags={"paper": "one"})
    lease = store.claim(job_id)
    assert lease is not None
    store.fail(lease, Problem(title="No", status=500))
    (message,) = receiver.wait(1)
    assert message.path == "/hook?token=1"
    assert message.id == f"{job_id}-failed"
    record = httpx.get(f"{service.url}/v1/jobs/{job_id}").json()
    links = {name: link.removeprefix(service.url) for name, link in record["links"].items()}
    assert message.content == {
        "type": "job.failed",
        "timestamp": message.content["timestamp"],
        "data": record | {"links": links},
    }
    assert message.content["timestamp"].replace("+00:00", "Z") == record["finished_at"]
    assert "webhook" not in json.dumps(record)
    wait_until(lambda: outcomes(redis_client) == {"delivered": 1})
    assert waiting(redis_client, receiver) == []
    scraped = httpx.get(f"{service.url}/metrics").text
    assert 'spectrum_webhook_attempts_total{outcome="delivered"} 1.0' in scraped
    assert "token" not in service.log.read_text()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_receiver_with_either_secret_accepts_a_message(
    start: Start, store: JobStore, receiver: Receiver, is_first: bool
) -> None:
    other = "whsec_" + 32 * "B"
    secrets = [SECRET, other] if is_first else [other, SECRET]
    service = start(receiver.host, SPECTRUM_WEBHOOK_SECRET=",".join(secrets))
    job_id = submit(service, receiver.url)
    store.cancel(job_id)
    (message,) = receiver.wait(1)  # which verifies it with SECRET alone
    assert message.id == f"{job_id}-cancelled"
    assert len(message.headers["webhook-signature"].split()) == 2


def test_a_receiver_that_was_away_gets_its_messages(start: Start, store: JobStore, redis_client: redis.Redis) -> None:
    port = free_port()
    service = start(f"127.0.0.1:{port}")
    ids = [submit(service, f"http://127.0.0.1:{port}/") for _ in range(3)]
    for job_id in ids:
        store.cancel(job_id)
    wait_until(lambda: outcomes(redis_client).get("failed", 0) >= 3)
    service.stop()
    with receiving(port) as receiver:
        make_due(redis_client, receiver)
        service.start()  # what it knew is in Redis
        messages = receiver.wait(3)
        wait_until(lambda: outcomes(redis_client).get("delivered") == 3)
        assert {message.id for message in messages} == {f"{job_id}-cancelled" for job_id in ids}
        assert len(receiver.messages) == 3


def test_attempts_are_one_message(start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis) -> None:
    receiver.statuses = [500, 404]
    service = start(receiver.host)
    store.cancel(submit(service, receiver.url))
    wait_until(lambda: outcomes(redis_client).get("failed") == 2)  # the second one after the first pause
    make_due(redis_client, receiver)
    messages = receiver.wait(3)
    assert len({message.id for message in messages}) == 1
    assert len({json.dumps(message.content) for message in messages}) == 1
    wait_until(lambda: outcomes(redis_client) == {"failed": 2, "delivered": 1})


def test_a_redirect_is_a_failure(start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis) -> None:
    with receiving() as other:
        receiver.statuses, receiver.headers = 9 * [307], {"Location": other.url}
        service = start(receiver.host, other.host)
        job_id = submit(service, receiver.url)
        store.cancel(job_id)
        wait_until(lambda: "failed" in outcomes(redis_client))
        assert waiting(redis_client, receiver) == [job_id]
        assert other.messages == []


def test_a_receiver_that_is_gone_is_left_alone(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    receiver.statuses = [410]
    service = start(receiver.host)
    store.cancel(submit(service, receiver.url))
    wait_until(lambda: outcomes(redis_client) == {"given_up": 1})
    assert waiting(redis_client, receiver) == []
    wait_until(lambda: "is given up: status 410" in service.log.read_text())


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_may_ask_for_time(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis, status: int
) -> None:
    receiver.statuses, receiver.headers = [status], {"Retry-After": "5000"}
    job_id = submit(start(receiver.host), receiver.url)
    store.cancel(job_id)
    wait_until(lambda: outcomes(redis_client) == {"failed": 1})
    due = redis_client.zscore(WEBHOOKS + receiver.host, job_id)
    assert 4000 < float(due) - time.time() <= 5000


def test_a_receiver_that_hangs_delays_no_other(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    with receiving() as slow:
        service = start(slow.host, receiver.host)
        hanging = [create_job(store, webhook=f"http://{slow.host}/hang")[0].id for _ in range(200)]
        for job_id in hanging:
            store.cancel(job_id)
        slow.wait(1)
        for number in range(5):
            store.cancel(submit(service, receiver.url))
            receiver.wait(number + 1)
        assert len(slow.messages) < len(hanging)  # some have not had a first attempt yet
        assert len(waiting(redis_client, slow)) == len(hanging)


def test_a_receiver_is_not_waited_for_longer_than_an_attempt(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    service = start(receiver.host)
    store.cancel(submit(service, f"http://{receiver.host}/hang"))
    wait_until(lambda: "failed" in outcomes(redis_client))
    assert not receiver.ended.is_set()


def test_two_services_send_each_message_once(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    services = [start(receiver.host) for _ in range(2)]
    ids = [submit(services[number % 2], receiver.url) for number in range(60)]
    for job_id in ids:
        store.cancel(job_id)
    wait_until(lambda: outcomes(redis_client) == {"delivered": 60})
    assert sorted(message.id for message in receiver.messages) == sorted(f"{job_id}-cancelled" for job_id in ids)


def test_a_message_that_a_dead_service_had_claimed_is_sent(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    service = start("other.example:1")  # claims nothing itself
    refused = httpx.post(f"{service.url}/v1/jobs", json=EXACT_JOB | {"webhook": receiver.url})
    assert refused.status_code == 422
    service.stop()
    job_id = create_job(store, webhook=receiver.url)[0].id
    store.cancel(job_id)
    assert WebhookQueue(redis_client).claim(receiver.host, lease_seconds=2.0) is not None
    start(receiver.host)
    (message,) = receiver.wait(1)
    assert message.id == f"{job_id}-cancelled"
    wait_until(lambda: outcomes(redis_client) == {"delivered": 1})


def test_a_message_of_a_service_that_is_killed_is_sent_again(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    service = start(receiver.host)
    job_id = submit(service, f"http://{receiver.host}/hang")
    store.cancel(job_id)
    receiver.wait(1)
    service.process.kill()
    service.process.wait(SECONDS)
    assert waiting(redis_client, receiver) == [job_id]
    receiver.ended.set()
    make_due(redis_client, receiver)
    service.start()
    receiver.wait(2)
    assert {message.id for message in receiver.messages} == {f"{job_id}-cancelled"}
    wait_until(lambda: waiting(redis_client, receiver) == [])


def test_a_deleted_job_is_not_spoken_of(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    receiver.statuses = 9 * [500]
    service = start(receiver.host)
    job_id = submit(service, receiver.url)
    store.cancel(job_id)
    wait_until(lambda: "failed" in outcomes(redis_client))
    assert httpx.delete(f"{service.url}/v1/jobs/{job_id}").status_code == 204
    assert redis_client.keys(f"{WEBHOOKS}*") == []


REFUSED = [
    "http://127.0.0.1:1/",
    "https://127.0.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://localhost:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://0x7f.1:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://127.0.0.1:{port}@evil.example/",
    "http://evil.example:80\\@127.0.0.1:{port}/",
    "http://evil.example#@127.0.0.1:{port}/",
    "http://user:password@127.0.0.1:{port}/",
    "http://127.0.0.1:99999/",
    "ftp://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/a b",
    "http://127.0.0.1:{port}/\r\nX: y",
    "",
]


def test_other_hosts_are_refused_and_the_field_is_named(
    start: Start, receiver: Receiver, redis_client: redis.Redis
) -> None:
    service = start(receiver.host)
    for url in REFUSED:
        job = EXACT_JOB | {"webhook": url.replace("{port}", str(receiver.port))}
        refused = httpx.post(f"{service.url}/v1/jobs", json=job)
        assert refused.status_code == 422, job
        assert [error["loc"] for error in refused.json()["errors"]] == [["body", "webhook"]], refused.text
        refused = httpx.post(f"{service.url}/v1/jobs/batch", json={"jobs": [EXACT_JOB, job]})
        assert [error["loc"] for error in refused.json()["errors"]] == [["body", "jobs", 1, "webhook"]], refused.text
    large = EXACT_JOB | {"data": {"kind": "inline", "x": 40_000 * [1.0], "y": 40_000 * [0.5]}, "webhook": REFUSED[0]}
    refused = httpx.post(f"{service.url}/v1/jobs", json=large, timeout=60)  # another process parses it
    assert [error["loc"] for error in refused.json()["errors"]] == [["body", "webhook"]], refused.text
    assert redis_client.keys("spectrum:job:*") == []


def test_a_server_without_receivers_sends_nothing(redis_url: str, redis_client: redis.Redis, tmp_path: Path) -> None:
    service = Service(redis_url, tmp_path)
    try:
        refused = httpx.post(f"{service.url}/v1/jobs", json=EXACT_JOB | {"webhook": "http://127.0.0.1:80/"})
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error == {"loc": ["body", "webhook"], "msg": "this server sends no messages"}
        assert httpx.post(f"{service.url}/v1/jobs", json=EXACT_JOB | {"webhook": None}).status_code == 202
    finally:
        service.stop()


def test_a_host_that_is_no_longer_listed_gets_nothing(
    start: Start, store: JobStore, receiver: Receiver, redis_client: redis.Redis
) -> None:
    """Not even where a record has changed its URL since."""
    with receiving() as listed:
        moved, left = (create_job(store, webhook=receiver.url)[0].id for _ in range(2))
        redis_client.hset(f"spectrum:job:{moved}", "receiver", listed.host)
        store.cancel(moved)
        store.cancel(left)
        service = start(listed.host)
        wait_until(lambda: outcomes(redis_client) == {"given_up": 1})
        store.cancel(submit(service, listed.url))
        listed.wait(1)
        assert receiver.messages == []
        assert waiting(redis_client, receiver) == [left]


def test_no_proxy_of_the_environment_is_used(start: Start, store: JobStore, receiver: Receiver) -> None:
    with receiving() as proxy:
        service = start(receiver.host, HTTP_PROXY=f"http://{proxy.host}", ALL_PROXY=f"http://{proxy.host}")
        store.cancel(submit(service, receiver.url))
        receiver.wait(1)
        assert proxy.messages == []
