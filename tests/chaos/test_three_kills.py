"""Jobs of every kind, killed at three random points over the real stack, end with the numbers of undisturbed ones."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.chaos.campaign.clients import Server
from tests.chaos.campaign.faults import SETTINGS

BASE: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 24, 10], "activation": "tanh"},
    "data": {"kind": "digits", "num_samples": 1024},
    "loss": "cross-entropy",
}
LANCZOS = {"kind": "lanczos", "num_steps": 50, "num_probes": 10, "num_points": 256}
SGD = {"num_steps": 4000, "learning_rate": 0.01}
GPT2 = {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 256}
TEXT = {"kind": "text", "name": "pydoc-topics", "num_sequences": 4, "sequence_length": 16}
PRETRAIN = {"num_steps": 300, "batch_size": 2, "measure_every": [{"every": 150}]}
JOBS: dict[str, dict[str, Any]] = {
    "lanczos": BASE | {"method": LANCZOS | {"reorthogonalisation": "full"}},
    "lanczos-without-basis": BASE | {"method": LANCZOS | {"reorthogonalisation": "none", "num_probes": 20}},
    "lanczos-of-ggn": BASE | {"method": LANCZOS | {"num_probes": 20}, "matrix": "ggn", "precision": "float64"},
    "lanczos-trained": BASE | {"method": LANCZOS, "train": SGD},
    "lanczos-of-blocks": BASE | {"method": LANCZOS, "blocks": ["layers.0.*", "layers.1.*"]},
    "exact": BASE
    | {
        "model": BASE["model"] | {"widths": [64, 8, 10]},
        "method": {"kind": "exact", "eigenvectors": True},
        "train": SGD,
    },
    "top-k": BASE | {"method": {"kind": "top-k", "k": 40, "which": "both-ends"}, "precision": "float64"},
    "trace": BASE | {"method": {"kind": "trace", "estimator": "hutch++", "num_probes": 600, "diagonal": True}},
    "comparison": {"kind": "hessian-vs-ggn", "models": [GPT2], "data": TEXT, "pretrain": PRETRAIN},
}

ONE_OF_EACH = {"lanczos-trained", "exact", "top-k", "trace", "comparison"}
"""Kinds of checkpoints; the others are further ways into them."""


@pytest.fixture(scope="module")
def stack(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = start_server(tmp_path_factory.mktemp("kills") / "data", **SETTINGS)
    yield server
    server.stop()


@pytest.fixture
def server(stack: Any) -> Iterator[Server]:
    with Server(stack.url) as server:
        yield server


def is_running(server: Server, job_id: str, attempt: int) -> bool:
    """Whether that attempt runs, once it has begun; False if the job ended before."""
    deadline = time.monotonic() + 60
    while True:
        job = server.ask("GET", f"/v1/jobs/{job_id}", (200,)).json()
        if job["state"] == "running" and job["attempt"] == attempt:
            return True
        if job["state"] == "succeeded":
            return False
        assert job["state"] in ("queued", "running"), job
        assert time.monotonic() < deadline, job
        time.sleep(0.01)


def kill_three_times(stack: Any, server: Server, job_id: str, *, pause: Callable[[], float]) -> bool:
    """Whether each kill met the job at work."""
    for attempt in (1, 2, 3):
        if not is_running(server, job_id, attempt):
            return False
        time.sleep(pause())
        os.kill(stack.pids("-m hessian_spectrum.worker")[1], signal.SIGKILL)
    return is_running(server, job_id, 4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ONE_OF_EACH else pytest.mark.long) for name in JOBS]
)
def test_a_job_killed_at_three_points_equals_the_undisturbed_one(stack: Any, server: Server, name: str) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)
    undisturbed = server.ended(server.submit(JOBS[name], f"{seed}-undisturbed").json()["id"])
    assert (undisturbed["state"], undisturbed["attempt"]) == ("succeeded", 1), undisturbed
    right = server.numbers(undisturbed["id"])
    result = server.ask("GET", f"/v1/jobs/{undisturbed['id']}/result", (200,)).json()
    parts = result.get("spectra") or [result]
    seconds = sum(part["provenance"]["wall_time_seconds"] for part in parts) / len(parts)

    for share in (0.25, 0.1, 0.04):  # of the time that it took; on a machine that is faster now, it may end early
        job_id = server.submit(JOBS[name], f"{seed}-killed-{share}").json()["id"]
        if kill_three_times(stack, server, job_id, pause=partial(chance.uniform, 0.0, share * seconds)):
            break
    job = server.ended(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 4), job
    assert server.numbers(job_id) == right
