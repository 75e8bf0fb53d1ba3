"""Client of the spectrum server: Python, sync and async, and the `spectrum` command."""

from client.async_http import AsyncSpectrumClient
from client.errors import (
    JobFailedError,
    JobOutOfSightError,
    ProblemResponseError,
    ServerUnreachableError,
    SpectrumClientError,
)
from client.http import SpectrumClient

__all__ = [
    "AsyncSpectrumClient",
    "JobFailedError",
    "JobOutOfSightError",
    "ProblemResponseError",
    "ServerUnreachableError",
    "SpectrumClient",
    "SpectrumClientError",
]
