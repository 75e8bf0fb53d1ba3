"""The machine that computes: device, threads, memory, priority of processes, and those that the kernel killed."""

import logging
import multiprocessing
import os
import platform
import re
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.settings import SettingsError, WorkerSettings

FAIR_SHARE = 0.8
"""Share of the memory that jobs may use; the rest is left to the system, Redis and the service."""

FAIR_SHARE_OF_FREE = 0.95
"""Share of a GPU's memory that is free when a job begins, which the job may use; the rest is left for fragmentation
and for the workspaces of libraries."""

TOLERANCE, LIBRARY_BYTES = 1.25, 2**29
"""Factor by which memory may exceed its estimate, and bytes that libraries and compilers take at their first use,
which estimates leave out."""

LARGEST_SHARE = 0.95
"""Share of the memory up to which all jobs together may grow before they are ended."""

TIMINGS_FILE = "timings.json"
"""Name of the file with measured times of products, beside the directory of results."""

_PROCESSOR_NAME = re.compile(r"^model name\s*: (.*)$", re.MULTILINE)

_CGROUP_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files with the memory limit of the container around this process, for version 2 and version 1 of cgroups."""

IDLE = 20
"""Niceness of a process that runs only while no other needs the core; on a busy machine it would lose its lease."""

CRASHES = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"})
"""Names of signals that a process causes itself."""

SECONDS_BETWEEN_COUNTS = 5.0
_COUNTS_KEPT = 3

_VMSTAT = Path("/proc/vmstat")
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_OOM_SCORE = Path("/proc/self/oom_score_adj")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hardware:
    """Device, CPU threads and memory of one job."""

    device: torch.device
    num_threads: int
    memory_bytes: int
    timings: Path | None = None  # file of measured times of products, kept for later jobs
    processor: str = ""  # name of its model, by which libraries choose their instructions
    memory_limit_bytes: int | None = None  # memory use of the machine at which a job is ended; None: never

    def at_present(self) -> "Hardware":
        """Measure the free memory of a GPU, in the process that computes, since this touches CUDA.

        Returns:
            The same hardware, with less memory where other processes use the GPU.
        """
        free, _ = torch.cuda.mem_get_info(self.device)
        own = torch.cuda.memory_reserved(self.device)
        return replace(self, memory_bytes=min(self.memory_bytes, int(FAIR_SHARE_OF_FREE * (free + own))))


def find_hardware(settings: WorkerSettings) -> Hardware:
    """Find the device, and the share of one job in what the machine or the container around this process has.

    On a GPU the parent process must not touch CUDA before it forks: a child process asks for the memory of the device.

    Args:
        settings: Settings of the worker.

    Returns:
        The hardware of one job.

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
    return Hardware(
        device,
        num_threads,
        memory,
        timings=settings.results_dir.parent / TIMINGS_FILE,
        processor=_processor(),
        memory_limit_bytes=limit,
    )


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


def _processor() -> str:
    """Return the name of the processor model, by which libraries choose their instructions."""
    try:
        names = _PROCESSOR_NAME.findall(Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def set_niceness(niceness: int) -> None:
    """Set the priority of this thread and of those that it starts.

    Args:
        niceness: 0 as all others, up to 19 less and less, 20 only when all others are idle.
    """
    if niceness < IDLE or not hasattr(os, "SCHED_IDLE"):
        os.nice(min(niceness, IDLE - 1))
    else:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def name_of_signal(number: int) -> str:
    """Return the name of the signal of this number."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def killed_by_kernel() -> Problem:
    """Return the problem of a job whose process the kernel killed."""
    return Problem(
        type="/problems/out-of-memory",
        title="The worker ran out of memory",
        status=507,
        detail="The machine, or the worker's container, had no memory left, and the kernel killed the process that "
        "computed this job.",
    )


def num_oom_kills() -> int:
    """Return the number of processes that the kernel has killed for lack of memory since it started; 0 if unknown."""
    try:
        found = _OOM_KILLS.search(_VMSTAT.read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


class KernelWatch:
    """Detects whether the kernel killed any process within the last seconds, by counting in a thread."""

    def __init__(self) -> None:
        self._counts = deque([num_oom_kills()], maxlen=_COUNTS_KEPT)
        self._thread = threading.Thread(target=self._count, name="kernel-watch", daemon=True)

    def start(self) -> None:
        """Start to count; to be called once, in the process that asks."""
        self._thread.start()

    def has_killed(self) -> bool:
        """Return whether the kernel killed a process in that time, which is longer if the machine stood still."""
        return num_oom_kills() > self._counts[0]

    def _count(self) -> None:
        while True:
            time.sleep(SECONDS_BETWEEN_COUNTS)
            self._counts.append(num_oom_kills())


def be_killed_first() -> None:
    """Make the kernel prefer to kill this process, rather than the worker, the service or Redis, if memory runs out."""
    try:
        _OOM_SCORE.write_text("1000")
    except OSError as error:
        _logger.warning("oom_score_adj: %s", error)
