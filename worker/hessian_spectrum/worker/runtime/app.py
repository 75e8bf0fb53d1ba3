"""The Celery application of a worker: one task, and what happens at the start and end of its processes."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
from multiprocessing.synchronize import Event
from typing import Any

import torch
import torch._dynamo  # what tracing loads at its first use, 5 s: once, before the pool forks
from celery import Celery, signals
from kombu.transport import redis as redis_transport
from redis import Redis
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.fingerprints import protocol_version, result_version
from hessian_spectrum.jobs.queue import RUN_JOB, JobQueue, celery_app
from hessian_spectrum.jobs.settings import WorkerSettings
from hessian_spectrum.jobs.shards import ShardStore
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.jobs.worker_registry import (
    SECONDS_BETWEEN_HEARTBEATS,
    VerdictStore,
    register,
    resident_bytes,
    unregister,
)
from hessian_spectrum.storage.blob_store import StorageUnavailableError
from hessian_spectrum.storage.stores import Stores, open_stores
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck
from hessian_spectrum.worker.checkpoint_inspector import CheckpointInspector
from hessian_spectrum.worker.hardware import Hardware, find_hardware
from hessian_spectrum.worker.inputs import Inputs
from hessian_spectrum.worker.process import set_niceness
from hessian_spectrum.worker.runtime.celery_request import JobRequest, RecoveringQoS
from hessian_spectrum.worker.runtime.job_runner import JobRunner
from hessian_spectrum.worker.runtime.memory_guard import KernelWatch, be_killed_first

SECONDS_TO_STOP = 20.0
"""Time from the signal to the end of the process: four seconds are for jobs to be requeued, the rest for Celery."""

_SECONDS_TO_KEEP_MESSAGE = 5.0
"""Time that a worker which cannot run jobs keeps a message, so that it does not take all messages from others."""

_logger = logging.getLogger(__name__)


def create_worker(settings: WorkerSettings) -> Celery:
    """A Celery application whose pool runs jobs with these settings."""
    app = celery_app(settings.redis_url.get_secret_value())
    app.conf.update(worker_pool="prefork", worker_concurrency=settings.concurrency)
    redis_transport.Channel.QoS = RecoveringQoS
    hardware = find_hardware(settings)
    _keep_logging_as_configured()
    _prepare_children(settings, hardware)
    _register_worker(settings, hardware)
    _inspect_checkpoints(settings, hardware)
    _register_task(app, settings, hardware, _stop_event())
    return app


def end_in_any_case(seconds: float = SECONDS_TO_STOP) -> None:
    """End this process after so many seconds if it still runs; its jobs continue elsewhere when their leases expire.

    A pool that stops reads the last messages of its processes. A process that was killed while it wrote one leaves half
    a message, and the pool would wait for the rest for ever.
    """
    timer = threading.Timer(seconds, os._exit, (os.EX_TEMPFAIL,))
    timer.daemon = True
    timer.start()


def _stop_event() -> Event:
    """Return an event that all processes of the pool share, and that is set when the worker is told to stop.

    Celery's own signal `worker_shutting_down` comes too late for jobs to be requeued.
    """
    stopping = multiprocessing.Event()

    def handle_signal(number: int) -> None:
        handle: Any = signal.getsignal(number)

        def stop(*arguments: Any) -> None:
            stopping.set()
            end_in_any_case()
            handle(*arguments)

        signal.signal(number, stop)

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def listen(**_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGQUIT):
            handle_signal(number)

    return stopping


def _register_task(app: Celery, settings: WorkerSettings, hardware: Hardware, stopping: Event) -> None:
    models, stores = ModelsDirectory(settings.models_dir), open_stores(settings.results_dir, settings.storage_url)
    client = connect(settings.redis_url.get_secret_value())
    kernel = KernelWatch()
    signals.worker_ready.connect(lambda **_: kernel.start(), weak=False)

    def job_stores(client: Redis) -> tuple[JobStore, ShardStore]:
        seconds, attempts = settings.lease_seconds, settings.max_attempts
        jobs = JobStore(client, lease_seconds=seconds, max_attempts=attempts, requests=stores.requests)
        return jobs, ShardStore(client, seconds, attempts)

    jobs, shards = job_stores(client)
    own = {"store": jobs, "shards": shards, "kernel": kernel}

    @app.task(name=RUN_JOB, Request=JobRequest, **own)  # type: ignore[untyped-decorator]
    def run_job(job_id: str) -> None:
        client = connect(settings.redis_url.get_secret_value(), patient=True)
        store, shards = job_stores(client)
        queue = JobQueue(settings.redis_url.get_secret_value())
        with client:
            if fault := storage_fault(client, settings, stores):
                _logger.error("job %s is left to others: %s", job_id, fault)
                stopping.wait(_SECONDS_TO_KEEP_MESSAGE)
                queue.call(job_id)
                return
            check = CheckpointCheck(models, VerdictStore(client, lambda: [result_version()]))
            inputs = Inputs(models, stores.artifacts, check)
            JobRunner(store, shards, queue, stores, inputs, hardware, settings, stopping.is_set).run(job_id)


def storage_fault(client: Redis, settings: WorkerSettings, stores: Stores) -> str | None:
    """Return why results would be lost, if they would: the directory is gone, or belongs to another Redis.

    Raises:
        RedisError: If Redis cannot be asked.
    """
    if not settings.results_dir.is_dir():
        return "The results directory is gone."
    try:
        return StorageIdentity(client, stores.results, stores.checkpoints).difference()
    except StorageUnavailableError as error:
        return f"{error.strerror}."
    except OSError as error:
        return f"The results directory cannot be read: {error.strerror}."


def _keep_logging_as_configured() -> None:
    # Celery configures logging of its own unless somebody listens here.
    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def keep(**_: Any) -> None:
        pass


def _prepare_children(settings: WorkerSettings, hardware: Hardware) -> None:
    # In the child and not before the fork: OpenMP threads of a parent do not survive it.
    @signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def prepare(**_: Any) -> None:
        set_niceness(settings.niceness)  # before there are threads, which inherit it
        torch.set_num_threads(hardware.num_threads)
        be_killed_first()


def _inspect_checkpoints(settings: WorkerSettings, hardware: Hardware) -> None:
    # with a directory of its own: one that is shared with the pool's processes might be locked when they are forked
    verdicts = VerdictStore(connect(settings.redis_url.get_secret_value()), lambda: [result_version()])
    check = CheckpointCheck(ModelsDirectory(settings.models_dir, verdicts), verdicts, niceness=settings.niceness)
    inspector = CheckpointInspector(check, hardware.memory_limit_bytes)
    signals.worker_ready.connect(lambda **_: inspector.start(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: inspector.stop(), weak=False)


def _register_worker(settings: WorkerSettings, hardware: Hardware) -> None:
    client = connect(settings.redis_url.get_secret_value())
    stores = open_stores(settings.results_dir, settings.storage_url)
    status = WorkerStatus(
        name=f"{socket.gethostname()}-{os.getpid()}",
        device=str(hardware.device),
        memory_bytes=hardware.memory_bytes,
        concurrency=settings.concurrency,
        code_version=result_version(),
        source_version=protocol_version(),
    )
    closing = threading.Event()

    def register_until_closing() -> None:
        while not closing.is_set():
            try:
                now = {"resident_bytes": resident_bytes(os.getpid()), "fault": storage_fault(client, settings, stores)}
                register(client, status.model_copy(update=now))
            except RedisError as error:
                _logger.warning("the worker is not registered: %s", error)
            closing.wait(SECONDS_BETWEEN_HEARTBEATS)

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def start(**_: Any) -> None:
        threading.Thread(target=register_until_closing, name="presence", daemon=True).start()

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def stop(**_: Any) -> None:
        closing.set()
        try:
            unregister(client, status.name)
        except RedisError as error:
            _logger.warning("the worker is still registered: %s", error)
