"""Clients that stop sending or stop reading hold neither slots nor memory for long."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.middleware import slow_client
from hessian_spectrum.service.middleware.slow_client import CHUNK_BYTES, ChunkedSender, SlowClient

BODY = bytes(range(256)) * (5 * CHUNK_BYTES // 512)


@pytest.mark.parametrize("body", [b"", b"{}", BODY, memoryview(BODY)], ids=["empty", "small", "large", "view"])
@pytest.mark.parametrize("more", [False, True])
def test_a_body_arrives_as_it_was(body: bytes, more: bool) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(ChunkedSender(send).send({"type": "http.response.body", "body": body, "more_body": more}))
    assert b"".join(message["body"] for message in sent) == bytes(body)
    assert all(len(message["body"]) <= CHUNK_BYTES for message in sent)
    assert [message["more_body"] for message in sent] == [True] * (len(sent) - 1) + [more]


def test_a_caller_who_does_not_read_is_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_client, "CHUNK_SECONDS", 0.05)
    num_sent = 0

    async def send(message: Message) -> None:
        nonlocal num_sent
        num_sent += 1
        if num_sent > 1:
            await asyncio.sleep(60)

    async def answer() -> None:
        sender = ChunkedSender(send)
        async with asyncio.timeout(30):
            with pytest.raises(TimeoutError):
                await sender.send({"type": "http.response.body", "body": BODY})
        assert sender.is_timed_out

    asyncio.run(answer())
    assert num_sent == 2


def test_the_rest_of_the_server_hears_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends in the middleware; one of the application passes it."""
    monkeypatch.setattr(slow_client, "CHUNK_SECONDS", 0.05)
    has_ended = False

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal has_ended
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            if scope["path"] == "/fails":
                raise KeyError
            await send({"type": "http.response.body", "body": BODY})
        finally:
            has_ended = True

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    middleware = SlowClient(application, is_upload=lambda scope: False)
    asyncio.run(middleware({"type": "http", "path": "/"}, receive, send))
    assert has_ended
    with pytest.raises(KeyError):
        asyncio.run(middleware({"type": "http", "path": "/fails"}, receive, send))


JSON = b'{"model": {"kind": "quadratic", "matrix": [[2.0]]}}'


async def in_two_parts(pause_seconds: float) -> AsyncIterator[bytes]:
    yield JSON[:10]
    await asyncio.sleep(pause_seconds)
    yield JSON[10:]


def test_requests_whose_body_never_ends_release_their_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_client, "BODY_SECONDS", 0.3)
    app = create_app(ServiceSettings(redis_url="unix:///nowhere", results_dir=tmp_path, max_requests=3))
    headers = {"Content-Type": "application/json"}

    async def use() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as http:
            slow = [http.post("/v1/closed-form", content=in_two_parts(60)) for _ in range(3)]
            for answer in await asyncio.gather(*slow):
                assert answer.status_code == 408
                assert answer.json()["type"] == "/problems/body-too-slow"
            monkeypatch.setattr(slow_client, "BODY_SECONDS", 30.0)
            answers = await asyncio.gather(*(http.post("/v1/closed-form", content=in_two_parts(0.1)) for _ in range(3)))
            assert [answer.status_code for answer in answers] == [200] * 3

    asyncio.run(use())
