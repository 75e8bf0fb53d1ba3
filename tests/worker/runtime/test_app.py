"""A worker that was told to stop is gone soon, and one whose results nobody would find takes no jobs."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
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

SHARES_PAGES = """
import os, sys
from pathlib import Path
from unittest.mock import Mock
from celery import signals
from hessian_spectrum.worker.runtime import app

app._prepare_children(Mock(niceness=0), Mock(num_threads=1), Mock())
app.gc.disable()  # as while the modules are loaded
signals.worker_init.send(sender=None)
assert app.gc.isenabled()
if sys.argv[1] == "thawed":
    app.gc.unfreeze()
if (child := os.fork()) == 0:
    app.gc.collect()
    signals.worker_process_init.send(sender=None)
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    print(int(fields["Private_Dirty"].split()[0]) / 1024, int(fields["Rss"].split()[0]) / 1024, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not count shared pages")
def test_a_collection_in_a_child_copies_no_pages_of_loaded_modules() -> None:
    def private_share(state: str) -> float:
        command = [sys.executable, "-c", SHARES_PAGES, state]
        private, resident = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return float(private) / float(resident)

    assert private_share("frozen") < 0.1
    assert private_share("thawed") > 0.2


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
