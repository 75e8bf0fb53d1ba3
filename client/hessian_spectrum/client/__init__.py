"""Client of the spectrum server: synchronous and asynchronous Python classes, and the `spectrum` command."""

from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import (
    JobFailedError,
    JobOutOfSightError,
    JobTimeoutError,
    ProblemResponseError,
    ServerOutageError,
    ServerUnreachableError,
    SpectrumClientError,
)
from hessian_spectrum.client.http import SpectrumClient

__all__ = [
    "AsyncSpectrumClient",
    "JobFailedError",
    "JobOutOfSightError",
    "JobTimeoutError",
    "ProblemResponseError",
    "ServerOutageError",
    "ServerUnreachableError",
    "SpectrumClient",
    "SpectrumClientError",
    "__version__",
]
