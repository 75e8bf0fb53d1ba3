"""Every request that the server answers and how its answer is read, apart from how it is sent."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArrayArtifact, ArtifactPage, TokenArtifact
from hessian_spectrum.api_schemas.checkpoints import LoadableModel, ModelList
from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.estimates import CostEstimate
from hessian_spectrum.api_schemas.health import Readiness
from hessian_spectrum.api_schemas.job_results import AnyJobResult, JobResult
from hessian_spectrum.api_schemas.jobs import Job, JobPage, JobState
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer, RandomMatrixAnswer
from hessian_spectrum.client.archive import NPZ, archive, holds_arrays
from hessian_spectrum.client.errors import ProblemResponseError

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 1.0

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Streams of events and long polls keep their connections. By default, the hundred and first would wait for one of them
# to end, and then find that the server does not answer.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)

T = TypeVar("T")
_ANSWER_SECONDS = 30.0
_HEAVY_SECONDS = 120.0  # that the server gives to one answer of those that keep a core busy
_UPLOAD_SECONDS = 120.0
_HASH_SECONDS = 600.0  # of checkpoints that the server has not seen before

_NOT_BEGUN = ("/problems/too-many-requests-at-once", "/problems/uploads-busy")

ResultFormat = Literal["json", "npz", "png", "svg", "pdf"]
_MEDIA_TYPES: dict[ResultFormat, str] = {
    "json": "application/json",
    "npz": NPZ,
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}

Body = BaseModel | Mapping[str, Any]
Pieces = Iterator[bytes] | AsyncIterator[bytes]
"""Of a body that is sent as it is read."""

Smoothing = Mapping[str, int | float]
"""num_points, kappa and margin, as many as are to change."""

PictureStyle = Mapping[str, str | int | float]
"""width_inches, height_inches, dpi and title of a picture, as many as are to be other than usual."""


_RANDOM_MATRIX: TypeAdapter[LawAnswer | IndexCurveAnswer] = TypeAdapter(RandomMatrixAnswer)
_RESULT: TypeAdapter[AnyJobResult] = TypeAdapter(JobResult)
_ARTIFACT: TypeAdapter[AnyArtifact] = TypeAdapter(AnyArtifact)


@dataclass(frozen=True)
class Exchange(Generic[T]):
    """One request and the reading of its answer; `wait_seconds` is what the server may take on purpose."""

    method: str
    path: str
    read: Callable[[bytes], T]
    body: Body | bytes | Pieces | None = None
    query: Mapping[str, str | int | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """What httpx's `request` takes."""
        body = self.body.model_dump(mode="json", exclude_none=True) if isinstance(self.body, BaseModel) else self.body
        return {
            "method": self.method,
            "url": self.path,
            "json" if body is None or isinstance(body, Mapping) else "content": body,
            "params": dict(self.query),
            "headers": dict(self.headers),
            "timeout": httpx.Timeout(_ANSWER_SECONDS + self.wait_seconds, connect=_ANSWER_SECONDS),
        }

    def finish(self, response: httpx.Response) -> T:
        """Read the answer.

        Raises:
            ProblemResponseError: The server answers with a problem.
        """
        if response.is_success:
            return self.read(response.content)
        raise refusal(response)


def connection(base_url: str, api_key: str | None) -> dict[str, Any]:
    """What httpx's clients take, for whoever has this key; a server on this machine is asked without a proxy."""
    return {
        "base_url": base_url,
        "headers": {} if api_key is None else {"Authorization": f"Bearer {api_key}"},
        "limits": _LIMITS,
        "trust_env": httpx.URL(base_url).host not in _LOOPBACK,
    }


def refusal(response: httpx.Response) -> ProblemResponseError:
    """The error that an answer without success is."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(title=response.reason_phrase or "Error", status=response.status_code)
    return ProblemResponseError(problem)


def pause_seconds(exchange: Exchange[Any], response: httpx.Response) -> float | None:
    """After how long the same request can be sent again, because the server did not begin with it; None: it did."""
    if response.status_code not in (429, 503) or isinstance(exchange.body, Iterator | AsyncIterator):
        return None
    if response.status_code == 503 and refusal(response).problem.type not in _NOT_BEGUN:
        return None
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def closed_form(request: Body | bytes) -> Exchange[ClosedFormSpectrum]:
    """The spectrum of a network that has a formula."""
    return _closed_form(request, "json", ClosedFormSpectrum.model_validate_json)


def closed_form_file(request: Body | bytes, name: ResultFormat, style: PictureStyle | None) -> Exchange[bytes]:
    """The spectrum of a network that has a formula, in one of its formats."""
    return _closed_form(request, name, bytes, style)


def _closed_form(
    request: Body | bytes, name: ResultFormat, read: Callable[[bytes], T], style: PictureStyle | None = None
) -> Exchange[T]:
    headers = {"Accept": _MEDIA_TYPES[name]}
    if isinstance(request, bytes) or holds_arrays(request):
        request = request if isinstance(request, bytes) else archive(request)
        headers["Content-Type"] = NPZ
    return Exchange("POST", "/v1/closed-form", read, request, style or {}, headers, wait_seconds=_HEAVY_SECONDS)


def random_matrix(request: Body) -> Exchange[LawAnswer | IndexCurveAnswer]:
    """A random-matrix law, or its index against the energy."""
    return _random_matrix(request, "json", _RANDOM_MATRIX.validate_json)


def random_matrix_file(request: Body, name: ResultFormat, style: PictureStyle | None) -> Exchange[bytes]:
    """A random-matrix law, or its index against the energy, in one of its formats."""
    return _random_matrix(request, name, bytes, style)


def _random_matrix(
    request: Body, name: ResultFormat, read: Callable[[bytes], T], style: PictureStyle | None = None
) -> Exchange[T]:
    headers = {"Accept": _MEDIA_TYPES[name]}
    return Exchange("POST", "/v1/random-matrix", read, request, style or {}, headers, wait_seconds=_HEAVY_SECONDS)


def estimate(request: Body) -> Exchange[CostEstimate]:
    """What a job would take."""
    return Exchange("POST", "/v1/estimates", CostEstimate.model_validate_json, request, wait_seconds=_HEAVY_SECONDS)


def submit(
    request: Body, wait_seconds: int = 0, idempotency_key: str | None = None, *, fresh: bool = False
) -> Exchange[Job]:
    """A new job, or that of the key, waited for up to this time."""
    headers = {"Prefer": f"wait={wait_seconds}"} if wait_seconds else {}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    if fresh:
        headers["Cache-Control"] = "no-cache"
    seconds = _HEAVY_SECONDS + wait_seconds  # a large request is read before it is waited for
    return Exchange("POST", "/v1/jobs", Job.model_validate_json, body=request, headers=headers, wait_seconds=seconds)


def job(job_id: str, wait_seconds: float = 0.0) -> Exchange[Job]:
    """How a job stands, once it ended or after this time."""
    query = {"wait": wait_seconds} if wait_seconds else {}
    return Exchange("GET", f"/v1/jobs/{job_id}", Job.model_validate_json, query=query, wait_seconds=wait_seconds)


def jobs(state: JobState | None, tag: str | None, page_token: str | None) -> Exchange[JobPage]:
    """One page of jobs, newest first."""
    wanted = {"state": state, "tag": tag, "page_token": page_token}
    query = {name: value for name, value in wanted.items() if value is not None}
    return Exchange("GET", "/v1/jobs", JobPage.model_validate_json, query=query)


def result(job_id: str, smoothing: Smoothing | None = None) -> Exchange[AnyJobResult]:
    """The result of a job that succeeded."""
    seconds = _HEAVY_SECONDS if smoothing else 0.0
    path = f"/v1/jobs/{job_id}/result"
    return Exchange("GET", path, _RESULT.validate_json, query=smoothing or {}, wait_seconds=seconds)


def result_file(
    job_id: str, name: ResultFormat, smoothing: Smoothing | None = None, style: PictureStyle | None = None
) -> Exchange[bytes]:
    """The result in one of its formats."""
    query = {**(smoothing or {}), **(style or {})}
    return Exchange("GET", f"/v1/jobs/{job_id}/result.{name}", bytes, query=query, wait_seconds=_HEAVY_SECONDS)


def cancel(job_id: str) -> Exchange[Job]:
    """The wish that a job end."""
    return Exchange("POST", f"/v1/jobs/{job_id}/cancel", Job.model_validate_json)


def delete(job_id: str) -> Exchange[None]:
    """The end of a job's record."""
    return Exchange("DELETE", f"/v1/jobs/{job_id}", lambda _: None)


def upload_tokens(pieces: Pieces, num_bytes: int) -> Exchange[TokenArtifact]:
    """A file of tokens, of that size, to be kept for jobs."""
    return _upload("application/octet-stream", pieces, num_bytes, TokenArtifact.model_validate_json)


def upload_arrays(pieces: Pieces, num_bytes: int, suffix: str) -> Exchange[ArrayArtifact]:
    """A file of arrays, of that size, to be kept for jobs; the end of its name tells npz from safetensors."""
    sent_as = NPZ if suffix == ".npz" else "application/x-safetensors"
    return _upload(sent_as, pieces, num_bytes, ArrayArtifact.model_validate_json)


def _upload(sent_as: str, pieces: Pieces, num_bytes: int, read: Callable[[bytes], T]) -> Exchange[T]:
    headers = {"Content-Type": sent_as, "Content-Length": str(num_bytes)}
    return Exchange("POST", "/v1/artifacts", read, body=pieces, headers=headers, wait_seconds=_UPLOAD_SECONDS)


def artifact(artifact_id: str) -> Exchange[AnyArtifact]:
    """What an uploaded file holds."""
    return Exchange("GET", f"/v1/artifacts/{artifact_id}", _ARTIFACT.validate_json)


def artifacts(page_token: str | None) -> Exchange[ArtifactPage]:
    """One page of uploaded files, newest first."""
    query = {"page_token": page_token} if page_token else {}
    return Exchange("GET", "/v1/artifacts", ArtifactPage.model_validate_json, query=query)


def delete_artifact(artifact_id: str) -> Exchange[None]:
    """The end of an uploaded file."""
    return Exchange("DELETE", f"/v1/artifacts/{artifact_id}", lambda _: None)


def models() -> Exchange[list[LoadableModel]]:
    """The checkpoints that the server can load."""
    return Exchange(
        "GET", "/v1/models", lambda body: ModelList.model_validate_json(body).models, wait_seconds=_HASH_SECONDS
    )


def ready() -> Exchange[Readiness]:
    """Whether closed forms and jobs are served."""
    return Exchange("GET", "/v1/health/ready", Readiness.model_validate_json)
