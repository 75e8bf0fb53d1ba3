"""How a process writes its log, to standard error."""

import logging
import re
import sys
import time
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from hessian_spectrum.logs.context import ContextFilter, current_log_fields

_TALKATIVE = ("celery", "kombu", "amqp", "matplotlib", "PIL", "httpx", "torch", "uvicorn")
"""Libraries of which only warnings matter to an operator."""

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class LogSettings(BaseSettings):
    """What is logged, and as what."""

    model_config = SettingsConfigDict(env_prefix="SPECTRUM_", frozen=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="lines of less weight are left out"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto: text on a terminal, else one JSON object a line"
    )

    @property
    def as_json(self) -> bool:
        """Whether lines are JSON objects."""
        return self.log_format == "json" or (self.log_format == "auto" and not sys.stderr.isatty())


def configure_logging(settings: LogSettings) -> None:
    """Send what this process logs to standard error, warnings of libraries included."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if settings.as_json else _TextFormatter())
    handler.addFilter(ContextFilter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.INFO if settings.log_level == "DEBUG" else logging.WARNING)
    logging.captureWarnings(True)


class _UtcTime(logging.Formatter):
    converter = time.gmtime  # type: ignore[assignment]
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _JsonFormatter(_UtcTime, JsonFormatter):
    """Escapes whatever could end a line, so that no text of a user can pass for one of ours."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s %(process)d",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "process": "pid"},
            reserved_attrs=[*RESERVED_ATTRS, "taskName", "color_message"],
        )


class _TextFormatter(_UtcTime):
    """What goes on in a second line is indented, so that no text of a user can pass for one of ours."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the fields of its context."""
        fields = "".join(f" {name}={value}" for name, value in current_log_fields().items())
        text = _CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], super().format(record) + fields)
        return text.replace("\n", "\n    ")
