"""The pool of processes: each runs one task at a time and is killed when its caller no longer waits."""

import asyncio
import contextlib
import json
import logging
import os
import struct
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.process_pool.worker import LENGTHS, Reply

_WORKER = "hessian_spectrum.service.process_pool.worker"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_BUFFER_BYTES = 2**20

_logger = logging.getLogger(__name__)


class _ProcessEndedError(Exception):
    """Raised if the process ended before it replied."""


@dataclass(frozen=True)
class _PoolProcess:
    process: Process

    async def run(self, task: str, arguments: Mapping[str, Any], content: bytes) -> Reply:
        """Run one task.

        Returns:
            Its reply.

        Raises:
            _ProcessEndedError: The process ended before it replied.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        head = json.dumps({"task": task, "arguments": arguments}).encode()
        try:
            stdin.write(struct.pack(LENGTHS, len(head), len(content)) + head)
            stdin.write(content)
            await stdin.drain()
            sizes = struct.unpack(LENGTHS, await stdout.readexactly(struct.calcsize(LENGTHS)))
            head, content = [await stdout.readexactly(size) for size in sizes]
        except (asyncio.IncompleteReadError, OSError):
            raise _ProcessEndedError from None
        return Reply.from_bytes(head, content)

    async def kill(self) -> None:
        """Kill the process; its memory and its core are free when this returns."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class ProcessPool:
    """Starts processes when they are needed and keeps them for the next task; an idle process ends by itself.

    Args:
        task_module: Name of the module whose `run_task` the processes call.
        seconds: Most seconds of one task.
    """

    def __init__(self, task_module: str, seconds: float) -> None:
        self._task_module = task_module
        self._seconds = seconds
        self._idle: list[_PoolProcess] = []

    async def run(self, task: str, arguments: Mapping[str, Any], content: bytes = b"") -> Reply:
        """Run a task; its process is killed if this is cancelled.

        Args:
            task: Name of the task.
            arguments: Values that JSON can represent.
            content: Bytes for the task, such as a body.

        Returns:
            The reply of the task.

        Raises:
            ProblemError: The problem of the task; 503 if it takes too long or its process ends.
        """
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    was_idle = bool(self._idle)
                    with contextlib.suppress(_ProcessEndedError):
                        return (await self._run_once(task, arguments, content)).raise_for_problem()
                    if not was_idle:  # an idle process may just have ended by itself
                        raise _lost(task)
        except TimeoutError:
            raise _too_long(self._seconds) from None

    async def _run_once(self, task: str, arguments: Mapping[str, Any], content: bytes) -> Reply:
        process = self._idle.pop() if self._idle else await _start_process(self._task_module)
        try:
            reply = await process.run(task, arguments, content)
        except BaseException:
            await asyncio.shield(process.kill())
            raise
        self._idle.append(process)
        return reply

    async def close(self) -> None:
        """Kill the idle processes."""
        while self._idle:
            await self._idle.pop().kill()


async def _start_process(task_module: str) -> _PoolProcess:
    command = (sys.executable, "-P", "-m", _WORKER, task_module)
    starting = asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, env=os.environ | _ONE_THREAD, limit=_BUFFER_BYTES
    )
    return _PoolProcess(await starting)


def _too_long(seconds: float) -> ProblemError:
    detail = f"The server gave up after {seconds:g} s."
    problem = Problem(type="/problems/work-too-long", title="The request takes too long", status=503, detail=detail)
    return ProblemError(problem, {"Retry-After": "60"})


def _lost(task: str) -> ProblemError:
    _logger.error("the process of task %s ended", task)
    detail = "It may need more memory than the server has."
    problem = Problem(type="/problems/work-lost", title="The computation was lost", status=503, detail=detail)
    return ProblemError(problem, {"Retry-After": "60"})
