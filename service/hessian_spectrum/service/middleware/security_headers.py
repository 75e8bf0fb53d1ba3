"""Response headers that restrict what browsers do with a response."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

RawHeaders = Sequence[tuple[bytes, bytes]]

_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": f"{_NOTHING}; style-src 'unsafe-inline'; img-src data:",  # needed to display SVG files
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response that does not set them itself."""

PAGE_POLICY = (
    f"{_NOTHING}; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy of the page: files of this server alone, no inline code, and no text that becomes markup."""


class SecurityHeaders:
    """Adds `SECURITY_HEADERS` to every response, refusals of the middlewares behind it included.

    Args:
        app: The application behind this middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = raw_headers(SECURITY_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and complete the headers of its response."""
        if scope["type"] == "http":
            send = with_default_headers(send, self._headers)
        await self._app(scope, receive, send)


def with_default_headers(send: Send, headers: RawHeaders) -> Send:
    """Return a `send` that adds those of the headers that a response does not set itself.

    Args:
        send: The `send` of the server or of the middleware in front.
        headers: Names in lower case and values.

    Returns:
        The wrapped `send`.
    """

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = message.get("headers", ())
            names = {name for name, _ in given}  # in lower case, as ASGI demands
            message = {**message, "headers": [*given, *[header for header in headers if header[0] not in names]]}
        await send(message)

    return send_with_headers


def raw_headers(headers: Mapping[str, str]) -> RawHeaders:
    """Return the headers as ASGI has them: names in lower case, as bytes."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def documentation_policy(page: bytes) -> str:
    """Make the Content-Security-Policy of the documentation page.

    It allows the inline scripts of the page and the files of this server.

    Args:
        page: The HTML of the page.

    Returns:
        The value of the header; scripts are listed by their SHA-256.
    """
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts)
    return (
        f"{_NOTHING}; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'"
    )
