"""Routes that are called without the router of FastAPI."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

_ErrorHandlers = Mapping[Any, Callable[[Any, Any], Any]]


class DirectRoute(Protocol):
    """A route whose handler needs the request alone and makes the whole response."""

    @property
    def methods(self) -> Collection[str] | None:
        """Methods of HTTP that it answers."""
        ...

    def respond(self, request: Request) -> Awaitable[Response]:
        """Return the response to a request."""
        ...


class DirectRoutes:
    """Calls the handlers of listed routes; all other requests go to the router behind it.

    FastAPI would look for the route twice and resolve dependencies that these routes do not have, which takes half of
    the time of a closed form. The routes belong to the application as well: it documents them, and answers requests
    with other methods.

    Args:
        app: The application behind this middleware.
        routes: The routes by their whole path.
    """

    def __init__(self, app: ASGIApp, *, routes: Mapping[str, DirectRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to a listed route, or pass the request on."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] not in (route.methods or ()):
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.respond(request)
        except Exception as error:
            handle = _handler_of(error, scope["app"].exception_handlers)
            if handle is None:
                raise
            response = await handle(request, error)
        await response(scope, receive, send)


def _handler_of(error: Exception, handlers: _ErrorHandlers) -> Callable[[Any, Any], Any] | None:
    """Return what answers an error; None for an unexpected one, which the outermost layer answers."""
    kinds = (kind for kind in type(error).__mro__ if kind is not Exception)
    return next((handlers[kind] for kind in kinds if kind in handlers), None)
