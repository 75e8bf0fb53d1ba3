"""Under which names the server answers, and to which pages."""

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(?::[0-9]{1,5})?")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OUR_SITES = ("same-origin", "none")

ANY_HOST = "*"


class Hosts:
    """Refuses what a page of another site had a browser send.

    A page can have its own name lead to 127.0.0.1 and then counts, for the browser, as a page of this server: so a
    server that asks for no key answers under addresses, `localhost` and the names it was told of alone.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = {name.lower() for name in allowed} | {"localhost"}

    def check(self, method: str, headers: Headers, *, need_keys: bool) -> None:
        """Raises:  ProblemError 421 for another name, 403 for what another site's page wants changed."""
        host = headers.get("host", "")
        name = self._name(host)
        is_ours = name is not None and (_is_address(name) or name in self._allowed or ANY_HOST in self._allowed)
        if name is None or not (is_ours or (need_keys and self._allowed == {"localhost"})):
            raise _misdirected()
        if method not in _SAFE_METHODS and not _is_own_page(host, headers):
            title = "Pages of other sites cannot send this"
            raise ProblemError(Problem(type="/problems/cross-origin", title=title, status=403))

    def _name(self, host: str) -> str | None:
        found = _HOST.fullmatch(host)
        return found.group(1).lower() if found else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_own_page(host: str, headers: Headers) -> bool:
    """As browsers say it; what is no browser says nothing."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in _OUR_SITES
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _misdirected() -> ProblemError:
    detail = "Without keys it answers under its address, localhost and the names in SPECTRUM_ALLOWED_HOSTS."
    title = "The server does not have this name"
    return ProblemError(Problem(type="/problems/unknown-host", title=title, status=421, detail=detail))
