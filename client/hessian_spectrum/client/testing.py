"""A server in memory, to test programs that use the client without a network and without torch."""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module, resources
from typing import Any, Literal, TypeAlias, get_args

import httpx
from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.jobs import AnyJobResult, Job, JobPage, JobResult, Links, Progress, SubmittedJobs
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.problem import Problem

_RESULT: TypeAdapter[AnyJobResult] = TypeAdapter(JobResult)

Answer: TypeAlias = Message | Problem
"""Response to a request: a result, or a problem with which a job fails."""

ExampleMethod: TypeAlias = Literal["exact", "lanczos", "series", "slice", "sweep", "top-k", "trace"]


def example_result(method: ExampleMethod) -> AnyJobResult:
    """Return a small result of a real job: a network of 27 parameters on five samples.

    Args:
        method: Its method, or the kind of the job: a series or a sweep.

    Returns:
        The result.

    Raises:
        ValueError: If there is no such example.
    """
    names = get_args(ExampleMethod)
    if method not in names:
        raise ValueError(f"there is no example {method!r}, only {', '.join(names)}")
    examples = resources.files(__package__) / "example_results"
    return _RESULT.validate_json((examples / f"{method}.json").read_bytes())


class FakeServer(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Transport that answers the requests of a client itself; jobs end at once.

    Pictures are drawn by the distribution `hessian-spectrum-results`, if it is installed.

    Args:
        answer: Result of every job, or a function from the fields of a request to its result. With a problem in place
            of a result, the job fails.
        closed_form: The same for closed forms; None: they are refused with status 501.

    Attributes:
        requests: Fields of the requests of all jobs and closed forms, in the order of their arrival.

    Example:
        >>> from hessian_spectrum.client import SpectrumClient
        >>> server = FakeServer(example_result("exact"))
        >>> client = SpectrumClient(transport=server)
        >>> len(client.run({"kind": "spectrum", "method": {"kind": "exact"}}).eigenvalues)
        27
        >>> server.requests[0]["method"]
        {'kind': 'exact'}
    """

    def __init__(
        self,
        answer: Answer | Callable[[dict[str, Any]], Answer],
        *,
        closed_form: Answer | Callable[[dict[str, Any]], Answer] | None = None,
    ) -> None:
        self._answer, self._closed_form = answer, closed_form
        self.requests: list[dict[str, Any]] = []
        self._jobs: dict[str, Job] = {}  # oldest first
        self._submitted: dict[str, dict[str, Any]] = {}
        self._results: dict[str, Answer] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        return self._answered(request.method, request.url, request.read())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an asynchronous client."""
        return self._answered(request.method, request.url, await request.aread())

    def _answered(self, method: str, url: httpx.URL, body: bytes) -> httpx.Response:
        if method == "GET" and (match := re.fullmatch(_PICTURE, url.path)):
            return self._picture(match[1], match[2], url.params)
        for (own_method, pattern), answer in _ROUTES.items():
            if method == own_method and (match := re.fullmatch(pattern, url.path)):
                return answer(self, *match.groups(), *([json.loads(body)] if method == "POST" and body else []))
        return _problem(Problem(title="Not part of the fake server", status=501, detail=f"{method} {url.path}"))

    def _submit(self, request: dict[str, Any]) -> httpx.Response:
        return _message(self._new_job(request))

    def _submit_batch(self, batch: dict[str, Any]) -> httpx.Response:
        return _message(SubmittedJobs(jobs=[self._new_job(request) for request in batch["jobs"]]))

    def _new_job(self, request: dict[str, Any]) -> Job:
        self.requests.append(request)
        answer = _chosen(self._answer, request)
        job = _ended_job(f"{len(self._jobs):016x}{secrets.token_hex(8)}", request, answer)
        self._jobs[job.id], self._submitted[job.id], self._results[job.id] = job, request, answer
        return job

    def _list(self) -> httpx.Response:
        return _message(JobPage(jobs=list(reversed(self._jobs.values())), next_page_token=None))

    def _job(self, job_id: str, *_: Any) -> httpx.Response:
        job = self._jobs.get(job_id)
        return _unknown() if job is None else _message(job)

    def _events(self, job_id: str) -> httpx.Response:
        text = f"id: 1-0\ndata: {self._jobs[job_id].model_dump_json()}\n\n" if job_id in self._jobs else ""
        return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"}) if text else _unknown()

    def _result(self, job_id: str) -> httpx.Response:
        answer = self._results.get(job_id)
        if answer is None:
            return _unknown()
        return _problem(answer) if isinstance(answer, Problem) else _message(answer)

    def _picture(self, job_id: str, name: str, style: httpx.QueryParams) -> httpx.Response:
        answer = self._results.get(job_id)
        if answer is None or isinstance(answer, Problem):
            return self._result(job_id)
        try:
            drawings, figure = map(import_module, _DRAWING)
        except ImportError as error:
            detail = f"{error}: in the repository, run pip install ./api_schemas './results[notebook]'"
            return _problem(Problem(title="The fake server cannot draw pictures", status=501, detail=detail))
        types = {"width_inches": float, "height_inches": float, "dpi": int, "title": str}
        own_style = figure.FigureStyle(**{key: types[key](value) for key, value in style.items() if key in types})
        return httpx.Response(200, content=drawings.drawing_of(answer).file(name, own_style))

    def _request(self, job_id: str) -> httpx.Response:
        return httpx.Response(200, json=self._submitted[job_id]) if job_id in self._submitted else _unknown()

    def _delete(self, job_id: str) -> httpx.Response:
        if self._jobs.pop(job_id, None) is None:
            return _unknown()
        del self._submitted[job_id], self._results[job_id]
        return httpx.Response(204)

    def _closed_forms(self, request: dict[str, Any]) -> httpx.Response:
        if self._closed_form is None:
            return _problem(Problem(title="The fake server has no closed form", status=501))
        self.requests.append(request)
        answer = _chosen(self._closed_form, request)
        return _problem(answer) if isinstance(answer, Problem) else _message(answer)


_DRAWING = ("hessian_spectrum.results.plots.drawings", "hessian_spectrum.results.plots.figure")
_JOB = "/v1/jobs/([0-9a-f]{32})"
_PICTURE = rf"{_JOB}/result\.(png|svg|pdf)"
_ROUTES: Mapping[tuple[str, str], Callable[..., httpx.Response]] = {
    ("POST", "/v1/jobs"): FakeServer._submit,
    ("POST", "/v1/jobs/batch"): FakeServer._submit_batch,
    ("GET", "/v1/jobs"): FakeServer._list,
    ("GET", _JOB): FakeServer._job,
    ("POST", f"{_JOB}/cancel"): FakeServer._job,
    ("GET", f"{_JOB}/events"): FakeServer._events,
    ("GET", f"{_JOB}/result(?:.json)?"): FakeServer._result,
    ("GET", f"{_JOB}/request"): FakeServer._request,
    ("DELETE", _JOB): FakeServer._delete,
    ("POST", "/v1/closed-form"): FakeServer._closed_forms,
}


def _chosen(answer: Answer | Callable[[dict[str, Any]], Answer], request: dict[str, Any]) -> Answer:
    return answer if isinstance(answer, Message) else answer(request)


def _ended_job(job_id: str, request: dict[str, Any], answer: Answer) -> Job:
    problem, now = (answer if isinstance(answer, Problem) else None), datetime.now(UTC)
    path = f"/v1/jobs/{job_id}"
    return Job(
        id=job_id,
        kind=request.get("kind", "spectrum"),
        state="succeeded" if problem is None else "failed",
        progress=Progress(phase="products", done=1, total=1, unit="matrix-vector products"),
        attempt=1,
        created_at=now,
        started_at=now,
        finished_at=now,
        error=problem,
        tags=request.get("tags") or {},
        links=Links(self=path, result=f"{path}/result", events=f"{path}/events", cancel=f"{path}/cancel"),
    )


def _unknown() -> httpx.Response:
    return _problem(Problem(type="/problems/unknown-job", title="No such job", status=404))


def _message(message: Message) -> httpx.Response:
    return httpx.Response(200, content=message.model_dump_json(), headers={"Content-Type": "application/json"})


def _problem(problem: Problem) -> httpx.Response:
    content = problem.model_dump_json(exclude_none=True)
    return httpx.Response(problem.status, content=content, headers={"Content-Type": "application/problem+json"})
