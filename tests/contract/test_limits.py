"""How much a caller may ask of a server, and what browsers are told, asked of a stack with narrow limits."""

import contextlib
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest

from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.service.auth import KeyStore
from tests.fixtures.jobs import EXACT_JOB

LONG_JOB = EXACT_JOB | {"train": {"num_steps": 10_000_000, "learning_rate": 1e-3}}
CLOSED_FORM = {"model": {"kind": "quadratic", "matrix": [[4.0, 4.0], [4.0, 16.0]]}}


class Narrow:
    """A stack whose limits are reached by a few requests."""

    def __init__(self, server: Any, keys: KeyStore) -> None:
        self.server = server
        self._keys = keys

    def http(self, **limits: int) -> httpx.Client:
        text = self._keys.add("someone", role="user", **limits)
        return httpx.Client(base_url=self.server.url, headers={"Authorization": f"Bearer {text}"}, timeout=70)

    def client(self, **limits: int) -> SpectrumClient:
        return SpectrumClient(self.server.url, self._keys.add("someone", role="user", **limits))


@pytest.fixture(scope="module")
def narrow(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Narrow:
    directory = tmp_path_factory.mktemp("narrow") / "data"
    keys = KeyStore(directory / "keys.json")
    keys.add("first")
    limits = {"SPECTRUM_MAX_REQUESTS": "3", "SPECTRUM_MAX_LISTENERS": "2", "SPECTRUM_MAX_QUEUED": "4"}
    return Narrow(start_server(directory, **limits), keys)


@pytest.fixture
def busy_worker(narrow: Narrow) -> Iterator[httpx.Client]:
    """The only worker computes until the end of the test: what is submitted now stays queued."""
    with narrow.http(max_queued=100) as http:
        job_id = http.post("/v1/jobs", json=LONG_JOB).json()["id"]
        while http.get(f"/v1/jobs/{job_id}").json()["state"] != "running":
            time.sleep(0.05)
        yield http
        for job in http.get("/v1/jobs").json()["jobs"]:
            http.post(f"/v1/jobs/{job['id']}/cancel")
        http.get(f"/v1/jobs/{job_id}", params={"wait": 30})


def test_a_key_has_its_requests_a_minute(narrow: Narrow) -> None:
    with narrow.http(requests_per_minute=3) as http, narrow.http(requests_per_minute=3) as other:
        for remaining in (2, 1, 0):
            answer = http.post("/v1/closed-form", json=CLOSED_FORM)
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"minute";q=3;w=60'
            assert answer.headers["ratelimit"].startswith(f'"minute";r={remaining};t=')
        refused = http.get("/v1/jobs")
        assert refused.status_code == 429
        assert refused.json()["type"] == "/problems/too-many-requests"
        assert 15 <= int(refused.headers["retry-after"]) <= 20
        assert refused.headers["ratelimit"].startswith('"minute";r=0;t=')
        assert other.get("/v1/jobs").status_code == 200
        assert httpx.get(f"{narrow.server.url}/v1/health/live").status_code == 200


def test_the_client_waits_when_it_is_told_to(narrow: Narrow) -> None:
    with narrow.client(requests_per_minute=60) as client:
        started = time.monotonic()
        for _ in range(61):
            client.closed_form(CLOSED_FORM)
        assert time.monotonic() - started >= 0.9
    with narrow.client(requests_per_minute=1) as client:
        client.closed_form(CLOSED_FORM)
        client.patience_seconds = 1.0
        with pytest.raises(ProblemResponseError, match="429 Too many requests"):
            client.closed_form(CLOSED_FORM)


def test_a_key_has_its_place_in_the_queue(narrow: Narrow, busy_worker: httpx.Client) -> None:
    with narrow.http(max_queued=2) as http:
        key = {"Idempotency-Key": uuid.uuid4().hex}
        first = http.post("/v1/jobs", json=EXACT_JOB, headers=key)
        assert first.status_code == http.post("/v1/jobs", json=EXACT_JOB).status_code == 202
        unused = {"Idempotency-Key": uuid.uuid4().hex}
        refused = http.post("/v1/jobs", json=EXACT_JOB, headers=unused)
        assert refused.status_code == 429
        assert refused.json()["type"] == "/problems/quota-of-queued-jobs"
        assert int(refused.headers["retry-after"]) >= 1
        again = http.post("/v1/jobs", json=EXACT_JOB, headers=key)
        assert again.json()["id"] == first.json()["id"]
        assert http.post("/v1/estimates", json=EXACT_JOB).status_code == 200
        assert len(http.get("/v1/jobs").json()["jobs"]) == 2
        http.post(f"/v1/jobs/{first.json()['id']}/cancel")
        taken = http.post("/v1/jobs", json=EXACT_JOB | {"seed": 1}, headers=unused)  # what was refused took no key
        assert taken.status_code == 202
        for job in http.get("/v1/jobs").json()["jobs"]:
            http.post(f"/v1/jobs/{job['id']}/cancel")


def test_the_queue_has_an_end_for_all(busy_worker: httpx.Client) -> None:
    answers = [busy_worker.post("/v1/jobs", json=EXACT_JOB) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * 4 + [429] * 2
    assert answers[-1].json()["type"] == "/problems/queue-full"
    assert "retry-after" in answers[-1].headers


def test_those_who_wait_leave_room_for_the_others(narrow: Narrow, busy_worker: httpx.Client) -> None:
    job_id = busy_worker.get("/v1/jobs").json()["jobs"][0]["id"]
    path = f"{narrow.server.url}/v1/jobs/{job_id}"
    headers = dict(busy_worker.headers)
    states: list[int] = []

    def poll() -> None:
        while httpx.get(path, params={"wait": 60}, headers=headers, timeout=90).status_code == 429:
            time.sleep(0.01)  # the look below was there at that moment
        states.append(200)

    listeners = [threading.Thread(target=poll) for _ in range(2)]
    for listener in listeners:
        listener.start()
    while (refused := busy_worker.get(path, params={"wait": 0.01})).status_code == 200 and not states:
        time.sleep(0.05)
    assert refused.status_code == 429
    assert refused.json()["type"] == "/problems/too-many-listeners"
    assert refused.json()["alias"] == "/problems/too-many-waiting-requests"
    assert refused.headers["retry-after"] == "5"
    assert busy_worker.get(f"{path}/events").status_code == 429
    assert busy_worker.post("/v1/closed-form", json=CLOSED_FORM).status_code == 200
    at_once = busy_worker.post("/v1/jobs", json=EXACT_JOB, headers={"Prefer": "wait=30"})
    assert at_once.status_code == 202
    assert "preference-applied" not in at_once.headers
    busy_worker.post(f"/v1/jobs/{job_id}/cancel")  # which ends the waits
    for listener in listeners:
        listener.join()
    assert states == [200, 200]
    assert busy_worker.get(path, params={"wait": 0.1}).status_code == 200


def test_beyond_what_it_answers_at_once_it_says_so(narrow: Narrow) -> None:
    """Requests whose bodies never come hold three places; health is told all the same."""
    with narrow.http() as http, contextlib.ExitStack() as held:
        key = http.headers["authorization"]
        head = f"POST /v1/closed-form HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n"
        for _ in range(3):
            stalled = held.enter_context(socket.create_connection(("127.0.0.1", narrow.server.port)))
            stalled.sendall(head.encode())
        deadline = time.monotonic() + 30
        while (refused := http.get("/v1/jobs")).status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert refused.status_code == 503
        assert refused.json()["type"] == "/problems/too-many-requests-at-once"
        assert refused.headers["retry-after"] == "1"
        assert http.get("/v1/health/live").status_code == 200
    deadline = time.monotonic() + 30
    with narrow.http() as http:
        while http.get("/v1/jobs").status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert http.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("path", ["/v1/closed-form", "/v1/jobs", "/v1/random-matrix", "/v1/estimates"])
def test_json_that_is_made_to_hurt_is_refused(narrow: Narrow, path: str) -> None:
    with narrow.http() as http:
        for body, status in (
            (b"[" * 10**6, 422),
            (b'{"kind": "spectrum", "kind": "spectrum"}', 422),
            (b"[" + b"[]," * 4_000_000 + b"1]", 413),
            (b"{" + b",".join(b'"%d":1' % number for number in range(20_000)) + b"}", 422),
        ):
            refused = http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert refused.status_code == status, body[:40]
            assert refused.headers["content-type"] == "application/problem+json"
            assert len(refused.content) < 20_000
        assert http.post(path, json={}, headers={"Content-Type": "text/plain"}).status_code == 415


def test_browsers_are_told_to_keep_it_to_themselves(narrow: Narrow) -> None:
    with narrow.http() as http:
        for answer in (http.get("/v1/jobs"), http.get("/none"), httpx.get(f"{narrow.server.url}/v1/jobs")):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert http.get("/v1/jobs").headers["cache-control"] == "no-store"
        with pytest.raises(KeyError):
            httpx.get(f"{narrow.server.url}/docs").headers["cache-control"]


def test_no_other_site_is_given_anything(server: Any) -> None:
    """A server without keys, asked by a page that a researcher's browser shows."""
    evil = {"Origin": "https://evil.example"}
    with httpx.Client(base_url=server.url) as browser:
        wish = evil | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        preflight = browser.options("/v1/jobs", headers=wish)
        answers = [
            preflight,
            browser.get("/v1/jobs", headers=evil),
            browser.post("/v1/jobs", json=EXACT_JOB, headers=evil),
            browser.post("/v1/closed-form", files={"w": b"1"}, headers=evil | {"Sec-Fetch-Site": "cross-site"}),
        ]
        assert [answer.status_code for answer in answers] == [405, 200, 403, 403]
        for answer in answers:
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
        plain = browser.post("/v1/jobs", content=b"{}", headers={"Content-Type": "text/plain"})
        assert plain.status_code == 415
        rebound = browser.get("/v1/jobs", headers={"Host": "evil.example"})
        assert rebound.status_code == 421
        assert rebound.json()["type"] == "/problems/unknown-host"
        own = browser.post("/v1/closed-form", json=CLOSED_FORM, headers={"Origin": server.url})
        assert own.status_code == 200


@pytest.mark.parametrize("host", ["[::1", "a b", "evil.example/..", "x" * 300 + ":1"])
def test_a_malformed_host_gets_a_problem(server: Any, host: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"GET /v1/jobs/none HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith((b"HTTP/1.1 421", b"HTTP/1.1 400"))


def exchanged(port: int, pieces: Iterable[bytes]) -> bytes:
    """What the server answers to these bytes until it closes the connection; it may do so before all are sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        with contextlib.suppress(ConnectionError):
            return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


START = b"GET /v1/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
IN_PIECES = (
    b"POST /v1/closed-form HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
)


@pytest.mark.parametrize(
    "pieces",
    [
        [START, b"X: " + 2**16 * b"a", b"\r\n\r\n"],
        # more than is read at once: a head that came whole is not kept, and so not refused
        [START, *(f"X-{number}: a\r\n".encode() for number in range(2**16)), b"\r\n"],
        [START, b"X: a", *(2**10 * [2**10 * b"a"])],
        [b"GET /" + 2**16 * b"a", b" HTTP/1.1\r\n\r\n"],
        [b"G" * 2**20],
        [IN_PIECES, *(f"X-{number}: a\r\n".encode() for number in range(2**16)), b"\r\n"],
        [IN_PIECES[:-3], b"1;a=", *(512 * [2**10 * b"a"])],
    ],
    ids=["one header", "many headers", "a header without end", "target", "method", "trailers", "extension of a piece"],
)
def test_a_head_without_end_is_not_kept(server: Any, pieces: list[bytes]) -> None:
    answer = exchanged(server.port, pieces)
    assert answer.startswith(b"HTTP/1.1 431") or not answer


def test_heads_up_to_the_bound_and_requests_in_line_are_answered(server: Any) -> None:
    long = START + b"X: " + 15_000 * b"a" + b"\r\n\r\n"
    assert exchanged(server.port, [long]).startswith(b"HTTP/1.1 200")
    assert exchanged(server.port, [long[i : i + 500] for i in range(0, len(long), 500)]).startswith(b"HTTP/1.1 200")
    first = START.replace(b"Connection: close\r\n", b"\r\n")
    second = START.replace(b"health/live", b"jobs/none") + b"\r\n"
    assert re.findall(rb"HTTP/1.1 (\d+)", exchanged(server.port, [first + second])) == [b"200", b"422"]
