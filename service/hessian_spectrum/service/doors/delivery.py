"""Answers go out piece by piece, to callers who read them."""

import asyncio

from starlette.types import Message, Send

PIECE_BYTES = 2**18
"""What waits for a caller of one answer is little more; the rest waits for the caller to read."""

PIECE_SECONDS = 30.0
"""In which a piece is read by the network; callers who do not read would else keep their places and memory for ever."""


class Delivery:
    """One answer.

    Attributes:  is_given_up, whether the caller did not read it.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_given_up = False

    async def send(self, message: Message) -> None:
        """Send on, a long body in pieces.

        Raises:
            TimeoutError: If the caller does not read.
        """
        body = message.get("body", b"")
        if len(body) <= PIECE_BYTES:
            await self._in_time(message)
            return
        view = memoryview(body).cast("B")
        for start in range(0, len(view), PIECE_BYTES):
            end = start + PIECE_BYTES
            more = end < len(view) or message.get("more_body", False)
            await self._in_time({"type": message["type"], "body": bytes(view[start:end]), "more_body": more})

    async def _in_time(self, message: Message) -> None:
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                await self._send(message)
        except TimeoutError:
            self.is_given_up = True
            raise
