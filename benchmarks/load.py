"""Requests over plain sockets: an HTTP library would cost more than what it measures."""

import asyncio
import socket
import time

from benchmarks.stack import HOST

NUM_CONNECTIONS = 4


def request_bytes(path: str, body: bytes, media_type: str) -> tuple[bytes, bytes]:
    """Head and body of a POST that keeps its connection."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body


def seconds_for_one(port: int, path: str, body: bytes, *, media_type: str) -> float:
    """From the first byte sent to the last one received."""
    head, body = request_bytes(path, body, media_type)
    with socket.create_connection((HOST, port)) as connection, connection.makefile("rb") as stream:
        started = time.perf_counter()
        connection.sendall(head)
        connection.sendall(body)
        _check(stream.readline())
        length = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        stream.read(length)
        return time.perf_counter() - started


def requests_per_second(port: int, path: str, body: bytes, *, seconds: float) -> float:
    """Of a few connections that each send the next request once the last one is answered."""
    message = b"".join(request_bytes(path, body, "application/json"))
    return asyncio.run(_block(port, message, seconds))


async def _block(port: int, message: bytes, seconds: float) -> float:
    started = time.perf_counter()
    deadline = started + seconds
    counts = await asyncio.gather(*(_converse(port, message, deadline) for _ in range(NUM_CONNECTIONS)))
    return sum(counts) / (time.perf_counter() - started)


async def _converse(port: int, message: bytes, deadline: float) -> int:
    reader, writer = await asyncio.open_connection(HOST, port)
    count = 0
    while time.perf_counter() < deadline:
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _check(head)
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        count += 1
    writer.close()
    await writer.wait_closed()
    return count


def _check(head: bytes) -> None:
    if b" 200 " not in head[:16]:
        raise RuntimeError(f"the server answers {head[:60]!r}")
