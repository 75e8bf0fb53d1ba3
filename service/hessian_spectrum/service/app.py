"""The application factory: everything that lives as long as the service is made here."""

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.job_requests import JobRequest
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.quotas import Quotas
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.jobs.verdicts import VerdictStore
from hessian_spectrum.jobs.worker_registry import registered_result_versions
from hessian_spectrum.service.doors.body_limit import BodyLimit, BodyLimitProblem
from hessian_spectrum.service.doors.door import Door, is_open
from hessian_spectrum.service.doors.request_target import AbsoluteTargets
from hessian_spectrum.service.job_service import JobService
from hessian_spectrum.service.observation.observed_requests import ObservedRequests
from hessian_spectrum.service.observation.request_metrics import RequestMetrics
from hessian_spectrum.service.openapi_document import complete_document, operation_id
from hessian_spectrum.service.parts import Parts
from hessian_spectrum.service.problems import register_problem_handlers
from hessian_spectrum.service.process_pool.checkpoint_descriptions import CheckpointDescriptions
from hessian_spectrum.service.routes import (
    artifacts,
    closed_form,
    estimates,
    health,
    job_events,
    jobs,
    metrics,
    models,
    pages,
    random_matrix,
    version,
)
from hessian_spectrum.service.routes.parameters import StrictRoute
from hessian_spectrum.service.uploads.desk import UPLOAD_MEDIA_TYPES, UploadDesk

_PREFIX = "/v1"

_DESCRIPTION = """\
Eigenvalue spectra of loss Hessians: **closed forms** are answered at once, everything else becomes a **job**.
Errors are problem details (RFC 9457); invalid requests name the fields.
"""


def create_app(settings: ServiceSettings) -> FastAPI:
    """The HTTP service for these settings; nothing is connected before the first request."""
    parts = Parts(settings)
    app = FastAPIOffline(
        docs_url=None,
        title="Spectrum server",
        version=__version__,
        description=_DESCRIPTION,
        redoc_url=None,
        generate_unique_id_function=operation_id,
        lifespan=lambda _: parts.running(),
    )
    app.router.route_class = StrictRoute
    _hand_out(app, parts)
    _guard(app, parts)
    register_problem_handlers(app)
    pages.add_documentation_page(app)
    for part in (closed_form, random_matrix, artifacts, jobs, job_events, estimates, models, health, version):
        app.include_router(part.router, prefix=_PREFIX)
    app.include_router(metrics.router)
    messages = (ClosedFormRequest, RandomMatrixRequest, JobRequest, Problem)
    complete_document(app, *messages, file_path=_PREFIX + jobs.FILE_PATH, is_open=is_open)
    return app


def _hand_out(app: FastAPI, parts: Parts) -> None:
    """What routes find at `request.app.state`."""
    settings, client = parts.settings, parts.client
    app.state.redis = client
    app.state.settings = settings
    app.state.storage = parts.storage
    app.state.desk = JobService(
        parts.store,
        parts.queue,
        parts.results,
        parts.storage,
        parts.feed,
        lambda: registered_result_versions(client),
        Quotas(settings.max_queued, settings.requests_bytes, settings.records_bytes),
    )
    app.state.feed = parts.feed
    app.state.heavy = parts.heavy
    app.state.keys = parts.rules.keys
    app.state.metrics = parts.registry
    app.state.job_seconds = settings.job_seconds
    app.state.artifacts = parts.artifacts
    app.state.artifact_owners = parts.artifact_owners
    app.state.uploads_bytes = settings.uploads_bytes
    verdicts = VerdictStore(client, lambda: registered_result_versions(client))
    app.state.models = ModelsDirectory(settings.models_dir, verdicts)
    app.state.descriptions = CheckpointDescriptions(app.state.models, settings.models_dir, parts.heavy)
    app.state.uploads = UploadDesk(settings.max_upload_bytes, settings.upload_memory_bytes)


def _guard(app: FastAPI, parts: Parts) -> None:
    """What a request passes on its way in: the last one that is added comes first."""
    settings = parts.settings
    app.add_middleware(
        BodyLimit,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        uploads={
            _PREFIX + closed_form.PATH: UPLOAD_MEDIA_TYPES,
            _PREFIX + artifacts.PATH: artifacts.MEDIA_TYPES,
        },
    )
    app.add_middleware(BodyLimitProblem)
    app.add_middleware(Door, rules=parts.rules)
    app.add_middleware(ObservedRequests, lines=parts.lines, metrics=RequestMetrics(parts.registry), prefix=_PREFIX)
    app.add_middleware(AbsoluteTargets)
