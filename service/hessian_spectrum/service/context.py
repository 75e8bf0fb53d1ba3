"""The context of a running service: all objects that it creates once, and the dependencies that give them to routes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import redis
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry, ProcessCollector
from redis.asyncio import Redis as AsyncRedis

from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.connection import connect, connect_async
from hessian_spectrum.jobs.events import EventLog
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.record import Quotas
from hessian_spectrum.jobs.retention import Retention
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.jobs.webhooks import WebhookQueue
from hessian_spectrum.jobs.worker_registry import RecentWorkers, VerdictStore
from hessian_spectrum.service.auth import KeyStore, Principal
from hessian_spectrum.service.job_events import JobEventBroker
from hessian_spectrum.service.job_service import JobService
from hessian_spectrum.service.maintenance.lost_job_reaper import LostJobReaper
from hessian_spectrum.service.maintenance.retention_task import RetentionPolicy, RetentionTask
from hessian_spectrum.service.middleware.concurrency_limit import RequestSlots, SlotPool
from hessian_spectrum.service.middleware.request_telemetry import AccessLog
from hessian_spectrum.service.process_pool.checkpoint_descriptions import CheckpointDescriptions
from hessian_spectrum.service.process_pool.executor import FairScheduler, ProcessExecutor
from hessian_spectrum.service.process_pool.pool import ProcessPool
from hessian_spectrum.service.telemetry.metrics import JobMetrics
from hessian_spectrum.service.uploads.artifact_service import ArtifactQuota, ArtifactService
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget
from hessian_spectrum.service.uploads.parser import UploadParser
from hessian_spectrum.storage.artifacts import ArtifactOwners, ArtifactStore
from hessian_spectrum.storage.job_files import CheckpointStore, RequestFiles
from hessian_spectrum.storage.points import PointStore
from hessian_spectrum.storage.results import ResultStore
from hessian_spectrum.storage.stores import open_stores

if TYPE_CHECKING:
    from hessian_spectrum.service.maintenance.webhook_sender import WebhookSender

TASK_MODULE = "hessian_spectrum.service.tasks"
"""The module of the tasks that processes of the pool run; the service itself does not load it."""


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The clients of Redis and of the queue, and the stores that use them or the disk."""

    redis: redis.Redis
    async_redis: AsyncRedis
    queue: JobQueue
    jobs: JobStore
    results: ResultStore
    checkpoints: CheckpointStore
    requests: RequestFiles
    """Large requests, which are stored as files."""
    artifacts: ArtifactStore
    artifact_owners: ArtifactOwners
    points: PointStore
    identity: StorageIdentity
    """Check that the results directory and Redis belong together."""


@dataclass(frozen=True, kw_only=True)
class ServiceContext:
    """The objects that routes, middlewares and the lifespan of one service share."""

    settings: ServiceSettings
    stores: Stores
    key_store: KeyStore
    slots: RequestSlots
    access_log: AccessLog
    metrics: CollectorRegistry
    job_service: JobService
    job_events: JobEventBroker
    workers: RecentWorkers
    models: ModelsDirectory
    descriptions: CheckpointDescriptions
    """Descriptions of models that are too large to be described while a request waits."""
    upload_parser: UploadParser
    upload_budget: MemoryBudget
    artifact_quota: ArtifactQuota
    executor: ProcessExecutor
    """Executor for the expensive work of routes."""
    process_pool: ProcessPool
    """The processes of the executor, which the lifespan closes."""
    reaper: LostJobReaper
    webhook_sender: "WebhookSender | None"
    """Sender of the messages about ended jobs; None where no receiver is listed."""


def create_context(settings: ServiceSettings) -> ServiceContext:
    """Return the context of a service; nothing is connected yet."""
    stores = _stores(settings)
    slots = RequestSlots(max_requests=settings.max_requests, max_waiting_requests=settings.max_waiting_requests)
    process_pool = ProcessPool(TASK_MODULE, settings.heavy_seconds)
    executor = _executor(settings, process_pool)
    job_events = JobEventBroker(EventLog(stores.async_redis))
    workers = RecentWorkers(stores.redis)
    models = ModelsDirectory(settings.models_dir, VerdictStore(stores.redis, workers.result_versions))
    upload_budget = MemoryBudget(settings.upload_memory_bytes)
    return ServiceContext(
        settings=settings,
        stores=stores,
        key_store=KeyStore(settings.keys_path),
        slots=slots,
        access_log=AccessLog(as_json=settings.as_json),
        metrics=_metrics(settings, stores, slots),
        job_service=JobService(
            store=stores.jobs,
            queue=stores.queue,
            results=stores.results,
            storage=stores.identity,
            events=job_events,
            code_versions=workers.result_versions,
            quotas=Quotas(settings.max_queued, settings.requests_bytes, settings.records_bytes),
        ),
        job_events=job_events,
        workers=workers,
        models=models,
        descriptions=CheckpointDescriptions(models, settings.models_dir, executor),
        upload_parser=UploadParser(settings.max_upload_bytes, upload_budget),
        upload_budget=upload_budget,
        artifact_quota=ArtifactQuota(max_bytes=settings.uploads_bytes, max_number=settings.max_artifacts),
        executor=executor,
        process_pool=process_pool,
        reaper=_reaper(settings, stores),
        webhook_sender=_webhook_sender(settings, stores),
    )


def service_context(request: Request) -> ServiceContext:
    """Return the context of the service that answers a request.

    Routes call it themselves: as a dependency of FastAPI it would take a twentieth of the time of a closed form.

    Args:
        request: A request to this service.

    Returns:
        The one context of its application.
    """
    context: ServiceContext = request.app.state.context
    return context


# The dependencies are asynchronous because FastAPI runs synchronous ones in a thread.


async def _current_principal(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


CurrentPrincipal = Annotated[Principal, Depends(_current_principal)]
"""Parameter of a route that receives the principal, which the middleware `Authentication` has stored."""


async def _job_service(request: Request) -> JobService:
    return service_context(request).job_service


Service = Annotated[JobService, Depends(_job_service)]
"""Parameter of a route that receives the job service."""


async def _artifact_service(request: Request, principal: CurrentPrincipal) -> ArtifactService:
    context = service_context(request)
    return ArtifactService(
        store=context.stores.artifacts,
        owners=context.stores.artifact_owners,
        principal=principal,
        quota=context.artifact_quota,
    )


Artifacts = Annotated[ArtifactService, Depends(_artifact_service)]
"""Parameter of a route that receives the uploaded files of the principal."""


def _stores(settings: ServiceSettings) -> Stores:
    redis_url = settings.redis_url.get_secret_value()
    client = connect(redis_url)
    files = open_stores(settings.results_dir, settings.storage_url, client)
    return Stores(
        redis=client,
        async_redis=connect_async(redis_url),
        queue=JobQueue(redis_url),
        jobs=JobStore(
            client, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts, requests=files.requests
        ),
        results=files.results,
        checkpoints=files.checkpoints,
        requests=files.requests,
        artifacts=files.artifacts,
        artifact_owners=files.artifact_owners,
        points=files.points,
        identity=StorageIdentity(client, files.results, files.checkpoints),
    )


def _executor(settings: ServiceSettings, process_pool: ProcessPool) -> ProcessExecutor:
    # Expensive work that waits for its turn leaves half of the slots to requests that are answered at once.
    waiting = SlotPool(max(2, settings.max_requests // 2))
    return ProcessExecutor(FairScheduler(settings.heavy_requests, waiting), process_pool)


def _metrics(settings: ServiceSettings, stores: Stores, slots: RequestSlots) -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(
        JobMetrics(
            client=stores.redis,
            num_waiting_requests=lambda: slots.waiting.num_taken,
            blobs=stores.results.blobs,
            directory=settings.results_dir,
        )
    )
    return registry


def _reaper(settings: ServiceSettings, stores: Stores) -> LostJobReaper:
    retention = RetentionTask(
        store=stores.jobs,
        retention=Retention(stores.redis),
        results=stores.results,
        artifacts=stores.artifacts,
        owners=stores.artifact_owners,
        points=stores.points,
        storage=stores.identity,
        policy=RetentionPolicy(
            result_seconds=settings.result_seconds,
            record_seconds=settings.record_seconds,
            results_bytes=settings.results_bytes,
        ),
    )
    return LostJobReaper(
        store=stores.jobs,
        queue=stores.queue,
        checkpoints=stores.checkpoints,
        requests=stores.requests,
        storage=stores.identity,
        republish_seconds=settings.republish_seconds,
        lease_seconds=settings.lease_seconds,
        run_retention=retention.run_once,
    )


def _webhook_sender(settings: ServiceSettings, stores: Stores) -> "WebhookSender | None":
    if not settings.webhook_receivers:
        return None
    from hessian_spectrum.service.maintenance.webhook_sender import WebhookSender  # noqa: PLC0415 - loads httpx

    return WebhookSender(
        queue=WebhookQueue(stores.redis),
        store=stores.jobs,
        receivers=settings.webhook_receivers,
        secrets=settings.webhook_secrets,
    )
