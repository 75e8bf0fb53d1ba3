"""Requests whose target is a whole URL."""

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/.*)?", re.IGNORECASE | re.DOTALL)


class AbsoluteRequestTarget:
    """Serves `GET http://host/path` like `GET /path` with `Host: host`, whatever the `Host` header says.

    Clients that take the server for a proxy send the target in this form, and every server must accept it.

    Args:
        app: The application behind this middleware.

    References:
        RFC 9112, section 3.2.2.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its path and host apart."""
        if scope["type"] == "http" and (parsed := _ABSOLUTE.fullmatch(scope.get("raw_path") or b"")):
            host, path = parsed[1], parsed[2] or b"/"
            headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
            # In place: error handlers outside of this middleware see the path alone, too.
            scope.update(raw_path=path, path=unquote(path.decode("ascii")), headers=[(b"host", host), *headers])
        await self._app(scope, receive, send)
