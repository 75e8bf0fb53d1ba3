"""Processes that do heavy work for the service, one piece each at a time, and are killed when nobody wants it any more.

What goes between is JSON and bytes, nothing that could be code: see `service/heavy/process.py`.
"""

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
from hessian_spectrum.service.heavy.messages import LENGTHS, Reply
from hessian_spectrum.service.problems import ProblemError

_MODULE = "hessian_spectrum.service.heavy.process"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_BUFFER_BYTES = 2**20

_logger = logging.getLogger(__name__)


class _GoneError(Exception):
    """The process ended before it answered."""


@dataclass(frozen=True)
class _Worker:
    process: Process

    async def ask(self, task: str, arguments: Mapping[str, Any], content: bytes) -> Reply:
        """Raises:  _GoneError."""
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
            raise _GoneError from None
        return Reply.from_bytes(head, content)

    async def kill(self) -> None:
        """At once; its memory and its core are free when this returns."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class Processes:
    """Started when they are needed, and kept for the next piece of work; an idle one ends by itself.

    Args:
        seconds: That one piece of work may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._idle: list[_Worker] = []

    async def do(self, task: str, arguments: Mapping[str, Any], content: bytes = b"") -> Reply:
        """What the task, one of `service/heavy/tasks.py`, makes of this; a caller who is cancelled ends the work.

        Raises:
            ProblemError: : that of the task; 503 if it takes too long, or loses its process.
        """
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    was_idle = bool(self._idle)
                    with contextlib.suppress(_GoneError):
                        return (await self._asked(task, arguments, content)).checked()
                    if not was_idle:  # one that was idle may just have ended by itself
                        raise _lost(task)
        except TimeoutError:
            raise _too_long(self._seconds) from None

    async def _asked(self, task: str, arguments: Mapping[str, Any], content: bytes) -> Reply:
        worker = self._idle.pop() if self._idle else await _started()
        try:
            reply = await worker.ask(task, arguments, content)
        except BaseException:
            await asyncio.shield(worker.kill())
            raise
        self._idle.append(worker)
        return reply

    async def close(self) -> None:
        """End those that are idle."""
        while self._idle:
            await self._idle.pop().kill()


async def _started() -> _Worker:
    command = (sys.executable, "-P", "-m", _MODULE)
    starting = asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, env=os.environ | _ONE_THREAD, limit=_BUFFER_BYTES
    )
    return _Worker(await starting)


def _too_long(seconds: float) -> ProblemError:
    detail = f"It is given up after {seconds:g} s."
    problem = Problem(type="/problems/work-too-long", title="This takes too long", status=503, detail=detail)
    return ProblemError(problem, {"Retry-After": "60"})


def _lost(task: str) -> ProblemError:
    _logger.error("the process of a piece of heavy work ended: %s", task)
    detail = "It may need more memory than there is."
    problem = Problem(type="/problems/work-lost", title="The work was lost", status=503, detail=detail)
    return ProblemError(problem, {"Retry-After": "60"})
