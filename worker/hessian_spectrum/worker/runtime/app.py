"""The Celery application of a worker: its one task, and handlers of the start, end and death of its processes."""

import gc
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo  # noqa: F401 - what tracing loads at its first use, 5 s: once, before the pool forks
from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.worker.request import Request
from kombu.transport import redis as redis_transport
from kombu.transport import virtual
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.fingerprints import protocol_version, result_version
from hessian_spectrum.jobs.queue import RUN_JOB, celery_app
from hessian_spectrum.jobs.settings import WorkerSettings
from hessian_spectrum.jobs.store import WORKERS_LOST
from hessian_spectrum.jobs.worker_registry import (
    SECONDS_BETWEEN_HEARTBEATS,
    VerdictStore,
    register,
    resident_bytes,
    unregister,
)
from hessian_spectrum.storage.stores import open_stores
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck
from hessian_spectrum.worker.checkpoint_inspector import CheckpointInspector
from hessian_spectrum.worker.hardware import (
    CRASHES,
    Hardware,
    KernelWatch,
    be_killed_first,
    find_hardware,
    killed_by_kernel,
    name_of_signal,
    set_niceness,
)
from hessian_spectrum.worker.runtime.job_runner import JobTask, storage_fault
from hessian_spectrum.worker.runtime.program_process import ProgramProcesses
from hessian_spectrum.worker.runtime.stop_flag import StopFlag
from hessian_spectrum.worker.sharding import process_name

_SIGNAL = re.compile(r"signal (\d+)")

SECONDS_TO_STOP = 20.0
"""Seconds from the signal to the end of the process: four are for requeueing jobs, the rest for Celery."""

SHARE_OF_LEASE = 2 / 3
"""Share of a lease after which the silent process of a program is killed: before another may take the job."""

_logger = logging.getLogger(__name__)


class RecoveringQoS(redis_transport.QoS):
    """Counts unacknowledged messages, and forgets one that cannot be acknowledged because Redis is away.

    Otherwise a worker at its limit of unacknowledged messages would wait for ever and never take another job. The
    message itself stays in Redis, is delivered again after its visibility timeout, and is then dropped.
    """

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message, or forget it where Redis is away, which raises a RedisError."""
        with self._forgotten_on_error(delivery_tag):
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Return a message to its queue, or forget it where Redis is away, which raises a RedisError."""
        with self._forgotten_on_error(delivery_tag):
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]

    @contextmanager
    def _forgotten_on_error(self, delivery_tag: str) -> Iterator[None]:
        try:
            yield
        except RedisError:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class JobRequest(Request):  # type: ignore[misc]
    """A request of Celery that reports a dead process to the job store at once, before the lease expires.

    A job whose process the kernel killed for want of memory ends, instead of taking further processes with it. That of
    another cause goes back to the queue, and the loss is counted; if it was the last that the job may have, the job's
    problem names the signal. The task has a `store` of jobs, one of `shards`, and a `kernel` watch.
    """

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> None:
        """Report that the process died: no other error leaves the task."""
        super().on_failure(exc_info, *arguments, **options)
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, WorkerLostError) and self.worker_pid is not None:
            name = signal_in(str(error))
            problem = killed_by_kernel() if name == "SIGKILL" and self.task.kernel.has_killed() else None
            job_id, process = self.args[0], process_name(os.getpid(), self.worker_pid)
            last_problem = None if name is None else died_of(name)
            crash_signal = name if name in CRASHES else None
            try:
                self.task.store.mark_worker_lost(
                    job_id, process, problem=problem, last_problem=last_problem, crash_signal=crash_signal
                )
                self.task.shards.mark_worker_lost(job_id, process, problem=problem, last_problem=last_problem)
            except RedisError as away:
                _logger.warning("the lease of job %s must run out: %s", self.args[0], away)


def signal_in(text: str) -> str | None:
    """Return the name of the signal that billiard says a process died of; None if it names none."""
    found = _SIGNAL.search(text)
    if found is None:
        return None
    return name_of_signal(int(found[1]))


def died_of(name: str) -> Problem:
    """Return the problem of a job whose processes died of this signal, attempt after attempt."""
    detail = f"The process that computed it died of {name}, and all attempts that a job may lose are used up."
    if name == "SIGKILL":
        detail += " The job may need more memory than the worker has."
    return WORKERS_LOST.model_copy(update={"detail": detail})


def create_worker(settings: WorkerSettings) -> Celery:
    """Return a Celery application whose pool runs jobs with these settings."""
    app = celery_app(settings.redis_url.get_secret_value())
    app.conf.update(worker_pool="prefork", worker_concurrency=settings.concurrency)
    redis_transport.Channel.QoS = RecoveringQoS
    hardware = find_hardware(settings)
    _keep_logging_as_configured()
    _register_task(app, settings, hardware=hardware, stopping=_stop_flag())
    _register_worker(settings, hardware)
    _inspect_checkpoints(settings, hardware)
    return app


def end_in_any_case(seconds: float = SECONDS_TO_STOP) -> None:
    """End this process after so many seconds if it still runs; its jobs continue elsewhere when their leases expire.

    A pool that stops reads the last messages of its processes. A process that was killed while it wrote one leaves half
    a message, and the pool would wait for the rest for ever.
    """
    timer = threading.Timer(seconds, os._exit, (os.EX_TEMPFAIL,))
    timer.daemon = True
    timer.start()


def _stop_flag() -> StopFlag:
    """Return a flag that all processes of the pool share, and that is set when the worker is told to stop.

    Celery's own signal `worker_shutting_down` comes too late for jobs to be requeued.
    """
    stopping = StopFlag()

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


def _register_task(app: Celery, settings: WorkerSettings, *, hardware: Hardware, stopping: StopFlag) -> None:
    kernel = KernelWatch()
    signals.worker_ready.connect(lambda **_: kernel.start(), weak=False)
    task = JobTask(
        settings=settings,
        hardware=hardware,
        stores=open_stores(settings.results_dir, settings.storage_url),
        models=ModelsDirectory(settings.models_dir),
        stopping=stopping,
    )
    jobs, shards = task.job_stores(connect(settings.redis_url.get_secret_value()))
    processes = ProgramProcesses(
        task.compute_apart,
        memory_limit_bytes=hardware.memory_limit_bytes if hardware.device.type == "cpu" else None,
        silent_seconds=SHARE_OF_LEASE * settings.lease_seconds,
    )
    _prepare_children(settings, hardware, processes)

    def run(job_id: str) -> None:
        task.run(job_id, processes)

    app.task(run, name=RUN_JOB, Request=JobRequest, store=jobs, shards=shards, kernel=kernel)


def _keep_logging_as_configured() -> None:
    # Celery configures logging of its own unless somebody listens here.
    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def keep(**_: Any) -> None:
        pass


def _prepare_children(settings: WorkerSettings, hardware: Hardware, processes: ProgramProcesses) -> None:
    @signals.worker_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def freeze(**_: Any) -> None:
        # The loaded modules stay: visiting them takes a tenth of the time of many small networks. Before the fork, as a
        # collection writes to every object, and processes share the pages to which none of them has written.
        gc.collect()
        gc.freeze()
        gc.enable()

    # In the child and not before the fork: OpenMP threads of a parent do not survive it.
    @signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def prepare(**_: Any) -> None:
        set_niceness(settings.niceness)  # before there are threads, which inherit it
        be_killed_first()
        processes.open()  # while there is one thread and no connection
        gc.freeze()  # what Celery has made since
        torch.set_num_threads(hardware.num_threads)


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
        num_threads=hardware.num_threads,
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
