"""Structured logging to standard error, with fields of the current request or job on every line."""

import logging
import re
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

LogField = str | int

LOG_FIELDS: ContextVar[Mapping[str, LogField]] = ContextVar("log_fields", default=MappingProxyType({}))
"""Fields of every line that is logged in this context.

A thread or task that is started within the context needs a copy of it to log them, too.
"""

_VERBOSE_LIBRARIES = ("celery", "kombu", "amqp", "matplotlib", "PIL", "httpx", "torch", "uvicorn")
"""Libraries whose messages below WARNING are written only at level DEBUG."""

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class LogSettings(BaseSettings):
    """Settings of the log, common to all processes."""

    model_config = SettingsConfigDict(env_prefix="SPECTRUM_", frozen=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Messages below this level are not written."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="Form of a line: a JSON object, or text; auto writes text on a terminal."
    )

    @property
    def as_json(self) -> bool:
        """Whether each line is a JSON object."""
        return self.log_format == "json" or (self.log_format == "auto" and not sys.stderr.isatty())


class ContextFilter(logging.Filter):
    """Adds the fields of the current context to each record, except those that the record itself sets."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        for name, value in LOG_FIELDS.get().items():
            record.__dict__.setdefault(name, value)
        return True


def configure_logging(settings: LogSettings) -> None:
    """Send the log of this process to standard error, including warnings that libraries issue."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if settings.as_json else _TextFormatter())
    handler.addFilter(ContextFilter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.INFO if settings.log_level == "DEBUG" else logging.WARNING)
    logging.captureWarnings(True)


class _UtcTime(logging.Formatter):
    converter = time.gmtime  # type: ignore[assignment]
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _JsonFormatter(_UtcTime, JsonFormatter):
    """Writes a JSON object per line: JSON escapes line ends, so text from a client cannot forge a line."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s %(process)d",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "process": "pid"},
            reserved_attrs=[*RESERVED_ATTRS, "taskName", "color_message"],
        )


class _TextFormatter(_UtcTime):
    """Writes text with indented continuation lines and escaped control characters, so a client cannot forge a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line with the fields of its context at the end."""
        fields = "".join(f" {name}={value}" for name, value in LOG_FIELDS.get().items())
        text = _CONTROL_CHARACTERS.sub(lambda match: repr(match[0])[1:-1], super().format(record) + fields)
        return text.replace("\n", "\n    ")
