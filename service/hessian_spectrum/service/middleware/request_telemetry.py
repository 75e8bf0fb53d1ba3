"""The telemetry of requests: an id, a line of the access log and a measurement of each."""

import asyncio
import logging
import os
import re
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hessian_spectrum.service.config import API_PREFIX
from hessian_spectrum.telemetry.logging import LOG_FIELDS

LOGGER = "hessian_spectrum.service.requests"

OTHER = "other"
"""Route of paths that this server does not have, and method of those that HTTP does not define."""

_HEADER = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FAILED = 500
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SECONDS_BETWEEN_WRITES = 0.1


class RequestTelemetry:
    """Gives each request an id, `request.state.request_id`, logs it and counts it.

    A client may send the id as `X-Request-ID`: up to 64 letters, digits and `. _ -`; the response names it.

    Args:
        app: The application behind this middleware.
        access_log: Receives a record of each request.
        metrics: Receive the duration and status of each request.
    """

    def __init__(self, app: ASGIApp, *, access_log: "AccessLog", metrics: "RequestMetrics") -> None:
        self._app = app
        self._access_log = access_log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and observe its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, status, started_at = _request_id(scope), _FAILED, time.perf_counter()
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (_HEADER, request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        outer_fields = LOG_FIELDS.set({"request_id": request_id})
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            LOG_FIELDS.reset(outer_fields)
            self._record(scope, status, time.perf_counter() - started_at)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        record = AccessRecord(
            method=scope["method"] if scope["method"] in _METHODS else OTHER,
            route=_route(scope),
            status=status,
            seconds=seconds,
            request_id=state["request_id"],
            ended_at=time.time(),
            key_id=getattr(state.get("principal"), "owner", None),
        )
        self._metrics.observe(method=record.method, route=record.route, status=status, seconds=seconds)
        self._access_log.add(record)


def _route(scope: Scope) -> str:
    """Return the template of the path; with the path itself, the number of metrics would be unbounded."""
    route = scope.get("route")
    if route is None:
        return OTHER
    path: str = route.path
    return API_PREFIX + path if scope["path"].startswith(f"{API_PREFIX}/") else path


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _HEADER and _ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(16)


class AccessRecord(NamedTuple):
    """The record of an answered request.

    Attributes:
        method: Method of the request.
        route: Template of the path.
        status: Status code of the response.
        seconds: Duration, from the request's head to the end of its response.
        request_id: Id of the request.
        ended_at: Time of the end, in seconds since 1970.
        key_id: Id of the API key; None without one.
    """

    method: str
    route: str
    status: int
    seconds: float
    request_id: str
    ended_at: float
    key_id: str | None = None


class AccessLog:
    """Writes access lines like the other loggers do, gathered for a tenth of a second.

    `logging` with a formatter of any record takes a tenth of the time of a closed form, this a fiftieth. No value needs
    escaping: the only text of a client is the request id, whose characters are limited.

    Args:
        as_json: Whether a line is a JSON object; otherwise it is text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._format = _json_line if as_json else _text_line
        self._records: list[AccessRecord] = []
        self._logger = logging.getLogger(LOGGER)

    def add(self, record: AccessRecord) -> None:
        """Queue the record of a request; to be called within an event loop."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        if not self._records:
            asyncio.get_running_loop().call_later(_SECONDS_BETWEEN_WRITES, self.flush)
        self._records.append(record)

    def flush(self) -> None:
        """Write the queued lines."""
        records, self._records = self._records, []
        if records:
            sys.stderr.write("".join(map(self._format, records)))
            sys.stderr.flush()


def _json_line(record: AccessRecord) -> str:
    method, route, status = record.method, record.route, record.status
    key = f', "key_id": "{record.key_id}"' if record.key_id else ""
    ended_at = _timestamp(record)
    return (
        f'{{"time": "{ended_at}", "level": "INFO", "logger": "{LOGGER}", "message": "{method} {route} {status}", '
        f'"pid": {os.getpid()}, "event": "request", "method": "{method}", "route": "{route}", "status": {status}, '
        f'"milliseconds": {1e3 * record.seconds:.3f}, "request_id": "{record.request_id}"{key}}}\n'
    )


def _text_line(record: AccessRecord) -> str:
    key = f" key_id={record.key_id}" if record.key_id else ""
    return (
        f"{_timestamp(record)} INFO {LOGGER}[{os.getpid()}]: {record.method} {record.route} {record.status} "
        f"in {1e3 * record.seconds:.1f} ms request_id={record.request_id}{key}\n"
    )


def _timestamp(record: AccessRecord) -> str:
    return datetime.fromtimestamp(record.ended_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RequestMetrics:
    """A histogram of durations by route, method and class of status codes.

    Args:
        registry: Registry of the service's metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "spectrum_http_request_seconds",
            "Time to answer a request, streams and long polls included",
            ("method", "route", "status"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self._known: dict[tuple[str, str, int], Histogram] = {}

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        key = (method, route, status // 100)
        histogram = self._known.get(key)
        if histogram is None:
            histogram = self._known[key] = self._seconds.labels(method, route, f"{status // 100}xx")
        histogram.observe(seconds)
