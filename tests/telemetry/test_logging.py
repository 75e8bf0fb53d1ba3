"""Lines of the log: one JSON object each, with the ids of what they are about, whatever a user wrote."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest

from hessian_spectrum.telemetry.logging import LOG_FIELDS, LogSettings, configure_logging

FORGED = 'evil"\n{"level": "INFO", "message": "all is well"}\r\x1b[2K\u2028more'


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """As it was, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def log_with(fields: dict[str, Any], log: Callable[[], None]) -> None:
    """Log in a context of these fields."""

    def in_context() -> None:
        LOG_FIELDS.set(fields)
        log()

    copy_context().run(in_context)


def configure(monkeypatch: pytest.MonkeyPatch, form: str, level: str = "INFO") -> None:
    monkeypatch.setenv("SPECTRUM_LOG_FORMAT", form)
    monkeypatch.setenv("SPECTRUM_LOG_LEVEL", level)
    configure_logging(LogSettings())


@pytest.mark.usefixtures("root_logger")
def test_a_line_is_an_object_with_the_ids_of_its_context(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(monkeypatch, "json")
    log_with(
        {"request_id": "r1", "job_id": "j1", "attempt": 2},
        lambda: logging.getLogger("a.b").info("it %s", FORGED, extra={"event": "claimed"}),
    )
    logging.getLogger("a.b").debug("left out")
    logging.getLogger("a.b").warning("outside")
    lines = [json.loads(line) for line in capsys.readouterr().err.split("\n") if line]
    assert len(lines) == 2
    inside: dict[str, Any] = lines[0]
    assert inside["message"] == f"it {FORGED}"
    named = {"level": "INFO", "logger": "a.b", "request_id": "r1", "job_id": "j1", "attempt": 2, "event": "claimed"}
    assert inside.items() >= named.items()
    assert isinstance(inside["pid"], int)
    assert inside["time"].endswith("Z")
    assert next(iter(inside)) == "time"
    assert "job_id" not in lines[1]


@pytest.mark.usefixtures("root_logger")
def test_no_text_of_a_user_passes_for_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(monkeypatch, "text")
    log_with({"job_id": "j1"}, lambda: logging.getLogger("a").info(FORGED))
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("a").exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("    ")] == [lines[0], lines[2]]
    assert all(line.isprintable() for line in lines)
    assert lines[1].endswith("job_id=j1")


@pytest.mark.usefixtures("root_logger")
def test_libraries_are_heard_when_they_warn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(monkeypatch, "json")
    logging.getLogger("celery.worker").info("chat")
    logging.getLogger("celery.worker").warning("trouble")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["trouble"]


@pytest.mark.parametrize("module", ["hessian_spectrum.service", "hessian_spectrum.worker"])
def test_a_level_that_is_none_is_named(module: str) -> None:
    environment = {"SPECTRUM_LOG_LEVEL": "LOUD", "SPECTRUM_REDIS_URL": "unix:///none", "SPECTRUM_RESULTS_DIR": "/none"}
    finished = subprocess.run(
        [sys.executable, "-m", module], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert finished.returncode == 78
    assert "SPECTRUM_LOG_LEVEL: Input should be 'DEBUG'" in finished.stderr
