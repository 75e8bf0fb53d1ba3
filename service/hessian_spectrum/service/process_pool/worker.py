"""A process of the pool, which runs tasks until the service ends or it has been idle for a while.

Messages are JSON and bytes, nothing that could be code. They come on standard input, and one reply to each goes to
standard output; other output goes to standard error. The module that is named as the argument has `run_task`.
"""

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError

NICENESS = 5
"""Niceness of the process: between that of the service and that of jobs, which are less urgent."""

_PR_SET_PDEATHSIG = 1
_IDLE_SECONDS = 600.0
_FIRST_TO_BE_KILLED = "1000"

LENGTHS = "<QQ"
"""Prefix of every message: the lengths of its head, which is JSON, and of its content in bytes."""


@dataclass(frozen=True)
class Reply:
    """The reply of a task: fields that JSON can hold and bytes, or a problem."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | memoryview = b""
    problem: Problem | None = None
    headers: Mapping[str, str] | None = None

    @classmethod
    def from_bytes(cls, head: bytes, content: bytes) -> Self:
        """Return the reply that these parts of a message hold."""
        document = json.loads(head)
        problem = None if document["problem"] is None else Problem.model_validate(document["problem"])
        return cls(document["fields"], content, problem, document["headers"])

    def head(self) -> bytes:
        """Return the fields, problem and headers, without the content, as JSON."""
        problem = None if self.problem is None else self.problem.model_dump(mode="json", exclude_none=True)
        return json.dumps({"fields": self.fields, "problem": problem, "headers": self.headers}).encode()

    def raise_for_problem(self) -> Self:
        """Raise the problem of the reply if it has one.

        Returns:
            The reply itself.

        Raises:
            ProblemError: The reply is a problem.
        """
        if self.problem is not None:
            raise ProblemError(self.problem, self.headers)
        return self


def main() -> None:
    """Prepare the process and serve messages."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which then ends this process
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # replies are of no use without the service
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_BE_KILLED)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    run_task = importlib.import_module(sys.argv[1]).run_task  # now, as loading matplotlib takes a second
    serve(os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0), replies, run_task)


def serve(messages: BinaryIO, replies: BinaryIO, run_task: Callable[[bytes, bytes], Reply]) -> None:
    """Reply to each message until the connection ends or no message comes for a while.

    Args:
        messages: Stream from which messages are read.
        replies: Stream to which replies are written.
        run_task: Returns the reply to the head and the content of a message.
    """
    while select.select([messages], [], [], _IDLE_SECONDS)[0]:
        lengths = _exactly(messages, struct.calcsize(LENGTHS))
        if not lengths:
            return
        head, content = (_exactly(messages, size) for size in struct.unpack(LENGTHS, lengths))
        _send(replies, run_task(head, content))


def _exactly(source: BinaryIO, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (part := source.read(size - len(received))):
        received += part
    return bytes(received)


def _send(replies: BinaryIO, reply: Reply) -> None:
    head = reply.head()
    replies.write(struct.pack(LENGTHS, len(head), len(reply.content)))
    replies.write(head)
    replies.write(reply.content)
    replies.flush()


if __name__ == "__main__":
    main()
