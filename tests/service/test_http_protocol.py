"""A connection on which nobody can do anything before its caller sends more ends by itself."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from hessian_spectrum.service import http_protocol
from hessian_spectrum.service.http_protocol import MAX_HELD_BYTES, GatheringTransport, HttpProtocol

HEAD_SECONDS = 0.6
LONG = 2**24
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading the body, late at `/slow`."""
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * HEAD_SECONDS)
    if scope["path"] == "/long":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LONG)]})
        await send({"type": "http.response.body", "body": bytes(LONG)})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", HEAD_SECONDS)
    monkeypatch.setattr(http_protocol, "UNREAD_SECONDS", 2 * HEAD_SECONDS)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=HttpProtocol, ws="none", lifespan="off", log_config=None))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server
    server.should_exit = True
    thread.join()


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])


def answer_until_closed(port: int, first: bytes, again: bytes = b"") -> tuple[bytes, float]:
    """All that the server says, while the caller goes on sending, and the seconds until it hangs up."""
    started, answer = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=HEAD_SECONDS / 6) as connection:
        try:
            connection.sendall(first)
            while time.monotonic() - started < 60:
                try:
                    piece = connection.recv(65536)
                except TimeoutError:
                    connection.sendall(again)
                    continue
                if not piece:
                    break
                answer += piece
        except ConnectionError:
            pass
    return answer, time.monotonic() - started


@pytest.mark.parametrize(
    ("first", "again"),
    [(b"", b""), (HEAD, b""), (HEAD, b"X: a\r\n"), (HEAD + b"X:", b"a")],
    ids=["nothing", "half a head", "header after header", "a header byte by byte"],
)
def test_a_head_has_its_time(port: int, first: bytes, again: bytes) -> None:
    answer, seconds = answer_until_closed(port, first, again)
    assert answer == b""
    assert 0.9 * HEAD_SECONDS < seconds < 50 * HEAD_SECONDS


@pytest.mark.parametrize(
    "length", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"], ids=["length", "pieces"]
)
def test_what_follows_an_answer_has_its_time(port: int, length: bytes) -> None:
    answer, seconds = answer_until_closed(port, HEAD + length, b"1\r\n{\r\n" if b"chunked" in length else b"a")
    assert answer.endswith(b"ok")
    assert 0.9 * HEAD_SECONDS < seconds < 50 * HEAD_SECONDS


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system does not count it")
def test_an_answer_that_nobody_reads_is_dropped(server: uvicorn.Server, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD.replace(b"POST /", b"GET /long") + b"\r\n")
        deadline = time.monotonic() + 20
        while not server.server_state.connections:
            assert time.monotonic() < deadline
        started = time.monotonic()
        while server.server_state.connections:
            assert time.monotonic() < started + 50 * HEAD_SECONDS
            time.sleep(0.05)
    assert time.monotonic() - started > HEAD_SECONDS


def test_what_is_no_http_gets_no_second_answer(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        answer = connection.recv(65536)
        connection.sendall(b"no length\r\n")
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


def test_an_answer_may_take_longer(port: int) -> None:
    slow = HEAD.replace(b"POST /", b"GET /slow") + b"Connection: close\r\n\r\n"
    answer, seconds = answer_until_closed(port, slow)
    assert answer.endswith(b"ok")
    assert seconds >= 3 * HEAD_SECONDS


def test_requests_one_after_another_are_answered_for_longer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 2.0)
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, connection.makefile("rb") as stream:
        while time.monotonic() - started < 3.0:
            connection.sendall(HEAD)
            time.sleep(0.2)
            connection.sendall(b"Content-Length: 0\r\n\r\n")
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(2) == b"ok"


@pytest.mark.parametrize(
    ("head", "status"),
    [(b"GET / FTP/0\r\n\r\n", 400), (HEAD + b"X-Long: " + 2**17 * b"a", 431)],
    ids=["no HTTP", "long"],
)
def test_what_is_no_request_is_answered_with_a_problem(port: int, head: bytes, status: int) -> None:
    answer, _ = answer_until_closed(port, head)
    fields, _, body = answer.partition(b"\r\n\r\n")
    assert fields.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/problem+json" in fields.lower()
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["detail"]


class Written(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.pieces.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True


def written(*pieces: bytes, close: bool = False) -> list[bytes]:
    """What reaches the network of pieces that are written one after the other."""

    async def write() -> list[bytes]:
        network = Written()
        transport = GatheringTransport(network, asyncio.get_running_loop())
        for piece in pieces:
            transport.write(piece)
        if close:
            transport.close()
            assert network.is_closed
        else:
            await asyncio.sleep(0)
        return network.pieces

    return asyncio.run(write())


def test_head_and_body_leave_together() -> None:
    large = bytes(MAX_HELD_BYTES + 1)
    assert written(b"head", b"body", b"") == [b"headbody"]
    assert written(b"head", b"", large, b"rest") == [b"head" + large, b"rest"]
    assert written(large, b"rest") == [large, b"rest"]
    assert written(b"", b"head") == [b"head"]  # of a stream whose first event comes later


def test_nothing_that_is_held_is_lost_when_a_connection_closes() -> None:
    assert written(b"refusal", close=True) == [b"refusal"]
