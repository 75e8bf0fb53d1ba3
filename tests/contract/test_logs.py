"""What the stack logs: lines of JSON that tell the story of a job."""

import json
import time
from typing import Any

from client.http import SpectrumClient

TINY: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1]},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
}


def lines(server: Any, **wanted: Any) -> list[dict[str, Any]]:
    """Those with these fields; every other line is an object, too, but for what a launcher says at its start."""
    found = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line.items() >= wanted.items()]


def wait_for_lines(server: Any, number: int, **wanted: Any) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 5
    while len(found := lines(server, **wanted)) < number:
        assert time.monotonic() < deadline, wanted
        time.sleep(0.05)
    return found


def test_a_worker_says_what_it_takes_and_how_it_ends(server: Any, client: SpectrumClient) -> None:
    job_id = client.submit(TINY, wait_seconds=30, fresh=True).id
    claimed, ended = wait_for_lines(server, 2, job_id=job_id, logger="worker.job_runner")
    assert (claimed["event"], claimed["attempt"]) == ("claimed", 1)
    assert (ended["event"], ended["attempt"], ended["state"]) == ("ended", 1, "succeeded")
    assert claimed["pid"] == ended["pid"] in server.pids("-m worker")
