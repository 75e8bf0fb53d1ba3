"""One process of the pool: runs tasks until the service ends, or until it has been idle for a while.

Messages come on standard input, and one reply to each goes to standard output; other output goes to standard error.
"""

import contextlib
import ctypes
import os
import select
import signal
import struct
import sys
from pathlib import Path
from typing import BinaryIO

from hessian_spectrum.service.process_pool.protocol import LENGTHS, Reply

NICENESS = 5
"""Niceness of the process: above that of the service, below that of jobs, for which nobody waits."""

_PR_SET_PDEATHSIG = 1
_IDLE_SECONDS = 600.0
_FIRST_TO_BE_KILLED = "1000"


def main() -> None:
    """Prepare the process and serve messages."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which then ends this process
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # without the service nobody reads a reply
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_BE_KILLED)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0), replies)


def serve(messages: BinaryIO, replies: BinaryIO) -> None:
    """Reply to each message until they end or none comes for a while."""
    from hessian_spectrum.service.process_pool.tasks import run_task  # noqa: PLC0415 - loading matplotlib takes a second

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
