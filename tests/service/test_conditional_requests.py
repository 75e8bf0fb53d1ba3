"""ETags, long polls and pages of jobs, of a service whose worker is this test."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from fastapi.testclient import TestClient

from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.service import job_service
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.job_events import JobEventBroker
from tests.conftest import running_redis
from tests.fixtures.jobs import create_job

URL = "http://127.0.0.1"


@pytest.fixture
def start_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], TestClient]]:
    """Begins a service in this process on a Redis; it ends with the test."""
    begun: list[TestClient] = []

    def start(redis_url: str) -> TestClient:
        (tmp_path / "results").mkdir(exist_ok=True)
        monkeypatch.setenv("SPECTRUM_REDIS_URL", redis_url)
        monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(tmp_path / "results"))
        client = TestClient(create_app(ServiceSettings.load()), base_url=URL)
        begun.append(client.__enter__())
        return client

    yield start
    for client in begun:
        client.__exit__()


@pytest.fixture
def http(start_service: Callable[[str], TestClient], redis_url: str, redis_client: redis.Redis) -> TestClient:
    return start_service(redis_url)


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=60.0, max_attempts=2)


@pytest.fixture
def subscribed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Waits until so many requests have begun to wait for changes of a job."""
    subscribe, job_ids = JobEventBroker.subscribe, list[str]()

    def noted(broker: JobEventBroker, job_id: str) -> contextlib.AbstractContextManager[asyncio.Event]:
        job_ids.append(job_id)
        return subscribe(broker, job_id)

    def wait(number: int) -> None:
        deadline = time.monotonic() + 30
        while len(job_ids) < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    monkeypatch.setattr(JobEventBroker, "subscribe", noted)
    return wait


def new_job(store: JobStore, **tags: str) -> str:
    return create_job(store, tags=tags)[0].id


def later(seconds: float, action: Callable[[], object]) -> None:
    threading.Timer(seconds, action).start()


def test_a_tag_stands_for_a_state_of_a_job(http: TestClient, store: JobStore) -> None:
    job_id = new_job(store)
    tags = [http.get(f"/v1/jobs/{job_id}").headers["etag"] for _ in range(2)]
    assert tags[0] == tags[1]
    store.claim(job_id)
    changed = http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": tags[0]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tags[0]
    for known in (changed.headers["etag"], f'"other", W/{changed.headers["etag"]}', "*"):
        answer = http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == changed.headers["etag"]
    for unknown in ("", '"other"', changed.headers["etag"].strip('"'), changed.headers["etag"][:-2] + '"'):
        assert http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": unknown}).status_code == 200


def test_a_known_tag_is_compared_after_the_wait(http: TestClient, store: JobStore) -> None:
    job_id = new_job(store)
    tag = {"If-None-Match": http.get(f"/v1/jobs/{job_id}").headers["etag"]}
    started_at = time.monotonic()
    unchanged = http.get(f"/v1/jobs/{job_id}", params={"wait": 0.6}, headers=tag)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert time.monotonic() - started_at >= 0.6
    later(0.3, lambda: store.cancel(job_id))
    ended = http.get(f"/v1/jobs/{job_id}", params={"wait": 20}, headers=tag)
    assert ended.status_code == 200
    assert ended.json()["state"] == "cancelled"
    assert time.monotonic() - started_at < 10
    known = {"If-None-Match": ended.headers["etag"]}
    assert http.get(f"/v1/jobs/{job_id}", params={"wait": 20}, headers=known).status_code == 304


def test_the_document_says_where_a_tag_may_be_known(http: TestClient) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    operations = {path: item["get"] for path, item in paths.items() if "get" in item}
    takes_tags = {
        path
        for path, operation in operations.items()
        if "if-none-match" in {parameter["name"] for parameter in operation.get("parameters", [])}
    }
    assert takes_tags == {path for path, operation in operations.items() if "304" in operation["responses"]}
    assert takes_tags >= {"/v1/jobs/{job_id}", "/v1/jobs/{job_id}/result", "/v1/jobs/{job_id}/result.png"}


def test_what_is_only_read_has_no_head(http: TestClient, store: JobStore) -> None:
    for path in (f"/v1/jobs/{new_job(store)}", "/v1/jobs", "/v1/artifacts", "/v1/health/live"):
        refused = http.head(path)
        assert refused.status_code == 405
        assert "GET" in refused.headers["allow"]


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon"])
def test_waits_that_make_no_sense_are_refused(http: TestClient, store: JobStore, wait: str) -> None:
    refused = http.get(f"/v1/jobs/{new_job(store)}", params={"wait": wait})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["query", "wait"]


def test_a_job_that_is_deleted_while_somebody_waits_is_unknown(
    http: TestClient, store: JobStore, redis_client: redis.Redis
) -> None:
    job_id = new_job(store)
    later(0.3, lambda: redis_client.delete(f"spectrum:job:{job_id}"))
    assert http.get(f"/v1/jobs/{job_id}", params={"wait": 20}).status_code == 404


def test_many_long_polls_hear_of_their_jobs_at_once(
    http: TestClient, store: JobStore, subscribed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when their time is over: until then, nothing but the notification has them look again."""
    monkeypatch.setattr(job_service, "_POLL_SECONDS", 60.0)
    ids = [new_job(store) for _ in range(12)]
    answers: dict[str, Any] = {}

    def wait(job_id: str) -> None:
        answers[job_id] = http.get(f"/v1/jobs/{job_id}", params={"wait": 60}).json()

    threads = [threading.Thread(target=wait, args=(job_id,)) for job_id in ids]
    for thread in threads:
        thread.start()
    subscribed(12)
    for job_id in ids[:-1]:
        store.cancel(job_id)
    for thread in threads[:-1]:
        thread.join(30)
        assert not thread.is_alive()
    assert {answers[job_id]["state"] for job_id in ids[:-1]} == {"cancelled"}
    assert ids[-1] not in answers
    store.cancel(ids[-1])
    threads[-1].join(30)
    assert answers[ids[-1]]["state"] == "cancelled"


def test_without_redis_long_polls_are_told_so_and_streams_end(
    start_service: Callable[[str], TestClient], redis_server: str, tmp_path: Path, subscribed: Callable[[int], None]
) -> None:
    with running_redis(redis_server, tmp_path) as running:
        with connect(running.url) as client:
            job_id = new_job(JobStore(client, lease_seconds=60.0, max_attempts=2))
        http = start_service(running.url)
        answers: list[httpx.Response] = []
        paths = (f"/v1/jobs/{job_id}?wait=60", f"/v1/jobs/{job_id}/events")
        threads = [threading.Thread(target=lambda path=path: answers.append(http.get(path))) for path in paths]
        for thread in threads:
            thread.start()
        subscribed(2)
        running.process.kill()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    by_status = {answer.status_code: answer for answer in answers}
    assert set(by_status) == {503, 200}
    assert by_status[503].headers["retry-after"]
    assert by_status[200].text.count("data: ") == 1


Page = dict[str, Any]


def pages(http: TestClient, **query: str) -> Iterator[Page]:
    while True:
        page = http.get("/v1/jobs", params={"page_size": "3"} | query).raise_for_status().json()
        yield page
        if page["next_page_token"] is None:
            return
        query["page_token"] = page["next_page_token"]


def test_a_walk_over_pages_sees_each_job_that_stays_once(http: TestClient, store: JobStore) -> None:
    generator = random.Random(0)
    old = [new_job(store) for _ in range(24)]
    gone: set[str] = set()
    seen: list[str] = []
    for page in pages(http):
        seen += [job["id"] for job in page["jobs"]]
        for _ in range(2):
            new_job(store)
        for job_id in generator.sample(sorted(set(old) - gone), 2):
            store.cancel(job_id)
            store.delete(job_id)
            gone.add(job_id)
        if page["jobs"] and page["jobs"][-1]["id"] not in gone and len(gone) < 20:
            last = page["jobs"][-1]["id"]  # the job that the token names goes, too
            store.cancel(last)
            store.delete(last)
            gone.add(last)
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, reverse=True)
    assert set(old) - gone <= set(seen) <= set(old)


def test_a_token_goes_on_in_another_list_from_the_same_moment(http: TestClient, store: JobStore) -> None:
    ids = [new_job(store, parity="even" if n % 2 == 0 else "odd") for n in range(9)]
    for job_id in ids[::3]:
        store.cancel(job_id)
    token = next(pages(http))["next_page_token"]  # after ids[6]
    older = ids[:6][::-1]

    def rest(**query: str) -> list[str]:
        return [job["id"] for page in pages(http, page_token=token, **query) for job in page["jobs"]]

    assert rest() == older
    assert rest(tag="parity:odd") == [job_id for job_id in older if ids.index(job_id) % 2]
    assert rest(state="cancelled") == [ids[3], ids[0]]
    assert rest(state="expired") == []
    assert http.get("/v1/artifacts", params={"page_token": token}).json()["artifacts"] == []


@pytest.mark.parametrize("token", ["", "!", "AAAA", "A" * 23, "A" * 200, "../../etc", "AAAAAAAAAAAAAAAAAAAAAA\n"])
def test_a_token_that_was_never_given_out_is_refused(http: TestClient, token: str) -> None:
    for path in ("/v1/jobs", "/v1/artifacts"):
        refused = http.get(path, params={"page_token": token})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["loc"] == ["query", "page_token"]
