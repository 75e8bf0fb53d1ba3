"""Normalisation of the target of a request, and refusal of a body whose length is ambiguous."""

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.headers import header
from hessian_spectrum.service.problems import ProblemError, refusal_response

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/.*)?", re.IGNORECASE | re.DOTALL)


class RequestSyntax:
    """Separates the host of an absolute target from its path, and refuses a body with two lengths.

    `GET http://host/path` is served like `GET /path` with `Host: host`, whatever the `Host` header says: clients that
    take the server for a proxy send the target in this form, and every server must accept it.

    A request with both `Content-Length` and `Transfer-Encoding` is answered with 400. The parser believes one of them
    and the accounting of memory the other; a proxy in front may disagree with both (request smuggling).

    Args:
        app: The application behind this middleware.

    References:
        RFC 9112, sections 3.2.2 and 6.1.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with its path and host apart and one length."""
        if scope["type"] == "http":
            _separate_host(scope)
            if _has_two_lengths(scope):
                await refusal_response(scope, _two_lengths())(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _separate_host(scope: Scope) -> None:
    """Replace an absolute target by its path, and the `Host` header by its host."""
    parsed = _ABSOLUTE.fullmatch(scope.get("raw_path") or b"")
    if parsed is None:
        return
    host, path = parsed[1], parsed[2] or b"/"
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    # In place: middlewares and error handlers outside of this one see the path alone, too.
    scope.update(raw_path=path, path=unquote(path.decode("ascii")), headers=[(b"host", host), *headers])


def _has_two_lengths(scope: Scope) -> bool:
    return header(scope, b"transfer-encoding") is not None and header(scope, b"content-length") is not None


def _two_lengths() -> ProblemError:
    title = "Content-Length and Transfer-Encoding exclude each other"
    return ProblemError(Problem(type="/problems/two-lengths", title=title, status=400), {"Connection": "close"})
