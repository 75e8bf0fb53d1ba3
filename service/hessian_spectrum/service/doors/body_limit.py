"""How large a body may be and how long it may take, and the answers to others, problems like every other error."""

import asyncio
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import PROBLEM_MEDIA_TYPE, Problem
from hessian_spectrum.service.problems import BODY_TOO_LARGE, ProblemError
from hessian_spectrum.service.request_body import media_type

BODY_SECONDS = 60.0
"""In which a body arrives that is no upload; callers who send no more would else take all places there are."""


class BodyLimit:
    """One limit for bodies, and one for uploads: bodies of these media types to these paths, which count their time."""

    def __init__(
        self, app: ASGIApp, max_body_bytes: int, max_upload_bytes: int, uploads: Mapping[str, Collection[str]]
    ) -> None:
        self._bodies = RequestBodyLimitMiddleware(app, max_body_bytes)
        self._uploads = RequestBodyLimitMiddleware(app, max_upload_bytes)
        self._media_types = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body no longer than the limit."""
        if scope["type"] != "http" or self._is_upload(scope):
            await self._uploads(scope, receive, send)
        else:
            await self._bodies(scope, _in_time(receive), send)

    def _is_upload(self, scope: Scope) -> bool:
        return media_type(Headers(scope=scope)) in self._media_types.get(scope["path"], ())


def _in_time(receive: Receive) -> Receive:
    """The same, until the body is complete.

    Raises:
        ProblemError: 408.
    """
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    is_complete = False

    async def receive_in_time() -> Message:
        nonlocal is_complete
        if is_complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise _too_slow() from None
        is_complete = not message.get("more_body", False)
        return message

    return receive_in_time


def _too_slow() -> ProblemError:
    detail = f"The body took longer than {BODY_SECONDS:g} s."
    return ProblemError(Problem(type="/problems/body-too-slow", title="Body too slow", status=408, detail=detail))


class BodyLimitProblem:
    """Around Starlette's limit, which answers 413 in plain text before any exception handler is asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but plain 413 answers."""
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

        await self._app(scope, receive, send_problem)


def _problem(scope: Scope) -> bytes:
    problem = BODY_TOO_LARGE.model_copy(update={"instance": scope.get("path", "")[:200]})
    return problem.model_dump_json(exclude_none=True).encode()


def _headers(length: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
        (b"content-length", str(length).encode()),
        (b"connection", b"close"),
    ]
