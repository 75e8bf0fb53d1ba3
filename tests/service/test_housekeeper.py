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

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hessian_spectrum.jobs.artifact_owners import ArtifactOwners
from hessian_spectrum.jobs.artifacts import ArtifactStore
from hessian_spectrum.jobs.job_checkpoints import CheckpointStore
from hessian_spectrum.jobs.leftovers import Leftovers
from hessian_spectrum.jobs.results import ResultDamagedError, ResultStore
from hessian_spectrum.jobs.retention import Retention
from hessian_spectrum.jobs.scripts import RESULTS
from hessian_spectrum.jobs.storage_identity import StorageIdentity, StorageMismatchError
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.service.upkeep.housekeeper import Housekeeper

DAY = 86400.0
ORPHANS = "spectrum:results-of-no-job"
AGES = ("spectrum:jobs:with-result", "spectrum:jobs:without-result")


@dataclass
class House:
    """A deployment without service and worker."""

    client: redis.Redis
    directory: Path
    max_bytes: int = 10**9
    questions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = JobStore(self.client, lease_seconds=30.0, max_attempts=2)
        self.results = ResultStore(self.directory)
        self.retention = Retention(self.client)
        self.storage = StorageIdentity(self.client, self.results, CheckpointStore(self.directory / "job-checkpoints"))
        self.storage.settle()

    def sweep(self, max_bytes: int | None = None) -> None:
        quota = self.max_bytes if max_bytes is None else max_bytes
        artifacts, owners = ArtifactStore(self.directory / "artifacts"), ArtifactOwners(self.directory / "owners")
        times = (30 * DAY, 10 * DAY)
        Housekeeper(self.store, self.retention, self.results, artifacts, owners, self.storage, *times, quota).sweep()

    def compute(self, content: bytes, question: bytes | None = None) -> str:
        """Id of a job whose answer, and question if no other is given, is this."""
        record, _ = self.store.create("spectrum", "{}", {}, question=_digest(question or content))
        lease = self.store.claim(record.id)
        assert lease is not None
        self.store.succeed(lease, self.results.write(content), "version")
        return record.id

    def ask(self, content: bytes) -> str | None:
        """Id of a job that the store answers, if it does."""
        answer = next(iter(self.store.answers(_digest(content), ["version"])), None)
        if answer is None:
            return None
        return self.store.create("spectrum", "{}", {}, question=_digest(content), answer=answer)[0].id

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
def house(redis_client: redis.Redis, tmp_path: Path) -> House:
    return House(redis_client, tmp_path / "results")


def test_results_and_then_records_have_their_time(house: House, redis_client: redis.Redis) -> None:
    job_id = house.compute(b"a")
    failed = house.store.create("spectrum", "{}", {})[0].id
    house.store.cancel(failed)
    house.age(9)
    house.sweep()
    assert (house.state(job_id), house.state(failed)) == ("succeeded", "cancelled")
    house.age(2)
    house.sweep()
    assert Leftovers(house.storage).ended_jobs([failed]) == [failed]
    assert [record.id for record in house.store.page(None, None, 9, None)] == [job_id]
    house.age(20)
    house.sweep()
    record = house.store.get(job_id)
    assert (record.state, record.result_digest) == ("expired", None)
    assert record.error is not None
    assert (record.error.status, record.error.detail) == (410, "Results are kept for 30 days.")
    assert house.files() == set()
    assert house.ask(b"a") is None
    assert [each.id for each in house.store.page("expired", None, 9, None)] == [job_id]
    house.age(11)
    house.sweep()
    house.client.delete("spectrum:changes", "spectrum:totals", "spectrum:identity")  # of all jobs together
    for stream in redis_client.scan_iter(match="spectrum:events:*"):
        assert 0 < redis_client.ttl(stream) <= 3600
        redis_client.delete(stream)
    assert redis_client.keys("*") == []


def test_a_job_that_is_under_way_is_never_forgotten(house: House) -> None:
    queued, running = (house.store.create("spectrum", "{}", {})[0].id for _ in range(2))
    house.store.claim(running)
    house.age(10_000)
    house.sweep(0)
    assert (house.state(queued), house.state(running)) == ("queued", "running")


def test_a_shared_result_stays_as_long_as_one_job_may_have_it(house: House) -> None:
    old = house.compute(b"a")
    house.age(29)
    young = house.ask(b"a")
    assert young is not None
    house.age(2)
    house.sweep()
    assert (house.state(old), house.state(young)) == ("expired", "succeeded")
    assert house.results.read(_digest(b"a")) == b"a"
    assert house.ask(b"a") is not None


def test_what_a_killed_service_did_not_remove_is_removed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = house.compute(b"a")
    with monkeypatch.context() as dying:
        dying.setattr(house.results, "delete", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            house.sweep(0)
    assert house.state(job_id) == "expired"
    assert house.files() == {_digest(b"a")}
    house.sweep()
    assert house.files() == set()
    assert Leftovers(house.storage).unwanted_results() == []


def test_files_of_no_job_and_drafts_go_after_a_while(house: House) -> None:
    used = house.compute(b"used")
    orphan, young = house.results.write(b"orphan"), house.results.write(b"young")
    drafts = [house.directory / "draft-1.npz", house.directory / orphan[:2] / "draft-2"]
    artifacts = house.directory / "artifacts" / "ab"
    artifacts.mkdir(parents=True)
    (artifacts / "old.npy").touch()
    (artifacts / "new.npy").touch()
    for path in drafts:
        path.touch()
    hours_ago = time.time() - 7 * 3600
    for path in [*house.directory.glob(f"??/{orphan}.*"), *house.directory.glob(f"??/{_digest(b'used')}.*"), *drafts]:
        os.utime(path, (hours_ago, hours_ago))
    owners = ArtifactOwners(house.directory / "owners")
    for owner, name in (("anna", "old"), ("bob", "old"), ("bob", "new")):
        owners.add(owner, name)
    os.utime(artifacts / "old.npy", (time.time() - 31 * DAY, time.time()))
    house.sweep()
    assert orphan in house.files()  # a Redis restored from an older backup would not know it either
    house.age_orphans(5)
    house.sweep()
    assert orphan in house.files()
    house.age_orphans(1)
    house.sweep()
    assert house.client.zrange(ORPHANS, 0, -1) == [orphan]
    house.sweep()
    assert house.client.zrange(ORPHANS, 0, -1) == []
    assert house.state(used) == "succeeded"
    assert {path.stem for path in house.directory.glob("??/*.json")} == {_digest(b"used"), young}
    assert [path for path in drafts if path.exists()] == []
    assert [path.name for path in artifacts.iterdir()] == ["new.npy"]
    assert (owners.owners("old"), owners.owners("new")) == ([], ["bob"])


def test_room_that_files_of_no_job_leave_is_not_made_again(house: House) -> None:
    used, orphan = house.compute(b"used"), house.results.write(b"orphan" * 100)
    for path in house.directory.glob(f"??/{orphan}.*"):
        os.utime(path, (time.time() - DAY, time.time() - DAY))
    house.sweep()
    house.age_orphans(6)
    house.sweep(max_bytes=100)
    assert house.files() == {_digest(b"used")}
    assert house.state(used) == "succeeded"


@pytest.mark.parametrize("is_bound", [True, False])
def test_an_empty_redis_deletes_nothing(house: House, is_bound: bool) -> None:
    """A wrong database, a lost volume, a restore that is half done: also of what an earlier version left."""
    used = house.compute(b"used")
    artifact = house.directory / "artifacts" / "ab" / "old.npy"
    artifact.parent.mkdir(parents=True)
    artifact.touch()
    long_ago = time.time() - 31 * DAY
    for path in [*house.directory.glob("??/*"), artifact]:
        os.utime(path, (long_ago, long_ago))
    kept = {key: house.client.dump(key) for key in house.client.keys("*")}
    house.client.flushall()
    if not is_bound:
        (house.directory / "identity").unlink()
    with pytest.raises(StorageMismatchError):
        house.sweep(0)
    assert house.files() == {_digest(b"used")}
    assert artifact.exists()
    for key, value in kept.items():
        house.client.restore(key, 0, value)
    if not is_bound:
        house.client.delete("spectrum:identity")
        house.storage.settle()
    house.sweep()
    assert house.files() == {_digest(b"used")}
    assert house.state(used) == "succeeded"


def test_a_redis_that_is_replaced_between_two_steps_deletes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.compute(b"used")
    for path in house.directory.glob("??/*"):
        os.utime(path, (time.time() - DAY, time.time() - DAY))
    sizes = house.results.sizes

    def replaced() -> dict[str, int]:
        house.client.flushall()
        return sizes()

    monkeypatch.setattr(house.results, "sizes", replaced)
    with pytest.raises(StorageMismatchError):
        house.sweep()
    assert house.files() == {_digest(b"used")}


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
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_oldest_go_first_and_no_more_than_need_to(
    redis_client: redis.Redis, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Against a model: a list of results in the order of their last use, each with its jobs."""
    redis_client.flushall()
    house = House(redis_client, tmp_path_factory.mktemp("results"))
    model: list[tuple[bytes, set[str]]] = []
    expired: set[str] = set()
    for number, (step, value) in enumerate(steps):
        if step == "compute":
            content = f"{number:04d}".encode() * value
            model.append((content, {house.compute(content)}))
        elif step == "ask" and model:
            content, jobs = model.pop(value % len(model))
            job_id = house.ask(content)
            assert job_id is not None
            model.append((content, jobs | {job_id}))
        elif step == "delete" and model:
            content, jobs = model[value % len(model)]
            job_id = sorted(jobs)[0]
            jobs.remove(job_id)
            _, digest = house.store.delete(job_id)
            assert (digest is None) == bool(jobs)
            if not jobs:
                model.remove((content, jobs))  # its file waits for the next sweep
        elif step == "make room":
            house.sweep(value)
            while sum(len(content) for content, _ in model) > value:
                expired |= model.pop(0)[1]
            assert sum(house.results.sizes().values()) <= value
            assert house.files() == {_digest(content) for content, _ in model}
    for content, jobs in model:
        assert house.results.read(_digest(content)) == content
        assert set(house.retention.users(_digest(content))) == jobs
        assert {house.state(job_id) for job_id in jobs} == {"succeeded"}
    assert {house.state(job_id) for job_id in expired} <= {"expired"}
    assert house.client.zrange(RESULTS, 0, -1) == [_digest(content) for content, _ in model]


def test_answers_against_evictions(house: House) -> None:
    """Threads that ask, read and delete while two services make room: whoever has a result can read it."""
    questions = [bytes([65 + i]) * 300 for i in range(8)]
    deadline = time.monotonic() + 2
    found = {"read": 0, "expired": 0}

    def customer(number: int) -> None:
        turn = number
        while time.monotonic() < deadline:
            turn += 1
            question = questions[turn * (number + 1) % len(questions)]
            if (job_id := house.ask(question)) is None and number == 0:  # no two results are the same
                job_id = house.compute(question + str(turn).encode(), question)
            if job_id is None:
                continue
            found[read(job_id, question)] += 1
            if turn % 5 == 0:
                with suppress(KeyError):
                    house.store.delete(job_id)

    def read(job_id: str, question: bytes) -> str:
        record = house.store.get(job_id)
        try:
            if record.state == "succeeded":
                assert house.results.read(record.result_digest or "").startswith(question)
                return "read"
        except ResultDamagedError:
            assert house.state(job_id) == "expired"  # meanwhile
        return "expired"

    def keeper() -> None:
        while time.monotonic() < deadline:
            house.sweep(900)

    with ThreadPoolExecutor(6) as pool:
        calls: list[Callable[[], Any]] = [keeper, keeper, *(lambda i=i: customer(i) for i in range(4))]
        for done in [pool.submit(call) for call in calls]:
            done.result()
    assert found["read"] > 0
    assert house.store.page("expired", None, 1, None) != []
    house.sweep(900)
    assert sum(house.results.sizes().values()) <= 900
    for record in house.store.page("succeeded", None, 10_000, None):
        assert house.results.read(record.result_digest or "")
