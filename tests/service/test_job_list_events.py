"""`/v1/events`: the changes of all jobs that a caller lists, while they happen."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hessian_spectrum.api_schemas.jobs import Job, Progress
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.service.auth import KeyStore
from tests.conftest import running_redis
from tests.fixtures.jobs import create_job
from tests.service.own_service import Service


@pytest.fixture(scope="module")
def redis_url(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(redis_server, tmp_path_factory.mktemp("redis")) as running:
        yield running.url


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def texts(keys_file: Path) -> dict[str, str]:
    store = KeyStore(keys_file)
    return {"anna": store.add("Anna"), "bob": store.add("Bob"), "admin": store.add("Carol", role="admin")}


@pytest.fixture(scope="module")
def service(
    redis_url: str, keys_file: Path, texts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    assert texts
    service = Service(redis_url, tmp_path_factory.mktemp("service"), SPECTRUM_KEYS_FILE=str(keys_file))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def store(redis_url: str) -> Iterator[JobStore]:
    with connect(redis_url) as client:
        yield JobStore(client, lease_seconds=60.0, max_attempts=2)


def owner_of(texts: dict[str, str], keys_file: Path, name: str) -> str:
    key = KeyStore(keys_file).find(texts[name])
    assert key is not None
    return str(key.id)


@contextlib.contextmanager
def listening(service: Service, text: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream; from the beginning of the block on no change is missed."""
    headers = {"Authorization": f"Bearer {text}"}
    with httpx.stream("GET", f"{service.url}/v1/events", headers=headers, timeout=30) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert next(lines) == ": connected"
        yield (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))


def test_changes_of_several_jobs_are_heard_in_one_stream(
    service: Service, store: JobStore, texts: dict[str, str], keys_file: Path
) -> None:
    owner = owner_of(texts, keys_file, "anna")
    with listening(service, texts["anna"]) as events:
        first, second = (create_job(store, tags={"paper": "one"}, owner=owner)[0].id for _ in range(2))
        assert {next(events)["id"], next(events)["id"]} == {first, second}
        lease = store.claim(first)
        assert lease is not None
        store.renew(lease, Progress(phase="products", done=3, total=9, unit=""))
        while (job := Job.model_validate(next(events))).progress.done < 3:
            assert job.id == first
        assert job.state == "running"
        assert job.tags == {"paper": "one"}
        store.cancel(second)
        while (job := Job.model_validate(next(events))).id != second:
            assert job.id == first  # a change that was heard together with the one before
        assert job.state == "cancelled"


def test_a_key_hears_of_its_own_jobs_and_an_admin_of_all(
    service: Service, store: JobStore, texts: dict[str, str], keys_file: Path
) -> None:
    annas, bobs = (owner_of(texts, keys_file, name) for name in ("anna", "bob"))
    with listening(service, texts["bob"]) as heard_by_bob, listening(service, texts["admin"]) as heard_by_admin:
        hidden = create_job(store, owner=annas)[0].id
        shown = create_job(store, owner=bobs)[0].id
        seen = next(heard_by_bob)["id"]
        assert seen == shown
        admins: set[str] = set()
        while not {hidden, shown} <= admins:
            admins.add(next(heard_by_admin)["id"])


def test_a_stream_ends_when_its_key_is_revoked(
    service: Service, store: JobStore, texts: dict[str, str], keys_file: Path
) -> None:
    keys = KeyStore(keys_file)
    text = keys.add("Dora")
    key = keys.find(text)
    assert key is not None
    with listening(service, text) as events:
        keys.revoke(key.id)
        assert list(events) == []
