"""Cross-origin resource sharing (CORS): pages of listed sites may use the API."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from hessian_spectrum.api_schemas.problem import PROBLEM_MEDIA_TYPE, Problem

_REQUEST_HEADERS = (
    "Accept",
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
)
_RESPONSE_HEADERS = (
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-ID",
)
_MAX_AGE_SECONDS = 600
"""Time for which browsers remember the answer to a preflight request."""


class CrossOrigin(CORSMiddleware):
    """Answers the preflight requests of browsers, and names listed origins in responses.

    It gives other origins no permission; `TrustedHost` decides what their pages may do without one. Cookies are not
    allowed, as the server has none: pages send an API key.

    Args:
        app: The application behind this middleware.
        allowed_origins: Origins such as `https://lab.example.org`.
    """

    def __init__(self, app: ASGIApp, allowed_origins: list[str]) -> None:
        super().__init__(
            app,
            allow_origins=allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
            max_age=_MAX_AGE_SECONDS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the answer to a preflight request: a problem if the origin, method or a header is not allowed."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        detail = bytes(response.body).decode()
        problem = Problem(
            type="/problems/cross-origin", title="Cross-origin request refused", status=403, detail=detail
        )
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        content = problem.model_dump_json(exclude_none=True)
        return Response(content, status_code=403, media_type=PROBLEM_MEDIA_TYPE, headers=headers)
