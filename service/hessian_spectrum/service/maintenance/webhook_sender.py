"""Delivery of messages about ended jobs, with retries."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time

import httpx
from redis.exceptions import RedisError
from standardwebhooks import Webhook
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.jobs.receivers import is_receiver
from hessian_spectrum.jobs.store import JobStore, UnknownJobError
from hessian_spectrum.jobs.webhooks import ClaimedMessage, WebhookQueue
from hessian_spectrum.service.maintenance.webhook_request import WebhookRequest, signed_request

RETRY_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Pause in seconds after each failed attempt, as the specification of Standard Webhooks recommends."""

TIMEOUT_SECONDS = 10.0
"""Time limit of one attempt, from looking up the host to the end of the head of the response."""

LEASE_SECONDS = 3 * TIMEOUT_SECONDS
"""Time after which another service may send a message that this one has claimed."""

_MAX_PAUSE_SECONDS = 86400.0
"""Longest pause that a receiver can ask for."""

_MAX_CONCURRENT = 16
"""Number of concurrent messages to one receiver."""

_POLL_SECONDS = 1.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outcome:
    """How an attempt ended."""

    status: int  # of the response; 0 if there was none
    text: str
    retry_after: float = 0.0  # seconds that the receiver asks to wait


class WebhookSender:
    """Sends messages about ended jobs. Several services may run one each, as every message is claimed in Redis.

    Each receiver has a queue and slots of its own, so that one that does not respond delays no other.

    Args:
        queue: The messages.
        store: Records of jobs.
        receivers: Receivers to which messages may be sent, as `receiver_of` names them.
        secrets: Secrets of the signatures, with their prefix `whsec_`; each signs every message.
        retry_seconds: Pause after each failed attempt; a message that still fails after the last pause is given up.
        lease_seconds: Time after which another service may send a message that this one has claimed.
    """

    def __init__(
        self,
        *,
        queue: WebhookQueue,
        store: JobStore,
        receivers: Collection[str],
        secrets: Sequence[str],
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._queue = queue
        self._store = store
        self._receivers = receivers
        self._signers = [Webhook(secret) for secret in secrets]
        self._retry_seconds = retry_seconds
        self._lease_seconds = lease_seconds
        self._certificates = httpx.create_ssl_context()

    async def run(self) -> None:
        """Send messages until cancelled; errors are logged."""
        async with asyncio.TaskGroup() as tasks:
            for receiver in self._receivers:
                tasks.create_task(self._send_to(receiver))

    async def _send_to(self, receiver: str) -> None:
        slots = asyncio.Semaphore(_MAX_CONCURRENT)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await slots.acquire()
                message = await self._claimed(receiver)
                if message is None:
                    slots.release()
                    await asyncio.sleep(_POLL_SECONDS)
                else:
                    tasks.create_task(self._attempt(message)).add_done_callback(lambda _: slots.release())

    async def _claimed(self, receiver: str) -> ClaimedMessage | None:
        try:
            return await run_in_threadpool(self._queue.claim, receiver, lease_seconds=self._lease_seconds)
        except RedisError as error:
            _logger.debug("messages to %s wait: %s", receiver, error)
            return None

    async def _attempt(self, message: ClaimedMessage) -> None:
        """Send a message once, and record the outcome; if it is not recorded, the message is due after the lease."""
        try:
            record = await run_in_threadpool(self._store.get, message.job_id)
            if record.webhook is None or not is_receiver(record.webhook, [message.receiver]):
                await self._give_up(message, "its URL has another receiver")
                return
            await self._record(message, await self._post(record.webhook, signed_request(record, self._signers)))
        except UnknownJobError:
            pass  # deleted just now, and the message with it
        except RedisError as error:
            _logger.warning("the outcome of the message of job %s is not recorded: %s", message.job_id, error)
        except Exception:  # the loop must go on: only this task sends messages
            _logger.exception("the message of job %s cannot be handled", message.job_id)

    async def _post(self, url: str, request: WebhookRequest) -> _Outcome:
        """Post a request; of the response only the head is read."""
        # a client for each message: no receiver gets cookies or connections of another message
        client = httpx.AsyncClient(
            verify=self._certificates, trust_env=False, follow_redirects=False, timeout=TIMEOUT_SECONDS
        )
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                client,
                client.stream("POST", url, content=request.body, headers=request.headers) as response,
            ):
                seconds = _seconds_until(response.headers.get("retry-after", "")) if _may_wait(response) else 0.0
                return _Outcome(response.status_code, f"status {response.status_code}", seconds)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return _Outcome(0, f"{type(error).__name__} {error}".strip())

    async def _record(self, message: ClaimedMessage, outcome: _Outcome) -> None:
        if httpx.codes.is_success(outcome.status):
            await run_in_threadpool(self._queue.finish, message, "delivered")
            _log(logging.INFO, message, "was delivered")
        elif outcome.status == httpx.codes.GONE or message.attempt > len(self._retry_seconds):
            await self._give_up(message, outcome.text)
        else:
            pause = max(self._retry_seconds[message.attempt - 1], outcome.retry_after)
            await run_in_threadpool(self._queue.retry, message, pause)
            _log(logging.WARNING, message, f"was not delivered, and is sent again in {pause:.6g} s: {outcome.text}")

    async def _give_up(self, message: ClaimedMessage, reason: str) -> None:
        await run_in_threadpool(self._queue.finish, message, "given_up")
        _log(logging.WARNING, message, f"was not delivered, and is given up: {reason}")


def _log(level: int, message: ClaimedMessage, outcome: str) -> None:
    text = "attempt %d: the message of job %s to %s %s"
    fields = {"event": "webhook", "job_id": message.job_id}
    _logger.log(level, text, message.attempt, message.job_id, message.receiver, outcome, extra=fields)


def _may_wait(response: httpx.Response) -> bool:
    return response.status_code in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


def _seconds_until(text: str) -> float:
    """Return the seconds in a header `Retry-After`, or until its date; at most a day, and 0 if it holds neither."""
    try:
        seconds = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _MAX_PAUSE_SECONDS)
