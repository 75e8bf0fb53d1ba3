"""Results and records go when their time is over or space is short: the oldest first, and none that is in use."""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hessian_spectrum.jobs.retention import Leftovers, Retention
from hessian_spectrum.jobs.scripts import RESULTS
from hessian_spectrum.jobs.storage_identity import StorageIdentity, StorageMismatchError
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.service.maintenance.retention_task import RetentionPolicy, RetentionTask
from hessian_spectrum.storage.artifacts import ArtifactOwners, ArtifactStore
from hessian_spectrum.storage.job_files import CheckpointStore
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.points import PointStore, StoredPoint
from hessian_spectrum.storage.results import ResultDamagedError, ResultStore
from tests.fixtures.jobs import create_job
from tests.fixtures.longer import examples

DAY = 86400.0
ORPHANS = "spectrum:results-of-no-job"
AGES = ("spectrum:jobs:with-result", "spectrum:jobs:without-result")


@dataclass
class Deployment:
    """A deployment without service and worker."""

    client: redis.Redis
    directory: Path
    max_bytes: int = 10**9
    questions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = JobStore(self.client, lease_seconds=30.0, max_attempts=2)
        blobs = LocalDirectory(self.directory)
        blobs.prepare()
        self.results = ResultStore(blobs)
        self.retention = Retention(self.client)
        self.storage = StorageIdentity(self.client, self.results, CheckpointStore(blobs.within("job-checkpoints")))
        self.storage.settle()

    def run_retention(self, max_bytes: int | None = None) -> None:
        quota = self.max_bytes if max_bytes is None else max_bytes
        RetentionTask(
            store=self.store,
            retention=self.retention,
            results=self.results,
            artifacts=ArtifactStore(LocalDirectory(self.directory, "artifacts")),
            owners=ArtifactOwners(LocalDirectory(self.directory, "owners")),
            points=PointStore(LocalDirectory(self.directory, "points")),
            storage=self.storage,
            policy=RetentionPolicy(result_seconds=30 * DAY, record_seconds=10 * DAY, results_bytes=quota),
        ).run_once()

    def compute(self, content: bytes, question: bytes | None = None) -> str:
        """Id of a job whose answer, and question if no other is given, is this."""
        record, _ = create_job(self.store, cache_key=_digest(question or content))
        lease = self.store.claim(record.id)
        assert lease is not None
        self.store.succeed(lease, self.results.write(content), "version")
        return record.id

    def ask(self, content: bytes) -> str | None:
        """Id of a job that the store answers, if it does."""
        answer = next(iter(self.store.cached_results(_digest(content), ["version"])), None)
        if answer is None:
            return None
        return create_job(self.store, cache_key=_digest(content), cached_result=answer)[0].id

    def age(self, days: float) -> None:
        for index in AGES:
            for job_id in self.client.zrange(index, 0, -1):
                self.client.zincrby(index, -days * DAY, job_id)

    def age_orphans(self, hours: float) -> None:
        for digest in self.client.zrange(ORPHANS, 0, -1):
            self.client.zincrby(ORPHANS, -hours * 3600, digest)

    def state(self, job_id: str) -> str:
        return self.store.get(job_id).state

    def files(self) -> set[str]:
        return {path.stem for path in self.directory.glob("??/*")}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def deployment(redis_client: redis.Redis, tmp_path: Path) -> Deployment:
    return Deployment(redis_client, tmp_path / "results")


def test_results_and_then_records_have_their_time(deployment: Deployment, redis_client: redis.Redis) -> None:
    job_id = deployment.compute(b"a")
    failed = create_job(deployment.store)[0].id
    deployment.store.cancel(failed)
    deployment.age(9)
    deployment.run_retention()
    assert (deployment.state(job_id), deployment.state(failed)) == ("succeeded", "cancelled")
    deployment.age(2)
    deployment.run_retention()
    assert Leftovers(deployment.storage).ended_jobs([failed]) == [failed]
    assert [record.id for record in deployment.store.page(size=9)] == [job_id]
    deployment.age(20)
    deployment.run_retention()
    record = deployment.store.get(job_id)
    assert (record.state, record.result_digest) == ("expired", None)
    assert record.error is not None
    assert (record.error.status, record.error.detail) == (410, "Results are kept for 30 days.")
    assert deployment.files() == set()
    assert deployment.ask(b"a") is None
    assert [each.id for each in deployment.store.page(state="expired", size=9)] == [job_id]
    deployment.age(11)
    deployment.run_retention()
    deployment.client.delete("spectrum:changes", "spectrum:totals", "spectrum:identity")  # of all jobs together
    for stream in redis_client.scan_iter(match="spectrum:events:*"):
        assert 0 < redis_client.ttl(stream) <= 3600
        redis_client.delete(stream)
    assert redis_client.keys("*") == []


def test_a_job_that_is_under_way_is_never_forgotten(deployment: Deployment) -> None:
    queued, running = (create_job(deployment.store)[0].id for _ in range(2))
    deployment.store.claim(running)
    deployment.age(10_000)
    deployment.run_retention(0)
    assert (deployment.state(queued), deployment.state(running)) == ("queued", "running")


def test_a_shared_result_stays_as_long_as_one_job_may_have_it(deployment: Deployment) -> None:
    old = deployment.compute(b"a")
    deployment.age(29)
    young = deployment.ask(b"a")
    assert young is not None
    deployment.age(2)
    deployment.run_retention()
    assert (deployment.state(old), deployment.state(young)) == ("expired", "succeeded")
    assert deployment.results.read(_digest(b"a")) == b"a"
    assert deployment.ask(b"a") is not None


def test_what_a_killed_service_did_not_remove_is_removed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = deployment.compute(b"a")
    with monkeypatch.context() as dying:
        dying.setattr(deployment.results, "delete", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            deployment.run_retention(0)
    assert deployment.state(job_id) == "expired"
    assert deployment.files() == {_digest(b"a")}
    deployment.run_retention()
    assert deployment.files() == set()
    assert Leftovers(deployment.storage).unwanted_results() == []


def test_files_of_no_job_and_drafts_go_after_a_while(deployment: Deployment) -> None:
    used = deployment.compute(b"used")
    orphan, young = deployment.results.write(b"orphan"), deployment.results.write(b"young")
    drafts = [deployment.directory / "draft-1.npz", deployment.directory / orphan[:2] / "draft-2"]
    artifacts = deployment.directory / "artifacts" / "ab"
    artifacts.mkdir(parents=True)
    (artifacts / "old.npy").touch()
    (artifacts / "new.npy").touch()
    for path in drafts:
        path.touch()
    hours_ago = time.time() - 7 * 3600
    for path in [
        *deployment.directory.glob(f"??/{orphan}.*"),
        *deployment.directory.glob(f"??/{_digest(b'used')}.*"),
        *drafts,
    ]:
        os.utime(path, (hours_ago, hours_ago))
    owners = ArtifactOwners(LocalDirectory(deployment.directory, "owners"))
    for owner, name in (("anna", "old"), ("bob", "old"), ("bob", "new")):
        owners.add(owner, name)
    os.utime(artifacts / "old.npy", (time.time() - 31 * DAY, time.time()))
    deployment.run_retention()
    assert orphan in deployment.files()  # a Redis restored from an older backup would not know it either
    deployment.age_orphans(5)
    deployment.run_retention()
    assert orphan in deployment.files()
    deployment.age_orphans(1)
    deployment.run_retention()
    assert deployment.client.zrange(ORPHANS, 0, -1) == [orphan]
    deployment.run_retention()
    assert deployment.client.zrange(ORPHANS, 0, -1) == []
    assert deployment.state(used) == "succeeded"
    assert {path.stem for path in deployment.directory.glob("??/*.json")} == {_digest(b"used"), young}
    assert [path for path in drafts if path.exists()] == []
    assert [path.name for path in artifacts.iterdir()] == ["new.npy"]
    assert (owners.owners("old"), owners.owners("new")) == ([], ["bob"])


def test_room_that_files_of_no_job_leave_is_not_made_again(deployment: Deployment) -> None:
    used, orphan = deployment.compute(b"used"), deployment.results.write(b"orphan" * 100)
    for path in deployment.directory.glob(f"??/{orphan}.*"):
        os.utime(path, (time.time() - DAY, time.time() - DAY))
    deployment.run_retention()
    deployment.age_orphans(6)
    deployment.run_retention(max_bytes=100)
    assert deployment.files() == {_digest(b"used")}
    assert deployment.state(used) == "succeeded"


@pytest.mark.parametrize("is_bound", [True, False])
def test_an_empty_redis_deletes_nothing(deployment: Deployment, is_bound: bool) -> None:
    """A wrong database, a lost volume, a restore that is half done: also of what an earlier version left."""
    used = deployment.compute(b"used")
    artifact = deployment.directory / "artifacts" / "ab" / "old.npy"
    artifact.parent.mkdir(parents=True)
    artifact.touch()
    long_ago = time.time() - 31 * DAY
    for path in [*deployment.directory.glob("??/*"), artifact]:
        os.utime(path, (long_ago, long_ago))
    kept = {key: deployment.client.dump(key) for key in deployment.client.keys("*")}
    deployment.client.flushall()
    if not is_bound:
        (deployment.directory / "identity").unlink()
    with pytest.raises(StorageMismatchError):
        deployment.run_retention(0)
    assert deployment.files() == {_digest(b"used")}
    assert artifact.exists()
    for key, value in kept.items():
        deployment.client.restore(key, 0, value)
    if not is_bound:
        deployment.client.delete("spectrum:identity")
        deployment.storage.settle()
    deployment.run_retention()
    assert deployment.files() == {_digest(b"used")}
    assert deployment.state(used) == "succeeded"


def test_a_redis_that_is_replaced_between_two_steps_deletes_nothing(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.compute(b"used")
    for path in deployment.directory.glob("??/*"):
        os.utime(path, (time.time() - DAY, time.time() - DAY))
    sizes = deployment.results.sizes

    def replaced() -> dict[str, int]:
        deployment.client.flushall()
        return sizes()

    monkeypatch.setattr(deployment.results, "sizes", replaced)
    with pytest.raises(StorageMismatchError):
        deployment.run_retention()
    assert deployment.files() == {_digest(b"used")}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("compute"), st.integers(1, 400)),
        st.tuples(st.just("ask"), st.integers(0, 20)),
        st.tuples(st.just("delete"), st.integers(0, 20)),
        st.tuples(st.just("make room"), st.integers(0, 1500)),
    ),
    max_size=25,
)


@given(steps=STEPS)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_oldest_go_first_and_no_more_than_need_to(
    redis_client: redis.Redis, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Against a model: a list of results in the order of their last use, each with its jobs."""
    redis_client.flushall()
    deployment = Deployment(redis_client, tmp_path_factory.mktemp("results"))
    model: list[tuple[bytes, set[str]]] = []
    expired: set[str] = set()
    for number, (step, value) in enumerate(steps):
        if step == "compute":
            content = f"{number:04d}".encode() * value
            model.append((content, {deployment.compute(content)}))
        elif step == "ask" and model:
            content, jobs = model.pop(value % len(model))
            job_id = deployment.ask(content)
            assert job_id is not None
            model.append((content, jobs | {job_id}))
        elif step == "delete" and model:
            content, jobs = model[value % len(model)]
            job_id = sorted(jobs)[0]
            jobs.remove(job_id)
            _, digest = deployment.store.delete(job_id)
            assert (digest is None) == bool(jobs)
            if not jobs:
                model.remove((content, jobs))  # its file waits for the next run
        elif step == "make room":
            deployment.run_retention(value)
            while sum(len(content) for content, _ in model) > value:
                expired |= model.pop(0)[1]
            assert sum(deployment.results.sizes().values()) <= value
            assert deployment.files() == {_digest(content) for content, _ in model}
    for content, jobs in model:
        assert deployment.results.read(_digest(content)) == content
        assert set(deployment.retention.users(_digest(content))) == jobs
        assert {deployment.state(job_id) for job_id in jobs} == {"succeeded"}
    assert {deployment.state(job_id) for job_id in expired} <= {"expired"}
    assert deployment.client.zrange(RESULTS, 0, -1) == [_digest(content) for content, _ in model]


def test_answers_against_evictions(deployment: Deployment) -> None:
    """Threads that ask, read and delete while two services make room: whoever has a result can read it."""
    questions = [bytes([65 + i]) * 300 for i in range(8)]
    deadline = time.monotonic() + 2
    found = {"read": 0, "expired": 0}

    def client(number: int) -> None:
        turn = number
        while time.monotonic() < deadline:
            turn += 1
            question = questions[turn * (number + 1) % len(questions)]
            if (job_id := deployment.ask(question)) is None and number == 0:  # no two results are the same
                job_id = deployment.compute(question + str(turn).encode(), question)
            if job_id is None:
                continue
            found[read(job_id, question)] += 1
            if turn % 5 == 0:
                with suppress(KeyError):
                    deployment.store.delete(job_id)

    def read(job_id: str, question: bytes) -> str:
        record = deployment.store.get(job_id)
        try:
            if record.state == "succeeded":
                assert deployment.results.read(record.result_digest or "").startswith(question)
                return "read"
        except ResultDamagedError:
            assert deployment.state(job_id) == "expired"  # meanwhile
        return "expired"

    def retain() -> None:
        while time.monotonic() < deadline:
            deployment.run_retention(900)

    with ThreadPoolExecutor(6) as pool:
        calls: list[Callable[[], Any]] = [retain, retain, *(lambda i=i: client(i) for i in range(4))]
        for done in [pool.submit(call) for call in calls]:
            done.result()
    assert found["read"] > 0
    assert deployment.store.page(state="expired", size=1) != []
    deployment.run_retention(900)
    assert sum(deployment.results.sizes().values()) <= 900
    for record in deployment.store.page(state="succeeded", size=10_000):
        assert deployment.results.read(record.result_digest or "")


def test_kept_points_go_before_results(deployment: Deployment) -> None:
    job = deployment.compute(b"a" * 500)
    points = PointStore(LocalDirectory(deployment.directory, "points"))
    keys = [str(digit) * 64 for digit in range(3)]
    for index, key in enumerate(keys):
        points.write(key, StoredPoint("{}", {"values": np.zeros(100)}))
        path = deployment.directory / "points" / key[:2] / key
        os.utime(path, (time.time(), 1000.0 + index))
    one = points.num_bytes() // 3
    deployment.run_retention(max_bytes=500 + 2 * one)
    assert points.held(keys) == set(keys[1:])
    assert deployment.state(job) == "succeeded"
    deployment.run_retention(max_bytes=500)
    assert points.held(keys) == set()
    assert deployment.state(job) == "succeeded"


def test_points_that_nobody_uses_are_removed(deployment: Deployment) -> None:
    points = PointStore(LocalDirectory(deployment.directory, "points"))
    for key, days in (("0" * 64, 31), ("1" * 64, 29)):
        points.write(key, StoredPoint("{}", {}))
        path = deployment.directory / "points" / key[:2] / key
        os.utime(path, (time.time() - days * DAY, time.time() - days * DAY))
    deployment.run_retention()
    assert points.held(["0" * 64, "1" * 64]) == {"1" * 64}
