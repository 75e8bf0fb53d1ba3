"""The machine, the software and the commit with which something was measured."""

import datetime
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hessian_spectrum.launcher.embedded_redis import server_binary

if TYPE_CHECKING:
    import torch

_SERVER_PACKAGES = ("torch", "celery", "fastapi", "uvicorn", "pydantic")
_ENGINE_PACKAGES = {"torch": "torch", "curvlinops": "curvlinops-for-pytorch"}


def server_environment() -> dict[str, Any]:
    """Processor, date, commit and versions of the server's software; nothing that only workers need is loaded."""
    return {
        "device": processor(),
        "date": _today(),
        "commit": _output("git", "rev-parse", "--short", "HEAD") or "unknown",
        "versions": {"Python": platform.python_version()}
        | {name: version(name) for name in _SERVER_PACKAGES}
        | {"Redis": redis_version()},
    }


def server_line(environment: dict[str, Any]) -> str:
    """The same as a sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    return f"{environment['device']}, {environment['date']}, commit {environment['commit']}; {versions}."


def engine_environment(device: "torch.device", clock: str) -> dict[str, Any]:
    """Device, date, versions of torch and its peers, threads and clock."""
    import torch  # noqa: PLC0415 - benchmarks of the server do without

    versions = {name: _version(package) for name, package in _ENGINE_PACKAGES.items()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "date": _today(),
        "versions": {"python": platform.python_version()} | versions,
        "num_threads": torch.get_num_threads(),
        "clock": clock,
    }


def engine_line(report: dict[str, Any]) -> str:
    """The same as a sentence, for the top of a table."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    threads = "one thread" if report["num_threads"] == 1 else f"{report['num_threads']} threads"
    clock = "" if report["clock"] == "wall" else "; processor time of all threads"
    return f"{report['device']}, {report['date']}; {versions}; {threads}{clock}."


def processor() -> str:
    """Model and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def redis_version() -> str:
    """Name and number of the version of the Redis server that a stack would start."""
    words = _output(server_binary(), "--version").split()
    numbers = [word.removeprefix("v=") for word in words if word.startswith("v=")]
    return " ".join(words[:1] + numbers)


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
