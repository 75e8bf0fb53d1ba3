"""What this worker computes on, and how much of the machine one job may take."""

import multiprocessing
import os
import platform
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from hessian_spectrum.jobs.fingerprints import numerics_fingerprint
from hessian_spectrum.jobs.settings import SettingsError, WorkerSettings

FAIR_SHARE = 0.8
"""Of the memory: the rest is left to the system, Redis and the service."""

FAIR_SHARE_OF_FREE = 0.95
"""Of what is free on a GPU when a job begins: the rest is for fragments, and for the libraries' workspaces."""

TOLERANCE, LIBRARY_BYTES = 1.25, 2**29
"""Estimates are right to 20 %, and leave out what libraries and compilers take when they are first used."""

LARGEST_SHARE = 0.95
"""Of the memory that all jobs may grow to before they are ended."""

TIMINGS_FILE = "timings.json"
"""Beside the directory of results."""

_PROCESSOR_NAME = re.compile(r"^model name\s*: (.*)$", re.MULTILINE)

_CGROUP_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of the container around this process: version 2, version 1."""


@dataclass(frozen=True)
class Hardware:
    """Device, CPU threads and memory of one job."""

    device: torch.device
    num_threads: int
    memory_bytes: int
    timings: Path | None = None  # file of what products were measured to take, kept for later jobs
    memory_limit_bytes: int | None = None  # of the machine's memory, at which a job is ended; None: never

    def numerics_fingerprint(self, product_method: str | None = None) -> str:
        """What two runs must share to round alike, with the way in which products are computed if not recorded."""
        return numerics_fingerprint(
            device=str(self.device),
            processor=_processor(),
            num_threads=self.num_threads,
            memory_bytes=self.memory_bytes,
            product_method=product_method,
        )

    def at_present(self) -> "Hardware":
        """The same, with less memory where others use the GPU; for the process that computes, as it touches CUDA.

        On a CPU memory stays what it was when the worker began, so that the same job is always split alike.
        """
        if self.device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(self.device)
        own = torch.cuda.memory_reserved(self.device)
        return replace(self, memory_bytes=min(self.memory_bytes, int(FAIR_SHARE_OF_FREE * (free + own))))


def find_hardware(settings: WorkerSettings) -> Hardware:
    """The share of one job of what the machine, or the container around this process, has.

    On a GPU the parent process must not touch CUDA before it forks, so the device's memory is asked in the driver's
    own terms, which makes no context.

    Raises:
        SettingsError: If the device is not there.
    """
    device = _device(settings.device)
    machine = _machine_memory() / settings.concurrency
    total = _cuda_memory_bytes(device) if device.type == "cuda" else machine
    memory = settings.memory_bytes or int(FAIR_SHARE * total)
    num_threads = settings.num_threads or max(1, _num_cores() // settings.concurrency)
    limit = int(LARGEST_SHARE * machine)
    if device.type != "cuda":
        limit = min(int(TOLERANCE * memory) + LIBRARY_BYTES, max(limit, memory))
    return Hardware(device, num_threads, memory, settings.results_dir.parent / TIMINGS_FILE, limit)


def _device(name: str) -> torch.device:
    # device_count asks NVML and leaves no CUDA context behind; is_available may make one.
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.device_count() > 0 else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"SPECTRUM_DEVICE: there is no device {name}")
    return device


def _machine_memory() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (path.read_text().strip() for path in _CGROUP_MEMORY_LIMITS if path.exists())
    return min([machine, *(int(limit) for limit in limits if limit.isdigit())])


def _cuda_memory_bytes(device: torch.device) -> int:
    # A child asks, so that this process forks without a CUDA context.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_cuda_total_memory, (device.index or 0,))


def _cuda_total_memory(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).total_memory)


@cache
def _processor() -> str:
    """Its model, by which libraries choose their instructions."""
    try:
        names = _PROCESSOR_NAME.findall(Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
