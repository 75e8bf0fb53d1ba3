"""The door: every request passes it before anything of its body is read."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.doors.callers import ANYONE, STRANGER, Caller
from hessian_spectrum.service.doors.crowd import Crowd
from hessian_spectrum.service.doors.delivery import Delivery
from hessian_spectrum.service.doors.hosts import Hosts
from hessian_spectrum.service.doors.key_file import ApiKey, KeyFile, KeysUnreadableError
from hessian_spectrum.service.doors.page_headers import PAGE_HEADERS, completed
from hessian_spectrum.service.doors.rates import RequestRates, neighbourhood
from hessian_spectrum.service.problems import ProblemError, problem_response

HEALTH = "/v1/health/"
OPEN_PATHS = frozenset({"/docs", "/openapi.json", "/v1/version", f"{HEALTH}live", f"{HEALTH}ready"})
OPEN_PREFIX = "/static-offline-docs/"
"""What needs no key, ever; everything else needs one where there are keys, also what is yet to be written."""

Charge = Callable[[float], None]

_SCHEME = "bearer"

_logger = logging.getLogger(__name__)


def is_open(path: str) -> bool:
    """Whether a path needs no key, ever."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


@dataclass(frozen=True)
class Rules:
    """What the door looks at."""

    keys: KeyFile
    hosts: Hosts
    rates: RequestRates
    crowd: Crowd
    requests_per_minute: int
    """Of an address without a key."""


class Door:
    """Lets a request in that is meant for this server, has a key where one is needed, and finds room.

    It leaves `request.state.caller`, `charge` and `place`, and completes the headers of every answer.
    """

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = dict(PAGE_HEADERS)
        delivery = Delivery(send)

        async def send_completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": completed(message["headers"], wanted)}
            await delivery.send(message)

        try:
            caller, charge = self._let_in(scope, Headers(scope=scope), wanted)
            state = {"caller": caller, "charge": charge}
            if scope["path"].startswith(HEALTH):
                await self._pass(scope, receive, send_completed, **state)
                return
            with self._rules.crowd.place(caller.owner) as place:
                await self._pass(scope, receive, send_completed, **state, place=place)
        except ProblemError as refusal:
            answer = problem_response(Request(scope), refusal.problem, refusal.headers)
            await answer(scope, receive, send_completed)
        except Exception:
            if not delivery.is_given_up:
                raise
            _logger.info("an answer was not read and is given up")

    async def _pass(self, scope: Scope, receive: Receive, send: Send, **state: object) -> None:
        scope.setdefault("state", {}).update(state)
        await self._app(scope, receive, send)

    def _let_in(self, scope: Scope, headers: Headers, wanted: dict[str, str]) -> tuple[Caller, Charge]:
        """Who sends the request, and how it is charged; what its answer is to say of that goes to `wanted`.

        Raises:
            ProblemError: 400, 401, 403, 421, 429; 503 while the keys cannot be read.
        """
        if "content-length" in headers and "transfer-encoding" in headers:
            raise _two_lengths()
        need_keys, key = self._key(scope["path"], headers)
        self._rules.hosts.check(scope["method"], headers, need_keys=need_keys)
        charge = self._count(scope, key, wanted)
        if key is not None:
            wanted["Cache-Control"] = "no-store"
            return Caller(key.id, key.role == "admin", key.max_queued), charge
        if not need_keys:
            return ANYONE, charge
        if is_open(scope["path"]):
            return STRANGER, charge
        raise _no_key(is_given="authorization" in headers)

    def _key(self, path: str, headers: Headers) -> tuple[bool, ApiKey | None]:
        """Whether keys are needed here, and the one that was sent.

        Raises:
            ProblemError: 503.
        """
        try:
            if not self._rules.keys.is_needed():
                return False, None
            scheme, _, text = headers.get("authorization", "").partition(" ")
            return True, self._rules.keys.find(text.strip()) if scheme.lower() == _SCHEME else None
        except KeysUnreadableError:
            if is_open(path):
                return True, None
            raise _keys_unreadable() from None

    def _count(self, scope: Scope, key: ApiKey | None, wanted: dict[str, str]) -> Charge:
        """What to call with further requests that this one counts as.

        Raises:
            ProblemError: 429.
        """
        name, limit = (None, 0) if key is None else (key.id, key.requests_per_minute)
        if key is None and scope["client"]:
            name, limit = neighbourhood(scope["client"][0]), self._rules.requests_per_minute
        if name is None:
            return lambda _: None
        standing = self._rules.rates.count(name, limit)
        wanted |= standing.headers
        if standing.retry_seconds:
            raise _too_often(limit, standing.retry_seconds)
        return partial(self._rules.rates.charge, name, limit)


def _two_lengths() -> ProblemError:
    title = "Either Content-Length or Transfer-Encoding"
    return ProblemError(Problem(type="/problems/two-lengths", title=title, status=400), {"Connection": "close"})


def _no_key(*, is_given: bool) -> ProblemError:
    problem = Problem(
        type="/problems/no-key",
        title="The key is none of this server" if is_given else "A key is needed",
        status=401,
        detail="Send a key of this server as `Authorization: Bearer KEY`.",
    )
    challenge = 'Bearer realm="spectrum"' + (', error="invalid_token"' if is_given else "")
    return ProblemError(problem, {"WWW-Authenticate": challenge})


def _too_often(limit: int, retry_seconds: int) -> ProblemError:
    detail = f"It is {limit} requests a minute."
    problem = Problem(type="/problems/too-many-requests", title="Too many requests", status=429, detail=detail)
    return ProblemError(problem, {"Retry-After": str(retry_seconds)})


def _keys_unreadable() -> ProblemError:
    title = "The server cannot read its keys"
    problem = Problem(type="/problems/keys-unreadable", title=title, status=503)
    return ProblemError(problem, {"Retry-After": "30"})
