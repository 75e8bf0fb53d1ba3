"""Customers who keep the server busy, ask again when an answer is lost, and compare each result with the right one."""

import io
import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import httpx
import numpy as np

ENDED = ("succeeded", "failed", "cancelled", "expired")
PATIENCE_SECONDS = 180.0
"""After which a job that was accepted counts as stuck, and a question without an answer, too."""
_PAUSE_SECONDS = 0.1


class WrongAnswerError(Exception):
    """The server said what it never may."""


@dataclass
class Order:
    """A job as its customer remembers it."""

    key: str
    name: str
    job_id: str
    state: str = ""
    attempts: int = 0
    deleted: bool = False


class Server:
    """Asks until there is an answer: a server that is killed owes none, one that lives owes the right one."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(15.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, expected: tuple[int, ...], **details: Any) -> httpx.Response:
        """The answer, once there is one other than 503 and 429.

        Raises:
            WrongAnswerError: If its status is not expected, or there is none for minutes.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = self._http.request(method, path, **details)
            except httpx.TransportError:
                time.sleep(_PAUSE_SECONDS)
                continue
            if answer.status_code in expected:
                return answer
            if answer.status_code not in (429, 503):
                raise WrongAnswerError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            time.sleep(_PAUSE_SECONDS)
        raise WrongAnswerError(f"{method} {path}: no answer for {PATIENCE_SECONDS:.0f} s")

    def submit(self, request: dict[str, Any], key: str) -> httpx.Response:
        """Submit, with a key that makes it safe to ask again; computed anew even if the result is known."""
        headers = {"Idempotency-Key": key, "Cache-Control": "no-cache"}
        return self.ask("POST", "/v1/jobs", (200, 202), json=request, headers=headers)

    def ended(self, job_id: str) -> dict[str, Any]:
        """The job, once it ended.

        Raises:
            WrongAnswerError: If it does not for minutes.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            job: dict[str, Any] = self.ask("GET", f"/v1/jobs/{job_id}", (200,), params={"wait": 5}).json()
            if job["state"] in ENDED:
                return job
        raise WrongAnswerError(f"job {job_id} is {job['state']} after {PATIENCE_SECONDS:.0f} s: {job}")

    def numbers(self, job_id: str) -> dict[str, Any]:
        """All that a result says but for the time that it took; the arrays of an npz, too."""
        found = self.ask("GET", f"/v1/jobs/{job_id}/result", (200,)).json()
        arrays: dict[str, Any] = {}
        if (found.pop("arrays", None) or {}) != {}:
            archive = np.load(io.BytesIO(self.ask("GET", f"/v1/jobs/{job_id}/result.npz", (200,)).content))
            arrays = {name: archive[name].tobytes() for name in archive.files if "document" not in name}
        return {"document": _timeless(found), "arrays": arrays}

    def job_ids(self) -> set[str]:
        """Of all jobs that the server knows."""
        found: set[str] = set()
        query: dict[str, Any] = {"page_size": 200}
        while True:
            page = self.ask("GET", "/v1/jobs", (200,), params=query).json()
            found |= {job["id"] for job in page["jobs"]}
            if page["next_page_token"] is None:
                return found
            query["page_token"] = page["next_page_token"]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if name != "wall_time_seconds"}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


class Customers:
    """A few threads that each have one job at the server at any time.

    Attributes:  orders, every job that was accepted; faults, what went wrong; counts, of what they did.
    """

    def __init__(self, url: str, requests: dict[str, dict[str, Any]], right: dict[str, Any], *, seed: int) -> None:
        self._url, self._requests, self._right, self._seed = url, requests, right, seed
        self.orders: list[Order] = []
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, num_customers: int) -> None:
        """Let them in."""
        for number in range(num_customers):
            self._threads.append(threading.Thread(target=self._visit, args=(number,), daemon=True))
            self._threads[-1].start()

    def leave(self) -> None:
        """Submit nothing more, and wait until every job has ended."""
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def known(self) -> set[str]:
        """Jobs that the server has to know: accepted, and no wish to delete them yet."""
        return {order.job_id for order in list(self.orders) if not order.deleted}

    @property
    def num_ended(self) -> int:
        """Jobs that were seen to end."""
        return sum(1 for order in list(self.orders) if order.state)

    def _visit(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        with Server(self._url) as server:
            for count in itertools.count():
                if self._closing.is_set():
                    return
                name = chance.choice(sorted(self._requests))
                try:
                    self._order(server, chance, name, key=f"{self._seed}-{number}-{count}")
                except Exception as error:  # noqa: BLE001 - whatever it is, the report shall tell it
                    self.faults.append(f"{name}: {type(error).__name__}: {error}")
                    print(self.faults[-1], file=sys.stderr, flush=True)

    def _order(self, server: Server, chance: random.Random, name: str, *, key: str) -> None:
        answer = server.submit(self._requests[name], key)
        order = Order(key, name, answer.json()["id"])
        self.orders.append(order)
        if chance.random() < 0.2:
            self._submit_again(server, order)
        cancelled = chance.random() < 0.15
        if cancelled:
            time.sleep(2 * chance.random())
            server.ask("POST", f"/v1/jobs/{order.job_id}/cancel", (200, 202))
            self.counts["cancelled while under way"] += 1
        job = server.ended(order.job_id)
        self._judge(server, order, job, cancelled=cancelled)
        order.state, order.attempts = job["state"], job["attempt"]
        if chance.random() < 0.25:
            self._delete(server, order)

    def _submit_again(self, server: Server, order: Order) -> None:
        again = server.submit(self._requests[order.name], order.key)
        self.counts["submitted twice with one key"] += 1
        if again.json()["id"] != order.job_id or again.headers.get("idempotency-replayed") != "true":
            raise WrongAnswerError(f"key {order.key} stands for {order.job_id} and for {again.json()['id']}")

    def _judge(self, server: Server, order: Order, job: dict[str, Any], *, cancelled: bool) -> None:
        if job["state"] == "cancelled" and cancelled:
            return
        if job["state"] != "succeeded":
            raise WrongAnswerError(f"job {order.job_id} ended as {job['state']}: {json.dumps(job['error'])}")
        found = server.numbers(order.job_id)
        self.counts["results compared"] += 1
        if found != self._right[order.name]:
            different = [name for name in found["document"] if found["document"][name] != _of(self._right, order, name)]
            raise WrongAnswerError(f"job {order.job_id} after {job['attempt']} attempts has wrong {different}")

    def _delete(self, server: Server, order: Order) -> None:
        order.deleted = True
        server.ask("DELETE", f"/v1/jobs/{order.job_id}", (204, 404))  # 404: of a question whose answer was lost
        server.ask("GET", f"/v1/jobs/{order.job_id}", (404,))
        self.counts["deleted"] += 1


def _of(right: dict[str, Any], order: Order, name: str) -> Any:
    return right[order.name]["document"].get(name)


def undisturbed(url: str, requests: dict[str, dict[str, Any]], say: Callable[[str], None]) -> dict[str, Any]:
    """The right numbers of every request, from jobs that nobody disturbs."""
    right = {}
    with Server(url) as server:
        submitted = {name: server.submit(request, f"undisturbed-{name}") for name, request in requests.items()}
        for name, answer in submitted.items():
            job = server.ended(answer.json()["id"])
            if job["state"] != "succeeded":
                raise WrongAnswerError(f"{name} undisturbed: {job}")
            right[name] = server.numbers(job["id"])
            say(f"undisturbed {name}")
    return right


def known_jobs(url: str) -> set[str]:
    """Ids of all jobs that the server knows."""
    with Server(url) as server:
        return server.job_ids()
