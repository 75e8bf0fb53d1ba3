"""The answer to a body that is too large, as a problem like every other error."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_schemas.problem import PROBLEM_MEDIA_TYPE, Problem

_TOO_LARGE = 413


class BodyLimitProblem:
    """Around Starlette's limit, which answers 413 in plain text before any exception handler is asked."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        detail = f"A request body may have {max_body_bytes:,} bytes."
        problem = Problem(type="/problems/body-too-large", title="Body too large", status=_TOO_LARGE, detail=detail)
        self._body = problem.model_dump_json(exclude_none=True).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but plain 413 answers."""
        replacing = False

        async def send_problem(message: Message) -> None:
            nonlocal replacing
            if message["type"] == "http.response.start" and message["status"] == _TOO_LARGE:
                kind = Headers(raw=message["headers"]).get("content-type", "")
                replacing = not kind.startswith(PROBLEM_MEDIA_TYPE)
                if replacing:
                    message = {**message, "headers": self._headers()}
            elif replacing and message["type"] == "http.response.body":
                message = {"type": "http.response.body", "body": self._body, "more_body": False}
            await send(message)

        await self._app(scope, receive, send_problem)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
            (b"content-length", str(len(self._body)).encode()),
            (b"connection", b"close"),
        ]
