"""`python -m tests.golden.snapshot URL FILE`: the numbers of a server for a fixed set of questions.

Two builds give the same numbers, to the last bit, if their files are equal. The program speaks HTTP alone, so that one
version of it serves both. The set: every example of the OpenAPI document, the golden closed forms, the jobs of the
fault campaign, and every model kind with every method, matrix and precision that a small model allows.
"""

import hashlib
import io
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.chaos.campaign.workload import requests as campaign_requests

_CASES = json.loads(Path(__file__).with_name("closed_form.json").read_text())["cases"]
_CHANGING = {"provenance", "links", "id", "created_at", "started_at", "ended_at", "seconds", "idempotency_key"}
_CHANGING |= {"arrays"}  # the digest of a file that states how long the job took; the arrays themselves are compared

_VECTORS: dict[str, Any] = {
    "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 3, "output_dim": 2},
    "loss": "mse",
}
_SEQUENCES: dict[str, Any] = {
    "kind": "gaussian-sequences",
    "num_sequences": 3,
    "sequence_length": 4,
    "embedding_dim": 3,
}
_TEXT: dict[str, Any] = {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8}
_GPT2: dict[str, Any] = {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 8, "vocab_size": 256}
_DIGITS: dict[str, Any] = {"data": {"kind": "digits", "num_samples": 64}, "loss": "cross-entropy"}
_ATTENTION: dict[str, Any] = {"kind": "attention-layer", "embedding_dim": 3, "key_dim": 2}
_LANCZOS: dict[str, Any] = {"kind": "lanczos", "num_steps": 10, "num_probes": 3, "num_points": 32}

_PROBLEMS: dict[str, dict[str, Any]] = {
    "mlp-tanh": {"model": {"kind": "mlp", "widths": [64, 6, 10], "activation": "tanh"}} | _DIGITS,
    "mlp-relu": {"model": {"kind": "mlp", "widths": [3, 5, 2], "activation": "relu"}} | _VECTORS,
    "mlp-gelu": {"model": {"kind": "mlp", "widths": [3, 5, 2], "activation": "gelu"}} | _VECTORS,
    "conv": {"model": {"kind": "conv", "channels": [2], "stride": 2}} | _DIGITS,
    "attention": {"model": _ATTENTION, "data": _SEQUENCES, "loss": "mse"},
    "gpt2": {"model": _GPT2, "data": _TEXT, "loss": "cross-entropy"},
    "gpt2-sink": {"model": _GPT2 | {"attention_sink": {"bias": [0.0, 2.0]}}, "data": _TEXT, "loss": "cross-entropy"},
}
_METHODS: dict[str, dict[str, Any]] = {
    "exact": {"kind": "exact"},
    "lanczos-full": _LANCZOS | {"reorthogonalisation": "full"},
    "lanczos-none": _LANCZOS | {"reorthogonalisation": "none"},
    "top-k": {"kind": "top-k", "k": 3},
    "bottom-k": {"kind": "top-k", "k": 2, "which": "smallest"},
    "hutchinson": {"kind": "trace", "estimator": "hutchinson", "num_probes": 8},
    "hutch++": {"kind": "trace", "estimator": "hutch++", "num_probes": 9, "diagonal": True},
    "xtrace": {"kind": "trace", "estimator": "xtrace", "num_probes": 8, "diagonal": True},
}


def _job_requests(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, example in _examples(document, "/v1/jobs").items():
        yield f"example {name}", example
    yield from ((f"campaign {name}", fields) for name, fields in campaign_requests().items())
    for (problem, fields), (method, options) in itertools.product(_PROBLEMS.items(), _METHODS.items()):
        for matrix in ("hessian", "ggn", "functional"):
            yield f"{problem} {matrix} {method}", _spectrum(fields, matrix, method=options)
    for (problem, fields), precision in itertools.product(_PROBLEMS.items(), ("float64", "tf32", "bfloat16")):
        for method in ("exact", "lanczos-full", "top-k", "xtrace"):
            request = _spectrum(fields, "hessian", method=_METHODS[method], precision=precision)
            yield f"{problem} {precision} {method}", request


def _spectrum(fields: dict[str, Any], matrix: str, **options: Any) -> dict[str, Any]:
    return {"kind": "spectrum", "matrix": matrix, "seed": 3} | fields | options


def _examples(document: dict[str, Any], path: str) -> dict[str, Any]:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return {name: example["value"] for name, example in content["examples"].items()}


def _numbers(value: Any) -> Any:
    """The same without what differs from one run to the next."""
    if isinstance(value, dict):
        return {name: _numbers(part) for name, part in sorted(value.items()) if name not in _CHANGING}
    return [_numbers(part) for part in value] if isinstance(value, list) else value


def _job_answers(client: httpx.Client, requests: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    submitted = {name: client.post("/v1/jobs", json=fields) for name, fields in requests.items()}
    for name, answer in submitted.items():
        if answer.is_success:
            job = answer.json()
            while job["state"] in ("queued", "running"):
                job = client.get(f"/v1/jobs/{job['id']}", params={"wait": 20}).json()
            yield name, _result(client, f"/v1/jobs/{job['id']}/result")
        else:
            yield name, {"status": answer.status_code, "answer": _numbers(answer.json())}


def _result(client: httpx.Client, path: str) -> dict[str, Any]:
    """The JSON of a result, and the digest of every array of its npz but texts, which state times."""
    result = client.get(path, headers={"Accept": "application/json"})
    arrays = {}
    if result.is_success:
        archive = client.get(path, headers={"Accept": "application/x-npz"}).raise_for_status().content
        with np.load(io.BytesIO(archive)) as file:
            for name in file.files:
                if (array := file[name]).dtype.kind != "U":
                    arrays[name] = f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    return {"status": result.status_code, "answer": _numbers(result.json()), "npz": arrays}


def snapshot(url: str) -> dict[str, Any]:
    """Every answer by the name of its question."""
    answers: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=120) as client:
        document = client.get("/openapi.json").json()
        for path in ("/v1/closed-form", "/v1/random-matrix", "/v1/estimates"):
            for name, example in _examples(document, path).items():
                answers[f"{path} {name}"] = _numbers(client.post(path, json=example).json())
        for case in _CASES:
            request = {"model": case["model"], "data": case["data"], "eigenvectors": "all"}
            answers[f"golden {case['name']}"] = _numbers(client.post("/v1/closed-form", json=request).json())
        answers |= _job_answers(client, dict(_job_requests(document)))
    return answers


def main(url: str, path: str) -> None:
    started = time.monotonic()
    answers = snapshot(url)
    Path(path).write_text(json.dumps(answers, indent=1, sort_keys=True))
    states = [answer.get("status") for answer in answers.values() if "status" in answer]
    print(f"{len(answers)} answers, {states.count(200)} of jobs, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
