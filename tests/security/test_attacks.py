"""Whatever is sent, the answer is a problem, soon; nothing is run or kept, and the service goes on as before."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.processes import resident_bytes
from tests.security.addresses import hostile_addresses
from tests.security.attack import CANARY, Attack
from tests.security.bodies import CLOSED_FORM, LINEAR, hostile_bodies, hostile_requests
from tests.security.programs import harmless_programs
from tests.security.uploads import ARTIFACTS, PT2, hostile_uploads
from tests.security.wire import hostile_messages

CORPUS = [*hostile_bodies(), *hostile_requests(), *hostile_addresses(), *hostile_uploads()]
MESSAGES = dict(hostile_messages())
HARMLESS = dict(harmless_programs())
SECONDS = 60.0
SLOW_BODY = (
    b"POST /v1/closed-form HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)
GROWTH_BYTES = 400 * 2**20


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=SECONDS) as http:
        yield http


def state_of(server: Any, http: httpx.Client) -> list[Any]:
    service, *_ = server.pids("-m hessian_spectrum.service")  # others are those that compute for it
    return [service, files(server), http.get("/v1/jobs").json(), http.get("/v1/artifacts").json()]


@pytest.fixture(scope="module", autouse=True)
def unharmed(server: Any, http: httpx.Client) -> Iterator[None]:
    """Before and after the whole corpus the service is the same process, and as large, as fast and as full."""
    Path(CANARY).unlink(missing_ok=True)
    state = state_of(server, http)
    before, memory = seconds_of_a_closed_form(http), resident_bytes(state[0])
    yield
    assert state_of(server, http) == state
    assert resident_bytes(state[0]) < memory + GROWTH_BYTES
    assert seconds_of_a_closed_form(http) < 10 * before + 0.1
    assert not Path(CANARY).exists()


def files(server: Any) -> set[Path]:
    return {path for path in (server.data_directory / "results").rglob("*") if path.is_file()}


def seconds_of_a_closed_form(http: httpx.Client) -> float:
    """The shortest of a few."""
    times = []
    for _ in range(20):
        started = time.perf_counter()
        assert http.post(CLOSED_FORM, json=LINEAR).status_code == 200
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.mark.parametrize("attack", CORPUS, ids=lambda attack: attack.name)
def test_it_is_refused(http: httpx.Client, attack: Attack) -> None:
    headers = dict(attack.headers) | ({} if attack.media_type is None else {"Content-Type": attack.media_type})
    body = attack.body() or None
    started = time.monotonic()
    answer = http.request(attack.method, attack.path, content=body, headers=headers)
    assert time.monotonic() - started < SECONDS
    assert answer.status_code in attack.statuses, answer.text[:500]
    assert len(answer.content) < 20_000
    assert "set-cookie" not in answer.headers
    if attack.method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json", answer.text[:200]
        assert answer.json()["status"] == answer.status_code
    assert "Traceback" not in answer.text
    assert "/home" not in answer.text


@pytest.mark.parametrize("make", list(MESSAGES.values()), ids=list(MESSAGES))
def test_no_http_is_answered_with_4xx_or_not_at_all(server: Any, make: Callable[[], bytes]) -> None:
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        with contextlib.suppress(OSError):  # closed before all of it was sent
            connection.sendall(make())
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(2**16):
                answer += piece
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:300]
    assert len(answer) < 5000


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n", SLOW_BODY], ids=["nothing", "head", "body"]
)
def test_callers_who_send_no_more_keep_nobody_waiting(server: Any, http: httpx.Client, sent: bytes) -> None:
    with contextlib.ExitStack() as connections:
        for _ in range(100):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port), SECONDS))
            connection.sendall(sent)
        assert seconds_of_a_closed_form(http) < 0.5


@pytest.mark.parametrize("make", list(HARMLESS.values()), ids=list(HARMLESS))
def test_what_a_program_never_reads_does_no_harm(http: httpx.Client, make: Callable[[], bytes]) -> None:
    answer = http.post(ARTIFACTS, content=make(), headers={"Content-Type": PT2})
    assert answer.status_code == 201, answer.text[:500]
    assert answer.json()["num_calls"] <= 4
    assert http.delete(f"{ARTIFACTS}/{answer.json()['id']}").status_code == 204
    assert not Path(CANARY).exists()


def test_names_are_told_apart() -> None:
    names = [attack.name for attack in CORPUS]
    assert len(names) == len(set(names)) >= 60
