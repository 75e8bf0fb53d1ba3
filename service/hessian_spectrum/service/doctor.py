"""`python -m hessian_spectrum.service.doctor`: check a deployment, and advise where something is wrong."""

import argparse
import contextlib
import dataclasses
import http.client
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.settings import ServiceSettings, SettingsError
from hessian_spectrum.service.telemetry import deployment_checks
from hessian_spectrum.service.telemetry.deployment_checks import Finding

KEY_VARIABLE = "SPECTRUM_API_KEY"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Addresses of this machine itself, which are never reached through a proxy."""

_ANSWER_SECONDS = 10.0
_JOB_SECONDS = 60

_CLOSED_FORM = {"model": {"kind": "quadratic", "matrix": [[2.0, 0.0], [0.0, 1.0]]}}
_JOB = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1], "activation": "linear", "bias": False},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
    "tags": {"from": "doctor"},
}

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the findings; exit with status 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="spectrum-server doctor", description="Checks a deployment.")
    parser.add_argument("--url", help="address of a service, which computes a closed form and a small job")
    parser.add_argument("--host", default="127.0.0.1", help="address on which a service listens or will listen")
    parser.add_argument("--port", type=int, help="port on which a service listens or will listen")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    options = parser.parse_args(arguments)
    findings = list(_findings(options.url, options.host, options.port))
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    sys.exit(1 if any(finding.verdict == "failed" for finding in findings) else 0)


def _findings(url: str | None, host: str, port: int | None) -> Iterator[Finding]:
    yield from deployment_checks.python()
    yield from deployment_checks.torch()
    try:
        settings = ServiceSettings.load()
    except SettingsError as error:
        yield Finding("settings", "failed", str(error), "docs/reference/settings.md lists the variables")
    else:
        yield Finding("settings", "ok", "every variable can be read")
        yield from deployment_checks.directories(settings)
        with connect(settings.redis_url.get_secret_value()) as client:
            yield from deployment_checks.redis_server(client)
            yield from deployment_checks.identity(client, settings)
            yield from deployment_checks.clocks(client)
            yield from deployment_checks.workers(client)
    if port is not None:
        yield from check_port(host, port)
    if url is not None:
        yield from _end_to_end(url)


def check_port(host: str, number: int) -> Iterator[Finding]:
    """Check that a port is free or that a Spectrum service listens on it."""
    name, address = "port", f"{host}:{number}"
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        if _asked(f"http://{address}", "/v1/health/live", timeout=3.0)[1] == {"status": "live"}:
            yield Finding(name, "ok", f"a service of this kind listens at {address}")
            return
    try:
        with socket.create_server((host, number)):
            yield Finding(name, "ok", f"{address} is free: no service listens there now")
    except OSError as error:
        yield Finding(
            name, "failed", f"{address}: {error.strerror}, and it is no service of this kind", "choose another port"
        )


def _end_to_end(url: str) -> Iterator[Finding]:
    """Compute a closed form and a small job like any client."""
    if urlsplit(url).scheme not in ("http", "https"):
        yield Finding("service", "failed", f"{url} begins with neither http:// nor https://", "give its whole address")
        return
    try:
        yield from _health(url)
        spectrum = _asked(url, "/v1/closed-form", body=_CLOSED_FORM)[1]
        good = spectrum.get("sharpness") == 2.0
        found = "right" if good else f"wrong: {str(spectrum)[:200]}"
        yield Finding("closed form", "ok" if good else "failed", found, "" if good else _key_advice(spectrum))
        yield from _job(url)
    except (OSError, ValueError, http.client.HTTPException) as error:
        yield Finding("service", "failed", f"{url} does not answer: {error}"[:200], "start it; look at its log")


def _health(url: str) -> Iterator[Finding]:
    status, ready = _asked(url, "/v1/health/ready")
    if status == 200:
        yield Finding("service", "ok", f"{url} is ready")
    else:
        yield Finding("service", "failed", str(ready.get("detail"))[:300], "give it what is missing")


def _job(url: str) -> Iterator[Finding]:
    headers = {"Prefer": f"wait={_JOB_SECONDS}", "Cache-Control": "no-cache"}
    status, job = _asked(url, "/v1/jobs", body=_JOB, headers=headers, timeout=_JOB_SECONDS + _ANSWER_SECONDS)
    if status not in (200, 202):
        yield Finding("job", "failed", f"{status} {job.get('title')}", _key_advice(job))
    elif job["state"] != "succeeded":
        found = f"{job['state']} after {_JOB_SECONDS} s: {(job.get('error') or {}).get('title', '')}"
        yield Finding("job", "failed", found, "look at the log of a worker; the queue may be long")
    else:
        yield Finding("job", "ok", f"computed by attempt {job['attempt']}")
        _asked(url, f"/v1/jobs/{job['id']}", method="DELETE")


def _key_advice(problem: Mapping[str, Any]) -> str:
    return f"set {KEY_VARIABLE} to a key of this server" if problem.get("status") == 401 else "look at its log"


def _asked(
    url: str,
    path: str,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = _ANSWER_SECONDS,
    method: str | None = None,
) -> tuple[int, dict[str, Any]]:
    """Send a request to a service.

    Returns:
        The status and the document, also of a problem.

    Raises:
        OSError: The service does not answer.
        HTTPException: The answer is not HTTP.
        ValueError: The answer is not JSON.
    """
    content = None if body is None else json.dumps(body).encode()
    key = os.environ.get(KEY_VARIABLE)
    sent = (
        {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}) | dict(headers or {})
    )
    request = urllib.request.Request(url.rstrip("/") + path, content, sent, method=method)  # noqa: S310 - http(s) alone
    own = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in _LOOPBACK else []
    try:
        with urllib.request.build_opener(*own).open(request, timeout=timeout) as response:
            return response.status, dict(json.loads(response.read() or b"{}"))
    except urllib.error.HTTPError as error:
        return error.code, dict(json.loads(error.read() or b"{}"))


def _print(findings: Sequence[Finding]) -> None:
    table = Table("", "check", "found", "what to do")
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        table.add_row(f"[{colour}]{finding.verdict}[/]", *map(_plain, (finding.name, finding.found, finding.advice)))
    Console().print(table)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    main()
