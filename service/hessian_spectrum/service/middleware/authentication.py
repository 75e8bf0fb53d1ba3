"""Authentication and authorization of requests by their API key."""

from starlette.types import ASGIApp, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.auth import ANONYMOUS, UNAUTHENTICATED, KeyStore, KeysUnreadableError, Principal
from hessian_spectrum.service.config import is_public
from hessian_spectrum.service.headers import header
from hessian_spectrum.service.middleware.security_headers import raw_headers, with_default_headers
from hessian_spectrum.service.problems import ProblemError, refusal_response

_SCHEME = "bearer"
_PRIVATE = raw_headers({"Cache-Control": "no-store"})


class Authentication:
    """Stores the principal of each request as `request.state.principal`.

    It identifies, it does not require: a missing or unknown key makes the principal `UNAUTHENTICATED`, which
    `Authorization` refuses after `RateLimit` has counted the request. Only a key file that cannot be read is answered
    here, with 503.

    Args:
        app: The application behind this middleware.
        key_store: The API keys of the deployment.
    """

    def __init__(self, app: ASGIApp, key_store: KeyStore) -> None:
        self._app = app
        self._key_store = key_store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its principal."""
        if scope["type"] == "http":
            try:
                principal = self._principal(scope)
            except KeysUnreadableError:
                if not is_public(scope["path"]):
                    await refusal_response(scope, _keys_unreadable())(scope, receive, send)
                    return
                principal = UNAUTHENTICATED
            scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)

    def _principal(self, scope: Scope) -> Principal:
        """Return the principal of a request.

        Returns:
            The bearer of the API key, `ANONYMOUS` where no key is required, or `UNAUTHENTICATED`.

        Raises:
            KeysUnreadableError: The key file cannot be read.
        """
        if not self._key_store.is_required():
            return ANONYMOUS
        scheme, _, text = (header(scope, b"authorization") or "").partition(" ")
        key = self._key_store.find(text.strip()) if scheme.lower() == _SCHEME else None
        if key is None:
            return UNAUTHENTICATED
        return Principal(
            owner=key.id,
            is_admin=key.role == "admin",
            max_queued=key.max_queued,
            requests_per_minute=key.requests_per_minute,
        )


class Authorization:
    """Answers 401 to an unauthenticated request, unless its path is public.

    It refuses by default: a route that is added later requires a key as well. Responses to the bearer of a key are
    `Cache-Control: no-store` unless they say otherwise. Which jobs a principal may read and change is decided by
    `Principal` itself.

    Args:
        app: The application behind this middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on an authenticated request, and any request for a public path."""
        if scope["type"] == "http":
            principal: Principal = scope["state"]["principal"]
            if principal is UNAUTHENTICATED and not is_public(scope["path"]):
                is_key_given = header(scope, b"authorization") is not None
                await refusal_response(scope, _unauthenticated(is_key_given=is_key_given))(scope, receive, send)
                return
            if principal.owner is not None:
                send = with_default_headers(send, _PRIVATE)
        await self._app(scope, receive, send)


def _keys_unreadable() -> ProblemError:
    title = "The server cannot read its keys"
    problem = Problem(type="/problems/keys-unreadable", title=title, status=503)
    return ProblemError(problem, {"Retry-After": "30"})


def _unauthenticated(*, is_key_given: bool) -> ProblemError:
    problem = Problem(
        type="/problems/no-key",
        alias="/problems/unauthenticated",
        title="Unknown API key" if is_key_given else "An API key is required",
        status=401,
        detail="Send an API key of this server as `Authorization: Bearer KEY`.",
    )
    challenge = 'Bearer realm="spectrum"' + (', error="invalid_token"' if is_key_given else "")
    return ProblemError(problem, {"WWW-Authenticate": challenge})
