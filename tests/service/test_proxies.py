"""Behind a proxy that speaks TLS, addresses are those that callers used, and each caller counts for themselves."""

from collections.abc import Iterator

import httpx
import pytest
import redis

from hessian_spectrum.jobs.store import JobStore
from tests.fixtures.jobs import create_job
from tests.service.own_service import Service


@pytest.fixture(scope="module")
def behind(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"SPECTRUM_TRUSTED_PROXIES": "127.0.0.0/8, ::1", "SPECTRUM_REQUESTS_PER_MINUTE": "5"}
    service = Service(redis_url, tmp_path_factory.mktemp("behind"), **settings)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def open_to_all(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(redis_url, tmp_path_factory.mktemp("open"), SPECTRUM_REQUESTS_PER_MINUTE="5")
    yield service
    service.stop()


def forwarded(address: str) -> dict[str, str]:
    return {"X-Forwarded-Proto": "https", "X-Forwarded-For": address}


def test_links_are_those_of_the_proxy(behind: Service, redis_client: redis.Redis) -> None:
    job_id = create_job(JobStore(redis_client, lease_seconds=60.0, max_attempts=2))[0].id
    job = httpx.get(f"{behind.url}/v1/jobs/{job_id}", headers=forwarded("192.0.2.1")).json()
    assert [link.partition("/v1/")[0] for link in job["links"].values()] == [f"https://127.0.0.1:{behind.port}"] * 4


def test_callers_of_the_proxy_have_a_rate_each(behind: Service) -> None:
    def ask(address: str) -> int:
        return httpx.get(f"{behind.url}/v1/health/live", headers=forwarded(address)).status_code

    assert [ask("192.0.2.2") for _ in range(7)] == [200] * 5 + [429] * 2
    assert ask("192.0.2.3") == 200
    # what a caller puts before the proxy's own entry is not believed
    assert ask("192.0.2.4, 192.0.2.2") == 429
    assert [ask("nonsense") for _ in range(6)] == [200] * 5 + [429]


def test_without_the_setting_nobody_is_believed(open_to_all: Service, redis_client: redis.Redis) -> None:
    job_id = create_job(JobStore(redis_client, lease_seconds=60.0, max_attempts=2))[0].id
    for _ in range(8):
        answer = httpx.get(f"{open_to_all.url}/v1/jobs/{job_id}", headers=forwarded("192.0.2.9"))
        assert answer.json()["links"]["self"].startswith("http://")
