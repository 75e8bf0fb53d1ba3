"""Requests that become due at random times, whether or not the ones before them were answered."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.stack import HOST

NUM_CONNECTIONS = 16


@dataclass
class Answers:
    """Times of all requests, in seconds.

    A request that waits for a connection waits, too: no slow answer keeps the next ones from being counted.

    Attributes:
        due: Time at which each request was due, from the beginning.
        seconds: Time from then until it was answered.
        num_errors: Number of requests that were not answered with success.
        started: The beginning, by `time.perf_counter`.
    """

    due: NDArray[np.float64]
    seconds: NDArray[np.float64]
    num_errors: int = 0
    started: float = 0.0


def offer(port: int, message: bytes, per_second: float, *, seconds: float, seed: int) -> Answers:
    """Send the message at the times of a Poisson process of this rate."""
    gaps = np.random.default_rng(seed).exponential(1 / per_second, round(per_second * seconds))
    answers = Answers(np.cumsum(gaps), np.zeros(len(gaps)))
    asyncio.run(_offer(port, message, answers))
    return answers


async def _offer(port: int, message: bytes, answers: Answers) -> None:
    numbers = iter(range(len(answers.due)))
    answers.started = time.perf_counter()

    async def converse() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        for number in numbers:  # shared: whichever connection is free takes the next one
            due = answers.started + answers.due[number]
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            try:
                is_right = await _exchange(reader, writer, message)
            except (OSError, asyncio.IncompleteReadError):
                is_right = False
                reader, writer = await asyncio.open_connection(HOST, port)
            answers.seconds[number] = time.perf_counter() - due
            answers.num_errors += not is_right
        writer.close()

    await asyncio.gather(*(converse() for _ in range(NUM_CONNECTIONS)))


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> bool:
    """Whether the answer is 200."""
    writer.write(message)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    return b" 200 " in head[:16]
