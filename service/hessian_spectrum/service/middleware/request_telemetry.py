"""A request id, a line of the access log and metrics for each request."""

import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hessian_spectrum.service.config import API_PREFIX
from hessian_spectrum.service.telemetry.access_log import AccessLog, AccessRecord
from hessian_spectrum.service.telemetry.metrics import RequestMetrics
from hessian_spectrum.telemetry.logging import log_fields

OTHER = "other"
"""Route of paths that this server does not have, and method of those that HTTP does not define."""

_HEADER = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FAILED = 500


class RequestTelemetry:
    """Gives each request an id, `request.state.request_id`, logs it and counts it.

    A client may send the id as `X-Request-ID`: up to 64 letters, digits and `. _ -`; the response names it.

    Args:
        app: The application behind this middleware.
        access_log: Receives a record of each request.
        metrics: Receive the duration and status of each request.
    """

    def __init__(self, app: ASGIApp, *, access_log: AccessLog, metrics: RequestMetrics) -> None:
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

        try:
            with log_fields(request_id=request_id):
                await self._app(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started_at)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        record = AccessRecord(
            method=scope["method"] if scope["method"] in _METHODS else OTHER,
            route=_route(scope),
            status=status,
            seconds=seconds,
            request_id=state["request_id"],
            key_id=getattr(state.get("principal"), "owner", None),
        )
        self._metrics.observe(record.method, record.route, status, seconds)
        self._access_log.add(record)


def _route(scope: Scope) -> str:
    """The template of the path, never the path itself, of which there is no end."""
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
