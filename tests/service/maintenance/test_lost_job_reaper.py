"""The reaper goes on whatever happens, and takes nobody's job who could not be heard."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import redis

from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE, JobQueue
from hessian_spectrum.jobs.record import new_job_id
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.service.maintenance.lost_job_reaper import LostJobReaper
from hessian_spectrum.storage.job_files import CheckpointStore, RequestFiles
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.results import ResultStore
from tests.fixtures.jobs import create_job


class Broken(JobStore):
    """Loses its Redis while it is away, when asked for one thing or for another."""

    is_away = ""

    def recover_lost(self) -> list[str]:
        if self.is_away == "recover_lost":
            raise redis.ConnectionError
        return super().recover_lost()

    def take_unpublished(self, recovered: list[str], republish_seconds: float) -> list[str]:
        if self.is_away == "take_unpublished":
            raise redis.ConnectionError
        return super().take_unpublished(recovered, republish_seconds)


@pytest.fixture
def parts(redis_client: redis.Redis, redis_url: str, tmp_path: Path) -> dict[str, Any]:
    checkpoints = CheckpointStore(LocalDirectory(tmp_path, "job-checkpoints"))
    return {
        "store": Broken(redis_client, lease_seconds=0.2, max_attempts=3),
        "queue": JobQueue(redis_url),
        "checkpoints": checkpoints,
        "requests": RequestFiles(LocalDirectory(tmp_path, "requests")),
        "storage": StorageIdentity(redis_client, ResultStore(LocalDirectory(tmp_path)), checkpoints),
        "republish_seconds": 30.0,
        "lease_seconds": 0.6,
        "run_retention": lambda: None,
    }


@pytest.mark.parametrize("question", ["recover_lost", "take_unpublished"])
def test_leases_that_ran_out_while_redis_was_away_can_be_renewed(parts: dict[str, Any], question: str) -> None:
    store, reaper = parts["store"], LostJobReaper(**parts | {"lease_seconds": 3.0})
    lease = store.claim(create_job(store)[0].id)
    store.is_away = question
    with pytest.raises(redis.ConnectionError):
        reaper.run_once()
    store.is_away = ""
    asyncio.run(asyncio.sleep(0.3))
    reaper.run_once()
    assert store.renew(lease, None) == "running"
    asyncio.run(asyncio.sleep(2.8))
    reaper.run_once()
    assert store.get(lease.job_id).state == "queued"


def test_a_redis_without_room_to_take_stock_loses_no_job(
    parts: dict[str, Any], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = parts["store"]
    job_id = create_job(store)[0].id
    redis_client.hset(f"spectrum:job:{job_id}", "published_at", 0)  # its message is lost

    def fail() -> None:
        raise redis.exceptions.OutOfMemoryError

    monkeypatch.setattr(store, "index_existing_jobs", fail)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        LostJobReaper(**parts).run_once()
    assert redis_client.llen(KEY_PREFIX + QUEUE) == 1


def test_directories_of_no_job_and_failures_stop_nothing(
    parts: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "job-checkpoints" / "lost+found").mkdir(parents=True)
    num_runs = 0

    def run_retention() -> None:
        nonlocal num_runs
        num_runs += 1
        raise KeyError("unforeseen")

    async def run_for_a_while() -> None:
        async with asyncio.timeout(0.5):
            await LostJobReaper(**parts | {"run_retention": run_retention}).run(0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(run_for_a_while())
    assert num_runs > 2
    assert "unforeseen" in caplog.text
    assert (tmp_path / "job-checkpoints" / "lost+found").is_dir()


def test_requests_of_jobs_that_ended_go_and_others_stay(
    parts: dict[str, Any], redis_client: redis.Redis, tmp_path: Path
) -> None:
    store, files = parts["store"], parts["requests"]
    ended, queued = (create_job(store)[0].id for _ in range(2))
    store.cancel(ended)
    young, old = (new_job_id() for _ in range(2))  # whose records are yet to be written, or never were
    for job_id in (ended, queued, young, old):
        files.write(job_id, "{}")
    os.utime(tmp_path / "requests" / f"{old}.json", (0, 0))
    os.utime(tmp_path / "requests" / f"{queued}.json", (0, 0))
    LostJobReaper(**parts).run_once()  # a Redis restored from an older backup would not know the old one either
    assert sorted(path.stem for path in (tmp_path / "requests").iterdir()) == sorted((queued, young, old))
    redis_client.zincrby("spectrum:requests-of-no-job", -6 * 3600, old)
    LostJobReaper(**parts).run_once()
    assert sorted(path.stem for path in (tmp_path / "requests").iterdir()) == sorted((queued, young))
    LostJobReaper(**parts).run_once()
    assert not redis_client.exists("spectrum:requests-of-no-job")


def test_requests_outlast_a_backup_that_does_not_know_their_jobs(
    parts: dict[str, Any], redis_client: redis.Redis, tmp_path: Path
) -> None:
    files, queued = parts["requests"], create_job(parts["store"])[0].id
    files.write(queued, "{}")
    os.utime(tmp_path / "requests" / f"{queued}.json", (0, 0))
    LostJobReaper(**parts).run_once()
    redis_client.rename(f"spectrum:job:{queued}", "unknown")
    LostJobReaper(**parts).run_once()
    redis_client.rename("unknown", f"spectrum:job:{queued}")
    LostJobReaper(**parts).run_once()
    assert files.holds(queued)
    assert not redis_client.exists("spectrum:requests-of-no-job")


def test_checkpoints_that_an_empty_redis_does_not_know_stay(
    parts: dict[str, Any], redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    store, checkpoints = parts["store"], parts["checkpoints"]
    job_id = create_job(store)[0].id
    store.claim(job_id)
    checkpoints.of_attempt(job_id, 1).commit({}, set())
    LostJobReaper(**parts).run_once()
    redis_client.flushall()

    async def run_for_a_while() -> None:
        async with asyncio.timeout(0.3):
            await LostJobReaper(**parts).run(0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(run_for_a_while())
    assert checkpoints.job_ids() == [job_id]
    assert caplog.text.count("Redis does not know this results directory") == 1
