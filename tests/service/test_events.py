"""`/v1/jobs/{id}/events` of a service process alone; the test does what a worker would."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hessian_spectrum.api_schemas.jobs import Job, Progress
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.record import Lease
from hessian_spectrum.jobs.store import JobStore
from tests.conftest import running_redis
from tests.fixtures.jobs import create_job
from tests.service.own_service import Service

MAX_LISTENERS = 120
QUADRATIC = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}


@pytest.fixture(scope="module")
def redis_url(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that no process of another test uses."""
    with running_redis(redis_server, tmp_path_factory.mktemp("redis")) as running:
        yield running.url


@pytest.fixture(scope="module")
def service(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"SPECTRUM_MAX_LISTENERS": str(MAX_LISTENERS)}
    service = Service(redis_url, tmp_path_factory.mktemp("service"), **settings)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def store(redis_url: str) -> Iterator[JobStore]:
    with connect(redis_url) as client:
        yield JobStore(client, lease_seconds=60.0, max_attempts=2)


def new_job(store: JobStore) -> str:
    return create_job(store, tags={"paper": "one"})[0].id


def claimed(store: JobStore, job_id: str) -> Lease:
    lease = store.claim(job_id)
    assert lease is not None
    return lease


def advance(store: JobStore, lease: Lease, *steps: int) -> None:
    for done in steps:
        store.renew(lease, Progress(phase="products", done=done, total=9, unit=""))


Event = tuple[str, dict[str, Any]]


def events_in(text: str) -> list[Event]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [(block["id"], json.loads(block["data"])) for block in blocks if "data" in block]


def listen(service: Service, job_id: str, after: str | None = None) -> httpx.Response:
    """The whole stream of a job that ends."""
    headers = {} if after is None else {"Last-Event-ID": after}
    return httpx.get(f"{service.url}/v1/jobs/{job_id}/events", headers=headers, timeout=30)


def test_a_listener_hears_every_change_once_and_the_last_is_the_end(service: Service, store: JobStore) -> None:
    job_id = new_job(store)
    told: list[dict[str, Any]] = []

    def tell() -> None:
        url = f"{service.url}/v1/jobs/{job_id}"
        told.append(httpx.get(url).json())
        lease = claimed(store, job_id)
        told.append(httpx.get(url).json())
        for done in (1, 2, 3):
            advance(store, lease, done)
            told.append(httpx.get(url).json())
        store.succeed(lease, "a" * 64)
        told.append(httpx.get(url).json())

    with httpx.stream("GET", f"{service.url}/v1/jobs/{job_id}/events", timeout=30) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        worker, text = threading.Thread(target=tell), ""
        for piece in response.iter_text():
            if not text:
                worker.start()
            text += piece
        heard = events_in(text)
    worker.join()
    assert [data for _, data in heard] == told
    assert told[0]["links"]["events"] == f"{service.url}/v1/jobs/{job_id}/events"
    assert told[-1]["state"] == "succeeded"
    for place, (event_id, _) in enumerate(heard[:-1]):
        assert events_in(listen(service, job_id, event_id).text) == heard[place + 1 :]
    assert listen(service, job_id, heard[-1][0]).status_code == 204
    for unknown in ("12-3", "nonsense", "9" * 50, "0-0"):
        assert events_in(listen(service, job_id, unknown).text) == heard[-1:]


def test_a_job_that_ended_long_ago_is_told_once(service: Service, store: JobStore, redis_url: str) -> None:
    job_id = new_job(store)
    store.cancel(job_id)
    with connect(redis_url) as client:
        client.delete(f"spectrum:events:{job_id}")
    [(event_id, data)] = events_in(listen(service, job_id).text)
    assert data["state"] == "cancelled"
    assert listen(service, job_id, event_id).status_code == 204


def test_jobs_that_nobody_knows(service: Service) -> None:
    assert listen(service, "0" * 32).status_code == 404
    assert listen(service, "x").status_code == 422


def test_a_job_that_is_deleted_behind_a_listeners_back_ends_the_stream(
    service: Service, store: JobStore, redis_url: str
) -> None:
    job_id = new_job(store)
    with httpx.stream("GET", f"{service.url}/v1/jobs/{job_id}/events", timeout=30) as response:
        lines = response.iter_lines()
        next(lines)
        with connect(redis_url) as client:
            client.delete(f"spectrum:events:{job_id}", f"spectrum:job:{job_id}")
        assert len([line for line in lines if line.startswith("data")]) <= 1


def test_many_listeners_hear_all_and_leave_closed_forms_quick(service: Service, store: JobStore) -> None:
    job_id = new_job(store)
    lease = claimed(store, job_id)

    started: list[int] = []

    async def follow(client: httpx.AsyncClient) -> list[int]:
        async with client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            started.append(response.status_code)
            text = (await response.aread()).decode()
            assert response.status_code == 200, text
        return [data["progress"]["done"] for _, data in events_in(text)]

    async def all_of_them() -> list[list[int]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:
            listeners = [asyncio.create_task(follow(client)) for _ in range(100)]
            while len(started) < len(listeners):
                await asyncio.sleep(0.05)
            for done in range(1, 6):
                await asyncio.to_thread(advance, store, lease, done)
                assert (await client.post("/v1/closed-form", json=QUADRATIC, timeout=20)).is_success
            await asyncio.to_thread(store.succeed, lease, "b" * 64)
            return await asyncio.gather(*listeners)

    heard = asyncio.run(all_of_them())
    assert {tuple(numbers) for numbers in heard} == {(0, 1, 2, 3, 4, 5, 5)}


def test_listeners_are_bounded_and_those_who_vanish_make_room(service: Service, store: JobStore) -> None:
    job_id = new_job(store)
    with httpx.Client(base_url=service.url, timeout=30, limits=httpx.Limits(max_connections=None)) as client:
        with contextlib.ExitStack() as open_streams:
            for _ in range(MAX_LISTENERS):
                response = open_streams.enter_context(client.stream("GET", f"/v1/jobs/{job_id}/events"))
                assert response.status_code == 200
            refused = client.get(f"/v1/jobs/{job_id}/events")
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "5"
            assert refused.headers["content-type"] == "application/problem+json"
        store.cancel(job_id)
        deadline = time.monotonic() + 30
        while client.get(f"/v1/jobs/{job_id}/events").status_code == 429:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_clients_follow_a_job_to_its_end(service: Service, store: JobStore) -> None:
    job_id = new_job(store)

    def work() -> None:
        lease = claimed(store, job_id)
        advance(store, lease, 1)
        store.succeed(lease, "d" * 64)

    def story(jobs: list[Job]) -> list[tuple[str, int]]:
        return [(job.state, job.progress.done) for job in jobs]

    whole = [("queued", 0), ("running", 0), ("running", 1), ("succeeded", 1)]
    heard: list[Job] = []
    with SpectrumClient(service.url) as client:
        for job in client.events(job_id):
            if not heard:
                threading.Thread(target=work).start()
            heard.append(job)
    assert story(heard) == whole

    async def follow() -> list[Job]:
        async with AsyncSpectrumClient(service.url) as client:
            return [job async for job in client.events(job_id)]

    assert story(asyncio.run(follow())) == whole[-1:]


def test_a_client_goes_on_where_a_stream_broke_off(service: Service, store: JobStore) -> None:
    """The service stops within its time although somebody listens, and the next one at its address goes on."""
    job_id = new_job(store)
    lease = claimed(store, job_id)
    heard: list[int] = []

    def follow() -> None:
        with SpectrumClient(service.url) as client:
            heard.extend(job.progress.done for job in client.events(job_id))

    def wait_until_heard(*numbers: int) -> None:
        deadline = time.monotonic() + 30
        while heard != list(numbers):
            assert time.monotonic() < deadline, heard
            time.sleep(0.01)

    following = threading.Thread(target=follow, daemon=True)
    following.start()
    wait_until_heard(0)
    advance(store, lease, 1)
    wait_until_heard(0, 1)
    service.stop()  # if its time were over, it would say so in its log
    advance(store, lease, 2, 3)
    service.start()
    advance(store, lease, 4)
    store.succeed(lease, "e" * 64)
    following.join(30)
    assert heard == [0, 1, 2, 3, 4, 4]
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert [line for line in lines if line["level"] != "INFO"] == []
