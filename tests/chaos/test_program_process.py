"""Programs run in a process of their own: however that ends, the job says so, and others do not notice."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.security.program_files import BATCH, Parts, changed, node, tensor, value

pytestmark = pytest.mark.slow

_SECONDS = 240.0
_ATTEMPTS = 2
_BUILT_IN: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10]},
    "data": {"kind": "digits", "num_samples": 128},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 10, "num_probes": 2},
    "train": {"num_steps": 1_000_000, "learning_rate": 0.01},
}


@pytest.fixture(scope="module")
def stack(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = {"SPECTRUM_LEASE_SECONDS": "6", "SPECTRUM_MAX_ATTEMPTS": str(_ATTEMPTS)}
    server = start_server(tmp_path_factory.mktemp("programs") / "data", workers=2, **settings)
    yield server
    server.stop()


@pytest.fixture
def http(stack: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=60) as http:
        yield http


def slow(num_products: int, order: int = 3000) -> Callable[[Parts], None]:
    """A network that multiplies large matrices of zeros, again and again, which it says are of one number."""

    def change(each: Parts) -> None:
        size, zero = {"as_ints": [order, order]}, {"as_float": 0.0}
        calls = [node("torch.ops.aten.full.default", "m0", ("size", size), ("fill_value", zero))]
        for index in range(num_products):
            factors = ("self", value(f"m{index}")), ("mat2", value("m0"))
            calls.append(node("torch.ops.aten.mm.default", f"m{index + 1}", *factors))
        calls += [
            node("torch.ops.aten.sum.default", "total", ("self", value(f"m{num_products}"))),
            node("torch.ops.aten.add.Tensor", "more", ("self", value("out")), ("other", value("total"))),
        ]
        each.nodes.extend(calls)
        each.values.update({f"m{index}": tensor(1) for index in range(num_products + 1)})
        each.values.update(total=tensor(), more=tensor(BATCH, 1))
        each.return_value("more")

    return change


def submitted(http: httpx.Client, program: bytes, **fields: Any) -> str:
    """Id of the job of an exact spectrum of a program."""
    upload = http.post("/v1/artifacts", content=program, headers={"Content-Type": "application/vnd.pytorch.pt2"})
    assert upload.status_code in (200, 201), upload.text
    request = {
        "kind": "spectrum",
        "model": {"kind": "exported", "program": {"kind": "artifact", "id": upload.json()["id"]}},
        "data": {"kind": "inline", "x": [[1.0, 2.0], [0.5, -1.0], [0.1, 0.2]], "y": [[0.5], [0.1], [-0.3]]},
        "loss": "mse",
        "method": {"kind": "exact"},
    }
    return begun(http, request | fields)


def begun(http: httpx.Client, request: dict[str, Any]) -> str:
    accepted = http.post("/v1/jobs", json=request)
    assert accepted.status_code in (200, 201, 202), accepted.text
    return str(accepted.json()["id"])


def job(http: httpx.Client, job_id: str) -> dict[str, Any]:
    record: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
    return record


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + _SECONDS
    while (record := job(http, job_id))["state"] not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, record
        time.sleep(0.05)
    return record


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def job_processes(stack: Any) -> list[int]:
    """Processes of programs: children of the starters, which are children of the pool's processes."""
    pids = stack.pids("-m hessian_spectrum.worker")
    workers = [pid for pid in pids if _parent(pid) not in pids]
    pool = [pid for pid in pids if _parent(pid) in workers]
    starters = [pid for pid in pids if _parent(pid) in pool]
    return [pid for pid in pids if _parent(pid) in starters]


def process_of_attempt(stack: Any, http: httpx.Client, job_id: str, attempt: int) -> int:
    """The process that computes this attempt of the only program that runs."""
    deadline = time.monotonic() + 60
    while True:
        record, pids = job(http, job_id), job_processes(stack)
        if record["state"] == "running" and record["attempt"] == attempt and len(pids) == 1:
            return pids[0]
        assert time.monotonic() < deadline, (record, pids)
        time.sleep(0.02)


@pytest.fixture
def beside(http: httpx.Client) -> Iterator[str]:
    """A job of another kind that computes all the while, in its first attempt."""
    job_id = begun(http, _BUILT_IN)
    deadline = time.monotonic() + 60
    while job(http, job_id)["progress"]["phase"] != "training":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield job_id
    record = job(http, job_id)
    assert (record["state"], record["attempt"]) == ("running", 1), record
    http.post(f"/v1/jobs/{job_id}/cancel")
    http.delete(f"/v1/jobs/{job_id}")


@pytest.mark.usefixtures("beside")
def test_a_program_without_end_is_ended_at_its_time_limit(stack: Any, http: httpx.Client) -> None:
    record = ended(http, submitted(http, changed(slow(2000))(), time_limit_seconds=4.0))
    assert record["state"] == "failed", record
    assert record["error"]["type"] == "/problems/time-limit", record
    following = ended(http, submitted(http, changed(slow(1, order=4))()))
    assert following["state"] == "succeeded", following
    deadline = time.monotonic() + 30
    while job_processes(stack):
        assert time.monotonic() < deadline, job_processes(stack)
        time.sleep(0.05)


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_program_whose_process_dies_fails_alone(stack: Any, http: httpx.Client, number: signal.Signals) -> None:
    job_id = submitted(http, changed(slow(2000 + number))())
    for attempt in range(1, _ATTEMPTS + 1):
        os.kill(process_of_attempt(stack, http, job_id, attempt), number)
    record = ended(http, job_id)
    assert (record["state"], record["attempt"]) == ("failed", _ATTEMPTS), record
    assert f"ended by signal {int(number)} ({number.name})" in record["error"]["detail"], record


@pytest.mark.usefixtures("beside")
def test_a_program_whose_process_is_silent_is_killed_from_outside(stack: Any, http: httpx.Client) -> None:
    """A stopped process cannot end itself, as one whose interpreter is held by a call."""
    job_id = submitted(http, changed(slow(2100))())
    stopped = []
    for attempt in range(1, _ATTEMPTS + 1):
        stopped.append(process_of_attempt(stack, http, job_id, attempt))
        os.kill(stopped[-1], signal.SIGSTOP)
    record = ended(http, job_id)
    assert (record["state"], record["attempt"]) == ("failed", _ATTEMPTS), record
    assert "stopped responding" in record["error"]["detail"], record
    assert not set(stopped) & set(stack.pids("-m hessian_spectrum.worker"))


@pytest.mark.usefixtures("beside")
def test_each_job_of_a_program_has_a_process_of_its_own(stack: Any, http: httpx.Client) -> None:
    pids = []
    for number in (2200, 2201):
        job_id = submitted(http, changed(slow(number))())
        pids.append(process_of_attempt(stack, http, job_id, 1))
        http.post(f"/v1/jobs/{job_id}/cancel")
        assert ended(http, job_id)["state"] == "cancelled"
    assert len(set(pids)) == 2
