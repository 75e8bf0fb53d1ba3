"""The application factory: routes, middlewares and error handlers around the context of a service."""

from functools import partial

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.closed_form_batch import ClosedFormBatch
from hessian_spectrum.api_schemas.jobs import JobBatch, JobRequest
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.config import API_PREFIX, is_public
from hessian_spectrum.service.context import ServiceContext, create_context
from hessian_spectrum.service.lifespan import running
from hessian_spectrum.service.middleware.authentication import Authentication, Authorization
from hessian_spectrum.service.middleware.body_limit import BodyLimit
from hessian_spectrum.service.middleware.concurrency_limit import ConcurrencyLimit
from hessian_spectrum.service.middleware.cross_origin import CrossOrigin
from hessian_spectrum.service.middleware.direct_routes import DirectRoutes
from hessian_spectrum.service.middleware.rate_limit import RateLimit, TokenBucketLimiter
from hessian_spectrum.service.middleware.request_syntax import RequestSyntax
from hessian_spectrum.service.middleware.request_telemetry import RequestMetrics, RequestTelemetry
from hessian_spectrum.service.middleware.security_headers import SecurityHeaders
from hessian_spectrum.service.middleware.slow_client import SlowClient
from hessian_spectrum.service.middleware.trusted_host import TrustedHost
from hessian_spectrum.service.openapi_document import add_documentation_page, complete_document, operation_id
from hessian_spectrum.service.problems import register_problem_handlers
from hessian_spectrum.service.request_parsing import StrictRoute, has_media_type
from hessian_spectrum.service.routes import (
    artifacts,
    closed_form,
    closed_form_batch,
    estimates,
    figures,
    job_events,
    jobs,
    models,
    monitoring,
    page,
    random_matrix,
    series,
)
from hessian_spectrum.service.uploads.parser import UPLOAD_MEDIA_TYPES

_DESCRIPTION = """\
Eigenvalue spectra of loss Hessians: **closed forms** are answered at once, everything else becomes a **job**.
Errors are problem details (RFC 9457); invalid requests name the fields.
"""

_ROUTES = (
    closed_form,
    closed_form_batch,
    random_matrix,
    artifacts,
    jobs,
    job_events,
    estimates,
    figures,
    series,
    models,
    monitoring,
)

_DIRECT_ROUTES = {
    API_PREFIX + route.path: route
    for module in (closed_form, closed_form_batch)
    for route in module.router.routes
    if isinstance(route, StrictRoute)
}
"""Routes whose handlers need the request alone, by path."""

_UPLOADS = {
    API_PREFIX + closed_form.PATH: UPLOAD_MEDIA_TYPES,
    API_PREFIX + artifacts.PATH: artifacts.MEDIA_TYPES,
}
"""Media types of uploads, by path."""


def create_app(settings: ServiceSettings) -> FastAPI:
    """Return the HTTP service for these settings; nothing is connected before the first request."""
    context = create_context(settings)
    app = FastAPIOffline(
        docs_url=None,
        title="Spectrum server",
        version=__version__,
        description=_DESCRIPTION,
        redoc_url=None,
        generate_unique_id_function=operation_id,
        lifespan=lambda _: running(context),
        middleware=_middleware(context),
    )
    app.state.context = context
    app.router.route_class = StrictRoute
    register_problem_handlers(app)
    add_documentation_page(app)
    for module in _ROUTES:
        app.include_router(module.router, prefix=API_PREFIX)
    app.include_router(monitoring.metrics_router)
    page.add_page(app)
    messages = (ClosedFormRequest, ClosedFormBatch, RandomMatrixRequest, JobRequest, JobBatch, Problem)
    file_paths = [API_PREFIX + module.FILE_PATH for module in (jobs, series)]
    complete_document(app, *messages, file_paths=file_paths, is_open=is_public)
    return app


def _middleware(context: ServiceContext) -> list[Middleware]:
    """Return the middlewares in the order in which a request passes them; its response passes them in reverse.

    `RateLimit` comes before `Authorization`, so that guesses of keys count, and after `Authentication`, which says
    whose limit a request counts against.

    Returns:
        Each middleware with its arguments, outermost first.
    """
    settings = context.settings
    is_upload = partial(has_media_type, media_types=_UPLOADS)
    cross_origin = [Middleware(CrossOrigin, allowed_origins=settings.origins)] if settings.origins else []
    return [
        Middleware(RequestTelemetry, access_log=context.access_log, metrics=RequestMetrics(context.metrics)),
        Middleware(SecurityHeaders),
        *cross_origin,
        Middleware(RequestSyntax),
        Middleware(SlowClient, is_upload=is_upload),
        Middleware(Authentication, key_store=context.key_store),
        Middleware(TrustedHost, allowed_hosts=settings.host_names, allowed_origins=settings.origins),
        Middleware(RateLimit, limiter=TokenBucketLimiter(), requests_per_minute=settings.requests_per_minute),
        Middleware(Authorization),
        Middleware(ConcurrencyLimit, slots=context.slots),
        Middleware(
            BodyLimit,
            max_body_bytes=settings.max_body_bytes,
            max_upload_bytes=settings.max_upload_bytes,
            is_upload=is_upload,
        ),
        Middleware(DirectRoutes, routes=_DIRECT_ROUTES),
    ]
