"""What service and workers may do in Redis, and how they reach one behind TLS."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.jobs.connection import connect, require_entry
from hessian_spectrum.jobs.settings import SettingsError, StorageSettings
from hessian_spectrum.launcher import embedded_redis
from hessian_spectrum.launcher.data_directory import DataDirectory
from hessian_spectrum.launcher.embedded_redis import ALLOWED, USER, EmbeddedRedis

ROOT = Path(__file__).parents[2]
TLS_FRONT = Path(__file__).with_name("tls_front.py")
JOB = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 4, 10]},
    "data": {"kind": "digits", "num_samples": 32},
    "loss": "cross-entropy",
    "train": {"num_steps": 5, "learning_rate": 0.1, "batch_size": 16},
    "method": {"kind": "lanczos", "num_steps": 5, "num_probes": 2},
}


@dataclass
class GuardedRedis:
    """A server with the user of the launcher, and one who sees what that user was refused."""

    socket: Path

    def client(self, user: str = USER, password: str = "secret") -> redis.Redis:
        return connect(f"unix://{user}:{password}@{self.socket}?db=0")

    def refusals(self) -> list[tuple[str, str]]:
        with self.client("watcher", "watching") as watcher:
            return [(entry["reason"], entry["object"]) for entry in watcher.acl_log()]


@pytest.fixture(scope="module")
def guarded_redis(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    directory = tmp_path_factory.mktemp("guarded")
    socket, configuration = directory / "redis.sock", directory / "redis.conf"
    users = f"user default off ~* &* +@all\nuser {USER} on >secret {ALLOWED}\nuser watcher on >watching ~* &* +@all\n"
    configuration.write_text(f'port 0\nunixsocket {socket}\ndir {directory}\nsave ""\n{users}')
    process = subprocess.Popen([redis_server, str(configuration)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield GuardedRedis(socket)
    process.terminate()
    process.wait(10)


@contextmanager
def tls_front(*arguments: Path) -> Iterator[str]:
    """The port of a TLS_FRONT."""
    command = [sys.executable, str(TLS_FRONT), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@dataclass(frozen=True)
class Certificates:
    ca: Path
    other_ca: Path
    certificate: Path  # of localhost and 127.0.0.1
    key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        openssl("req", "-x509", *new_key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    openssl("req", *new_key, "-subj", "/CN=redis", "-keyout", "redis.key", "-out", "redis.csr")
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-out", "redis.pem")
    openssl("x509", "-req", "-in", "redis.csr", *signed)
    names = ("ca.pem", "other.pem", "redis.pem", "redis.key")
    return Certificates(*(directory / name for name in names))


def test_the_containers_allow_the_same_as_the_launcher() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"user spectrum on >\S+ (.*)", text) == [ALLOWED]
    assert re.findall(r"user default (.*)", text) == re.findall(r"user default (.*)", embedded_redis._CONFIGURATION)


@pytest.mark.redis
def test_what_scripts_wrote_outlasts_a_restart(tmp_path: Path) -> None:
    """The file is read in the name of the default user, whom nobody else can be."""
    data = DataDirectory(tmp_path / "data")
    embedded = EmbeddedRedis(data)
    for number in range(2):
        embedded.process.start()
        deadline = time.monotonic() + 20
        while not embedded.answers() and time.monotonic() < deadline:
            time.sleep(0.05)
        with connect(embedded.url) as client:
            if number:
                assert client.mget("spectrum:a", "spectrum:b", "spectrum:c") == ["1", "2", "3"]
            client.eval("redis.call('SET', 'spectrum:a', 1); redis.call('SET', 'spectrum:b', 2)", 0)
            client.set("spectrum:c", 3)
        embedded.process.terminate()
        embedded.process.wait(time.monotonic() + 10)
    embedded.remove_socket()
    data.release()


FORBIDDEN = [
    "CONFIG GET *",
    "CONFIG SET dir /tmp",
    "KEYS *",
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB 0 1",
    "DEBUG SLEEP 0",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "FUNCTION LOAD x",
    "FUNCTION FLUSH",
    "FCALL x 0",
    "EVAL_RO return 0",
    "MODULE LIST",
    "MODULE LOAD /tmp/x.so",
    "ACL LIST",
    "ACL SETUSER x",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "SHUTDOWN NOSAVE",
    "REPLICAOF 127.0.0.1 1",
    "MIGRATE 127.0.0.1 1 spectrum:a 0 1",
    "RESTORE spectrum:a 0 x",
    "SORT spectrum:a",
    "MONITOR",
    "INFO",
    "CLIENT LIST",
    "CLIENT KILL 127.0.0.1:1",
    "CLUSTER INFO",
    "PUBLISH spectrum:a x",
    "SUBSCRIBE spectrum:a",
    "GET another",
    "SET another 1",
    "DEL another",
    "RENAME spectrum:a another",
    "EVAL return 1 another",
]


@pytest.mark.parametrize("command", FORBIDDEN)
def test_the_user_may_do_nothing_else(guarded_redis: GuardedRedis, command: str) -> None:
    with guarded_redis.client() as client, pytest.raises(redis.ResponseError, match=r"(?i)permission|not allowed"):
        client.execute_command(*command.split())


def test_scripts_may_do_no_more(guarded_redis: GuardedRedis) -> None:
    with guarded_redis.client() as client:
        for script in ("return redis.call('GET', 'another')", "return redis.call('FLUSHALL')"):
            with pytest.raises(redis.ResponseError, match=r"(?i)permission|can't run|can't access"):
                client.eval(script, 0)
        assert client.eval("return redis.call('SET', 'spectrum:a', 1)", 0) == "OK"


@pytest.mark.parametrize(("user", "password"), [("default", "secret"), ("default", ""), (USER, "wrong"), ("root", "x")])
def test_nobody_else_gets_in(guarded_redis: GuardedRedis, user: str, password: str) -> None:
    with (
        guarded_redis.client(user, password) as client,
        pytest.raises(redis.RedisError, match=r"(?i)WRONGPASS|invalid|NOAUTH"),
    ):
        client.ping()
    with redis.Redis(unix_socket_path=str(guarded_redis.socket)) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.slow
def test_a_whole_stack_behind_tls_does_nothing_that_it_may_not(
    start_server: Callable[..., Any], tmp_path: Path, guarded_redis: GuardedRedis, certificates: Certificates
) -> None:
    with guarded_redis.client("watcher", "watching") as watcher:
        watcher.acl_log_reset()
    files = (certificates.certificate, certificates.key, certificates.ca)
    with tls_front(guarded_redis.socket, *files) as port:
        server = start_server(
            tmp_path / "data",
            SPECTRUM_REDIS_URL=f"rediss://{USER}:secret@localhost:{port}/0",
            SPECTRUM_REDIS_CA_FILE=str(certificates.ca),
            SPECTRUM_REDIS_CERTIFICATE_FILE=str(certificates.certificate),
            SPECTRUM_REDIS_KEY_FILE=str(certificates.key),
        )
        with SpectrumClient(server.url) as client:
            job = client.submit(JOB, wait_seconds=60, idempotency_key="one")
            assert job.state == "succeeded"
            assert client.submit(JOB, idempotency_key="one").id == job.id
            cancelled = client.submit(JOB | {"method": {"kind": "lanczos", "num_steps": 100, "num_probes": 1000}})
            client.cancel(cancelled.id)
            assert client.wait(cancelled.id, 30).state == "cancelled"
            assert len(list(client.jobs())) == 2
            client.delete(job.id)
        time.sleep(2.5)  # a run of the reaper
        server.stop()
    assert guarded_redis.refusals() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SPECTRUM_REDIS_CA_FILE": "other_ca"}, "no connection by TLS: .*CERTIFICATE_VERIFY_FAILED"),
        ({"SPECTRUM_REDIS_CA_FILE": ""}, "no connection by TLS: .*CERTIFICATE_VERIFY_FAILED"),
        ({"SPECTRUM_REDIS_URL": "rediss://spectrum:wrong@localhost:{port}/0"}, "refuses user or password"),
        ({"SPECTRUM_REDIS_URL": "redis://spectrum:secret@localhost:{port}/0"}, "must begin with rediss://"),
        ({"SPECTRUM_REDIS_URL": "rediss://localhost:{port}/0?ssl_cert_reqs=none"}, "takes no ssl_ parameters"),
        ({"SPECTRUM_REDIS_CA_FILE": "/nowhere"}, "SPECTRUM_REDIS_CA_FILE: Path does not point to a file"),
    ],
)
def test_who_is_not_let_in_says_why(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    guarded_redis: GuardedRedis,
    certificates: Certificates,
    changes: dict[str, str],
    message: str,
) -> None:
    with tls_front(guarded_redis.socket, certificates.certificate, certificates.key) as port:
        for name, text in _variables(certificates, tmp_path, port, changes=changes).items():
            monkeypatch.setenv(name, text)
        with pytest.raises(SettingsError, match=message) as caught:
            require_entry(StorageSettings.load().redis_url.get_secret_value())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("module", ["hessian_spectrum.service", "hessian_spectrum.worker"])
def test_a_process_that_is_not_let_in_ends(
    tmp_path: Path, guarded_redis: GuardedRedis, certificates: Certificates, module: str
) -> None:
    with tls_front(guarded_redis.socket, certificates.certificate, certificates.key) as port:
        variables = _variables(certificates, tmp_path, port, changes={"SPECTRUM_REDIS_CA_FILE": "other_ca"})
        command = [sys.executable, "-m", module]
        finished = subprocess.run(
            command, env=os.environ | variables, timeout=60, capture_output=True, text=True, check=False
        )
    assert finished.returncode == os.EX_CONFIG
    assert re.search("SPECTRUM_REDIS_URL: no connection by TLS: .*CERTIFICATE_VERIFY_FAILED", finished.stderr)


def test_a_redis_that_is_away_is_waited_for(tmp_path: Path) -> None:
    require_entry(f"unix://{tmp_path}/none.sock")
    require_entry("rediss://localhost:1/0?ssl_cert_reqs=required")


def _variables(certificates: Certificates, directory: Path, port: str, *, changes: dict[str, str]) -> dict[str, str]:
    variables = {
        "SPECTRUM_REDIS_URL": "rediss://spectrum:secret@localhost:{port}/0",
        "SPECTRUM_REDIS_CA_FILE": "ca",
        "SPECTRUM_RESULTS_DIR": str(directory),
    } | changes
    texts = {name: str(getattr(certificates, text, text)).format(port=port) for name, text in variables.items()}
    return {name: text for name, text in texts.items() if text}
