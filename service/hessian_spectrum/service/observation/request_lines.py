"""One line of the log for each request."""

import asyncio
import logging
import os
import sys
from datetime import UTC, datetime

LOGGER = "hessian_spectrum.service.requests"

_SECONDS_BETWEEN_WRITES = 0.1


class RequestLines:
    """Lines as the other loggers write them, gathered for a tenth of a second.

    `logging` with a formatter of any record takes a tenth of the time of a closed form, this a fiftieth. What is
    written here needs no escapes: none of it is text of a caller but the id, whose characters are limited.

    Args:
        as_json: Else text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lines: list[str] = []
        self._logger = logging.getLogger(LOGGER)

    def add(
        self, method: str, route: str, status: int, seconds: float, request_id: str, key_id: str | None = None
    ) -> None:
        """Note a request that was answered; to be called in an event loop."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(_SECONDS_BETWEEN_WRITES, self.write)
        line = _json_line if self._as_json else _text_line
        self._lines.append(line(method, route, status, 1e3 * seconds, request_id, key_id))

    def write(self) -> None:
        """Write what was gathered."""
        lines, self._lines = self._lines, []
        if lines:
            sys.stderr.write("".join(lines))
            sys.stderr.flush()


def _json_line(method: str, route: str, status: int, milliseconds: float, request_id: str, key_id: str | None) -> str:
    key = f', "key_id": "{key_id}"' if key_id else ""
    return (
        f'{{"time": "{_now()}", "level": "INFO", "logger": "{LOGGER}", "message": "{method} {route} {status}", '
        f'"pid": {os.getpid()}, "event": "request", "method": "{method}", "route": "{route}", "status": {status}, '
        f'"milliseconds": {milliseconds:.3f}, "request_id": "{request_id}"{key}}}\n'
    )


def _text_line(method: str, route: str, status: int, milliseconds: float, request_id: str, key_id: str | None) -> str:
    key = f" key_id={key_id}" if key_id else ""
    return (
        f"{_now()} INFO {LOGGER}[{os.getpid()}]: {method} {route} {status} in {milliseconds:.1f} ms "
        f"request_id={request_id}{key}\n"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
