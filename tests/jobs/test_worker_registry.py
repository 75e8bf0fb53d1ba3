"""Who is there: those that said so lately, by the clock of Redis."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.worker_registry import (
    RecentWorkers,
    VerdictStore,
    register,
    registered_workers,
    resident_bytes,
    unregister,
)


def status(name: str, code_version: str | None = None) -> WorkerStatus:
    return WorkerStatus(name=name, device="cpu", memory_bytes=1, concurrency=1, code_version=code_version)


def test_workers_come_and_go(redis_client: redis.Redis) -> None:
    assert registered_workers(redis_client) == []
    for each in (status("b", "2"), status("a", "1"), status("c"), status("a", "2")):
        register(redis_client, each)
    there = registered_workers(redis_client)
    assert all(abs(worker.clock_skew_seconds) < 1 for worker in there)  # one machine has one clock
    told = [worker.model_copy(update={"clock_skew_seconds": None}) for worker in there]
    assert told == [status("a", "2"), status("b", "2"), status("c")]
    assert RecentWorkers(redis_client).result_versions() == ["2"]
    unregister(redis_client, "b")
    assert [worker.name for worker in registered_workers(redis_client)] == ["a", "c"]


def test_who_is_silent_is_gone(redis_client: redis.Redis) -> None:
    for name in ("silent", "there"):
        register(redis_client, status(name))
    redis_client.zincrby("spectrum:workers-seen", -16, "silent")
    assert [worker.name for worker in registered_workers(redis_client)] == ["there"]
    register(redis_client, status("there"))
    assert redis_client.hkeys("spectrum:workers") == ["there"]


def test_memory_of_a_process_includes_its_children() -> None:
    holds_memory = "import time; held = bytearray(200 * 2**20); print('held', flush=True); time.sleep(60)"
    starts_it = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holds_memory!r}])"
    command = [sys.executable, "-c", starts_it]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert 200 * 2**20 < resident_bytes(process.pid) < 300 * 2**20
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert resident_bytes(process.pid) == 0


def test_no_verdict_is_known_while_redis_does_not_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with connect(f"unix://{tmp_path}/none.sock") as client:
        assert VerdictStore(client, lambda: ["1"]).of("a" * 64, "gpt2") is None
    assert "verdicts on checkpoints are not known" in caplog.text
