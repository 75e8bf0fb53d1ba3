"""Identification of the principal of each request by its API key."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.auth.key_store import KeyStore, KeysUnreadableError
from hessian_spectrum.service.auth.principal import ANONYMOUS, UNAUTHENTICATED, Principal
from hessian_spectrum.service.config import is_public
from hessian_spectrum.service.middleware.refusal import refuse
from hessian_spectrum.service.problems import ProblemError

_SCHEME = "bearer"


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
                    await refuse(_keys_unreadable(), scope, receive, send)
                    return
                principal = UNAUTHENTICATED
            scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)

    def _principal(self, scope: Scope) -> Principal:
        """The principal of a request.

        Raises:
            KeysUnreadableError: The key file cannot be read.
        """
        if not self._key_store.is_required():
            return ANONYMOUS
        scheme, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
        key = self._key_store.find(text.strip()) if scheme.lower() == _SCHEME else None
        if key is None:
            return UNAUTHENTICATED
        return Principal(
            owner=key.id,
            is_admin=key.role == "admin",
            max_queued=key.max_queued,
            requests_per_minute=key.requests_per_minute,
        )


def _keys_unreadable() -> ProblemError:
    title = "The server cannot read its keys"
    problem = Problem(type="/problems/keys-unreadable", title=title, status=503)
    return ProblemError(problem, {"Retry-After": "30"})
