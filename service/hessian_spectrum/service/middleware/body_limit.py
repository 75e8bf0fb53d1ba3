"""Limits on the size of request bodies."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import PROBLEM_MEDIA_TYPE
from hessian_spectrum.service.headers import header
from hessian_spectrum.service.problems import BODY_TOO_LARGE


class BodyLimit:
    """Answers 413 to a body that is too large; uploads have a limit of their own.

    Args:
        app: The application behind this middleware.
        max_body_bytes: Largest body of a request that is not an upload.
        max_upload_bytes: Largest upload.
        is_upload: Whether a request, by its scope, is an upload.
    """

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, max_upload_bytes: int, is_upload: Callable[[Scope], bool]
    ) -> None:
        self._app = app
        self._bodies = RequestBodyLimitMiddleware(app, max_body_bytes)
        self._uploads = RequestBodyLimitMiddleware(app, max_upload_bytes)
        self._is_upload = is_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a body that is no larger than its limit."""
        if scope["type"] != "http":
            await self._uploads(scope, receive, send)
            return
        limited = self._uploads if self._is_upload(scope) else self._bodies
        length = header(scope, b"content-length") or ""
        if length.isdecimal() and int(length) <= limited.max_body_size:
            await self._app(scope, receive, send)  # the server reads no more than was declared
            return
        await limited(scope, receive, _with_problem(scope, send))


def _with_problem(scope: Scope, send: Send) -> Send:
    """Return a `send` that turns Starlette's plain-text 413, which passes no exception handler, into a problem."""
    body = b""

    async def send_problem(message: Message) -> None:
        nonlocal body
        if message["type"] == "http.response.start" and message["status"] == BODY_TOO_LARGE.status:
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if not kind.startswith(PROBLEM_MEDIA_TYPE):
                body = _problem(scope)
                message = {**message, "headers": _headers(len(body))}
        elif body and message["type"] == "http.response.body":
            message = {"type": "http.response.body", "body": body, "more_body": False}
        await send(message)

    return send_problem


def _problem(scope: Scope) -> bytes:
    problem = BODY_TOO_LARGE.model_copy(update={"instance": scope.get("path", "")[:200]})
    return problem.model_dump_json(exclude_none=True).encode()


def _headers(length: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
        (b"content-length", str(length).encode()),
        (b"connection", b"close"),
    ]
