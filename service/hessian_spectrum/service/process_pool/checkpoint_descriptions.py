"""Descriptions of checkpoints with very many tensors; all requests that wait for one share it."""

import asyncio
import contextlib
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, LoadableModel
from hessian_spectrum.checkpoints.directory import LARGE_HEADER_BYTES, ModelsDirectory
from hessian_spectrum.service.process_pool.executor import ProcessExecutor


class CheckpointDescriptions:
    """Has the process pool describe checkpoints whose headers take long to read.

    Args:
        models: Remembers the descriptions.
        path: Path of the models directory.
        executor: Runs the work.
    """

    def __init__(self, models: ModelsDirectory, path: Path | None, executor: ProcessExecutor) -> None:
        self._models, self._path, self._executor = models, path, executor
        self._running: dict[str, asyncio.Task[None]] = {}

    async def make(self, request: Request, name: str) -> None:
        """Describe a checkpoint in the pool if that is expensive and has not been done.

        Raises:
            ProblemError: The task has failed, or too many tasks wait.
        """
        try:
            if not await run_in_threadpool(self._is_expensive, name):
                return
        except CheckpointError:  # `describe` reports it
            return
        if name not in self._running:
            task = self._running[name] = asyncio.create_task(self._describe(request, name))
            task.add_done_callback(lambda _: self._running.pop(name))
        await asyncio.shield(self._running[name])

    def _is_expensive(self, name: str) -> bool:
        return self._models.num_header_bytes(name) > LARGE_HEADER_BYTES and not self._models.is_described(name)

    async def _describe(self, request: Request, name: str) -> None:
        with contextlib.suppress(CheckpointError):
            state = await run_in_threadpool(self._models.state, name)
            reply = await self._executor.run_to_end(request, "model", {"models_dir": str(self._path), "name": name})
            if not reply.content:
                return
            self._models.digests.learn(reply.fields["digests"])
            model = LoadableModel.model_validate_json(bytes(reply.content))
            # another thread may hold the lock for minutes while it reads the same checkpoint
            await run_in_threadpool(self._models.remember, name, state, model)
