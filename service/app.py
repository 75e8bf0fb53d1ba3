"""The application factory: everything that lives as long as the service is made here."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Coroutine
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.concurrency import run_in_threadpool

from api_schemas.closed_form import ClosedFormRequest
from api_schemas.job_requests import JobRequest
from api_schemas.problem import Problem
from api_schemas.random_matrix import RandomMatrixRequest
from checkpoints.directory import ModelsDirectory
from jobs.artifact_owners import ArtifactOwners
from jobs.artifacts import ArtifactStore
from jobs.connection import connect, connect_async
from jobs.events import EventLog
from jobs.job_checkpoints import CheckpointStore
from jobs.presence import present_code_versions
from jobs.queue import JobQueue
from jobs.results import ResultStore
from jobs.retention import Retention
from jobs.settings import ServiceSettings
from jobs.store import JobStore
from service.doors.body_limit import BodyLimit, BodyLimitProblem
from service.doors.crowd import Crowd
from service.doors.door import Door, Rules, is_open
from service.doors.hosts import Hosts
from service.doors.key_file import KeyFile
from service.doors.rates import RequestRates
from service.job_desk import JobDesk
from service.job_feed import JobFeed
from service.observation.job_metrics import JobMetrics
from service.observation.observed_requests import ObservedRequests
from service.observation.request_lines import RequestLines
from service.observation.request_metrics import RequestMetrics
from service.problems import register_problem_handlers
from service.routes import (
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
)
from service.routes.documentation import document_bodies, document_door
from service.upkeep.housekeeper import Housekeeper
from service.upkeep.reaper import Reaper
from service.uploads.desk import UPLOAD_MEDIA_TYPES, UploadDesk

_PREFIX = "/v1"

_DESCRIPTION = """\
Eigenvalue spectra of loss Hessians: **closed forms** are answered at once, everything else becomes a **job**.
Errors are problem details (RFC 9457); invalid requests name the fields.
"""


def create_app(settings: ServiceSettings) -> FastAPI:
    """The HTTP service for these settings; nothing is connected before the first request."""
    redis_url = settings.redis_url.get_secret_value()
    client = connect(redis_url)
    store = JobStore(client, settings.lease_seconds, settings.max_attempts)
    queue = JobQueue(redis_url)
    news = connect_async(redis_url)
    feed = JobFeed(EventLog(news))
    registry = CollectorRegistry()
    rules = _rules(settings)
    uploaded = ArtifactStore(settings.artifacts_dir)
    results = ResultStore(settings.results_dir)
    checkpoints = CheckpointStore(settings.checkpoints_dir)
    housekeeper = _housekeeper(settings, store, Retention(client), results, uploaded)
    reaper = Reaper(store, queue, checkpoints, settings.republish_seconds, housekeeper.sweep)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(uploaded.remove_abandoned_drafts)
        async with _running(reaper.run(settings.reap_seconds), feed.run()):
            yield
        lines.write()
        queue.close()
        client.close()
        await news.aclose()

    app = FastAPIOffline(
        docs_url=None,
        title="Spectrum server",
        version=version("spectrum-server"),
        description=_DESCRIPTION,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.redis = client
    app.state.settings = settings
    app.state.desk = JobDesk(store, queue, results, feed, lambda: present_code_versions(client), settings.max_queued)
    app.state.feed = feed
    app.state.metrics = registry
    ProcessCollector(registry=registry)
    registry.register(JobMetrics(client, rules.crowd, settings.results_dir))
    app.state.job_seconds = settings.job_seconds
    app.state.artifacts = uploaded
    app.state.artifact_owners = ArtifactOwners(settings.artifact_owners_dir)
    app.state.models = ModelsDirectory(settings.models_dir)
    app.state.uploads = UploadDesk(settings.max_upload_bytes, settings.upload_memory_bytes)
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
    app.add_middleware(Door, rules=rules)
    lines = RequestLines(as_json=settings.as_json)
    app.add_middleware(ObservedRequests, lines=lines, metrics=RequestMetrics(registry), prefix=_PREFIX)
    register_problem_handlers(app)
    pages.add_documentation_page(app)
    for part in (closed_form, random_matrix, artifacts, jobs, job_events, estimates, models, health):
        app.include_router(part.router, prefix=_PREFIX)
    app.include_router(metrics.router)
    document_bodies(app, ClosedFormRequest, RandomMatrixRequest, JobRequest, Problem)
    document_door(app, is_open)
    return app


@contextlib.asynccontextmanager
async def _running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Beside what happens inside."""
    tasks = [asyncio.create_task(part) for part in work]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _rules(settings: ServiceSettings) -> Rules:
    return Rules(
        keys=KeyFile(settings.keys_path),
        hosts=Hosts(settings.host_names),
        rates=RequestRates(),
        crowd=Crowd(settings.max_requests, settings.max_listeners),
        requests_per_minute=settings.requests_per_minute,
    )


def _housekeeper(
    settings: ServiceSettings, store: JobStore, retention: Retention, results: ResultStore, artifacts: ArtifactStore
) -> Housekeeper:
    owners = ArtifactOwners(settings.artifact_owners_dir)
    half = shutil.disk_usage(settings.results_dir).total // 2
    most = half if settings.results_bytes is None else settings.results_bytes
    times = (settings.result_seconds, settings.record_seconds)
    return Housekeeper(store, retention, results, artifacts, owners, *times, most)
