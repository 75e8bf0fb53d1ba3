"""Around everything else: each request gets an id, a line of the log and its place in the metrics."""

import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hessian_spectrum.service.observation.request_lines import RequestLines
from hessian_spectrum.service.observation.request_metrics import RequestMetrics
from hessian_spectrum.telemetry.logging import log_fields

HEADER = "X-Request-ID"
OTHER = "other"
"""Route of paths that are none of this server's, and method of those that HTTP does not name."""

_HEADER = HEADER.lower().encode()
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FAILED = 500


class ObservedRequests:
    """A caller may send the id as `X-Request-ID`: up to 64 letters, digits and `. _ -`; the answer names it.

    Args:
        prefix: Of the paths of routes.
    """

    def __init__(self, app: ASGIApp, lines: RequestLines, metrics: RequestMetrics, prefix: str) -> None:
        self._app = app
        self._lines = lines
        self._metrics = metrics
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and look at its answer."""
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
            self._note(scope, status, time.perf_counter() - started_at)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        route, state = self._route(scope), scope["state"]
        self._metrics.add(method, route, status, seconds)
        self._lines.add(
            method, route, status, seconds, state["request_id"], getattr(state.get("caller"), "owner", None)
        )

    def _route(self, scope: Scope) -> str:
        """The template of the path, never the path itself, of which there is no end."""
        route = scope.get("route")
        if route is None:
            return OTHER
        path: str = route.path
        return self._prefix + path if scope["path"].startswith(self._prefix + "/") else path


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _HEADER and _ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(16)
