"""A request to the server, how its answer is parsed, and the arguments with which httpx sends it."""

import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.client.errors import ProblemResponseError

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 1.0

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Streams of events and long polls keep their connections. By default, the hundred and first would wait for one of them
# to end, and then time out.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)

_HEADER_TEXT = re.compile(r"[!-~](?:[ -~]*[!-~])?")
"""Text that servers and programs in between leave as it is: printable ASCII without spaces at its ends."""

T = TypeVar("T")
_ANSWER_SECONDS = 30.0
_LAST_ANSWER_SECONDS = 2.0  # after a caller's deadline

_CHUNK_BYTES = 2**20

ResultFormat = Literal["json", "npz", "csv", "png", "svg", "pdf"]

Body = BaseModel | Mapping[str, Any]
FilePath = str | os.PathLike[str]
Chunks = Iterator[bytes] | AsyncIterator[bytes]
"""Chunks of a body that is sent while it is read."""

Smoothing = Mapping[str, int | float]
"""Settings that differ from the job's: num_points, kappa and margin, or some of them."""

PictureStyle = Mapping[str, str | int | float]
"""Settings that differ from the default: width_inches, height_inches, dpi and title of a picture, or some of them."""


@dataclass(frozen=True)
class ApiRequest(Generic[T]):
    """A request and the parser of its answer.

    Attributes:
        method: Method of HTTP.
        path: Path below the address of the server.
        read: Parses the body of a successful response.
        body: Body of the request; a path stands for the content of the file, which is sent while it is read.
        query: Query parameters.
        headers: Headers apart from those of every request.
        wait_seconds: How long the server may deliberately wait before it answers.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    _: KW_ONLY
    body: Body | bytes | Path | Chunks | None = None
    query: Mapping[str, str | int | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0

    @contextmanager
    def opened(self, chunks_of: Callable[[BinaryIO], Chunks]) -> Iterator[Self]:
        """Keep the file that is the body open until the end of the block; a body of another sort is left as it is.

        Args:
            chunks_of: Returns the content of an open file in the form that the client of httpx requires.

        Yields:
            The request with chunks of the file as its body.

        Raises:
            OSError: If the file cannot be read.
        """
        if not isinstance(self.body, Path):
            yield self
            return
        with self.body.open("rb") as file:
            yield replace(self, body=chunks_of(file))

    def arguments(self, deadline: float = float("inf")) -> dict[str, Any]:
        """Arguments for httpx's `request`.

        Args:
            deadline: Time of `time.monotonic` by which the caller needs an answer. The server is given a little longer,
                since it may wait until then before it answers.

        Returns:
            The keyword arguments.
        """
        most = max(0.0, deadline - time.monotonic()) + _LAST_ANSWER_SECONDS
        body = self.body.model_dump(mode="json", exclude_none=True) if isinstance(self.body, BaseModel) else self.body
        return {
            "method": self.method,
            "url": self.path,
            "json" if body is None or isinstance(body, Mapping) else "content": body,
            "params": dict(self.query),
            "headers": dict(self.headers),
            "timeout": httpx.Timeout(
                min(_ANSWER_SECONDS + self.wait_seconds, most), connect=min(_ANSWER_SECONDS, most)
            ),
        }

    def finish(self, response: httpx.Response) -> T:
        """Parse the answer.

        Args:
            response: Complete response of the server.

        Returns:
            The parsed answer.

        Raises:
            ProblemResponseError: If the server answers with a problem.
        """
        if response.is_success:
            return self.read(response.content)
        problem = refusal(response)
        raise problem


def connection(base_url: str, api_key: str | None) -> dict[str, Any]:
    """Arguments for httpx's clients with this API key; no proxy is used for a server on this machine.

    Args:
        base_url: Address of the server.
        api_key: API key; None or an empty text for none.

    Returns:
        The keyword arguments.

    Raises:
        ValueError: If the address cannot be that of a server, or the key cannot be sent. The message has no key in it.
    """
    url = _server_url(base_url)
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {header_text(api_key, 'The API key')}"} if api_key else {},
        "limits": _LIMITS,
        "trust_env": url.host not in _LOOPBACK,
    }


def _server_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    is_host = bool(url.host) and (":" in url.host or "%" not in url.host)  # httpx encodes what no name of a host has
    is_port = url.port is None or 0 < url.port < 2**16
    if url.scheme not in ("http", "https") or not is_host or not is_port:
        raise ValueError(f"{text} is not the address of a server, such as https://spectra.example.org")
    return url


def header_text(text: str, what: str) -> str:
    """Check a text that is sent in a header.

    Args:
        text: The text.
        what: What it is, at the beginning of a sentence.

    Returns:
        The text.

    Raises:
        ValueError: If the text cannot be in a header. The message does not contain it.
    """
    if not _HEADER_TEXT.fullmatch(text):
        raise ValueError(f"{what} contains characters that an HTTP header cannot have.")
    return text


def refusal(response: httpx.Response) -> ProblemResponseError:
    """Return the error for a response without success."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(title=response.reason_phrase or "Error", status=response.status_code)
    return ProblemResponseError(problem, retry_after_seconds=retry_after_seconds(response))


def retry_after_seconds(response: httpx.Response) -> float | None:
    """Seconds in the header `Retry-After` of a response; None if it has no such number."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of the file, chunk by chunk."""
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


async def async_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """The rest of the file, chunk by chunk, as the asynchronous iterator that httpx requires."""
    for chunk in chunks(file):
        yield chunk
