"""The answer to a body that is too large, as a problem like every other error."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_schemas.problem import PROBLEM_MEDIA_TYPE
from service.problems import BODY_TOO_LARGE


class BodyLimitProblem:
    """Around Starlette's limit, which answers 413 in plain text before any exception handler is asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but plain 413 answers."""
        replacing = False
        problem = BODY_TOO_LARGE.model_copy(update={"instance": scope.get("path", "")[:200]})
        body = problem.model_dump_json(exclude_none=True).encode()

        async def send_problem(message: Message) -> None:
            nonlocal replacing
            if message["type"] == "http.response.start" and message["status"] == BODY_TOO_LARGE.status:
                kind = Headers(raw=message["headers"]).get("content-type", "")
                replacing = not kind.startswith(PROBLEM_MEDIA_TYPE)
                if replacing:
                    message = {**message, "headers": _headers(len(body))}
            elif replacing and message["type"] == "http.response.body":
                message = {"type": "http.response.body", "body": body, "more_body": False}
            await send(message)

        await self._app(scope, receive, send_problem)


def _headers(length: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
        (b"content-length", str(length).encode()),
        (b"connection", b"close"),
    ]
