"""What a stack has logged."""

import json
import time
from typing import Any


def lines(server: Any, **wanted: Any) -> list[dict[str, Any]]:
    """Those with these fields; every other line is an object, too, but for what a launcher says at its start."""
    whole = server.log.read_text().rpartition("\n")[0].splitlines()
    found = [json.loads(line) for line in whole if line.startswith("{")]
    return [line for line in found if line.items() >= wanted.items()]


def wait_for_lines(server: Any, number: int, **wanted: Any) -> list[dict[str, Any]]:
    """At least so many of them."""
    deadline = time.monotonic() + 30
    while len(found := lines(server, **wanted)) < number:
        assert time.monotonic() < deadline, wanted
        time.sleep(0.05)
    return found


def ended_by(server: Any, job_id: str) -> str:
    """The module that ended a job: the runner, or the supervision that does not wait for a deaf computation."""
    [line] = wait_for_lines(server, 1, job_id=job_id, event="ended")
    return str(line["logger"]).rpartition(".")[2]
