"""What one job may take of the machine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hessian_spectrum.jobs.settings import WorkerSettings
from hessian_spectrum.worker import hardware
from hessian_spectrum.worker.hardware import Hardware, find_hardware
from hessian_spectrum.worker.runtime.job_runner import hardware_at_present


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WorkerSettings:
    monkeypatch.setenv("SPECTRUM_REDIS_URL", "redis://127.0.0.1")
    monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(tmp_path))
    monkeypatch.setenv("SPECTRUM_CONCURRENCY", "2")
    monkeypatch.setenv("SPECTRUM_DEVICE", "cpu")
    return WorkerSettings.load()


def test_the_limit_of_a_container_is_shared_fairly(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1000000000\n")
    monkeypatch.setattr(hardware, "_CGROUP_MEMORY_LIMITS", (limit, tmp_path / "missing"))
    assert find_hardware(settings).memory_bytes == 400_000_000


def test_no_limit_means_the_machine(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    monkeypatch.setattr(hardware, "_CGROUP_MEMORY_LIMITS", (limit,))
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    machine = int(memory.split()[1]) * 1024
    assert find_hardware(settings).memory_bytes == pytest.approx(0.4 * machine, rel=0.01)


def test_what_is_set_is_taken(settings: WorkerSettings) -> None:
    fixed = settings.model_copy(update={"memory_bytes": 123_456_789, "num_threads": 3})
    found = find_hardware(fixed)
    assert (found.memory_bytes, found.num_threads, str(found.device)) == (123_456_789, 3, "cpu")


def test_a_job_takes_of_a_gpu_what_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process holds in reserve counts as free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * 10**9)
    gpu = Hardware(torch.device("cuda:0"), 1, 64 * 10**9)
    assert gpu.at_present().memory_bytes == 9_500_000_000
    assert replace(gpu, memory_bytes=10**9).at_present().memory_bytes == 10**9
    cpu = Hardware(torch.device("cpu"), 1, 64 * 10**9)
    assert hardware_at_present(cpu) is cpu
