"""A process that takes too much memory ends alone, and says so."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis

from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.worker import hardware
from hessian_spectrum.worker.hardware import (
    KernelWatch,
    be_killed_first,
    num_oom_kills,
)
from hessian_spectrum.worker.runtime import supervision
from hessian_spectrum.worker.runtime.supervision import MemoryGuard, private_bytes
from tests.fixtures.jobs import create_job

MIB = 2**20


def run_guarded(store: JobStore, limit: int, compute: Callable[[], object]) -> tuple[str, int | None]:
    """A job that a forked process computes: its id, and the exit code."""
    job_id = create_job(store)[0].id
    lease = store.claim(job_id)
    assert lease is not None

    def attempt() -> None:
        with MemoryGuard(limit, lambda problem: store.fail(lease, problem)):
            compute()

    process = multiprocessing.get_context("fork").Process(target=attempt)
    process.start()
    process.join(30)
    return job_id, process.exitcode


def grow(num_bytes: int) -> None:
    held = []
    for _ in range(num_bytes // (16 * MIB)):
        held.append(np.ones(2 * MIB))  # every page is touched
        time.sleep(0.01)
    time.sleep(0.3)


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=30.0, max_attempts=3)


def test_a_process_that_grows_beyond_its_limit_ends_with_the_job(store: JobStore) -> None:
    before = private_bytes()
    job_id, exit_code = run_guarded(store, 200 * MIB, lambda: grow(1500 * MIB))
    assert exit_code == os.EX_TEMPFAIL
    record = store.get(job_id)
    assert record.state == "failed"
    assert record.error is not None
    assert (record.error.type, record.error.status) == ("/problems/memory-limit", 507)
    assert "0.195 GiB" in (record.error.detail or "")
    assert private_bytes() - before < 50 * MIB


def test_a_process_within_its_limit_goes_on(store: JobStore) -> None:
    job_id, exit_code = run_guarded(store, 200 * MIB, lambda: grow(120 * MIB))
    assert exit_code == 0
    assert store.get(job_id).state == "running"


def test_pages_of_files_do_not_count(store: JobStore, tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    np.save(path, np.ones(30 * MIB))

    def read() -> None:
        assert float(np.load(path, mmap_mode="r").sum()) == 30 * MIB
        time.sleep(0.3)

    assert run_guarded(store, 100 * MIB, read)[1] == 0


def test_the_process_ends_even_if_nobody_can_be_told(monkeypatch: pytest.MonkeyPatch, store: JobStore) -> None:
    monkeypatch.setattr(supervision, "SECONDS_TO_REPORT", 0.2)
    monkeypatch.setattr(store, "fail", lambda *_: time.sleep(60))
    assert run_guarded(store, 50 * MIB, lambda: grow(1500 * MIB))[1] == os.EX_TEMPFAIL


def test_kills_of_the_kernel_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(hardware, "_VMSTAT", vmstat)
    assert num_oom_kills() == 0
    vmstat.write_text("pgfault 12\noom_kill 3\nnr_unstable 0\n")
    assert num_oom_kills() == 3


def test_only_the_last_kills_of_the_kernel_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(hardware, "_VMSTAT", vmstat)
    monkeypatch.setattr(hardware, "SECONDS_BETWEEN_COUNTS", 0.1)
    vmstat.write_text("oom_kill 3\n")
    watch = KernelWatch()
    assert not watch.has_killed()
    vmstat.write_text("oom_kill 4\n")
    assert watch.has_killed()
    time.sleep(0.5)
    assert watch.has_killed()  # nobody has counted meanwhile: the machine stood still
    watch.start()
    deadline = time.monotonic() + 10
    while watch.has_killed():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_can_offer_itself_to_the_kernel() -> None:
    process = multiprocessing.get_context("fork").Process(target=_check_score)
    process.start()
    process.join(10)
    assert process.exitcode == 0


def _check_score() -> None:
    be_killed_first()
    assert Path("/proc/self/oom_score_adj").read_text().strip() == "1000"
