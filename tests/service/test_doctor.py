"""`python -m hessian_spectrum.service.doctor` and `spectrum-server doctor`: what is well, and what is not."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import redis

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.worker_registry import register
from hessian_spectrum.launcher.embedded_redis import written_url
from hessian_spectrum.service.bind import main as bind
from hessian_spectrum.service.doctor import check_port, main
from hessian_spectrum.service.telemetry import deployment_checks
from hessian_spectrum.service.telemetry.deployment_checks import Finding
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.results import ResultStore
from tests.client.answers import answering
from tests.conftest import running_redis

COMMAND = Path(sys.executable).with_name("spectrum-server")


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str]]:
    """Its exit code and what it printed, in this process and without torch, which takes seconds to load."""
    monkeypatch.setattr(deployment_checks, "torch", lambda: [])

    def examine(*arguments: str, **environment: str) -> tuple[Any, str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        return exit_.value.code, capsys.readouterr().out

    return examine


def by_name(printed: str) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in json.loads(printed)}


def verdicts(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in findings}


@pytest.fixture
def knows_waitaof(redis_client: redis.Redis) -> bool:
    """Whether the Redis server that these tests start is Redis 7.2 or newer, or Valkey."""
    try:
        redis_client.execute_command("WAITAOF", 0, 0, 1)
    except redis.ResponseError as error:
        return "unknown command" not in str(error)
    return True


def test_a_stack_that_is_well(server: Any, knows_waitaof: bool) -> None:
    options = ["--data-dir", str(server.data_directory), "--url", server.url, "--port", str(server.port), "--json"]
    finished = subprocess.run([COMMAND, "doctor", *options], capture_output=True, text=True, timeout=200, check=False)
    assert finished.stderr == ""
    found = by_name(finished.stdout)
    assert {name: finding for name, finding in found.items() if finding["verdict"] == "failed"} == {}
    assert finished.returncode == 0
    well = {name for name, finding in found.items() if finding["verdict"] == "ok"}
    assert well >= {
        "Python", "packages", "torch", "settings", "results", "file system", "models", "Redis", "clocks", "workers",
        "versions", "port", "service", "closed form", "job",
    }  # fmt: skip
    on_disk = found["Redis on disk"]
    if knows_waitaof:
        assert on_disk["verdict"] in ("ok", "warning"), on_disk
    else:
        assert (on_disk["verdict"], "Redis 7.2" in on_disk["found"]) == ("skipped", True), on_disk


def test_a_table_for_people(server: Any, doctor: Any) -> None:
    url, results = written_url(server.data_directory), str(server.data_directory / "results")
    code, printed = doctor(SPECTRUM_REDIS_URL=url, SPECTRUM_RESULTS_DIR=results)
    assert code == 0, printed
    assert "what to do" in printed
    assert str(server.redis().connection_pool.connection_kwargs["password"]) not in printed


def test_a_deployment_that_is_not_there(tmp_path: Path, doctor: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        places = {"SPECTRUM_REDIS_URL": "redis://:secret@127.0.0.1:1/0", "SPECTRUM_RESULTS_DIR": str(tmp_path / "none")}
        code, printed = doctor("--json", "--port", port, "--url", "http://127.0.0.1:1", **places)
    found = by_name(printed)
    assert code == 1
    failed = {name for name, finding in found.items() if finding["verdict"] == "failed"}
    assert failed == {"results", "Redis", "port", "service"}
    assert all(found[name]["advice"] for name in failed)
    assert "secret" not in printed


def test_settings_that_cannot_be_read_are_named(tmp_path: Path, doctor: Any) -> None:
    code, printed = doctor("--json", SPECTRUM_RESULTS_DIR=str(tmp_path), SPECTRUM_REDIS_URL="http://x")
    assert code == 1
    assert "SPECTRUM_REDIS_URL" in by_name(printed)["settings"]["found"]


def test_a_redis_without_file_is_found_out(redis_client: redis.Redis) -> None:
    found = {finding.name: finding for finding in deployment_checks.redis_server(redis_client)}
    assert found["Redis"].verdict == "ok"
    assert found["Redis on disk"].verdict == "failed"
    assert "appendonly is off" in found["Redis on disk"].found
    assert found["Redis appendonly"].verdict == "failed"
    assert found["Redis maxmemory-policy"].verdict == "ok"
    assert redis_client.keys("*") == []


def test_what_loses_jobs_or_does_not_belong_together_is_found_out(
    redis_client: redis.Redis, redis_url: str, tmp_path: Path, doctor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"SPECTRUM_REDIS_URL": redis_url, "SPECTRUM_RESULTS_DIR": str(tmp_path)}
    assert by_name(doctor("--json", **places)[1])["identity"]["verdict"] == "ok"
    ResultStore(LocalDirectory(tmp_path)).write(b"a result")
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = by_name(doctor("--json")[1])
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert found["Redis maxmemory-policy"]["verdict"] == "failed"
    assert found["Redis maxmemory-policy"]["advice"] == "set maxmemory-policy noeviction"
    assert found["identity"]["verdict"] == "failed"
    assert "spectrum-server bind" in found["identity"]["advice"]

    for options, code, said in (((), 1, "Nothing was changed"), (("--yes",), 0, "belong together now")):
        with pytest.raises(SystemExit) as exit_:
            bind(options)
        assert exit_.value.code == code
        printed = capsys.readouterr().out
        assert "Of 1 results in the directory, Redis does not know 1." in printed
        assert said in printed
    assert by_name(doctor("--json")[1])["identity"]["verdict"] == "ok"


def without(*commands: str) -> list[str]:
    """Options of a Redis server that does not know these commands."""
    return [part for command in commands for part in ("--rename-command", command, "")]


@pytest.fixture
def without_waitaof(knows_waitaof: bool) -> list[str]:
    """Options that make any Redis server like one older than 7.2 in this."""
    return without("WAITAOF") if knows_waitaof else []


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("appendonly", "verdict"), [("yes", "ok"), ("no", "failed")])
def test_redis_is_asked_in_two_ways_whether_writes_are_on_disk(
    redis_server: str, tmp_path: Path, without_waitaof: list[str], old: bool, appendonly: str, verdict: str
) -> None:
    """WAITAOF came with Redis 7.2; of older ones a user who may call INFO finds out, too."""
    options = ["--appendonly", appendonly, "--appendfsync", "always", *(without_waitaof if old else [])]
    with running_redis(redis_server, tmp_path, *options) as running, connect(running.url, patient=True) as client:
        found = {finding.name: finding for finding in deployment_checks.redis_server(client)}
    assert found["Redis"].verdict == "ok", found
    assert found["Redis on disk"].verdict == verdict, found
    assert ("appendonly is off" in found["Redis on disk"].found) == (verdict == "failed")


def test_of_an_old_redis_without_info_nothing_is_said_of_its_disk(
    redis_server: str, tmp_path: Path, without_waitaof: list[str]
) -> None:
    options = ["--appendonly", "yes", *without_waitaof, *without("INFO")]
    with running_redis(redis_server, tmp_path, *options) as running, connect(running.url, patient=True) as client:
        found = {finding.name: finding for finding in deployment_checks.redis_server(client)}
    assert found["Redis on disk"].verdict == "skipped"
    assert "Redis 7.2" in found["Redis on disk"].found
    assert "docs/deployment.md" in found["Redis on disk"].advice


def test_workers_that_are_strange(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts(deployment_checks.workers(redis_client)) == {"workers": "failed"}
    worker = WorkerStatus(name="a-1", device="cpu", memory_bytes=1, concurrency=1, source_version="older")
    with monkeypatch.context() as patch:
        patch.setattr("hessian_spectrum.jobs.worker_registry.time.time", lambda: 1e9)
        register(redis_client, worker)
    assert verdicts(deployment_checks.workers(redis_client)) == {"workers": "ok", "versions": "warning"}
    [clock] = deployment_checks.clocks(redis_client)
    assert clock.verdict == "warning"
    assert "a-1" in clock.found


def test_findings_are_well_or_say_what_to_do() -> None:
    for finding in (*deployment_checks.python(), *deployment_checks.torch()):
        assert finding.verdict in ("ok", "skipped") or finding.advice


def test_a_service_on_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(lambda: (200, {}, b'{"status": "live"}')) as url:
        assert verdicts(check_port("127.0.0.1", int(url.rpartition(":")[2]))) == {"port": "ok"}
