"""The most expensive requests that a server without a GPU answers, and what must be there so that they can be made."""

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.stack import RunningStack
from hessian_spectrum.jobs.creation import JobSpecification
from hessian_spectrum.jobs.store import JobStore

NUM_TAGGED_JOBS = 10_000
NUM_TENSORS, NUM_ESTIMATED_TENSORS, NUM_BLOCKS = 250_000, 200_000, 64
NUM_INLINE_NUMBERS = 1_500_000
_LANCZOS: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [4, 16, 2]},
    "data": {"kind": "gaussian", "num_samples": 32, "input_dim": 4, "output_dim": 2},
    "loss": "mse",
    "method": {"kind": "lanczos", "num_steps": 64, "num_probes": 200},
}
_DECODER = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
_DECODER |= {"intermediate_size": 8, "max_position_embeddings": 64, "vocab_size": 256}


@dataclass(frozen=True)
class Request:
    """As httpx takes it."""

    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExpensiveRequests:
    """By name; the expensive ones by the number of their caller, so that no two are the same."""

    cheap: dict[str, Request]
    expensive: dict[str, Callable[[int], Request]]


def prepared(stack: RunningStack, greedy: str, other: str) -> ExpensiveRequests:
    """Write and compute what the requests ask for.

    Args:  the keys of who asks for the expensive requests, and of the other.
    """
    job_id, others_job = (
        _ended_job(stack.url, key, _LANCZOS | {"seed": seed}) for seed, key in enumerate((greedy, other))
    )
    with stack.redis() as client:
        store, owner = JobStore(client, lease_seconds=60.0, max_attempts=3), greedy.split("_")[1]
        tagged = [
            JobSpecification("spectrum", "{}", tags={"run": str(number), "sweep": "one"})
            for number in range(NUM_TAGGED_JOBS)
        ]
        for record in store.creator.create(tagged, owner=owner)[0]:
            store.cancel(record.id)
    models = stack.data_directory / "models"
    write_checkpoint(models / "large", NUM_TENSORS)
    write_checkpoint(models / "tensors", NUM_ESTIMATED_TENSORS)
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {greedy}"}, timeout=300) as http:
        tokens = _uploaded_tokens(http)
    question = _LANCZOS | {
        "model": {"kind": "causal-lm", "checkpoint": "tensors"},
        "data": {"kind": "artifact", "id": tokens, "num_sequences": 2, "sequence_length": 8},
        "loss": "cross-entropy",
        "method": {"kind": "exact"},
        "blocks": [f"*{number:02x}" for number in range(NUM_BLOCKS)],
    }
    cheap = {"job": Request("GET", f"/v1/jobs/{others_job}"), "ready": Request("GET", "/v1/health/ready")}
    return ExpensiveRequests(cheap, _expensive(job_id, question))


def _expensive(job_id: str, question: dict[str, Any]) -> dict[str, Callable[[int], Request]]:
    def picture(number: int) -> Request:
        return Request("GET", f"/v1/jobs/{job_id}/result.png", {"params": {"kappa": 2 + number / 100}})

    def search(number: int) -> Request:
        return Request("GET", "/v1/jobs", {"params": {"tag": f"run:{number % 9}", "page_size": 200}})

    def models(number: int) -> Request:
        return Request("GET", "/v1/models")

    def estimate(number: int) -> Request:
        return Request("POST", "/v1/estimates", {"json": question | {"seed": number}})

    def numbers(number: int) -> Request:
        body = _large_body(number)
        return Request("POST", "/v1/estimates", {"content": body, "headers": {"Content-Type": "application/json"}})

    def sample(number: int) -> Request:
        law = {"law": "wishart", "ratio": 0.5, "sample": {"size": 1500, "seed": number}}
        return Request("POST", "/v1/random-matrix", {"json": law, "headers": {"Accept": "image/png"}})

    def searched_states(number: int) -> Request:
        return Request("GET", "/v1/jobs", {"params": {"tag": "sweep:one", "state": "succeeded"}})

    return {
        "smoothed pictures": picture,
        "tag searches": search,
        "tag searches by state": searched_states,
        "models": models,
        "estimates": estimate,
        "large bodies": numbers,
        "random matrices": sample,
    }


def _large_body(number: int) -> bytes:
    """A request of some 15 MB."""
    half = NUM_INLINE_NUMBERS // 2
    numbers = ",".join(["0.125", "-0.75"] * (half // 2))
    start = json.dumps(_LANCZOS | {"seed": number, "data": None})
    data = f'"data": {{"kind": "inline", "x": [{numbers}], "y": [{numbers}]}}'
    return start.replace('"data": null', data).replace("[4, 16, 2]", "[1, 2, 1]").encode()


def write_checkpoint(directory: Path, num_tensors: int) -> None:
    """A directory that looks like a decoder with so many tensors, most of them of one number."""
    shapes = {"l.0.e": [256, 8]} | {f"{number:x}": [1] for number in range(num_tensors - 1)}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * (2048 if len(shape) == 2 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    (directory / "config.json").write_text(json.dumps(_DECODER))


def _uploaded_tokens(http: httpx.Client) -> str:
    headers = {"Content-Type": "application/octet-stream"}
    answer = http.post("/v1/artifacts", content=bytes([1, 0, 2, 0] * 100), headers=headers)
    return str(answer.raise_for_status().json()["id"])


def _ended_job(url: str, key: str, question: dict[str, Any]) -> str:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=90) as http:
        job = http.post("/v1/jobs", json=question).raise_for_status().json()
        while job["state"] in ("queued", "running"):
            job = http.get(f"/v1/jobs/{job['id']}", params={"wait": 30}).raise_for_status().json()
            time.sleep(0.1)
        if job["state"] != "succeeded":
            raise RuntimeError(f"a job ended as {job['state']}: {job['error']}")
        return str(job["id"])
