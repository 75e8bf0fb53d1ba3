"""Fields that every line of one request or of one attempt at a job carries."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

LogField = str | int

_fields: ContextVar[Mapping[str, LogField]] = ContextVar("log_fields", default=MappingProxyType({}))


@contextmanager
def log_fields(**fields: LogField) -> Iterator[None]:
    """Add these fields to all lines written inside; threads and tasks begun there need a copy of the context."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def current_log_fields() -> Mapping[str, LogField]:
    """Those that a line written here would carry."""
    return _fields.get()


class ContextFilter(logging.Filter):
    """Gives each record the fields of the context that it was written in; what the record says itself counts more."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        for name, value in _fields.get().items():
            record.__dict__.setdefault(name, value)
        return True
