"""What an outside cause keeps from running is tried again until the cause is gone; what dies of itself is given up."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from hessian_spectrum.launcher import managed_process as child_module
from hessian_spectrum.launcher.data_directory import DataDirectory
from hessian_spectrum.launcher.embedded_redis import EmbeddedRedis
from hessian_spectrum.launcher.managed_process import CrashLoopError, ManagedProcess, disk_obstacle, port_obstacle
from tests.conftest import free_port

QUADRATIC = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}
DISK_BYTES = 24 * 2**20


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_FIRST_OBSTACLE_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(child_module, "_MAX_OBSTACLE_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(child_module, "_MAX_PAUSE_SECONDS", 0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root that may mount has a disk to fill")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def child(code: str, **options: Any) -> ManagedProcess:
    return ManagedProcess("thing", [sys.executable, "-I", "-S", "-c", code], {}, **options)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def filled(place: Path) -> Iterator[None]:
    """Every byte of the disk is taken."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for piece in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(piece))
    yield
    filler.unlink()


@pytest.mark.usefixtures("short_pauses")
def test_a_child_is_tried_again_for_as_long_as_an_obstacle_is_there() -> None:
    obstacles, messages = ["the disk is full"] * 12, set()
    thing = child("raise SystemExit(3)", obstacle=lambda: obstacles.pop() if obstacles else None)
    thing.start()
    try:
        while obstacles:
            messages.add(thing.restart())
            time.sleep(0.005)
        assert thing.obstacle == "the disk is full"
        assert any(
            text and text.startswith("thing cannot run: the disk is full; the next try is in") for text in messages
        )
        wait_for(lambda: "was started again" in (thing.restart() or ""))
        assert thing.obstacle is None
        with pytest.raises(CrashLoopError, match="died 5 times"):  # of itself
            wait_for(lambda: thing.restart() == "never")
    finally:
        thing.wait(0)


@pytest.mark.usefixtures("short_pauses")
def test_pauses_grow_and_a_start_that_fails_is_put_off() -> None:
    failures = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] * 3

    def prepare() -> None:
        if failures:
            raise failures.pop()

    thing = child("import time; time.sleep(60)", prepare=prepare)
    thing.start()
    try:
        assert (thing.pid, thing.obstacle) == (None, "No space left on device")
        pauses = [thing._obstacle_pause]
        while thing.pid is None:
            thing.restart()
            pauses.append(thing._obstacle_pause)
            time.sleep(0.001)
        assert sorted(set(pauses)) == pytest.approx([0.01, 0.02, 0.04])
        assert pauses == sorted(pauses)
    finally:
        thing.wait(0)


@pytest.mark.usefixtures("short_pauses")
def test_a_child_that_is_killed_again_and_again_is_not_given_up() -> None:
    thing = child("import os; os.kill(os.getpid(), 9)")
    thing.start()
    messages: list[str] = []
    try:
        while sum("was started again" in text for text in messages) < 7:
            messages += filter(None, [thing.restart()])
            time.sleep(0.005)
    finally:
        thing.wait(0)
    assert messages[0].startswith(
        "thing cannot run: it was killed, as the system does where memory is short; the next try"
    )


def test_a_command_that_is_not_there_is_no_obstacle() -> None:
    with pytest.raises(CrashLoopError, match="thing cannot be started"):
        ManagedProcess("thing", ["/no/such/command"], {}).start()


def test_obstacles_are_named(tmp_path: Path) -> None:
    assert disk_obstacle(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert disk_obstacle(tmp_path / "gone") == f"{tmp_path}/gone cannot be written: No such file or directory"
    port = free_port()
    assert port_obstacle("127.0.0.1", port) is None
    with socket.create_server(("127.0.0.1", port)):
        assert port_obstacle("127.0.0.1", port) == f"cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.usefixtures("short_pauses")
def test_redis_outlasts_a_full_disk(small_disk: Path) -> None:
    data = DataDirectory(small_disk / "data")
    embedded = EmbeddedRedis(data)
    messages: list[str] = []
    try:
        embedded.process.start()
        wait_for(embedded.answers)
        client = redis.Redis.from_url(embedded.url)
        client.set("spectrum:kept", "1")
        with filled(small_disk):
            with contextlib.suppress(redis.RedisError):
                while True:
                    client.set("spectrum:lost", bytes(1000))
            while len(messages) < 12:
                messages += filter(None, [embedded.process.restart()])
                time.sleep(0.005)
            assert {text.split("; the next")[0] for text in messages} == {
                f"redis cannot run: {data.redis} cannot be written: No space left on device"
            }
        wait_for(lambda: embedded.process.restart() or embedded.answers())
        wait_for(embedded.answers)
        assert client.get("spectrum:kept") == b"1"
    finally:
        embedded.process.terminate()
        embedded.process.wait(time.monotonic() + 10)
        data.release()


@pytest.mark.slow
def test_up_starts_on_a_full_disk_and_serves_jobs_when_there_is_room(
    small_disk: Path, tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    DataDirectory(small_disk / "data").release()
    (tmp_path / "data").symlink_to(small_disk / "data")  # the log is written beside it, and has room
    with filled(small_disk):
        server = start_server(tmp_path / "data", wait=False)
        wait_for(lambda: _status(server.url, "/v1/health/live") == 200, 60)
        for _ in range(12):
            answer = httpx.post(f"{server.url}/v1/closed-form", json=QUADRATIC)
            assert answer.json()["sharpness"] == 2.0
            assert server.process.poll() is None
            time.sleep(0.25)
        missing = httpx.get(f"{server.url}/v1/health/ready").json()["missing"]
        assert missing == ["redis does not answer", "the disk of the results is nearly full"]
    # The disk stays smaller than what counts as room for results; Redis and the worker come back all the same.
    wait_for(lambda: _missing(server.url) == ["the disk of the results is nearly full"], 90)
    log = " ".join(server.log.read_text().split())
    assert "redis cannot run" in log
    assert "closed forms are served, but jobs wait" in log
    server.stop()


def _status(url: str, path: str) -> int:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url + path).status_code
    return 0


def _missing(url: str) -> list[str]:
    return list(httpx.get(f"{url}/v1/health/ready").json().get("missing", []))
