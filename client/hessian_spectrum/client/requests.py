"""Every request to the server, how its body is encoded and how its answer is parsed, independent of how it is sent."""

import io
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, BinaryIO, Generic, Literal, TypeVar

import httpx
import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArrayArtifact, ArtifactPage, TokenArtifact
from hessian_spectrum.api_schemas.checkpoints import LoadableModel, ModelList
from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.health import Readiness
from hessian_spectrum.api_schemas.jobs import AnyJobResult, CostEstimate, Job, JobPage, JobResult, JobState
from hessian_spectrum.api_schemas.message import Array
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer, RandomMatrixAnswer
from hessian_spectrum.client.errors import ProblemResponseError

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 1.0

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Streams of events and long polls keep their connections. By default, the hundred and first would wait for one of them
# to end, and then time out.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)

T = TypeVar("T")
_ANSWER_SECONDS = 30.0
_LAST_ANSWER_SECONDS = 2.0  # after a caller's deadline
_HEAVY_SECONDS = 120.0  # the server's limit for one answer that keeps a core busy
_UPLOAD_SECONDS = 120.0
_HASH_SECONDS = 600.0  # to hash checkpoints that are new to the server

NPZ = "application/x-npz"
_CHUNK_BYTES = 2**20

ResultFormat = Literal["json", "npz", "png", "svg", "pdf"]
_MEDIA_TYPES: dict[ResultFormat, str] = {
    "json": "application/json",
    "npz": NPZ,
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}

Body = BaseModel | Mapping[str, Any]
Chunks = Iterator[bytes] | AsyncIterator[bytes]
"""Parts of a body that is sent while it is read."""

Smoothing = Mapping[str, int | float]
"""Settings that differ from the job's: num_points, kappa and margin, or some of them."""

PictureStyle = Mapping[str, str | int | float]
"""Settings that differ from the default: width_inches, height_inches, dpi and title of a picture, or some of them."""


_RANDOM_MATRIX: TypeAdapter[LawAnswer | IndexCurveAnswer] = TypeAdapter(RandomMatrixAnswer)
_RESULT: TypeAdapter[AnyJobResult] = TypeAdapter(JobResult)
_ARTIFACT: TypeAdapter[AnyArtifact] = TypeAdapter(AnyArtifact)


@dataclass(frozen=True)
class ApiRequest(Generic[T]):
    """A request and the parser of its answer; `wait_seconds` is how long the server may deliberately wait."""

    method: str
    path: str
    read: Callable[[bytes], T]
    _: KW_ONLY
    body: Body | bytes | Chunks | None = None
    query: Mapping[str, str | int | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0

    def arguments(self, deadline: float = float("inf")) -> dict[str, Any]:
        """Arguments for httpx's `request`.

        Args:
            deadline: Time of `time.monotonic` by which the caller needs an answer. The server is given a little longer,
                since it may wait until then before it answers.

        Returns:
            The keyword arguments.
        """
        most = max(0.0, deadline - time.monotonic()) + _LAST_ANSWER_SECONDS
        body = self.body.model_dump(mode="json", exclude_none=True) if isinstance(self.body, BaseModel) else self.body
        return {
            "method": self.method,
            "url": self.path,
            "json" if body is None or isinstance(body, Mapping) else "content": body,
            "params": dict(self.query),
            "headers": dict(self.headers),
            "timeout": httpx.Timeout(
                min(_ANSWER_SECONDS + self.wait_seconds, most), connect=min(_ANSWER_SECONDS, most)
            ),
        }

    def finish(self, response: httpx.Response) -> T:
        """Parse the answer.

        Args:
            response: Complete response of the server.

        Returns:
            The parsed answer.

        Raises:
            ProblemResponseError: If the server answers with a problem.
        """
        if response.is_success:
            return self.read(response.content)
        problem = refusal(response)
        raise problem


def connection(base_url: str, api_key: str | None) -> dict[str, Any]:
    """Arguments for httpx's clients with this API key; no proxy is used for a server on this machine."""
    return {
        "base_url": base_url,
        "headers": {} if api_key is None else {"Authorization": f"Bearer {api_key}"},
        "limits": _LIMITS,
        "trust_env": httpx.URL(base_url).host not in _LOOPBACK,
    }


def refusal(response: httpx.Response) -> ProblemResponseError:
    """Return the error for a response without success."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(title=response.reason_phrase or "Error", status=response.status_code)
    return ProblemResponseError(problem, retry_after_seconds=retry_after_seconds(response))


def retry_after_seconds(response: httpx.Response) -> float | None:
    """Seconds in the header `Retry-After` of a response; None if it has no such number."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of the file, chunk by chunk."""
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


async def async_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """The rest of the file, chunk by chunk, as the asynchronous iterator that httpx requires."""
    for chunk in chunks(file):
        yield chunk


def closed_form(request: Body | bytes) -> ApiRequest[ClosedFormSpectrum]:
    """Request for the spectrum of a network whose Hessian has a formula."""
    return _closed_form(request, "json", ClosedFormSpectrum.model_validate_json)


def closed_form_file(request: Body | bytes, name: ResultFormat, style: PictureStyle | None) -> ApiRequest[bytes]:
    """Request for the spectrum of a network whose Hessian has a formula, as a file."""
    return _closed_form(request, name, bytes, style)


def _closed_form(
    request: Body | bytes, name: ResultFormat, read: Callable[[bytes], T], style: PictureStyle | None = None
) -> ApiRequest[T]:
    headers = {"Accept": _MEDIA_TYPES[name]}
    if isinstance(request, bytes) or _holds_arrays(request):
        request = request if isinstance(request, bytes) else _archive(request)
        headers["Content-Type"] = NPZ
    return ApiRequest(
        "POST", "/v1/closed-form", read, body=request, query=style or {}, headers=headers, wait_seconds=_HEAVY_SECONDS
    )


def random_matrix(request: Body) -> ApiRequest[LawAnswer | IndexCurveAnswer]:
    """Request for a random-matrix law, or its index as a function of the energy."""
    return _random_matrix(request, "json", _RANDOM_MATRIX.validate_json)


def random_matrix_file(request: Body, name: ResultFormat, style: PictureStyle | None) -> ApiRequest[bytes]:
    """Request for a random-matrix law, or its index as a function of the energy, as a file."""
    return _random_matrix(request, name, bytes, style)


def _random_matrix(
    request: Body, name: ResultFormat, read: Callable[[bytes], T], style: PictureStyle | None = None
) -> ApiRequest[T]:
    headers = {"Accept": _MEDIA_TYPES[name]}
    return ApiRequest(
        "POST", "/v1/random-matrix", read, body=request, query=style or {}, headers=headers, wait_seconds=_HEAVY_SECONDS
    )


def estimate(request: Body) -> ApiRequest[CostEstimate]:
    """Request for the predicted cost of a job."""
    return ApiRequest(
        "POST", "/v1/estimates", CostEstimate.model_validate_json, body=request, wait_seconds=_HEAVY_SECONDS
    )


def submit(
    request: Body, *, wait_seconds: int = 0, idempotency_key: str | None = None, fresh: bool = False
) -> ApiRequest[Job]:
    """Submission of a job, or repetition of the one with the same idempotency key, with time to wait for its end."""
    headers = {"Prefer": f"wait={wait_seconds}"} if wait_seconds else {}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    if fresh:
        headers["Cache-Control"] = "no-cache"
    seconds = _HEAVY_SECONDS + wait_seconds  # a large request is read before it is waited for
    return ApiRequest("POST", "/v1/jobs", Job.model_validate_json, body=request, headers=headers, wait_seconds=seconds)


def job(job_id: str, wait_seconds: float = 0.0) -> ApiRequest[Job]:
    """Request for a job's record, after its end or after the given time."""
    query = {"wait": wait_seconds} if wait_seconds else {}
    return ApiRequest("GET", f"/v1/jobs/{job_id}", Job.model_validate_json, query=query, wait_seconds=wait_seconds)


def jobs(state: JobState | None, tag: str | None, page_token: str | None) -> ApiRequest[JobPage]:
    """Request for one page of jobs, newest first."""
    filters = {"state": state, "tag": tag, "page_token": page_token}
    query = {name: value for name, value in filters.items() if value is not None}
    return ApiRequest("GET", "/v1/jobs", JobPage.model_validate_json, query=query)


def result(job_id: str, smoothing: Smoothing | None = None) -> ApiRequest[AnyJobResult]:
    """Request for the result of a job that succeeded."""
    seconds = _HEAVY_SECONDS if smoothing else 0.0
    path = f"/v1/jobs/{job_id}/result"
    return ApiRequest("GET", path, _RESULT.validate_json, query=smoothing or {}, wait_seconds=seconds)


def result_file(
    job_id: str, name: ResultFormat, *, smoothing: Smoothing | None = None, style: PictureStyle | None = None
) -> ApiRequest[bytes]:
    """Request for the result of a job as a file."""
    query = {**(smoothing or {}), **(style or {})}
    return ApiRequest("GET", f"/v1/jobs/{job_id}/result.{name}", bytes, query=query, wait_seconds=_HEAVY_SECONDS)


def cancel(job_id: str) -> ApiRequest[Job]:
    """Cancellation of a job."""
    return ApiRequest("POST", f"/v1/jobs/{job_id}/cancel", Job.model_validate_json)


def delete(job_id: str) -> ApiRequest[None]:
    """Deletion of a job's record and result."""
    return ApiRequest("DELETE", f"/v1/jobs/{job_id}", lambda _: None)


def upload_tokens(chunks: Chunks, num_bytes: int) -> ApiRequest[TokenArtifact]:
    """Upload of a file of tokens of the given size."""
    return _upload("application/octet-stream", chunks, num_bytes, TokenArtifact.model_validate_json)


def upload_arrays(chunks: Chunks, num_bytes: int, suffix: str) -> ApiRequest[ArrayArtifact]:
    """Upload of a file of arrays of the given size; its suffix distinguishes npz from safetensors."""
    sent_as = NPZ if suffix == ".npz" else "application/x-safetensors"
    return _upload(sent_as, chunks, num_bytes, ArrayArtifact.model_validate_json)


def _upload(sent_as: str, chunks: Chunks, num_bytes: int, read: Callable[[bytes], T]) -> ApiRequest[T]:
    headers = {"Content-Type": sent_as, "Content-Length": str(num_bytes)}
    return ApiRequest("POST", "/v1/artifacts", read, body=chunks, headers=headers, wait_seconds=_UPLOAD_SECONDS)


def artifact(artifact_id: str) -> ApiRequest[AnyArtifact]:
    """Request for the description of an uploaded file."""
    return ApiRequest("GET", f"/v1/artifacts/{artifact_id}", _ARTIFACT.validate_json)


def artifacts(page_token: str | None) -> ApiRequest[ArtifactPage]:
    """Request for one page of uploaded files, newest first."""
    query = {"page_token": page_token} if page_token else {}
    return ApiRequest("GET", "/v1/artifacts", ArtifactPage.model_validate_json, query=query)


def delete_artifact(artifact_id: str) -> ApiRequest[None]:
    """Deletion of an uploaded file."""
    return ApiRequest("DELETE", f"/v1/artifacts/{artifact_id}", lambda _: None)


def models() -> ApiRequest[list[LoadableModel]]:
    """Request for the checkpoints in the models directory."""
    return ApiRequest(
        "GET", "/v1/models", lambda body: ModelList.model_validate_json(body).models, wait_seconds=_HASH_SECONDS
    )


def ready() -> ApiRequest[Readiness]:
    """Request for the readiness of the server."""
    return ApiRequest("GET", "/v1/health/ready", Readiness.model_validate_json)


def _set_fields(request: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """Fields that are set, by their dotted paths such as `model.w`."""
    if isinstance(request, BaseModel):
        request = request.model_dump(exclude_none=True, warnings=False)
    return dict(_leaves(request, ""))


def _holds_arrays(request: BaseModel | Mapping[str, Any]) -> bool:
    """Return whether any field is an array object rather than a list."""
    return any(isinstance(value, Array) for value in _set_fields(request).values())


def _archive(request: BaseModel | Mapping[str, Any]) -> bytes:
    """The request as an npz archive with uncompressed members."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in _set_fields(request).items()})
    return buffer.getvalue()


def _leaves(request: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in request.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value
