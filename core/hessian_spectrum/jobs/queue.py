"""The Celery application that service and workers share: a message holds the id of a job and nothing else."""

import base64
import contextlib
import json
from functools import cached_property
from typing import TYPE_CHECKING

import redis
from kombu.exceptions import OperationalError

from hessian_spectrum.jobs.connection import SOCKET_TIMEOUT_SECONDS, broker_url

if TYPE_CHECKING:
    from celery import Celery

QUEUE = "spectrum"
RUN_JOB = "spectrum.run_job"
KEY_PREFIX = "spectrum:celery:"

SECONDS_TO_REQUEUE = 4.0
"""Time that a stopping worker leaves its jobs to write a last checkpoint before they are queued again."""

SECONDS_TO_NOTICE_A_LOSS = 0.5
"""Time from the death of a pool process until Celery counts its job as lost; no result is waited for: none is sent."""

VISIBILITY_TIMEOUT_SECONDS = 3600
"""Seconds after which a lost message is delivered again; the job store, which knows the leases, is far faster."""


def celery_app(redis_url: str) -> "Celery":
    """Celery with the settings that hold against lost workers and a lost broker; see docs/design/jobs.md."""
    from celery import Celery  # noqa: PLC0415 - a fifth of the start of a service, which needs it for the first job

    app = Celery("spectrum", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        event_serializer="json",
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_lost_wait=SECONDS_TO_NOTICE_A_LOSS,
        worker_soft_shutdown_timeout=SECONDS_TO_REQUEUE,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": KEY_PREFIX,
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    )
    return app


def job_of_message(text: str) -> str:
    """Id of the job in a message of Redis; empty if it is not a message of `JobQueue`."""
    try:
        arguments, *_ = json.loads(base64.b64decode(json.loads(text)["body"]))
        return str(arguments[0])
    except (ValueError, LookupError, TypeError):
        return ""


class JobQueue:
    """Publishes job ids; fails within seconds when the broker is away."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url

    @cached_property
    def _app(self) -> "Celery":
        app = celery_app(self._redis_url)
        # Kombu would try to connect for four seconds.
        once = {"socket_timeout": SOCKET_TIMEOUT_SECONDS, "max_retries": 0}
        app.conf.broker_transport_options |= once
        return app

    def publish(self, job_id: str) -> None:
        """Send the id to the workers; a second message for the same job does no harm.

        Args:
            job_id: Id of the job.

        Raises:
            kombu.exceptions.OperationalError: The broker cannot be reached.
        """
        try:
            self._send(job_id)
        except OperationalError as error:
            if isinstance(error.__cause__, redis.TimeoutError):
                raise  # one that is silent would be waited for once more
            self._send(job_id)  # by another connection: this one may have led to a server that restarted

    def _send(self, job_id: str) -> None:
        self._app.send_task(RUN_JOB, args=[job_id], retry=False)

    def call(self, job_id: str) -> None:
        """Publish the id for a worker that may be free to help; without a broker nothing happens."""
        with contextlib.suppress(OperationalError):
            self.publish(job_id)

    def close(self) -> None:
        """Close the connections."""
        if "_app" in vars(self):
            self._app.close()
