"""Bodies that are no JSON, too much of it, or numbers and names beyond all measure."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.security.attack import Attack

CLOSED_FORM, JOBS, LAWS = "/v1/closed-form", "/v1/jobs", "/v1/random-matrix"
LINEAR: dict[str, Any] = {
    "model": {"kind": "linear", "w": [0.5, -1.0], "v": [1.0, 0.5]},
    "data": {"x": [1.0, -0.5], "y": [0.8, -0.1]},
}
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [2, 3, 1]},
    "data": {"kind": "inline", "x": [[1.0, 2.0]], "y": [[0.5]]},
    "loss": "mse",
    "method": {"kind": "exact"},
}
GPT2: dict[str, Any] = {"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 8, "vocab_size": 256}
TEXT: dict[str, Any] = {"kind": "text", "text": "to be or not to be", "num_sequences": 1, "sequence_length": 8}
DEPTH = 100_000
PATHS = {
    "parents": "../../../../etc/passwd",
    "parents-inside": "a/../../b",
    "parents-encoded": "%2e%2e%2fetc%2fpasswd",
    "absolute": "/etc/passwd",
    "dots": "..",
    "null": "tiny-gpt2\0.json",
    "line-end": "tiny-gpt2\n",
    "windows": "C:\\windows\\system32",
    "network-share": "\\\\127.0.0.1\\share",
    "http": "http://127.0.0.1:9/checkpoint",
    "file": "file:///etc/passwd",
    "hub": "hf://openai/gpt2",
    "command": "$(touch /tmp/spectrum-hostile-canary)",
    "format": "{0.__class__.__init__.__globals__}",
    "percent": "%n%n%s%s",
    "long": "a" * 200_000,
    "lookalike": "ｔiny-gpt2",
}


def texts() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """What a JSON parser must not swallow, and not choke on."""
    linear = json.dumps(LINEAR)
    yield "arrays-without-end", lambda: b"[" * DEPTH
    yield "arrays-100000-deep", lambda: b"[" * DEPTH + b"]" * DEPTH
    yield "objects-100000-deep", lambda: b'{"model":' * DEPTH + b"1" + b"}" * DEPTH
    yield "deep-where-numbers-belong", lambda: linear.replace("0.5", "[" * DEPTH + "]" * DEPTH, 1).encode()
    yield "number-of-a-million-digits", lambda: linear.replace("0.5", "9" * 10**6, 1).encode()
    yield "fraction-of-a-million-digits", lambda: linear.replace("0.5", "1e" + "9" * 10**6, 1).encode()
    for number in ("1e999", "-1e999", "NaN", "Infinity", "-Infinity", "0x10", "1_000", "01", "+1", ".5", "1.", "--1"):
        yield f"number-{number}", lambda number=number: linear.replace("0.5", number, 1).encode()
    for other in ("null", "true", '"0.5"', "{}", "[0.5]", '"0.5; import os"'):
        yield f"instead-of-a-number-{other}", lambda other=other: linear.replace("0.5", other, 1).encode()
    yield "two-million-and-one-numbers", lambda: linear.replace("0.5", "0," * 2_000_000 + "0", 1).encode()
    yield "100000-wrong-numbers", lambda: linear.replace("0.5", '"",' * 100_000 + "0", 1).encode()
    yield "100000-unknown-fields", lambda: json.dumps(LINEAR | {f"f{i}": 0 for i in range(10**5)}).encode()
    yield "million-unknown-fields", (linear[:-1] + ', "": 0' * 10**6 + "}").encode
    yield "unknown-field-of-a-megabyte", lambda: json.dumps(LINEAR | {"f" * 10**6: 0}).encode()
    yield "prototype", lambda: json.dumps(LINEAR | {"__proto__": {}, "__class__": "os"}).encode()
    yield "byte-order-mark", lambda: b"\xef\xbb\xbf" + linear.encode()
    yield "utf-16", lambda: linear.encode("utf-16")
    yield "utf-32", lambda: linear.encode("utf-32")
    yield "latin-1", lambda: json.dumps(LINEAR | {"é": 1}, ensure_ascii=False).encode("latin-1")
    yield "overlong-utf-8", lambda: linear.encode().replace(b"linear", b"l\xc0\xaeinear")
    yield "lone-surrogate", lambda: linear.replace("linear", "\\ud800").encode()
    yield "null-bytes", lambda: linear.replace(" ", "\0").encode()
    yield "control-character", lambda: linear.replace("linear", "lin\x01ear").encode()
    yield "ends-early", linear[:-5].encode
    yield "goes-on", (linear + linear).encode
    yield "comment", (linear + " // really").encode
    yield "python", lambda: repr(LINEAR).encode()
    yield "pickle", lambda: b"cposix\nsystem\n(S'touch /tmp/spectrum-hostile-canary'\ntR."
    yield "yaml", lambda: b"!!python/object/apply:os.system ['touch /tmp/spectrum-hostile-canary']"
    yield "xml", lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'
    yield "empty", lambda: b""
    yield "white", lambda: b" \n" * 10_000
    for scalar in ("null", "1", '"linear"', "[]", "[{}]", "true"):
        yield f"only-{scalar}", lambda scalar=scalar: scalar.encode()
    yield "16-megabytes", lambda: b" " * (16 * 2**20) + linear.encode()


def hostile_bodies() -> Iterator[Attack]:
    """Attacks by the text of the body, and by what the headers say of it."""
    for name, make in texts():
        yield Attack(f"json-{name}", CLOSED_FORM, make)
    for name, make in texts():
        if name.split("-")[0] in ("arrays", "objects", "empty", "white", "lone", "utf", "only", "pickle"):
            yield Attack(f"job-{name}", JOBS, make)
    linear = json.dumps(LINEAR).encode()
    for name, packed in (("gzip", gzip.compress(linear)), ("deflate", zlib.compress(linear)), ("br", linear)):
        yield Attack(f"encoded-{name}", CLOSED_FORM, lambda packed=packed: packed, headers={"Content-Encoding": name})
    yield Attack("gzip-bomb", JOBS, lambda: gzip.compress(bytes(2**26)), headers={"Content-Encoding": "gzip"})
    for media_type in (
        "text/plain",
        "text/html",
        "application/x-python-pickle",
        "application/json-patch+json",
        "*/*",
        "",
    ):
        yield Attack(f"sent-as-{media_type or 'nothing'}", JOBS, lambda: json.dumps(JOB).encode(), media_type)
    yield Attack("sent-as-form", JOBS, lambda: b"kind=spectrum", "application/x-www-form-urlencoded")


def job(**changes: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(JOB | changes).encode()


_HUGE = 10**18
_MLP, _GAUSSIAN = JOB["model"], {"kind": "gaussian", "num_samples": 8, "input_dim": 2, "output_dim": 1}
_LANCZOS, _TRAIN = {"kind": "lanczos"}, {"num_steps": 10, "learning_rate": 0.1}
_SIZES: dict[str, dict[str, Any]] = {
    "widths": {"model": _MLP | {"widths": [2, _HUGE, 1]}},
    "many-widths": {"model": _MLP | {"widths": [2] * 10**5}},
    "negative-widths": {"model": _MLP | {"widths": [2, -3, 1]}},
    "layers": {"model": GPT2 | {"n_layer": 10**9}, "data": TEXT, "loss": "cross-entropy"},
    "embedding": {"model": GPT2 | {"n_embd": _HUGE}, "data": TEXT, "loss": "cross-entropy"},
    "vocabulary": {"model": GPT2 | {"vocab_size": 2**63}, "data": TEXT, "loss": "cross-entropy"},
    "samples": {"data": _GAUSSIAN | {"num_samples": _HUGE}},
    "inputs": {"data": _GAUSSIAN | {"input_dim": _HUGE}},
    "sequences": {"model": GPT2, "data": TEXT | {"num_sequences": _HUGE}, "loss": "cross-entropy"},
    "positions": {"model": GPT2, "data": TEXT | {"sequence_length": _HUGE}, "loss": "cross-entropy"},
    "lanczos-steps": {"method": _LANCZOS | {"num_steps": _HUGE}},
    "lanczos-probes": {"method": _LANCZOS | {"num_probes": _HUGE}},
    "lanczos-points": {"method": _LANCZOS | {"num_points": _HUGE}},
    "kappa": {"method": _LANCZOS | {"kappa": 1e308}},
    "pairs": {"method": {"kind": "top-k", "k": _HUGE}},
    "products": {"method": {"kind": "trace", "num_probes": _HUGE}},
    "training": {"train": _TRAIN | {"num_steps": _HUGE * _HUGE}},
    "learning-rate": {"train": _TRAIN | {"learning_rate": -1e308}},
    "seed": {"seed": 2**64},
    "seed-negative": {"seed": -1},
    "tags": {"tags": {str(index): "" for index in range(10_000)}},
    "tag-name": {"tags": {"a" * 10**5: ""}},
    "tag": {"tags": {"a": "b" * 10**6}},
    "tag-control": {"tags": {"a": "b\r\nSet-Cookie: c=d\0"}},
    "tag-name-control": {"tags": {"a\x1b[2J": "b"}},
    "tag-surrogate": {"tags": {"a": "\ud800"}},
    "blocks": {"blocks": ["*"] * 10**5},
    "block-of-stars": {"block": "*a" * 125 + "b"},
    "block-of-questions": {"block": "?*" * 100 + "[!a-z]"},
    "block-of-brackets": {"block": "[" * 200},
    "block-long": {"block": "*" * 10**6},
    "block-format": {"block": "{0.__class__}%n"},
    "activation-code": {"model": _MLP | {"activation": "__import__('os').system"}},
    "loss-code": {"loss": "eval"},
    "kind-code": {"kind": "os.system"},
    "device": {"device": "cuda:0"},
    "callback": {"callback": "http://127.0.0.1:9/"},
}
_LAW_REQUESTS: dict[str, dict[str, Any]] = {
    "points": {"law": "wigner", "num_points": 10**9},
    "sample": {"law": "wigner", "sample": {"size": 10**9, "seed": 0}},
    "variance": {"law": "wigner", "variance": 1e-320},
    "ratio": {"law": "wishart", "ratio": 1e308},
    "nested": {"law": "free-sum", "laws": [{"law": "free-sum", "laws": []}] * 2},
    "thousand-laws": {"law": "free-sum", "laws": [{"law": "wigner"}] * 1000},
    "code": {"law": "__import__('os')"},
}


def hostile_requests() -> Iterator[Attack]:
    """Attacks by what a well-formed request asks for."""
    for name, path in PATHS.items():
        model = {"kind": "gpt2", "checkpoint": path}
        yield Attack(f"checkpoint-{name}", JOBS, job(model=model, data=TEXT, loss="cross-entropy"))
    for name in ("parents", "absolute", "null", "http", "command", "long"):
        data = {"kind": "artifact", "id": PATHS[name], "num_sequences": 1, "sequence_length": 4}
        yield Attack(f"artifact-{name}", JOBS, job(model=GPT2, data=data, loss="cross-entropy"))
        yield Attack(f"text-{name}", JOBS, job(model=GPT2, data={**TEXT, "text": None, "name": PATHS[name]}))
    for name, changes in _SIZES.items():
        yield Attack(f"ask-{name}", JOBS, job(**changes))
        if name in ("widths", "many-widths", "layers", "samples", "lanczos-probes", "training", "block-of-stars"):
            yield Attack(f"estimate-{name}", "/v1/estimates", job(**changes))
    for name, fields in _LAW_REQUESTS.items():
        yield Attack(f"law-{name}", LAWS, lambda fields=fields: json.dumps(fields).encode())
