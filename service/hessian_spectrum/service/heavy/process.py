"""`python -m`: a process that does heavy work for the service until that ends, or for a while.

Messages come on standard input and go to standard output, one answer to each; what else is printed goes to standard
error.
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

from hessian_spectrum.service.heavy.messages import LENGTHS, Reply

NICENESS = 5
"""Requests that are answered at once go first, and jobs, for which nobody waits, last."""

_PR_SET_PDEATHSIG = 1
_IDLE_SECONDS = 600.0
_FIRST_TO_BE_KILLED = "1000"


def main() -> None:
    """Answer until there is nothing to do any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which then ends this process, too
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody else would read the answer
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_BE_KILLED)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0), answers)


def serve(messages: BinaryIO, answers: BinaryIO) -> None:
    """Answer each message, until they end or none comes for a while."""
    from hessian_spectrum.service.heavy.tasks import done  # noqa: PLC0415 - what it draws with takes a second to load

    while select.select([messages], [], [], _IDLE_SECONDS)[0]:
        lengths = _exactly(messages, struct.calcsize(LENGTHS))
        if not lengths:
            return
        head, content = (_exactly(messages, size) for size in struct.unpack(LENGTHS, lengths))
        _send(answers, done(head, content))


def _exactly(source: BinaryIO, size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (piece := source.read(size - len(found))):
        found += piece
    return bytes(found)


def _send(answers: BinaryIO, reply: Reply) -> None:
    head = reply.head()
    answers.write(struct.pack(LENGTHS, len(head), len(reply.content)))
    answers.write(head)
    answers.write(reply.content)
    answers.flush()


if __name__ == "__main__":
    main()
