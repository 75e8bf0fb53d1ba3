"""Answers go out piece by piece, and a caller who does not read one holds nothing for long."""

import asyncio

import pytest
from starlette.types import Message

from hessian_spectrum.service.doors import delivery
from hessian_spectrum.service.doors.delivery import PIECE_BYTES, Delivery

BODY = bytes(range(256)) * (5 * PIECE_BYTES // 512)


@pytest.mark.parametrize("body", [b"", b"{}", BODY, memoryview(BODY)], ids=["empty", "small", "large", "view"])
@pytest.mark.parametrize("more", [False, True])
def test_a_body_arrives_as_it_was(body: bytes, more: bool) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Delivery(send).send({"type": "http.response.body", "body": body, "more_body": more}))
    assert b"".join(message["body"] for message in sent) == bytes(body)
    assert all(len(message["body"]) <= PIECE_BYTES for message in sent)
    assert [message["more_body"] for message in sent] == [True] * (len(sent) - 1) + [more]


def test_a_caller_who_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PIECE_SECONDS", 0.05)
    num_sent = 0

    async def send(message: Message) -> None:
        nonlocal num_sent
        num_sent += 1
        if num_sent > 1:
            await asyncio.sleep(60)

    async def answer() -> None:
        ours = Delivery(send)
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                await ours.send({"type": "http.response.body", "body": BODY})
        assert ours.is_given_up

    asyncio.run(answer())
    assert num_sent == 2
