"""The door: every request passes it before anything of its body is read."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api_schemas.problem import Problem
from service.callers import ANYONE, STRANGER, Caller
from service.key_file import KeyFile, KeysUnreadableError
from service.problems import ProblemError, problem_response

OPEN_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json", "/v1/health/live", "/v1/health/ready"})
OPEN_PREFIX = "/static-offline-docs/"
"""What needs no key, ever; everything else needs one where there are keys, also what is yet to be written."""

_SCHEME = "bearer"


class Door:
    """Lets in who has a key, or anyone where there are no keys."""

    def __init__(self, app: ASGIApp, keys: KeyFile) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or pass the request on with its `Caller` as `request.state.caller`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["caller"] = self._caller(scope)
        except ProblemError as refusal:
            await problem_response(Request(scope), refusal.problem, refusal.headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        """Raises:  ProblemError 401; 503 while the keys cannot be read."""
        path: str = scope["path"]
        is_open = path in OPEN_PATHS or path.startswith(OPEN_PREFIX)
        try:
            if not self._keys.is_needed():
                return ANYONE
            scheme, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
            key = self._keys.find(text.strip()) if scheme.lower() == _SCHEME else None
        except KeysUnreadableError:
            if is_open:
                return STRANGER
            raise _keys_unreadable() from None
        if key is not None:
            return Caller(key.id, key.role == "admin", key.max_queued)
        if is_open:
            return STRANGER
        raise _no_key(is_given=bool(scheme))


def _no_key(*, is_given: bool) -> ProblemError:
    detail = "Send a key of this server as `Authorization: Bearer KEY`."
    problem = Problem(
        type="/problems/no-key",
        title="The key is none of this server" if is_given else "A key is needed",
        status=401,
        detail=detail,
    )
    challenge = 'Bearer realm="spectrum"' + (', error="invalid_token"' if is_given else "")
    return ProblemError(problem, {"WWW-Authenticate": challenge})


def _keys_unreadable() -> ProblemError:
    title = "The server cannot read its keys"
    problem = Problem(type="/problems/keys-unreadable", title=title, status=503)
    return ProblemError(problem, {"Retry-After": "30"})
