"""The lifespan of a service: its background tasks run from its start to its end."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import anyio.to_thread
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.service.context import ServiceContext

_SECONDS_BETWEEN_CANCELLATIONS = 0.1
_NUM_OTHER_THREADS = 32
"""Number of threads for maintenance and for reading the jobs that requests wait for."""

_logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def running(context: ServiceContext) -> AsyncIterator[None]:
    """Run the background tasks within the context, then close what the service holds."""
    settings, stores = context.settings, context.stores
    # No request waits for the thread of another one: there is a thread for each slot.
    anyio.to_thread.current_default_thread_limiter().total_tokens = settings.max_requests + _NUM_OTHER_THREADS
    with contextlib.suppress(OSError):
        await run_in_threadpool(stores.artifacts.remove_abandoned_drafts)
    tasks = [context.reaper.run(settings.reap_seconds), context.job_events.run()]
    if context.webhook_sender is not None:
        tasks.append(context.webhook_sender.run())
    async with background_tasks(*tasks):
        yield
    context.access_log.flush()
    await context.process_pool.close()
    stores.queue.close()
    stores.redis.close()
    await stores.async_redis.aclose()


@contextlib.asynccontextmanager
async def background_tasks(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines as tasks within the context; at its end they are cancelled. One that fails is logged."""
    tasks = {asyncio.create_task(coroutine) for coroutine in coroutines}
    for task in tasks:
        task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        # Once is not enough: redis-py loses a cancellation that comes while it connects.
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=_SECONDS_BETWEEN_CANCELLATIONS)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("background task %s failed", task.get_coro(), exc_info=error)
