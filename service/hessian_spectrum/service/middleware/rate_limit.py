"""Rate limits of API keys, whose numbers are in `auth.ApiKey`, and of client addresses, from the settings."""

import ipaddress
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from starlette.types import ASGIApp, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.auth import Principal
from hessian_spectrum.service.middleware.security_headers import RawHeaders, raw_headers, with_default_headers
from hessian_spectrum.service.problems import ProblemError, refusal_response

_WINDOW_SECONDS = 60.0
_MIN_CLIENTS_BEFORE_CLEANUP = 1000
_ROUNDING = 1e-6


class RateLimit:
    """Answers 429 to a client that has used up its requests of a minute.

    Every response to a counted client has the headers `RateLimit` and `RateLimit-Policy`. `request.state.charge` is a
    function that counts an expensive request as so many further ones. Requests with a key count for the key, others
    for their network address; requests from this machine without a key are not limited.

    Args:
        app: The application behind this middleware.
        limiter: The buckets of all clients.
        requests_per_minute: Limit of a client without a key.
    """

    def __init__(self, app: ASGIApp, limiter: "TokenBucketLimiter", requests_per_minute: int) -> None:
        self._app = app
        self._limiter = limiter
        self._requests_per_minute = requests_per_minute

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client, limit = self._account(scope)
        charge: Callable[[float], None] = _charge_nothing
        if client is not None:
            status = self._limiter.acquire(client, limit)
            send = with_default_headers(send, status.headers)
            if status.retry_after_seconds:
                await refusal_response(scope, _too_many_requests(status))(scope, receive, send)
                return
            charge = partial(self._limiter.charge, client, limit)
        scope["state"]["charge"] = charge
        await self._app(scope, receive, send)

    def _account(self, scope: Scope) -> tuple[str | None, int]:
        """Return the client for which a request counts, None for one that is not limited, and its limit."""
        principal: Principal = scope["state"]["principal"]
        if principal.owner is not None and principal.requests_per_minute is not None:
            return principal.owner, principal.requests_per_minute
        client = client_network(scope["client"][0]) if scope["client"] else None
        return client, self._requests_per_minute


def _charge_nothing(num_requests: float) -> None:
    """Charge a client without a limit: do nothing."""


def _too_many_requests(status: "RateLimitStatus") -> ProblemError:
    detail = f"The limit is {status.limit} requests per minute."
    problem = Problem(type="/problems/too-many-requests", title="Too many requests", status=429, detail=detail)
    return ProblemError(problem, {"Retry-After": str(status.retry_after_seconds)})


@dataclass(frozen=True)
class RateLimitStatus:
    """The requests that a client has left after a request."""

    limit: int
    """Requests per minute."""
    remaining: int
    """Requests that the client may send at once."""
    reset_seconds: int
    """Seconds until the client has all requests of a minute again."""
    retry_after_seconds: int
    """Seconds until the next request is answered; 0: this one is answered."""

    @property
    def headers(self) -> RawHeaders:
        """The response headers `RateLimit-Policy` and `RateLimit`.

        References:
            draft-ietf-httpapi-ratelimit-headers-10.
        """
        return raw_headers(
            {
                "RateLimit-Policy": f'"minute";q={self.limit};w={_WINDOW_SECONDS:.0f}',
                "RateLimit": f'"minute";r={self.remaining};t={self.reset_seconds}',
            }
        )


class TokenBucketLimiter:
    """A token bucket for each client of the last minute: it holds a minute's requests and refills steadily.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[str, tuple[float, float]] = {}  # requests used, and the time at which they were so many
        self._num_clients_before_cleanup = _MIN_CLIENTS_BEFORE_CLEANUP

    def acquire(self, client: str, limit: int) -> RateLimitStatus:
        """Count a request; a request that is refused does not count.

        Args:
            client: Id of a key, or a network address.
            limit: Requests per minute of this client.

        Returns:
            What the client has left, and how long it must wait if the request is refused.
        """
        now, seconds_each = self._clock(), _WINDOW_SECONDS / limit
        used_then, then = self._used.get(client, (0.0, now))
        used = max(0.0, used_then - (now - then) / seconds_each) + 1
        if used > limit + _ROUNDING:
            return RateLimitStatus(
                limit=limit,
                remaining=0,
                reset_seconds=math.ceil((used - 1) * seconds_each),
                retry_after_seconds=max(1, math.ceil((used - limit) * seconds_each)),
            )
        self._used[client] = used, now
        if len(self._used) > self._num_clients_before_cleanup:
            self._forget_idle_clients(now)
        return RateLimitStatus(
            limit=limit,
            remaining=int(limit - used + _ROUNDING),
            reset_seconds=math.ceil(used * seconds_each),
            retry_after_seconds=0,
        )

    def charge(self, client: str, limit: int, num_requests: float) -> None:
        """Count an expensive request as further ones; the debt is at most a minute's requests.

        Args:
            client: Id of a key, or a network address.
            limit: Requests per minute of this client.
            num_requests: Further requests that the expensive one counts as.
        """
        now = self._clock()
        used_then, then = self._used.get(client, (0.0, now))
        used = max(0.0, used_then - (now - then) * limit / _WINDOW_SECONDS) + num_requests
        self._used[client] = min(used, max(used_then, 2.0 * limit)), now

    def _forget_idle_clients(self, now: float) -> None:
        """Drop clients without a request in the last minute: their buckets are full again."""
        self._used = {
            client: (used, then) for client, (used, then) in self._used.items() if now - then < _WINDOW_SECONDS
        }
        self._num_clients_before_cleanup = max(_MIN_CLIENTS_BEFORE_CLEANUP, 2 * len(self._used))


@lru_cache(maxsize=1024)
def client_network(address: str) -> str | None:
    """Return the network whose requests count together: an IPv4 address, or the /64 network of an IPv6 address.

    Returns:
        None for this machine itself and for a socket without an address; a text that is no address counts as it is.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address or None
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    if parsed.is_loopback:
        return None
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((int(parsed), 64), strict=False))
