"""Refusal of requests whose body has an ambiguous length."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.middleware.refusal import refuse
from hessian_spectrum.service.problems import ProblemError


class RequestFraming:
    """Answers 400 to a request with both `Content-Length` and `Transfer-Encoding`.

    The parser believes one of them and the accounting of memory the other; a proxy in front may disagree with both
    (request smuggling).

    Args:
        app: The application behind this middleware.

    References:
        RFC 9112, section 6.1.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose length is unambiguous."""
        if scope["type"] == "http" and _has_two_lengths(Headers(scope=scope)):
            await refuse(_two_lengths(), scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _has_two_lengths(headers: Headers) -> bool:
    return "content-length" in headers and "transfer-encoding" in headers


def _two_lengths() -> ProblemError:
    title = "Either Content-Length or Transfer-Encoding"
    return ProblemError(Problem(type="/problems/two-lengths", title=title, status=400), {"Connection": "close"})
