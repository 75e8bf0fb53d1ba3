"""`python -m benchmarks.closed_form`: the closed forms of `POST /v1/closed-form`, measured over HTTP."""

import argparse
import datetime
import io
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from benchmarks.dense import dense_hessian
from benchmarks.load import requests_per_second, seconds_for_one
from benchmarks.server import running_server
from benchmarks.stack import HOST
from hessian_spectrum.theory.closed_form.two_layer_linear import two_layer_linear_spectrum

RESULTS = Path(__file__).parent / "results"

WIDTH, NUM_INPUTS, NUM_OUTPUTS, NUM_SAMPLES = 1_000_000, 10, 10, 1000
NUM_RUNS = 5
MAX_TIME_RATIO = 1.5

SMALL_WIDTH, SMALL_NUM_SAMPLES = 10, 50
NUM_BLOCKS, BLOCK_SECONDS = 8, 1.5
MIN_RATE_RATIO = 0.8

BATCH_ITEMS, NUM_ROUNDS = 10_000, 3
MIN_BATCH_RATIO = 6

DENSE_WIDTHS = (25, 50, 100, 200)
DENSE_INPUTS = DENSE_OUTPUTS = 4


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _network(width: int, num_inputs: int, num_outputs: int) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    random = np.random.default_rng(0)
    return {
        "W1": random.normal(size=(width, num_inputs)) / num_inputs**0.5,
        "W2": random.normal(size=(num_outputs, width)) / width**0.5,
        "x": random.normal(size=(NUM_SAMPLES, num_inputs)),
        "y": random.normal(size=(NUM_SAMPLES, num_outputs)),
    }


def large_upload(port: int) -> dict[str, Any]:
    """A network of 20 million parameters as npz, against parsing the same bytes and one thin QR of [W1, W2^T]."""
    network = _network(WIDTH, NUM_INPUTS, NUM_OUTPUTS)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, kind=np.array("two-layer-linear"), **network)
    body, stacked = buffer.getvalue(), np.hstack((network["W1"], network["W2"].T))

    def load() -> None:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            for name in archive.files:
                archive[name]

    def post(path: str) -> Callable[[], float]:
        return lambda: seconds_for_one(port, path, body, media_type="application/x-npz")

    calls: dict[str, Callable[[], float]] = {
        "answer": post("/v1/closed-form"),
        "received": post("/received"),
        "parsed": post("/parsed"),
        "np_load": lambda: _seconds(load),
        "thin_qr": lambda: _seconds(lambda: np.linalg.qr(stacked)),
    }
    for path in ("/received", "/v1/closed-form"):  # the first use of memory and code
        post(path)()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(NUM_RUNS):
        for name, call in calls.items():
            times[name].append(call())
    return _large_report(len(body), times)


def _large_report(num_bytes: int, times: dict[str, list[float]]) -> dict[str, Any]:
    middle = {name: median(values) for name, values in times.items()}
    ratio = middle["answer"] / (middle["np_load"] + middle["thin_qr"])
    return {
        "width": WIDTH,
        "num_parameters": WIDTH * (NUM_INPUTS + NUM_OUTPUTS),
        "num_bytes": num_bytes,
        "answer_seconds": middle["answer"],
        "receive_seconds": middle["received"],
        "parse_seconds": middle["parsed"] - middle["received"],
        "compute_seconds": middle["answer"] - middle["parsed"],
        "np_load_seconds": middle["np_load"],
        "thin_qr_seconds": middle["thin_qr"],
        "ratio": ratio,
        "goal": f"at most {MAX_TIME_RATIO}",
        "reached": ratio <= MAX_TIME_RATIO,
        "runs": times,
    }


def _small_body(seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    sizes = {"w": SMALL_WIDTH, "v": SMALL_WIDTH, "x": SMALL_NUM_SAMPLES, "y": SMALL_NUM_SAMPLES}
    numbers = {name: random.normal(size=size).tolist() for name, size in sizes.items()}
    model = {"kind": "linear", "w": numbers["w"], "v": numbers["v"]}
    return json.dumps({"model": model, "data": {"x": numbers["x"], "y": numbers["y"]}}).encode()


def batches(port: int) -> dict[str, Any]:
    """Many networks of 20 parameters in one request, as lines and as a list, against single requests in turn."""
    items = [_small_body(seed) for seed in range(BATCH_ITEMS)]
    bodies = {
        "lines": (b"\n".join(items), "application/x-ndjson"),
        "list": (b'{"items":[' + b",".join(items) + b"]}", "application/json"),
    }
    rates: dict[str, list[float]] = {"single": [], **{name: [] for name in bodies}}
    for _ in range(NUM_ROUNDS):
        rates["single"].append(requests_per_second(port, "/v1/closed-form", items[0], seconds=2 * BLOCK_SECONDS))
        for name, (body, media_type) in bodies.items():
            rates[name].append(BATCH_ITEMS / _batch_seconds(port, body, media_type))
    middle = {name: median(values) for name, values in rates.items()}
    ratio = median(a / b for a, b in zip(rates["lines"], rates["single"], strict=True))
    return {
        "items": BATCH_ITEMS,
        "singles_per_second": middle["single"],
        "lines_per_second": middle["lines"],
        "list_per_second": middle["list"],
        "ratio": ratio,
        "list_ratio": median(a / b for a, b in zip(rates["list"], rates["single"], strict=True)),
        "goal": f"at least {MIN_BATCH_RATIO}",
        "reached": ratio >= MIN_BATCH_RATIO,
        "rounds": rates,
    }


def _batch_seconds(port: int, body: bytes, media_type: str) -> float:
    """From the first byte sent to the last one received; fails unless every item has its spectrum."""
    headers = {"Content-Type": media_type}
    started = time.perf_counter()
    answer = httpx.post(f"http://{HOST}:{port}/v1/closed-form/batch", content=body, headers=headers, timeout=120)
    seconds = time.perf_counter() - started
    if answer.content.count(b'"sharpness"') != BATCH_ITEMS:
        raise RuntimeError(f"the server answers {answer.content[:200]!r}")
    return seconds


def small_requests(port: int) -> dict[str, Any]:
    """A network of 20 parameters as JSON, against the same body validated and answered by a constant."""
    body = _small_body()
    paths = {"answer": "/v1/closed-form", "validated": "/validated"}
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for path in paths.values():
        requests_per_second(port, path, body, seconds=0.5)
    for block in range(NUM_BLOCKS):
        for name in list(paths)[:: 1 if block % 2 else -1]:
            rates[name].append(requests_per_second(port, paths[name], body, seconds=BLOCK_SECONDS))
    ratio = median(a / b for a, b in zip(rates["answer"], rates["validated"], strict=True))
    answer, validated = median(rates["answer"]), median(rates["validated"])
    return {
        "width": SMALL_WIDTH,
        "num_samples": SMALL_NUM_SAMPLES,
        "answers_per_second": answer,
        "validations_per_second": validated,
        "difference_microseconds": 1e6 * (1 / answer - 1 / validated),
        "ratio": ratio,
        "goal": f"at least {MIN_RATE_RATIO}",
        "reached": ratio >= MIN_RATE_RATIO,
        "blocks": rates,
    }


def dense_comparison() -> list[dict[str, Any]]:
    """The same spectra from the closed form and from the assembled matrix."""
    return [_dense_row(width) for width in DENSE_WIDTHS]


def _dense_row(width: int) -> dict[str, Any]:
    network = _network(width, DENSE_INPUTS, DENSE_OUTPUTS)
    closed, dense = [], []
    for _ in range(NUM_RUNS):
        closed.append(_seconds(lambda: two_layer_linear_spectrum(**network)))
        dense.append(_seconds(lambda: np.linalg.eigvalsh(dense_hessian(**network))))
    found, expected = two_layer_linear_spectrum(**network).dense(), np.linalg.eigvalsh(dense_hessian(**network))
    return {
        "width": width,
        "num_parameters": len(expected),
        "closed_form_seconds": median(closed),
        "dense_seconds": median(dense),
        "largest_difference": float(np.abs(found - expected).max() / np.abs(expected).max()),
    }


def _machine() -> dict[str, Any]:
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    packages = ("numpy", "pydantic", "fastapi", "starlette", "uvicorn")
    return {
        "device": f"{names[0] if names else platform.processor()}, {len(names)} cores",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "blas_threads": 1,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _table(report: dict[str, Any]) -> str:
    large, small, machine = report["large_upload"], report["small_requests"], report["machine"]
    batch = report["batches"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        "# Closed forms over HTTP",
        "",
        f"{machine['device']}, {machine['date']}; {versions}; one BLAS thread.",
        "",
        "| measured | value | compared with | value | ratio | goal |",
        "|---|---|---|---|---|---|",
        f"| {large['num_parameters']:,} parameters, {large['num_bytes'] / 1e6:.0f} MB npz, until the response "
        f"| {large['answer_seconds']:.3f} s | np.load + thin QR "
        f"| {large['np_load_seconds']:.3f} + {large['thin_qr_seconds']:.3f} s "
        f"| {large['ratio']:.2f} | {large['goal']} |",
        f"| m = {small['width']}, n = {small['num_samples']}, JSON, responses | {small['answers_per_second']:.0f} / s "
        f"| validation alone | {small['validations_per_second']:.0f} / s | {small['ratio']:.2f} | {small['goal']} |",
        f"| {batch['items']:,} of these in one request, as lines | {batch['lines_per_second']:.0f} / s "
        f"| single requests | {batch['singles_per_second']:.0f} / s | {batch['ratio']:.1f} | {batch['goal']} |",
        f"| the same as a JSON list | {batch['list_per_second']:.0f} / s | single requests "
        f"| {batch['singles_per_second']:.0f} / s | {batch['list_ratio']:.1f} | none |",
        "",
        f"Of the {large['answer_seconds']:.3f} s: {large['receive_seconds']:.3f} to receive, "
        f"{large['parse_seconds']:.3f} to parse and check, {large['compute_seconds']:.3f} to compute.",
        "",
        "| parameters | closed form | dense Hessian and eigvalsh | largest difference / largest eigenvalue |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['num_parameters']:,} | {1e3 * row['closed_form_seconds']:.1f} ms "
        f"| {1e3 * row['dense_seconds']:.1f} ms "
        f"| {row['largest_difference']:.0e} |"
        for row in report["dense_comparison"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closed_form", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/closed_form.json and .md")
    arguments = parser.parse_args()
    with running_server() as port:
        small, many, large = small_requests(port), batches(port), large_upload(port)
    report = {
        "machine": _machine(),
        "small_requests": small,
        "batches": many,
        "large_upload": large,
        "dense_comparison": dense_comparison(),
    }
    document, table = json.dumps(report, indent=1) + "\n", _table(report)
    if arguments.save:
        (RESULTS / "closed_form.json").write_text(document)
        (RESULTS / "closed_form.md").write_text(table)
    print(document if arguments.json else table, end="")


if __name__ == "__main__":
    main()
