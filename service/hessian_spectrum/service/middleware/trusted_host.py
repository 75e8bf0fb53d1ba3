"""Host names under which the server answers, and the origins that may send requests that change anything."""

import ipaddress
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.auth import ANONYMOUS
from hessian_spectrum.service.headers import headers_of
from hessian_spectrum.service.problems import ProblemError, refusal_response

ANY_HOST = "*"

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(?::[0-9]{1,5})?")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OWN_SITES = ("same-origin", "none")
_LOCALHOST = frozenset({"localhost"})


class TrustedHost:
    """Refuses requests that a page of another site made a browser send.

    A page can have its own name resolve to 127.0.0.1 and then has, for the browser, the origin of this server (DNS
    rebinding). A server that requires no key therefore answers only under IP addresses, `localhost` and
    `allowed_hosts`. With keys any name will do unless `allowed_hosts` is set: a page of another site has no key.

    Args:
        app: The application behind this middleware.
        allowed_hosts: Host names besides addresses and `localhost`; `*` allows every name.
        allowed_origins: Origins of other sites whose pages may request changes.
    """

    def __init__(
        self, app: ASGIApp, allowed_hosts: Collection[str], allowed_origins: Collection[str] = frozenset()
    ) -> None:
        self._app = app
        self._allowed_origins = frozenset(allowed_origins)
        self._allowed_hosts = _LOCALHOST | {name.lower() for name in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that is addressed to this server and comes from none but its own pages."""
        if scope["type"] == "http":
            is_key_required = scope["state"]["principal"] is not ANONYMOUS
            try:
                self.check(scope["method"], headers_of(scope), is_key_required=is_key_required)
            except ProblemError as refusal:
                await refusal_response(scope, refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def check(self, method: str, headers: Mapping[str, str], *, is_key_required: bool) -> None:
        """Check that the host of a request is trusted and that its origin may send it.

        Raises:
            ProblemError: 421 for an unknown host, 403 for a change that a page of another site requested.
        """
        host = headers.get("host", "")
        parsed = _HOST.fullmatch(host)
        if parsed is None or not self._is_trusted(parsed.group(1).lower(), is_key_required=is_key_required):
            raise _misdirected()
        is_allowed = headers.get("origin") in self._allowed_origins
        if method not in _SAFE_METHODS and not is_allowed and not _is_same_origin(host, headers):
            title = "Cross-origin requests are refused"
            raise ProblemError(Problem(type="/problems/cross-origin", title=title, status=403))

    def _is_trusted(self, name: str, *, is_key_required: bool) -> bool:
        is_allowed = name in self._allowed_hosts or ANY_HOST in self._allowed_hosts
        return is_allowed or _is_address(name) or (is_key_required and self._allowed_hosts == _LOCALHOST)


@lru_cache(maxsize=256)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_same_origin(host: str, headers: Mapping[str, str]) -> bool:
    """Return whether the browser names a page of this server as the origin; other clients name none and pass."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in _OWN_SITES
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _misdirected() -> ProblemError:
    detail = "Without API keys the server accepts IP addresses, localhost and the names in SPECTRUM_ALLOWED_HOSTS."
    title = "Unknown host name"
    return ProblemError(Problem(type="/problems/unknown-host", title=title, status=421, detail=detail))
