"""`python -m benchmarks.memory PROBLEM MEASUREMENT`: what one measurement takes, in a process of its own."""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.measurements import measurements
from benchmarks.problems import PRECISIONS, Problem, make_problem, warm_up_problem

TIMEOUT_SECONDS = 3600


def peak_bytes(problem: Problem, name: str) -> dict[str, int]:
    """What measurement `name` takes above the parameters and the data, its vectors included.

    Returns:
        "peak" from its beginning on, with what is compiled or recorded; "steady" of the third call.
    """
    precision = next(key for key, dtype in PRECISIONS.items() if dtype == problem.dtype)
    options = ["--device", str(problem.device), "--threads", str(torch.get_num_threads()), "--precision", precision]
    program = [sys.executable, "-m", "benchmarks.memory", problem.name, name, *options]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_SECONDS)
    found: dict[str, int] = json.loads(done.stdout)
    return found


class Meter:
    """Peak of memory, from the beginning or the last reset on: of the process, or of what tensors hold on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            ctypes.CDLL(None).malloc_trim(0)
            self._before = _status("VmRSS")
        self.reset()

    def reset(self) -> None:
        """Forget the peak so far."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5)

    def peak(self) -> int:
        """Bytes above those at the beginning."""
        return self.whole_peak() - self._before

    def whole_peak(self) -> int:
        """Bytes, interpreter and libraries included; of a GPU what tensors hold."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(problem: Problem, name: str) -> dict[str, int]:
    """As `peak_bytes`, in this process."""
    warm = measurements(warm_up_problem(problem)).get(name)
    if warm is not None:  # loads what libraries load once
        warm.set_up()()
    del warm
    meter = Meter(problem.device)
    call = measurements(problem)[name].set_up()
    for _ in range(2):
        call()
    peak = meter.peak()
    meter.reset()
    call()
    return {"peak": peak, "steady": meter.peak()}


def main() -> None:
    """Print the bytes as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("problem")
    parser.add_argument("measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    problem = make_problem(arguments.problem, torch.device(arguments.device), PRECISIONS[arguments.precision])
    print(json.dumps(measure(problem, arguments.measurement)))


if __name__ == "__main__":
    main()
