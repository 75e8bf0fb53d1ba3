"""A server that keeps artifacts and series in memory, and can be made to hang, to refuse, or to forget."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from safetensors import deserialize

NOW = datetime.now(UTC).isoformat()
PNG = b"\x89PNG"

Answered = tuple[int, dict[str, Any] | bytes]


class SeriesServer:
    """State of the server; tests read and change it."""

    def __init__(self) -> None:
        self.url = ""
        self.artifacts: dict[str, bytes] = {}
        self.uploads: Counter[str] = Counter()
        """How often each artifact was uploaded."""
        self.posts: list[dict[str, Any]] = []
        """The requests of jobs that were created, in order."""
        self.requests: Counter[str] = Counter()
        """Number of requests by method and path of each kind."""
        self.refusal: tuple[int, dict[str, str]] | None = None
        """Status and headers of the answer to all further posts of jobs."""
        self.lost_answers = 0
        """How many further requests are carried out without an answer."""
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._jobs: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def points(self, name: str = "run") -> list[dict[str, Any]]:
        """All points of a series, in the order in which they were posted."""
        with self._lock:
            return new_points(each["points"] for each in self.posts if each["name"] == name)

    def steps(self, name: str = "run") -> list[int]:
        return [point["step"] for point in self.points(name)]

    def arrays(self, point: dict[str, Any]) -> dict[str, Any]:
        return dict(deserialize(self.artifacts[point["parameters"]["id"]]))

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> Answered:
        with self._lock:
            self.requests[f"{method} {'/'.join(path.split('/')[:3])}"] += 1
            if method == "POST":
                return self._upload(headers, body) if path == "/v1/artifacts" else self._post(headers, json.loads(body))
            if path.startswith("/v1/artifacts/"):
                digest = path.rpartition("/")[2]
                return (200, artifact(digest)) if digest in self.artifacts else (404, problem(404))
            if path.endswith(".png"):
                return 200, PNG
            if path.startswith("/v1/series/"):
                return self._series(path.rpartition("/")[2])
            return 200, job(path.split("/")[3].partition("?")[0])

    def _series(self, name: str) -> Answered:
        found = [point for each in self.posts if each["name"] == name for point in each["points"]]
        entries = [{"step": point["step"], "learning_rate": point["learning_rate"]} for point in found]
        fields = {
            "kind": "series",
            "name": name,
            "matrix": "hessian",
            "points": entries,
            "num_parameters": 1,
            "provenance": [],
        }
        return (200, fields) if found else (404, problem(404))

    def _upload(self, headers: Any, body: bytes) -> Answered:
        if "safetensors" in headers["Content-Type"]:
            deserialize(body)  # a file that was cut off is refused
        digest = hashlib.sha256(body).hexdigest()
        self.artifacts[digest] = body
        self.uploads[digest] += 1
        return 201, PROGRAM | artifact(digest, "program") if "pt2" in headers["Content-Type"] else artifact(digest)

    def _post(self, headers: Any, request: dict[str, Any]) -> Answered:
        if self.refusal is not None:
            return self.refusal[0], problem(self.refusal[0])
        key, digest = headers["Idempotency-Key"], json.dumps(request)
        if key in self._jobs:
            job_id, known = self._jobs[key]
            return (202, job(job_id)) if known == digest else (422, problem(422))
        ids = [request["model"]["program"]["id"], *(each["parameters"]["id"] for each in request["points"])]
        ids += [request["data"]["id"]] if "id" in request["data"] else request["data"].get("parts", [])
        steps = [each["step"] for each in request["points"]]
        if not set(ids) <= self.artifacts.keys() or len(set(steps)) < len(steps):
            return 422, problem(422)
        self.posts.append(request)
        self._jobs[key] = f"{len(self.posts):032x}", digest
        return 202, job(self._jobs[key][0])


VALUE = {"name": "x", "dtype": "float32", "shape": [None, 3], "num_rows": None}
PROGRAM = {"source": "torch.export", "parameters": [], "inputs": [VALUE], "output": VALUE, "num_samples": None}
PROGRAM |= {"num_calls": 1, "operators": [], "numbers_per_sample": {}}


def artifact(digest: str, kind: str = "arrays") -> dict[str, Any]:
    return {"kind": kind, "id": digest, "created_at": NOW, "num_bytes": 1} | (
        {"arrays": {}} if kind == "arrays" else {}
    )


def problem(status: int) -> dict[str, Any]:
    return {"type": "about:blank", "title": "Refused", "status": status}


def job(job_id: str) -> dict[str, Any]:
    links = dict.fromkeys(("self", "result", "events", "cancel"), f"/v1/jobs/{job_id}")
    progress = {"phase": "", "done": 1, "total": 1, "unit": "points"}
    times = {"created_at": NOW, "started_at": NOW, "finished_at": NOW}
    fields = {"attempt": 1, "error": None, "tags": {}, "links": links, "progress": progress, **times}
    return {"id": job_id, "kind": "series", "state": "succeeded", **fields}


@contextmanager
def series_server() -> Iterator[SeriesServer]:
    """The server, at an address of its own."""
    state = SeriesServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_request(self) -> None:
            body = self._body()
            state.may_answer.wait(30)
            status, content = state.answer(self.command, self.path.partition("?")[0], self.headers, body)
            if state.lost_answers:
                state.lost_answers -= 1
                self.close_connection = True
                return
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            if isinstance(content, dict) and status >= 400:
                self.send_header("Content-Type", "application/problem+json")
            headers = state.refusal[1] if state.refusal and status == state.refusal[0] else {}
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        do_GET = do_POST = handle_request  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.may_answer.set()
            server.shutdown()
            thread.join()


def new_points(posts: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The points of all requests, without the last one of a request that the next one begins with."""
    found: list[dict[str, Any]] = []
    for points in posts:
        found += points[1:] if found and points[0] == found[-1] else points
    return found
