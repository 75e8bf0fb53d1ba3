"""Descriptions of checkpoints of very many tensors, each made once for all who wait for it."""

import asyncio
import contextlib
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, LoadableModel
from hessian_spectrum.checkpoints.directory import LARGE_HEADER_BYTES, ModelsDirectory
from hessian_spectrum.service.heavy.desk import HeavyDesk


class Descriptions:
    """Lets a process describe what would keep this one from answering.

    Args:
        models: Which remember.
        path: Of their directory.
    """

    def __init__(self, models: ModelsDirectory, path: Path | None, heavy: HeavyDesk) -> None:
        self._models, self._path, self._heavy = models, path, heavy
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def make(self, request: Request, name: str) -> None:
        """Have a checkpoint described for which that is heavy work, unless it is done.

        Raises:
            ProblemError: The answer is a problem.
        """
        try:
            if not await run_in_threadpool(self._is_work, name):
                return
        except CheckpointError:  # of which `describe` says what it is
            return
        if name not in self._under_way:
            task = self._under_way[name] = asyncio.create_task(self._describe(request, name))
            task.add_done_callback(lambda _: self._under_way.pop(name))
        await asyncio.shield(self._under_way[name])

    def _is_work(self, name: str) -> bool:
        return self._models.num_header_bytes(name) > LARGE_HEADER_BYTES and not self._models.is_described(name)

    async def _describe(self, request: Request, name: str) -> None:
        with contextlib.suppress(CheckpointError):
            state = await run_in_threadpool(self._models.state, name)
            reply = await self._heavy.finish(request, "model", {"models_dir": str(self._path), "name": name})
            if not reply.content:
                return
            self._models.digests.learn(reply.fields["digests"])
            found = LoadableModel.model_validate_json(bytes(reply.content))
            # a thread that reads the same checkpoint, whose files have changed, may keep it for minutes
            await run_in_threadpool(self._models.remember, name, state, found)
