"""What a request asks for, in whichever of its forms HTTP allows."""

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/.*)?", re.IGNORECASE | re.DOTALL)


class AbsoluteTargets:
    """Serves `GET http://host/path` like `GET /path` with `Host: host`, whatever the Host header says.

    Clients that take the server for a proxy write the target so, and every server must accept it.

    References:
        RFC 9112, section 3.2.2.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and (found := _ABSOLUTE.fullmatch(scope.get("raw_path") or b"")):
            host, path = found[1], found[2] or b"/"
            headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
            # In place: whatever answers, also outside of this, names the path alone.
            scope.update(raw_path=path, path=unquote(path.decode("ascii")), headers=[(b"host", host), *headers])
        await self._app(scope, receive, send)
