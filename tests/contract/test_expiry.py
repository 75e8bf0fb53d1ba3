"""What callers see of results that had their time, or had to make room."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient

QUOTA = 40_000
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1]},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "top-k", "k": 1, "eigenvectors": False},
}
LARGE = JOB | {"method": {"kind": "lanczos", "num_steps": 3, "num_probes": 2, "num_points": 100}}


@pytest.fixture(scope="module")
def own_server(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    kept = {"SPECTRUM_RESULTS_BYTES": str(QUOTA), "SPECTRUM_REAP_SECONDS": "0.1", "SPECTRUM_RECORD_SECONDS": "86400"}
    server = start_server(tmp_path_factory.mktemp("expiry") / "data", **kept)
    yield server
    server.stop()


@pytest.fixture
def own_client(own_server: Any) -> Iterator[SpectrumClient]:
    with SpectrumClient(own_server.url) as client:
        yield client


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_result_expires_and_its_record_is_forgotten(own_server: Any, own_client: SpectrumClient) -> None:
    job_id = own_client.submit(JOB | {"tags": {"test": "expiry"}}, wait_seconds=60, fresh=True).id
    own_client.result(job_id)
    with own_server.redis() as redis:
        redis.zincrby("spectrum:jobs:with-result", -31 * 86400, job_id)
        wait_until(lambda: own_client.job(job_id).state == "expired")
        assert [job.id for job in own_client.jobs("expired", "test:expiry")] == [job_id]
        for path in ("result", "result.npz", "result.png"):
            gone = httpx.get(f"{own_server.url}/v1/jobs/{job_id}/{path}")
            assert gone.status_code == 410
            assert gone.json()["type"] == "/problems/job-expired"
            assert gone.json()["detail"] == "Results are kept for 30 days."
        with pytest.raises(ProblemResponseError, match="410 The result has expired"):
            own_client.result(job_id)
        assert "30 days" in str(JobFailedError(own_client.job(job_id)))
        assert own_client.cancel(job_id).state == "expired"
        again = own_client.submit(JOB, wait_seconds=60)
        assert (again.state, again.cached) == ("succeeded", False)
        redis.zincrby("spectrum:jobs:without-result", -86401, job_id)
        wait_until(lambda: redis.exists(f"spectrum:job:{job_id}", f"spectrum:request:{job_id}") == 0)
    assert httpx.get(f"{own_server.url}/v1/jobs/{job_id}/result").status_code == 404


def test_the_oldest_results_make_room(own_server: Any, own_client: SpectrumClient) -> None:
    """While others read and ask: they get a result, or hear that it is gone, and never an error of the server."""
    enough = threading.Event()
    codes: set[int] = set()

    def look() -> None:
        with httpx.Client(base_url=own_server.url, timeout=30) as http:
            while not enough.wait(0.05):
                for job in http.get("/v1/jobs", params={"page_size": 6}).json()["jobs"]:
                    codes.add(http.get(f"/v1/jobs/{job['id']}/result").status_code)
                codes.add(http.post("/v1/jobs", json=LARGE).status_code)

    with ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        deadline = time.monotonic() + 60
        for seed in range(1000):
            own_client.submit(LARGE | {"seed": seed}, wait_seconds=30)
            if len(list(own_client.jobs("expired"))) > 5 or time.monotonic() > deadline:
                break
        enough.set()
        for each in looking:
            each.result()
    assert 200 in codes
    assert codes <= {200, 202, 409, 410}
    results = own_server.data_directory / "results"
    own_client.submit(LARGE | {"seed": 1001}, wait_seconds=60)
    wait_until(lambda: not list(own_client.jobs("queued")) and not list(own_client.jobs("running")))
    wait_until(lambda: sum(path.stat().st_size for path in results.glob("??/*.json")) <= QUOTA)
    time.sleep(0.5)
    kept = list(own_client.jobs("succeeded"))
    assert kept
    for job in kept:
        own_client.result(job.id)
    gone = list(own_client.jobs("expired"))
    assert httpx.get(gone[0].links.result).status_code == 410
    assert max(job.finished_at for job in gone if job.finished_at) <= max(
        job.finished_at for job in kept if job.finished_at
    )
    assert gone[0].error is not None
    assert gone[0].error.detail == "It was removed to make room for newer ones."
