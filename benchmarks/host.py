"""The machine and the server's software, without what only workers load."""

import datetime
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hessian_spectrum.launcher.embedded_redis import server_binary

_PACKAGES = ("torch", "celery", "fastapi", "uvicorn", "pydantic")


def host() -> dict[str, Any]:
    """Processor, date, commit and versions."""
    return {
        "device": processor(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _output("git", "rev-parse", "--short", "HEAD") or "unknown",
        "versions": {"Python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES}
        | {"Redis": redis_version()},
    }


def host_line(found: dict[str, Any]) -> str:
    """The same as a sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{found['device']}, {found['date']}, commit {found['commit']}; {versions}."


def processor() -> str:
    """Model and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def redis_version() -> str:
    """Of the server that a stack would start: as it names itself, and the number."""
    words = _output(server_binary(), "--version").split()
    numbers = [word.removeprefix("v=") for word in words if word.startswith("v=")]
    return " ".join(words[:1] + numbers)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
