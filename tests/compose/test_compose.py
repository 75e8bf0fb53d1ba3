"""The containers: built and started from the files of the repository, used through the published port, taken down.

They run on whatever engine DOCKER_HOST names; without one the tests fail.
"""

import json
import os
import secrets
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SERVICES = ("service", "worker", "redis")
BUILD_SECONDS = 1500
MAX_SERVICE_BYTES = 300_000_000
KILLED = 137

LINEAR = {
    "model": {"kind": "linear", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]},
    "data": {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]},
}
SHORT_JOB = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10]},
    "data": {"kind": "digits", "num_samples": 128},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 20, "num_probes": 2},
}
LONG_JOB = SHORT_JOB | {"train": {"num_steps": 10_000_000, "learning_rate": 0.01, "batch_size": 1}}


def docker(*arguments: str, environment: dict[str, str] | None = None, seconds: float = 120) -> str:
    """Standard output of a docker command that succeeds."""
    done = attempt(*arguments, environment=environment, seconds=seconds)
    if done.returncode:
        pytest.fail(f"docker {' '.join(arguments)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def attempt(
    *arguments: str, environment: dict[str, str] | None = None, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    # Neither variables of the caller nor a file .env beside docker-compose.yml may decide how a test ends.
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("SPECTRUM_", "COMPOSE_"))}
    variables = inherited | {"COMPOSE_DISABLE_ENV_FILE": "1"} | (environment or {})
    try:
        return subprocess.run(
            ["docker", *arguments],
            cwd=ROOT,
            env=variables,
            timeout=seconds,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.fail("no docker command: these tests need Docker with compose")


class Stack:
    """One compose project of its own."""

    def __init__(self) -> None:
        self.project = f"spectrum-test-{uuid.uuid4().hex[:8]}"
        self.password = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.environment = {"SPECTRUM_REDIS_PASSWORD": self.password, "SPECTRUM_PORT": str(port)}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=90)

    def compose(self, *arguments: str, seconds: float = 120) -> str:
        return docker("compose", "-p", self.project, *arguments, environment=self.environment, seconds=seconds)

    def up(self, *options: str) -> None:
        self.compose("up", "-d", "--wait", *options, seconds=BUILD_SECONDS)
        self.wait_until_ready()

    def inside(self, service: str, *command: str) -> str:
        return self.compose("exec", "-T", service, *command)

    def container(self, service: str) -> dict[str, Any]:
        described: list[dict[str, Any]] = json.loads(docker("inspect", self.compose("ps", "-a", "-q", service)))
        return described[0]

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.http.get("/health/ready").is_success, "the server is ready")

    def run_short_job(self) -> str:
        """The id of a job that succeeded."""
        answer = self.http.post("/jobs", json=SHORT_JOB, headers={"Prefer": "wait=60"})
        job: dict[str, Any] = answer.json()
        assert job["state"] == "succeeded", answer.text
        return str(job["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/jobs/{job_id}").raise_for_status().json())

    def result(self, job_id: str) -> bytes:
        return self.http.get(f"/jobs/{job_id}/result").raise_for_status().content


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    pytest.fail(f"after {seconds:.0f} s it still is not so that {what}")


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    answer = attempt("version", "--format", "{{.Server.Version}}")
    if answer.returncode:
        host = os.environ.get("DOCKER_HOST", "unset")
        pytest.fail(f"no Docker engine answers, DOCKER_HOST is {host}: {answer.stderr.strip()}")


@pytest.fixture(scope="module")
def stack(engine: None) -> Iterator[Stack]:
    stack = Stack()
    try:
        stack.up("--build")
        yield stack
    finally:
        print(attempt("compose", "-p", stack.project, "logs", "--tail", "50", environment=stack.environment).stdout)
        stack.http.close()
        stack.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", seconds=300)


def test_every_container_is_healthy(stack: Stack) -> None:
    for service in SERVICES:
        assert stack.container(service)["State"]["Health"]["Status"] == "healthy", service


def test_no_container_runs_as_root_or_can_become_root(stack: Stack) -> None:
    for service in SERVICES:
        assert stack.inside(service, "id", "-u") != "0", service
        host = stack.container(service)["HostConfig"]
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert 0 < host["PidsLimit"] <= 8192, service
        assert stack.inside(service, "sh", "-c", "ulimit -c") == "0", service


def test_the_root_file_system_is_read_only(stack: Stack) -> None:
    for service in SERVICES:
        assert stack.container(service)["HostConfig"]["ReadonlyRootfs"], service
        assert stack.inside(service, "sh", "-c", "touch /touched 2>/dev/null || echo refused") == "refused", service
        assert stack.inside(service, "sh", "-c", "touch /tmp/touched && echo written") == "written", service
        program = "printf '#!/bin/sh\\n' >/tmp/program; chmod +x /tmp/program; /tmp/program 2>/dev/null || echo refused"
        assert stack.inside(service, "sh", "-c", program) == "refused", service


def test_only_the_service_publishes_a_port_and_only_on_this_machine(stack: Stack) -> None:
    published = {service: stack.container(service)["HostConfig"]["PortBindings"] or {} for service in SERVICES}
    assert published["worker"] == published["redis"] == {}
    assert [binding["HostIp"] for binding in published["service"]["8000/tcp"]] == ["127.0.0.1"]


def test_processes_do_not_show_the_password(stack: Stack) -> None:
    assert "redis-server" in (processes := stack.compose("top"))
    assert stack.password not in processes


def test_redis_keeps_what_it_accepted(stack: Stack) -> None:
    """Nobody may ask the server for its configuration; this is what it was given, and the file that it keeps."""
    (command,) = json.loads(stack.compose("config", "--format", "json"))["services"]["redis"]["command"]
    for line in ("appendonly yes", "appendfsync always", 'save ""', "maxmemory-policy noeviction"):
        assert f"{line}\n" in command
    stack.inside("redis", "sh", "-c", "ls /data/appendonlydir/*.incr.aof")


def test_redis_lets_one_user_in_who_may_do_little(stack: Stack) -> None:
    answer = stack.inside("redis", "sh", "-c", "unset REDISCLI_AUTH; redis-cli ping 2>&1")
    assert "NOAUTH" in answer
    assert "WRONGPASS" in stack.inside("redis", "sh", "-c", "redis-cli ping 2>&1")  # as the default user
    for command in ("config get dir", "keys '*'", "flushall", "shutdown", "acl list", "get another"):
        assert "NOPERM" in stack.inside("redis", "sh", "-c", f"redis-cli --user spectrum {command} 2>&1"), command


def test_a_closed_form_through_the_published_port(stack: Stack) -> None:
    answer = stack.http.post("/closed-form", json=LINEAR)
    assert answer.status_code == 200, answer.text
    spectrum = answer.json()
    total = sum(e["value"] * e["multiplicity"] for e in spectrum["eigenvalues"])
    assert total == pytest.approx(spectrum["trace"], rel=1e-12)


def test_jobs_and_results_outlast_a_restart_of_redis(stack: Stack) -> None:
    before = stack.run_short_job()
    result = stack.result(before)

    stack.compose("restart", "redis")
    stack.wait_until_ready()

    assert stack.job(before)["state"] == "succeeded"
    assert stack.result(before) == result
    after = stack.run_short_job()
    assert _trace(stack.result(after)) == pytest.approx(_trace(result), rel=1e-5)


def test_jobs_and_results_outlast_the_containers(stack: Stack) -> None:
    job_id = stack.run_short_job()
    result = stack.result(job_id)

    stack.compose("down")
    stack.up()

    assert stack.job(job_id)["state"] == "succeeded"
    assert stack.result(job_id) == result


def test_a_result_as_a_picture(stack: Stack) -> None:
    job_id = stack.run_short_job()
    picture = stack.http.get(f"/jobs/{job_id}/result", headers={"Accept": "image/png"})
    assert picture.content.startswith(b"\x89PNG"), picture.text


def test_a_worker_with_a_running_job_stops_in_time_and_its_job_is_taken_up_again(stack: Stack) -> None:
    job_id = stack.http.post("/jobs", json=LONG_JOB).raise_for_status().json()["id"]
    wait_for(lambda: stack.job(job_id)["progress"]["phase"] == "training", "the job trains")

    stack.compose("stop", "worker")
    assert stack.container("worker")["State"]["ExitCode"] != KILLED

    stack.up()
    wait_for(lambda: stack.job(job_id)["attempt"] == 2, "the job is taken up again")
    stack.http.post(f"/jobs/{job_id}/cancel").raise_for_status()
    wait_for(lambda: stack.job(job_id)["state"] == "cancelled", "the job is cancelled")


def test_a_worker_that_cannot_reach_redis_is_not_healthy(stack: Stack) -> None:
    stack.compose("stop", "redis")
    try:
        command = [
            "compose",
            "-p",
            stack.project,
            "exec",
            "-T",
            "worker",
            "python",
            "-m",
            "hessian_spectrum.worker.health",
        ]
        check = attempt(*command, environment=stack.environment)
        assert (check.returncode, "redis does not answer" in check.stderr) == (1, True), check.stderr
    finally:
        stack.up()


def test_only_the_worker_holds_torch(stack: Stack) -> None:
    question = "from importlib.util import find_spec; print(find_spec('torch') is not None)"
    assert stack.inside("service", "python", "-c", question) == "False"
    assert stack.inside("worker", "python", "-c", question) == "True"


def test_the_service_adds_little_to_its_base_image(stack: Stack) -> None:
    base = f"{stack.project}-base"
    docker("build", "--target", "base", "--tag", base, ".", seconds=BUILD_SECONDS)
    try:
        size = _image_bytes(stack.container("service")["Image"]) - _image_bytes(base)
    finally:
        docker("image", "rm", base)
    assert 0 < size <= MAX_SERVICE_BYTES


@pytest.mark.parametrize("password", [{}, {"SPECTRUM_REDIS_PASSWORD": ""}], ids=["missing", "empty"])
def test_up_without_the_password_names_the_variable(password: dict[str, str]) -> None:
    refused = attempt("compose", "-p", f"spectrum-test-{uuid.uuid4().hex[:8]}", "up", "-d", environment=password)
    assert refused.returncode != 0
    assert "SPECTRUM_REDIS_PASSWORD" in refused.stderr


def test_a_password_that_would_break_the_url_is_refused(stack: Stack) -> None:
    environment = stack.environment | {"SPECTRUM_REDIS_PASSWORD": "half@way/there"}
    refused = attempt("compose", "-p", stack.project, "run", "--rm", "-T", "redis", environment=environment)
    assert refused.returncode == 64
    assert "SPECTRUM_REDIS_PASSWORD" in refused.stderr


def test_every_gpu_has_a_worker_of_its_own() -> None:
    environment = {"SPECTRUM_REDIS_PASSWORD": "secret", "COMPOSE_PROFILES": "gpu-1,gpu-2,gpu-3"}
    files = ["-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml"]
    services = json.loads(docker("compose", *files, "config", "--format", "json", environment=environment))["services"]
    workers = {name: service for name, service in services.items() if name.startswith("worker")}
    devices = [w["deploy"]["resources"]["reservations"]["devices"] for w in workers.values()]
    assert sorted(device["device_ids"] for [device] in devices) == [["0"], ["1"], ["2"], ["3"]]
    for worker in workers.values():
        assert worker["environment"]["SPECTRUM_DEVICE"] == "cuda"
        assert worker["environment"]["SPECTRUM_CONCURRENCY"] == "1"
        assert worker["build"] == workers["worker"]["build"]
        assert worker["build"]["args"]["TORCH_BACKEND"] != "cpu"


def _trace(result: bytes) -> float:
    return float(json.loads(result)["trace"]["value"])


def _image_bytes(image: str) -> int:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))
