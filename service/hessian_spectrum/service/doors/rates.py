"""How often a caller may ask."""

import ipaddress
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_SECONDS = 60.0
_FEW_CALLERS = 1000
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Standing:
    """What a caller has left after a request."""

    limit: int
    remaining: int
    reset_seconds: int
    """Until all requests of a minute are theirs again."""
    retry_seconds: int
    """Until the next one is answered; 0: this one is."""

    @property
    def headers(self) -> dict[str, str]:
        """`RateLimit` and its policy as in draft-ietf-httpapi-ratelimit-headers-10."""
        return {
            "RateLimit-Policy": f'"minute";q={self.limit};w={_WINDOW_SECONDS:.0f}',
            "RateLimit": f'"minute";r={self.remaining};t={self.reset_seconds}',
        }


class RequestRates:
    """A bucket for each caller of the last minute: it holds a minute's requests, and they come back steadily."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent: dict[str, tuple[float, float]] = {}  # requests, and when they were so many
        self._many = _FEW_CALLERS

    def count(self, caller: str, limit: int) -> Standing:
        """Count a request of a caller who has `limit` a minute; one that is refused does not count."""
        now, seconds_each = self._clock(), _WINDOW_SECONDS / limit
        before, then = self._spent.get(caller, (0.0, now))
        spent = max(0.0, before - (now - then) / seconds_each) + 1
        if spent > limit + _ROUNDING:
            wait = (spent - limit) * seconds_each
            return Standing(limit, 0, math.ceil((spent - 1) * seconds_each), max(1, math.ceil(wait)))
        self._spent[caller] = spent, now
        if len(self._spent) > self._many:
            self._forget(now)
        return Standing(limit, int(limit - spent + _ROUNDING), math.ceil(spent * seconds_each), 0)

    def charge(self, caller: str, limit: int, num_requests: float) -> None:
        """Count an answer that took more than others as so many further requests; what is owed is over in a minute."""
        now = self._clock()
        before, then = self._spent.get(caller, (0.0, now))
        spent = max(0.0, before - (now - then) * limit / _WINDOW_SECONDS) + num_requests
        self._spent[caller] = min(spent, max(before, 2.0 * limit)), now

    def _forget(self, now: float) -> None:
        """Those who asked for nothing in the last minute are as those who never came."""
        self._spent = {
            caller: (spent, then) for caller, (spent, then) in self._spent.items() if now - then < _WINDOW_SECONDS
        }
        self._many = max(_FEW_CALLERS, 2 * len(self._spent))


def neighbourhood(address: str) -> str | None:
    """Whose requests are counted together where there is no key: those of an IPv4 address, or of an IPv6 network /64.

    None for this machine itself, and for a socket that has no address; what is no address counts as it stands.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address or None
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback:
        return None
    return str(found) if found.version == 4 else str(ipaddress.ip_network((int(found), 64), strict=False))
