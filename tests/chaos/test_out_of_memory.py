"""A job that takes more memory than it may, or than there is, fails; what runs beside it does not notice."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hessian_spectrum.api_schemas.jobs import Job
from hessian_spectrum.client.http import SpectrumClient

JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10]},
    "data": {"kind": "digits", "num_samples": 128},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 10, "num_probes": 2},
    "train": {"num_steps": 1_000_000, "learning_rate": 0.01},
}
SHORT = JOB | {"train": None}

# A library that goes wrong in one process of the pool, or a kernel that had to kill: told by files.
_FAULTS = """
import os, pathlib, threading, time

here, vmstat, read_text = pathlib.Path(__file__).parent, pathlib.Path("/proc/vmstat"), pathlib.Path.read_text


def _leak():
    held = []
    while not (here / f"leak-{os.getpid()}").exists():
        time.sleep(0.05)
    while len(held) < 150:
        held.append(bytearray(os.urandom(1) * 2**24))
        time.sleep(0.01)


def _read_text(path, *arguments, **options):
    fake = here / "vmstat"
    return read_text(fake if path == vmstat and fake.exists() else path, *arguments, **options)


os.register_at_fork(after_in_child=lambda: threading.Thread(target=_leak, daemon=True).start())
pathlib.Path.read_text = _read_text
"""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faults")
    (directory / "sitecustomize.py").write_text(_FAULTS)
    return directory


@pytest.fixture(scope="module")
def own_server(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, faults: Path) -> Any:
    path = os.pathsep.join([str(faults), os.environ.get("PYTHONPATH", "")])
    data = tmp_path_factory.mktemp("memory") / "data"
    limits = {"SPECTRUM_MEMORY_BYTES": "100000000", "SPECTRUM_LEASE_SECONDS": "90"}
    return start_server(data, workers=2, PYTHONPATH=path, **limits)


@pytest.fixture
def own_client(own_server: Any) -> Iterator[SpectrumClient]:
    with SpectrumClient(own_server.url) as client:
        yield client


def running(client: SpectrumClient) -> Job:
    job = client.submit(JOB)
    deadline = time.monotonic() + 60
    while (job := client.job(job.id)).progress.phase != "training":
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def process_of(server: Any, job_id: str) -> int:
    """That computes the job."""
    with server.redis() as redis:
        holder = redis.hget(f"spectrum:job:{job_id}", "token").partition("/")[0]
    pid = int(holder.rpartition("-")[2])
    assert pid in server.pids("-m hessian_spectrum.worker")
    return pid


def expect_failure(client: SpectrumClient, job_id: str, kind: str) -> Job:
    job = client.wait(job_id, timeout_seconds=30)  # no lease has to run out
    assert (job.state, job.attempt) == ("failed", 1)
    assert job.error is not None
    assert (job.error.type, job.error.status) == (f"/problems/{kind}", 507)
    return job


@pytest.mark.slow
def test_a_job_that_outgrows_its_memory_fails_alone(own_server: Any, own_client: SpectrumClient, faults: Path) -> None:
    beside, job = running(own_client), running(own_client)
    (faults / f"leak-{process_of(own_server, job.id)}").touch()
    detail = expect_failure(own_client, job.id, "memory-limit").error
    assert detail is not None
    assert "the limit of one job on this worker is 0.616 GiB" in (detail.detail or "")
    following = own_client.submit(SHORT, wait_seconds=30, fresh=True)
    assert (following.state, following.attempt) == ("succeeded", 1)
    beside = own_client.job(beside.id)
    assert (beside.state, beside.attempt) == ("running", 1)
    own_client.cancel(beside.id)


@pytest.mark.slow
def test_a_job_whose_process_the_kernel_killed_takes_no_other_along(
    own_server: Any, own_client: SpectrumClient, faults: Path
) -> None:
    (faults / "vmstat").write_text("oom_kill 7\n")
    beside, job = running(own_client), running(own_client)
    pid = process_of(own_server, job.id)
    for each in own_server.pids("-m hessian_spectrum.worker"):
        parent = each == own_server.pids("-m hessian_spectrum.worker")[0]
        assert (Path(f"/proc/{each}/oom_score_adj").read_text().strip() == "1000") is not parent
    (faults / "vmstat").write_text("oom_kill 8\n")
    os.kill(pid, signal.SIGKILL)
    expect_failure(own_client, job.id, "out-of-memory")
    beside = own_client.job(beside.id)
    assert (beside.state, beside.attempt) == ("running", 1)
    own_client.cancel(beside.id)


@pytest.mark.slow
def test_a_process_that_dies_of_another_cause_is_missed_at_once(
    own_server: Any, own_client: SpectrumClient, faults: Path
) -> None:
    """The kernel had killed another one just before."""
    job = running(own_client)
    (faults / "vmstat").write_text("oom_kill 9\n")
    started = time.monotonic()
    os.kill(process_of(own_server, job.id), signal.SIGSEGV)
    while own_client.job(job.id).attempt == 1:
        assert time.monotonic() - started < 30  # the lease lasts 90 s
        time.sleep(0.05)
    own_client.cancel(job.id)
