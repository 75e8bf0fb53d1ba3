"""Files of jobs: large requests, and checkpoints."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.creation import CachedResult
from hessian_spectrum.jobs.record import Lease, QuotaError, Quotas
from hessian_spectrum.jobs.scripts import STORED_BYTES, NewJobs
from hessian_spectrum.jobs.store import JobStore, UnknownJobError
from hessian_spectrum.storage import local_directory
from hessian_spectrum.storage.job_files import (
    LARGE_REQUEST_BYTES,
    CheckpointDamagedError,
    CheckpointStore,
    JobCheckpoints,
    RequestDamagedError,
    RequestFiles,
)
from hessian_spectrum.storage.local_directory import LocalDirectory
from tests.fixtures.jobs import create_job
from tests.fixtures.longer import examples

LARGE = '{"x": "%s"}' % (LARGE_REQUEST_BYTES * "ä")
ANNA, BOB = "a" * 12, "b" * 12


@pytest.fixture
def files(tmp_path: Path) -> RequestFiles:
    return RequestFiles(LocalDirectory(tmp_path, "requests"))


@pytest.fixture
def store(redis_client: redis.Redis, files: RequestFiles) -> JobStore:
    return JobStore(redis_client, lease_seconds=30.0, max_attempts=2, requests=files)


def kept(tmp_path: Path) -> list[str]:
    directory = tmp_path / "requests"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def claimed(store: JobStore, job_id: str) -> Lease:
    lease = store.claim(job_id)
    assert lease is not None
    return lease


def test_a_large_request_is_a_file_and_nothing_in_redis(
    store: JobStore, redis_client: redis.Redis, tmp_path: Path
) -> None:
    store.delete(store.cancel(create_job(store)[0].id).id)  # Redis keeps the scripts
    before = redis_client.info("memory")["used_memory"]
    ids = [create_job(store, LARGE, {"n": str(number)})[0].id for number in range(12)]
    assert redis_client.info("memory")["used_memory"] - before < 12 * 20_000
    assert redis_client.keys("spectrum:request:*") == []
    assert kept(tmp_path) == sorted(f"{job_id}.json" for job_id in ids)
    assert redis_client.hget(STORED_BYTES, "requests") == str(12 * len(LARGE.encode()))
    files = RequestFiles(LocalDirectory(tmp_path, "requests"))
    another_process = JobStore(redis_client, lease_seconds=30.0, max_attempts=2, requests=files)
    assert another_process.request(ids[3]) == LARGE
    small = create_job(store)[0].id
    assert store.request(small) == "{}"
    assert redis_client.keys("spectrum:request:*") == [f"spectrum:request:{small}"]


def test_the_file_goes_when_the_job_ends(store: JobStore, redis_client: redis.Redis, tmp_path: Path) -> None:
    failed, succeeded, given_back, cancelled = (create_job(store, LARGE)[0].id for _ in range(4))
    store.fail(claimed(store, failed), Problem(title="No", status=500))
    store.succeed(claimed(store, succeeded), "0" * 64)
    store.requeue(claimed(store, given_back))
    store.cancel(cancelled)
    assert kept(tmp_path) == [f"{given_back}.json"]
    assert store.request(given_back) == LARGE
    with pytest.raises(UnknownJobError):
        store.request(failed)
    store.cancel(given_back)
    assert kept(tmp_path) == []
    assert redis_client.hget(STORED_BYTES, "requests") is None


def test_what_creates_no_job_leaves_no_file(store: JobStore, tmp_path: Path) -> None:
    first = create_job(store, LARGE, idempotency_key="key")[0]
    assert create_job(store, LARGE, idempotency_key="key") == (first, True)
    assert kept(tmp_path) == [f"{first.id}.json"]
    store.succeed(claimed(store, first.id), "0" * 64, "1")
    cached, _ = create_job(store, LARGE, cached_result=CachedResult("", "0" * 64))
    assert cached.state == "succeeded"
    gone, _ = create_job(store, LARGE, cached_result=CachedResult("", "1" * 64))
    assert gone.state == "queued"
    assert kept(tmp_path) == [f"{gone.id}.json"]
    assert store.request(gone.id) == LARGE


def test_a_damaged_file_is_none(store: JobStore, tmp_path: Path) -> None:
    job_id = create_job(store, LARGE)[0].id
    path = tmp_path / "requests" / f"{job_id}.json"
    path.write_text(LARGE[:-1])
    with pytest.raises(RequestDamagedError, match="damaged"):
        store.request(job_id)
    path.unlink()
    with pytest.raises(RequestDamagedError, match="missing"):
        store.request(job_id)


def test_a_full_disk_takes_no_job(
    store: JobStore, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_directory, "LEAST_FREE_BYTES", 2**62)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        create_job(store, LARGE)
    assert redis_client.keys("spectrum:job:*") == []
    assert kept(tmp_path) == []
    assert create_job(store)[0].state == "queued"


def test_a_record_is_written_after_its_file(
    redis_client: redis.Redis, files: RequestFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    store = JobStore(redis_client, lease_seconds=30.0, max_attempts=2, requests=files)
    monkeypatch.setattr(store._scripts, "create", die)
    with pytest.raises(Killed):
        create_job(store, LARGE)
    [left] = kept(tmp_path)
    assert redis_client.keys("spectrum:job:*") == []
    assert files.job_ids(3600.0) == []
    long_ago = time.time() - 7200
    os.utime(tmp_path / "requests" / left, (long_ago, long_ago))
    assert files.job_ids(3600.0) == [left.removesuffix(".json")]


def test_a_file_that_was_cleared_away_meanwhile_is_written_again(store: JobStore, files: RequestFiles) -> None:
    create = store._scripts.create

    def stand_still(new: NewJobs) -> tuple[str, list[str]]:
        files.discard(new.jobs[0].id)
        return create(new)

    store._scripts.create = stand_still  # type: ignore[method-assign]
    job_id = create_job(store, LARGE)[0].id
    assert store.request(job_id) == LARGE


def test_requests_have_a_quota(store: JobStore, redis_client: redis.Redis, tmp_path: Path) -> None:
    size = len(LARGE.encode())
    quotas = {"owner_quotas": Quotas(requests=2 * size), "total_quotas": Quotas(requests=3 * size)}

    def refused(owner: str | None) -> tuple[str, int, bool]:
        with pytest.raises(QuotaError) as refusal:
            create_job(store, LARGE, owner=owner, **quotas)
        return refusal.value.what, refusal.value.limit, refusal.value.is_owners

    annas = [create_job(store, LARGE, owner=ANNA, **quotas)[0].id for _ in range(2)]
    assert refused(ANNA) == ("requests", 2 * size, True)
    create_job(store, LARGE, owner=BOB, **quotas)
    assert refused(BOB) == ("requests", 3 * size, False)
    assert refused(None) == ("requests", 3 * size, False)
    assert len(kept(tmp_path)) == 3
    store.fail(claimed(store, annas[0]), Problem(title="No", status=500))
    assert redis_client.hget(STORED_BYTES, f"requests:{ANNA}") == str(size)
    create_job(store, LARGE, owner=ANNA, **quotas)


PIECES = [bytes([value]) * 1000 for value in range(4)]


def written(checkpoints: JobCheckpoints, name: str, pieces: list[bytes]) -> None:
    digests = [checkpoints.put(piece) for piece in pieces]
    checkpoints.commit({"name": name, "pieces": digests}, set(digests))


def found(checkpoints: JobCheckpoints) -> list[tuple[str, list[bytes]]]:
    """Of all checkpoints that are whole, newest first."""
    whole = []
    for each in checkpoints.newest_first():
        try:
            whole.append((each.document["name"], [each.read(digest) for digest in each.document["pieces"]]))
        except CheckpointDamagedError:
            continue
    return whole


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_the_last_two_are_kept_and_pieces_that_both_need_once(tmp_path: Path) -> None:
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    assert found(checkpoints) == []
    for count in (1, 2, 3, 4):
        written(checkpoints, str(count), PIECES[count - 1 : count + 1])
    assert found(checkpoints) == [("4", PIECES[3:]), ("3", PIECES[2:4])]
    assert len(names(tmp_path / "job" / "0001")) == 2 + 2


def test_a_later_attempt_goes_on_and_what_it_took_over_is_there(tmp_path: Path) -> None:
    written(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), "first", PIECES[:2])
    second = JobCheckpoints(LocalDirectory(tmp_path), "job", 2)
    assert found(second) == [("first", PIECES[:2])]
    written(second, "second", PIECES[:3])
    assert found(second) == [("second", PIECES[:3]), ("first", PIECES[:2])]
    written(second, "third", PIECES[1:3])
    assert names(tmp_path / "job") == {"0002"}
    # a worker that does not know yet that it lost its lease
    written(JobCheckpoints(LocalDirectory(tmp_path), "job", 1), "late", PIECES[3:])
    assert found(JobCheckpoints(LocalDirectory(tmp_path), "job", 3))[0] == ("third", PIECES[1:3])


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_damage_is_passed_over_never_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    tmp_path = tmp_path_factory.mktemp("damage")
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    written(checkpoints, "before", PIECES[:2])
    written(checkpoints, "after", PIECES[1:])
    intact = found(checkpoints)
    paths = sorted((tmp_path / "job" / "0001").iterdir())
    path = data.draw(st.sampled_from(paths))
    content = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["flip", "truncate", "remove"])):
        case "flip":
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content)
        case "truncate":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        case "remove":
            path.unlink()
    left = found(checkpoints)
    assert set(map(str, left)) < set(map(str, intact))
    # work goes on, and what is written next is whole
    written(JobCheckpoints(LocalDirectory(tmp_path), "job", 2), "next", PIECES)
    assert found(JobCheckpoints(LocalDirectory(tmp_path), "job", 3))[0] == ("next", PIECES)


def test_what_a_killed_write_left_behind_goes(tmp_path: Path) -> None:
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    written(checkpoints, "first", PIECES[:1])
    (tmp_path / "job" / "0001" / "tmpabc").write_bytes(b"half a pie")
    checkpoints.put(PIECES[3])  # and no document
    assert found(checkpoints) == [("first", PIECES[:1])]
    written(checkpoints, "second", PIECES[:1])
    assert len(names(tmp_path / "job" / "0001")) == 2 + 1


def test_a_full_disk_is_told_and_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = JobCheckpoints(LocalDirectory(tmp_path), "job", 1)
    written(checkpoints, "first", PIECES[:1])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.put(PIECES[1])
    with pytest.raises(OSError, match="No space left"):
        checkpoints.commit({}, set())
    assert found(checkpoints) == [("first", PIECES[:1])]


def test_checkpoints_of_one_job_go(tmp_path: Path) -> None:
    store = CheckpointStore(LocalDirectory(tmp_path, "store"))
    assert store.job_ids() == []
    store.discard("a")
    for job in ("a", "b"):
        written(store.of_attempt(job, 1), job, PIECES[:1])
    assert sorted(store.job_ids()) == ["a", "b"]
    store.discard("a")
    assert found(store.of_attempt("a", 2)) == []
    assert found(store.of_attempt("b", 2)) == [("b", PIECES[:1])]


@pytest.mark.parametrize("job_id", ["..", "a/b", "", "/etc", "a\0"])
def test_no_id_leads_out_of_the_directory(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(ValueError, match="no id of a job"):
        JobCheckpoints(LocalDirectory(tmp_path), job_id, 1)


DIES_WHILE_IT_WRITES = """
import os, sys
from pathlib import Path
from hessian_spectrum.storage.job_files import CheckpointStore
from hessian_spectrum.storage.local_directory import LocalDirectory

checkpoints = CheckpointStore(LocalDirectory(Path(sys.argv[1]), "job-checkpoints")).of_attempt(sys.argv[2], 1)
os.fsync = lambda _: os._exit(9)
checkpoints.put(b"half of it")
"""


def test_what_a_killed_process_was_writing_goes_with_the_checkpoints_of_its_job(tmp_path: Path) -> None:
    job_id, directory = "0" * 32, tmp_path / "job-checkpoints"
    command = [sys.executable, "-c", DIES_WHILE_IT_WRITES, str(tmp_path), job_id]
    assert subprocess.run(command, check=False).returncode == 9
    assert [path.name[:6] for path in directory.rglob("*") if path.is_file()] == ["draft-"]
    CheckpointStore(LocalDirectory(tmp_path, "job-checkpoints")).discard(job_id)
    assert list(directory.iterdir()) == []
