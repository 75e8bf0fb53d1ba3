"""The reaper goes on whatever happens, and takes nobody's job who could not be heard."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import redis

from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.record import new_job_id
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.service.upkeep.reaper import Reaper
from hessian_spectrum.storage.job_checkpoints import CheckpointStore
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.request_files import RequestFiles
from hessian_spectrum.storage.results import ResultStore


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
        "keep_house": lambda: None,
    }


@pytest.mark.parametrize("question", ["recover_lost", "take_unpublished"])
def test_leases_that_ran_out_while_redis_was_away_can_be_renewed(parts: dict[str, Any], question: str) -> None:
    store, reaper = parts["store"], Reaper(**parts)
    lease = store.claim(store.create("spectrum", "{}", {})[0].id)
    store.is_away = question
    with pytest.raises(redis.ConnectionError):
        reaper.sweep()
    store.is_away = ""
    asyncio.run(asyncio.sleep(0.3))
    reaper.sweep()
    assert store.renew(lease, None) == "running"
    asyncio.run(asyncio.sleep(0.4))
    reaper.sweep()
    assert store.get(lease.job_id).state == "queued"


def test_directories_of_no_job_and_failures_stop_nothing(
    parts: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "job-checkpoints" / "lost+found").mkdir(parents=True)
    looks = 0

    def keep_house() -> None:
        nonlocal looks
        looks += 1
        raise KeyError("unforeseen")

    async def sweep_for_a_while() -> None:
        async with asyncio.timeout(0.5):
            await Reaper(**parts | {"keep_house": keep_house}).run(0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(sweep_for_a_while())
    assert looks > 2
    assert "unforeseen" in caplog.text
    assert (tmp_path / "job-checkpoints" / "lost+found").is_dir()


def test_requests_of_jobs_that_ended_go_and_others_stay(parts: dict[str, Any], tmp_path: Path) -> None:
    store, files = parts["store"], parts["requests"]
    ended, queued = (store.create("spectrum", "{}", {})[0].id for _ in range(2))
    store.cancel(ended)
    young, old = (new_job_id() for _ in range(2))  # whose records are yet to be written, or never were
    for job_id in (ended, queued, young, old):
        files.write(job_id, "{}")
    os.utime(tmp_path / "requests" / f"{old}.json", (0, 0))
    os.utime(tmp_path / "requests" / f"{queued}.json", (0, 0))
    Reaper(**parts).sweep()
    assert sorted(path.stem for path in (tmp_path / "requests").iterdir()) == sorted((queued, young))


def test_checkpoints_that_an_empty_redis_does_not_know_stay(
    parts: dict[str, Any], redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    store, checkpoints = parts["store"], parts["checkpoints"]
    job_id = store.create("spectrum", "{}", {})[0].id
    store.claim(job_id)
    checkpoints.of_attempt(job_id, 1).commit({}, set())
    Reaper(**parts).sweep()
    redis_client.flushall()

    async def sweep_for_a_while() -> None:
        async with asyncio.timeout(0.3):
            await Reaper(**parts).run(0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(sweep_for_a_while())
    assert checkpoints.job_ids() == [job_id]
    assert caplog.text.count("Redis does not know this results directory") == 1
