"""External conditions that keep a part of the server from running."""

import os
import socket
import tempfile
from pathlib import Path

_NEEDED_BYTES = 4 * 2**20
"""Free space that exceeds what Redis writes at once, except for the largest requests."""


def disk_obstacle(directory: Path) -> str | None:
    """Why files in the directory cannot be written; None if they can."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_NEEDED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{directory} cannot be written: {error.strerror}"
    return None


def port_obstacle(host: str, port: int) -> str | None:
    """Why no process can listen at the address; None if one can."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return f"cannot listen on {host}:{port}: {error.strerror or error}"
    return None
