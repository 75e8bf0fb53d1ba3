"""Where and with what something was measured."""

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.host import processor

PACKAGES = {"torch": "torch", "curvlinops": "curvlinops-for-pytorch"}


def machine(device: torch.device, clock: str) -> dict[str, Any]:
    """Device, date, versions, threads and clock."""
    versions = {name: _version(package) for name, package in PACKAGES.items()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()} | versions,
        "num_threads": torch.get_num_threads(),
        "clock": clock,
    }


def machine_line(report: dict[str, Any]) -> str:
    """The same as a sentence, for the top of a table."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    threads = "one thread" if report["num_threads"] == 1 else f"{report['num_threads']} threads"
    clock = "" if report["clock"] == "wall" else "; processor time of all threads"
    return f"{report['device']}, {report['date']}; {versions}; {threads}{clock}."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
