"""A tracked run in processes that are killed before each of their file operations, one process for each operation.

Arguments: address of the server, and directory. Everything is in one thread, so that the k-th operation is always the
same. Prints `NAME STEP` once the point is on disk, where NAME ends in the number of the operation.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hessian_spectrum.client.arrays import NamedArray, file_pieces
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.tracking.sender import Sender
from hessian_spectrum.client.tracking.spool import Run, Spool

FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "tempfile.mkstemp"}
NUM_POINTS = 5


def arrays(name: str, step: int) -> dict[str, NamedArray]:
    """Numbers that no other run and no other step has."""
    generator = np.random.default_rng([*name.encode(), step + 1])
    return {"weight": NamedArray("F32", generator.normal(size=(3, 4)).astype(np.float32))}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def record(client: SpectrumClient, directory: Path, name: str) -> None:
    """Record points, and send some of them while the run goes on."""
    spool = Spool(directory / name)
    part = b"".join(file_pieces(arrays(name, -1)))
    spool.begin(Run(name, {"loss": "mse"}, digest(name.encode()), (digest(part),)), name.encode(), [part])
    sender = Sender(client, spool)
    for step in range(NUM_POINTS):
        spool.add(step, 0.1, arrays(name, step))
        os.write(1, f"{name} {step}\n".encode())
        if step in (1, 3):
            sender.send_batch()
    while sender.send_batch():
        pass
    spool.remove()


def kill_before(operation: int, directory: Path) -> None:
    """Kill this process before its file operation with this number, among those in a directory."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in FILE_EVENTS and str(directory) in str(arguments[0]):
            count += 1
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    client, directory = SpectrumClient(sys.argv[1]), Path(sys.argv[2])
    operation, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:  # until a process lives to its end
        operation += 1
        if (child := os.fork()) == 0:
            kill_before(operation, directory)
            record(client, directory, f"run-{operation}")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code)


if __name__ == "__main__":
    main()
