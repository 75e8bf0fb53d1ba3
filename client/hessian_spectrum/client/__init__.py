"""Client of the spectrum server: synchronous and asynchronous Python classes, and the `spectrum` command."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hessian_spectrum.api_schemas.version import __version__

if TYPE_CHECKING:
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

_MODULES = {"AsyncSpectrumClient": "async_http", "SpectrumClient": "http"}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: commands that need no client start in a third of the time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
