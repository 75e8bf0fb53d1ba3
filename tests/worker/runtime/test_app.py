"""A worker that was told to stop is gone soon, and one whose results nobody would find takes no jobs."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import redis

from hessian_spectrum.jobs.settings import WorkerSettings
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.storage.stores import open_stores
from hessian_spectrum.worker.runtime.job_runner import storage_fault

PROGRAM = """
import time
from hessian_spectrum.worker.runtime.app import end_in_any_case
end_in_any_case(0.5)
time.sleep(60)
"""


def test_a_worker_that_cannot_stop_ends_all_the_same() -> None:
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", PROGRAM], check=False, timeout=50)
    assert ended.returncode == os.EX_TEMPFAIL
    assert time.monotonic() - started < 40


def test_a_worker_takes_jobs_only_where_its_results_are_found(
    redis_client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    stores = {name: open_stores(tmp_path / name) for name in ("shared", "own")}

    def fault(name: str) -> str | None:
        settings = WorkerSettings(redis_url=redis_url, results_dir=tmp_path / name)  # type: ignore[arg-type]
        return storage_fault(redis_client, settings, stores[name])

    for name in stores:
        assert fault(name) is None
    shared = open_stores(tmp_path / "shared")
    StorageIdentity(redis_client, shared.results, shared.checkpoints).settle()
    assert fault("shared") is None
    assert "not the one that belongs to this Redis" in str(fault("own"))
    shutil.rmtree(tmp_path / "shared")
    assert fault("shared") == "The results directory is gone."
    assert not (tmp_path / "shared").exists()
