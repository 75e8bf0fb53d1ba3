"""Client of the spectrum server: Python, sync and async, and the `spectrum` command."""

from client.errors import JobFailedError, ProblemResponseError, SpectrumClientError
from client.http import AsyncSpectrumClient, SpectrumClient

__all__ = ["AsyncSpectrumClient", "JobFailedError", "ProblemResponseError", "SpectrumClient", "SpectrumClientError"]
