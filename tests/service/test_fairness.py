"""A service between keys: heavy work of one leaves the others theirs, and is the same work as in small."""

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from benchmarks.expensive_requests import write_checkpoint
from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.checkpoints import checkpoint
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.plans import plan_job, stored_plan
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.jobs.worker_registry import register
from hessian_spectrum.service import tasks
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.auth import KeyStore
from hessian_spectrum.service.process_pool.pool import ProcessPool
from hessian_spectrum.service.request_parsing import LARGE_BODY_BYTES
from tests.fixtures.jobs import EXACT_JOB
from tests.service.own_service import Service

SAMPLE = {"law": "wigner", "sample": {"size": 1000}}
LONG_SAMPLE = {"law": "wigner", "sample": {"size": 2000}}  # half a second
NUM_AT_ONCE = 10
GRID: dict[str, Any] = {
    "kind": "sweep",
    "base": EXACT_JOB,
    "over": {name: list(range(1, 17)) for name in ("seed", "model.seed", "weight_decay")},
}
"""A small body with 4,096 points."""


class Shared:
    """A service with keys, and without a worker."""

    def __init__(self, redis_url: str, directory: Path) -> None:
        self.results = directory / "results"
        self.results.mkdir()
        self.keys = KeyStore(directory / "keys.json")
        self.keys.add("first")
        quotas = {"SPECTRUM_REQUESTS_BYTES": "3200000", "SPECTRUM_RECORDS_BYTES": "600000"}
        self.service = Service(redis_url, self.results, SPECTRUM_HEAVY_REQUESTS="2", **quotas)
        self.client = connect(redis_url)

    def http(self, **limits: int) -> httpx.Client:
        text = self.keys.add("someone", role="user", **limits)
        return httpx.Client(base_url=self.service.url, headers={"Authorization": f"Bearer {text}"}, timeout=120)


@pytest.fixture(scope="module")
def shared(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    found = Shared(redis_url, tmp_path_factory.mktemp("shared"))
    yield found
    found.service.stop()


@pytest.fixture
def http(shared: Shared) -> Iterator[httpx.Client]:
    shared.client.flushall()
    with shared.http() as http:
        while "no worker is present" not in http.post("/v1/estimates", json=EXACT_JOB).json()["summary"]:
            time.sleep(0.05)  # the service remembers the workers of the test before for a second
        yield http


def padded(message: Any) -> dict[str, Any]:
    """The same message in a body that is large."""
    content = json.dumps(message) + LARGE_BODY_BYTES * " "
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def large(num_numbers: int, **fields: Any) -> dict[str, Any]:
    numbers = num_numbers // 2 * [0.125]
    return EXACT_JOB | {"data": {"kind": "inline", "x": numbers, "y": numbers}} | fields


def test_heavy_work_of_one_key_leaves_others_theirs(shared: Shared) -> None:
    ended: list[int] = []
    shared.client.flushall()  # no worker of another test is there
    with shared.http() as other, shared.http() as greedy:

        def ask(number: int) -> None:
            message = SAMPLE | {"sample": {"size": 1000, "seed": number}}
            ended.append(greedy.post("/v1/random-matrix", json=message).status_code)

        with ThreadPoolExecutor(2) as both:  # both processes are there
            for warm in both.map(lambda http: http.post("/v1/random-matrix", json=SAMPLE), (other, greedy)):
                warm.raise_for_status()
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(NUM_AT_ONCE)]
        for thread in threads:
            thread.start()
        while not ended:  # both work and wait
            time.sleep(0.01)
        for _ in range(5):
            assert other.get("/v1/jobs").status_code == 200
            assert other.get("/v1/health/ready").status_code == 503  # for want of a worker
        assert other.post("/v1/random-matrix", json={"law": "wigner", "num_points": 10_000}).status_code == 200
        assert len(ended) < NUM_AT_ONCE  # before, it stood in line behind all of them
        for thread in threads:
            thread.join()
    assert ended == NUM_AT_ONCE * [200]


def cpu_seconds(pid: int) -> float:
    """That children of a process have taken, those that ended, too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = sum(map(int, fields[13:15]))
    for child in children:
        with contextlib.suppress(FileNotFoundError):
            ticks += sum(map(int, Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def test_what_nobody_waits_for_is_not_done(shared: Shared) -> None:
    message = {"law": "wigner", "sample": {"size": 2000}}  # several tenths of a second
    pid = shared.service.process.pid

    with shared.http() as http:
        http.post("/v1/random-matrix", json=SAMPLE).raise_for_status()
        before = cpu_seconds(pid)
        http.post("/v1/random-matrix", json=message).raise_for_status()
        of_one, before = cpu_seconds(pid) - before, cpu_seconds(pid)

        def ask() -> None:
            with pytest.raises(httpx.TimeoutException):
                http.post("/v1/random-matrix", json=message, timeout=0.1)

        threads = [threading.Thread(target=ask) for _ in range(NUM_AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        http.post("/v1/random-matrix", json={"law": "wigner"}, headers={"Accept": "image/png"}).raise_for_status()
    assert cpu_seconds(pid) - before < NUM_AT_ONCE / 2 * of_one


def test_a_large_body_is_the_same_question(shared: Shared, http: httpx.Client) -> None:
    shared.client.flushall()
    assert http.post("/v1/estimates", **padded(EXACT_JOB)).json() == http.post("/v1/estimates", json=EXACT_JOB).json()
    key = {"Idempotency-Key": "same"}
    first = http.post("/v1/jobs", json=EXACT_JOB | {"tags": {"a": "b"}}, headers=key)
    body = padded(EXACT_JOB | {"tags": {"a": "b"}})
    again = http.post("/v1/jobs", content=body["content"], headers=body["headers"] | key)
    assert (first.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert again.json() == first.json()
    closed = {"model": {"kind": "quadratic", "matrix": [[4.0, 4.0], [4.0, 16.0]]}}
    assert http.post("/v1/closed-form", **padded(closed)).json() == http.post("/v1/closed-form", json=closed).json()


def test_what_is_wrong_with_a_large_grid_is_named(http: httpx.Client) -> None:
    refused = http.post("/v1/jobs", json=GRID | {"over": GRID["over"] | {"loss": ["bad"]}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "over", "loss", 0]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/estimates"])
def test_what_is_wrong_with_a_large_body_is_named(http: httpx.Client, path: str) -> None:
    wrong = large(20_000, loss="cross-entropy", seed=-1)
    for body in (padded(wrong), {"json": wrong}):
        refused = http.post(path, **body)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["loc"][:2] == ["body", "seed"]
    assert http.post(path, **padded(EXACT_JOB) | {"content": LARGE_BODY_BYTES * "["}).status_code == 422


def test_a_large_job_that_fits_no_worker_is_refused(shared: Shared, http: httpx.Client) -> None:
    register(shared.client, WorkerStatus(name="a-1", device="cpu", memory_bytes=2**20, concurrency=1))
    job = EXACT_JOB | {"model": {"kind": "mlp", "widths": [1, 2000, 1]}}
    refused = [http.post("/v1/jobs", **body) for body in (padded(job), {"json": job})]
    assert [answer.status_code for answer in refused] == [422, 422]
    assert refused[0].json() == refused[1].json()
    assert shared.client.keys("spectrum:job:*") == []


def test_a_job_is_stored_with_its_plan_until_it_ends(shared: Shared, http: httpx.Client) -> None:
    register(shared.client, WorkerStatus(name="a-1", device="cpu", memory_bytes=2**30, concurrency=1))
    ids = [
        http.post("/v1/jobs", **body).raise_for_status().json()["id"]
        for body in (padded(EXACT_JOB), {"json": EXACT_JOB})
    ]
    stored = [str(shared.client.hget(f"spectrum:job:{job_id}", "plan")) for job_id in ids]
    request = JobRequest.model_validate(EXACT_JOB).root.canonical()
    assert stored == 2 * [stored_plan(plan_job(request, 2**30))]
    assert "plan" not in shared.client.xrevrange(f"spectrum:events:{ids[0]}", count=1)[0][1]
    http.post(f"/v1/jobs/{ids[0]}/cancel").raise_for_status()
    assert shared.client.hget(f"spectrum:job:{ids[0]}", "plan") is None
    taken = len(request_text(shared, ids[1])) + len(stored[1])
    assert shared.client.hget("spectrum:bytes", "requests") == str(taken)


def request_text(shared: Shared, job_id: str) -> str:
    return str(shared.client.get(f"spectrum:request:{job_id}"))


def test_large_requests_are_files_within_a_quota(shared: Shared, http: httpx.Client) -> None:
    accepted = [http.post("/v1/jobs", json=large(60_000, seed=seed)) for seed in range(2)]
    assert [answer.status_code for answer in accepted] == [202, 202]
    names = sorted(path.name for path in (shared.results / "requests").iterdir())
    assert names == sorted(f"{answer.json()['id']}.json" for answer in accepted)
    refused = http.post("/v1/jobs", json=large(60_000, seed=2))
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/quota-of-requests")
    assert "wait until some jobs have ended, or upload" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    assert http.post("/v1/jobs", json=EXACT_JOB).status_code == 202
    with shared.http() as other:
        assert other.post("/v1/jobs", json=large(60_000, seed=2)).status_code == 202
    http.post(f"/v1/jobs/{accepted[0].json()['id']}/cancel")
    assert not (shared.results / "requests" / names[0]).exists()
    assert http.post("/v1/jobs", json=large(60_000, seed=2)).status_code == 202


def test_records_have_a_quota_and_deleting_makes_room(http: httpx.Client) -> None:
    tags = {f"{number:064}": 256 * "x" for number in range(32)}
    answers = []
    while not answers or answers[-1].status_code == 202:
        answers.append(http.post("/v1/jobs", json=EXACT_JOB | {"tags": tags, "seed": len(answers)}))
    refused = answers.pop()
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/quota-of-records")
    assert "delete ended jobs" in refused.json()["detail"]
    assert "retry-after" not in refused.headers
    assert 3 <= len(answers) <= 10
    job_id = answers[0].json()["id"]
    http.post(f"/v1/jobs/{job_id}/cancel")
    assert http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert http.post("/v1/jobs", json=EXACT_JOB | {"tags": tags}).status_code == 202


@pytest.mark.parametrize(("path", "message"), [("/v1/random-matrix", LONG_SAMPLE), ("/v1/estimates", GRID)])
def test_heavy_work_counts_for_more_in_the_rate(path: str, message: Any, shared: Shared) -> None:
    with shared.http(requests_per_minute=60) as http:
        http.post(path, json=message).raise_for_status()
        left = int(http.get("/v1/jobs").headers["ratelimit"].split(";r=")[1].split(";")[0])
        assert left < 58 - 1


def test_jobs_by_tag(http: httpx.Client, shared: Shared) -> None:
    ids = [
        http.post("/v1/jobs", json=EXACT_JOB | {"seed": n, "tags": {"n": str(n % 2)}}).json()["id"] for n in range(6)
    ]
    found = http.get("/v1/jobs", params={"tag": "n:1", "page_size": 2}).json()
    assert [job["id"] for job in found["jobs"]] == [ids[5], ids[3]]
    rest = http.get("/v1/jobs", params={"tag": "n:1", "page_token": found["next_page_token"]}).json()
    assert [job["id"] for job in rest["jobs"]] == [ids[1]]
    with shared.http() as other:
        assert other.get("/v1/jobs", params={"tag": "n:1"}).json()["jobs"] == []


def test_redis_away_is_told_of_large_bodies_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRUM_REDIS_URL", f"unix://{tmp_path}/none.sock?db=0")
    monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(tmp_path))
    lonely = TestClient(create_app(ServiceSettings.load()), base_url="http://127.0.0.1")
    for path in ("/v1/jobs", "/v1/estimates"):
        assert lonely.post(path, **padded(EXACT_JOB)).status_code == 503


def test_a_checkpoint_of_very_many_tensors_is_described_once(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "models" / "large", 6_000)
    monkeypatch.setenv("SPECTRUM_REDIS_URL", redis_url)
    monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(tmp_path))
    monkeypatch.setenv("SPECTRUM_MODELS_DIR", str(tmp_path / "models"))
    app = create_app(ServiceSettings.load())
    asked: list[str] = []
    do = ProcessPool.run

    async def counted(self: ProcessPool, task: str, *arguments: Any) -> Any:
        asked.append(task)
        return await do(self, task, *arguments)

    monkeypatch.setattr(ProcessPool, "run", counted)
    monkeypatch.setattr(checkpoint, "_header", None)  # which this process does not read
    with TestClient(app, base_url="http://127.0.0.1") as http, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.get("/v1/models").json(), range(8)))
        assert http.get("/v1/models/large").json() == answers[0]["models"][0]
        assert http.get("/v1/models/none").status_code == 404
        question = EXACT_JOB | {
            "model": {"kind": "causal-lm", "checkpoint": "large"},
            "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8},
            "loss": "cross-entropy",
            "blocks": ["1*", "*f"],
        }
        estimate = http.post("/v1/estimates", json=question).json()
    assert asked == ["model", "estimate"]
    assert answers == 8 * [answers[0]]
    assert answers[0]["models"][0]["num_parameters"] == 2048 + 5999
    names = [f"{number:x}" for number in range(5999)]
    assert estimate["num_parameters"] == sum(name.startswith("1") or name.endswith("f") for name in names)


def test_a_checkpoint_that_goes_while_it_is_read_is_unknown(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    monkeypatch.setenv("SPECTRUM_REDIS_URL", redis_url)
    monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(tmp_path))
    models.mkdir()
    monkeypatch.setenv("SPECTRUM_MODELS_DIR", str(models))
    app = create_app(ServiceSettings.load())
    do = ProcessPool.run

    async def go(self: ProcessPool, task: str, *arguments: Any) -> Any:
        shutil.rmtree(models / "large")
        return await do(self, task, *arguments)

    monkeypatch.setattr(ProcessPool, "run", go)
    with TestClient(app, base_url="http://127.0.0.1") as http:
        for path, status in (("/v1/models", 200), ("/v1/models/large", 404)):
            write_checkpoint(models / "large", 6_000)
            assert http.get(path).status_code == status


def test_large_files_of_checkpoints_are_not_read_again_for_each_large_request(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, write_gpt2: Callable[..., Path]
) -> None:
    write_gpt2(tmp_path / "models" / "tiny")
    write_checkpoint(tmp_path / "models" / "large", 6_000)
    monkeypatch.setenv("SPECTRUM_REDIS_URL", redis_url)
    monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(tmp_path))
    monkeypatch.setenv("SPECTRUM_MODELS_DIR", str(tmp_path / "models"))
    read: list[str] = []

    async def in_a_new_process(_: ProcessPool, task: str, arguments: Any, content: bytes = b"") -> Any:
        digest = hashlib.file_digest
        with monkeypatch.context() as patched:
            patched.setattr(hashlib, "file_digest", lambda file, name: read.append(task) or digest(file, name))
            tasks._models.cache_clear()
            return tasks.run_task(
                json.dumps({"task": task, "arguments": arguments}).encode(), content
            ).raise_for_problem()

    monkeypatch.setattr(ProcessPool, "run", in_a_new_process)
    tokens = {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8}
    with TestClient(create_app(ServiceSettings.load()), base_url="http://127.0.0.1") as http:
        for kind, name in (("gpt2", "tiny"), ("causal-lm", "large")):
            question = EXACT_JOB | {
                "model": {"kind": kind, "checkpoint": name},
                "data": tokens,
                "loss": "cross-entropy",
            }
            assert http.post("/v1/estimates", **padded(question)).status_code == 200
    assert set(read) == {"model"}
