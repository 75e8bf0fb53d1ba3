"""A caller who keeps jobs waiting in the queue, looks at each result, and deletes what ended."""

import itertools
import time
from collections import deque
from typing import Any

import httpx

from benchmarks.background import Background

NUM_WAITING = 4
_BASE: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 16, 10]},
    "data": {"kind": "digits", "num_samples": 256},
    "loss": "cross-entropy",
}
JOBS: list[dict[str, Any]] = [
    _BASE | {"method": {"kind": "lanczos", "num_steps": 40, "num_probes": 4}},
    _BASE | {"method": {"kind": "exact"}},
    _BASE | {"method": {"kind": "top-k", "k": 5, "which": "both-ends"}},
    _BASE | {"method": {"kind": "trace", "num_probes": 60}, "train": {"num_steps": 100, "learning_rate": 0.1}},
]


class JobStream(Background):
    """Submits the jobs above in turn, each with another seed; deleted, they leave no more records than there were.

    Attributes:  num_done; faults, of jobs that did not succeed.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._http = httpx.Client(base_url=url, timeout=60, headers={"Cache-Control": "no-cache"})
        self.num_done = 0
        self.faults: list[str] = []

    def close(self) -> None:
        """Once all its jobs are done."""
        super().close()
        self._http.close()

    def wait_for_first(self) -> None:
        """Until each kind of job was done once: then the worker has loaded what it needs."""
        while self.num_done < len(JOBS):
            if self.faults:
                raise RuntimeError(f"jobs fail: {self.faults}")
            time.sleep(0.1)

    def run(self) -> None:
        """Until told to stop."""
        waiting: deque[str] = deque()
        for number in itertools.count():
            if self.closing.is_set():
                break
            answer = self._http.post("/v1/jobs", json=JOBS[number % len(JOBS)] | {"seed": number})
            if answer.is_error:
                self.faults.append(answer.text)
                time.sleep(1)
                continue
            waiting.append(answer.json()["id"])
            if len(waiting) > NUM_WAITING:
                self._take(waiting.popleft())
        while waiting:
            self._take(waiting.popleft())

    def _take(self, job_id: str) -> None:
        while (job := self._http.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json())["state"] in (
            "queued",
            "running",
        ):
            pass
        if job["state"] != "succeeded" or self._http.get(f"/v1/jobs/{job_id}/result").is_error:
            self.faults.append(f"{job['state']}: {job['error']}")
        self._http.delete(f"/v1/jobs/{job_id}")
        self.num_done += 1
