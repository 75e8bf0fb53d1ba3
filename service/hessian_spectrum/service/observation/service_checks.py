"""A service as its users meet it: whether it listens, and whether it computes."""

import contextlib
import http.client
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from hessian_spectrum.service.observation.deployment_checks import Finding

KEY_VARIABLE = "SPECTRUM_API_KEY"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""A proxy that is asked for these would ask itself."""

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


def port(host: str, number: int) -> Iterator[Finding]:
    """Whether the port is free for a service, or one of ours listens there."""
    name, place = "port", f"{host}:{number}"
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        if _asked(f"http://{place}", "/v1/health/live", timeout=3.0)[1] == {"status": "live"}:
            yield Finding(name, "ok", f"a service of this kind listens at {place}")
            return
    try:
        with socket.create_server((host, number)):
            yield Finding(name, "ok", f"{place} is free: no service listens there now")
    except OSError as error:
        yield Finding(
            name, "failed", f"{place}: {error.strerror}, and it is no service of this kind", "choose another port"
        )


def end_to_end(url: str) -> Iterator[Finding]:
    """A closed form and a small job, as any caller would ask for them."""
    if urlsplit(url).scheme not in ("http", "https"):
        yield Finding("service", "failed", f"{url} begins with neither http:// nor https://", "give its whole address")
        return
    try:
        yield from _health(url)
        spectrum = _asked(url, "/v1/closed-form", _CLOSED_FORM)[1]
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
    status, job = _asked(url, "/v1/jobs", _JOB, headers, timeout=_JOB_SECONDS + _ANSWER_SECONDS)
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
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = _ANSWER_SECONDS,
    method: str | None = None,
) -> tuple[int, dict[str, Any]]:
    """Status and document, also of a problem.

    Raises:
        OSError: Where the answer is none of a service of this kind.
        HTTPException: Where the answer is none of a service of this kind.
        ValueError: Where the answer is none of a service of this kind.
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
