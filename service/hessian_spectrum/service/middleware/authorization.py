"""Refusal of requests without a valid API key."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.auth.principal import UNAUTHENTICATED, Principal
from hessian_spectrum.service.config import is_public
from hessian_spectrum.service.middleware.refusal import refuse
from hessian_spectrum.service.middleware.security_headers import raw_headers, with_default_headers
from hessian_spectrum.service.problems import ProblemError

_PRIVATE = raw_headers({"Cache-Control": "no-store"})


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
                is_key_given = "authorization" in Headers(scope=scope)
                await refuse(_no_key(is_given=is_key_given), scope, receive, send)
                return
            if principal.owner is not None:
                send = with_default_headers(send, _PRIVATE)
        await self._app(scope, receive, send)


def _no_key(*, is_given: bool) -> ProblemError:
    problem = Problem(
        type="/problems/no-key",
        title="The key is none of this server" if is_given else "A key is needed",
        status=401,
        detail="Send a key of this server as `Authorization: Bearer KEY`.",
    )
    challenge = 'Bearer realm="spectrum"' + (', error="invalid_token"' if is_given else "")
    return ProblemError(problem, {"WWW-Authenticate": challenge})
