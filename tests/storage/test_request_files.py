"""Large requests are files until their jobs end, and no more than their quota of them is kept."""

import errno
import os
import time
from pathlib import Path

import pytest
import redis

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.record import Lease, QuotaError, Quotas
from hessian_spectrum.jobs.scripts import STORED_BYTES, NewJob
from hessian_spectrum.jobs.store import CachedResult, JobStore, UnknownJobError
from hessian_spectrum.storage import disk
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.request_files import LARGE_REQUEST_BYTES, RequestDamagedError, RequestFiles

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
    store.cancel(store.create("spectrum", "{}", {})[0].id)  # Redis keeps the scripts
    before = redis_client.info("memory")["used_memory"]
    ids = [store.create("spectrum", LARGE, {"n": str(number)})[0].id for number in range(12)]
    assert redis_client.info("memory")["used_memory"] - before < 12 * 20_000
    assert redis_client.keys("spectrum:request:*") == []
    assert kept(tmp_path) == sorted(f"{job_id}.json" for job_id in ids)
    assert redis_client.hget(STORED_BYTES, "requests") == str(12 * len(LARGE.encode()))
    files = RequestFiles(LocalDirectory(tmp_path, "requests"))
    another_process = JobStore(redis_client, lease_seconds=30.0, max_attempts=2, requests=files)
    assert another_process.request(ids[3]) == LARGE
    small = store.create("spectrum", "{}", {})[0].id
    assert store.request(small) == "{}"
    assert redis_client.keys("spectrum:request:*") == [f"spectrum:request:{small}"]


def test_the_file_goes_when_the_job_ends(store: JobStore, redis_client: redis.Redis, tmp_path: Path) -> None:
    failed, succeeded, given_back, cancelled = (store.create("spectrum", LARGE, {})[0].id for _ in range(4))
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
    first = store.create("spectrum", LARGE, {}, idempotency_key="key")[0]
    assert store.create("spectrum", LARGE, {}, idempotency_key="key") == (first, True)
    assert kept(tmp_path) == [f"{first.id}.json"]
    store.succeed(claimed(store, first.id), "0" * 64, "1")
    cached, _ = store.create("spectrum", LARGE, {}, cached_result=CachedResult("", "0" * 64))
    assert cached.state == "succeeded"
    gone, _ = store.create("spectrum", LARGE, {}, cached_result=CachedResult("", "1" * 64))
    assert gone.state == "queued"
    assert kept(tmp_path) == [f"{gone.id}.json"]
    assert store.request(gone.id) == LARGE


def test_a_damaged_file_is_none(store: JobStore, tmp_path: Path) -> None:
    job_id = store.create("spectrum", LARGE, {})[0].id
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
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 2**62)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        store.create("spectrum", LARGE, {})
    assert redis_client.keys("spectrum:job:*") == []
    assert kept(tmp_path) == []
    assert store.create("spectrum", "{}", {})[0].state == "queued"


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
        store.create("spectrum", LARGE, {})
    [left] = kept(tmp_path)
    assert redis_client.keys("spectrum:job:*") == []
    assert files.job_ids(3600.0) == []
    long_ago = time.time() - 7200
    os.utime(tmp_path / "requests" / left, (long_ago, long_ago))
    assert files.job_ids(3600.0) == [left.removesuffix(".json")]


def test_a_file_that_was_cleared_away_meanwhile_is_written_again(store: JobStore, files: RequestFiles) -> None:
    create = store._scripts.create

    def stand_still(job: NewJob) -> tuple[str, str]:
        files.discard(job.id)
        return create(job)

    store._scripts.create = stand_still  # type: ignore[method-assign]
    job_id = store.create("spectrum", LARGE, {})[0].id
    assert store.request(job_id) == LARGE


def test_requests_have_a_quota(store: JobStore, redis_client: redis.Redis, tmp_path: Path) -> None:
    size = len(LARGE.encode())
    quotas = {"owner_quotas": Quotas(requests=2 * size), "total_quotas": Quotas(requests=3 * size)}

    def refused(owner: str | None) -> tuple[str, int, bool]:
        with pytest.raises(QuotaError) as refusal:
            store.create("spectrum", LARGE, {}, owner=owner, **quotas)
        return refusal.value.what, refusal.value.limit, refusal.value.is_owners

    annas = [store.create("spectrum", LARGE, {}, owner=ANNA, **quotas)[0].id for _ in range(2)]
    assert refused(ANNA) == ("requests", 2 * size, True)
    store.create("spectrum", LARGE, {}, owner=BOB, **quotas)
    assert refused(BOB) == ("requests", 3 * size, False)
    assert refused(None) == ("requests", 3 * size, False)
    assert len(kept(tmp_path)) == 3
    store.fail(claimed(store, annas[0]), Problem(title="No", status=500))
    assert redis_client.hget(STORED_BYTES, f"requests:{ANNA}") == str(size)
    store.create("spectrum", LARGE, {}, owner=ANNA, **quotas)
