"""The endpoints of the server: a function for each returns the request that the clients send.

The documentation of a function is that of the method of the same name that both clients have.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_json

from hessian_spectrum.api_schemas.artifacts import (
    AnyArtifact,
    ArrayArtifact,
    ArtifactPage,
    ProgramArtifact,
    TokenArtifact,
)
from hessian_spectrum.api_schemas.checkpoints import LoadableModel, ModelList
from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.closed_form_batch import FailedItem
from hessian_spectrum.api_schemas.experiments.figure import FigureList
from hessian_spectrum.api_schemas.experiments.series import SeriesResult
from hessian_spectrum.api_schemas.health import Readiness
from hessian_spectrum.api_schemas.jobs import (
    AnyJobResult,
    CostEstimate,
    Job,
    JobPage,
    JobResult,
    JobState,
    SubmittedJobs,
)
from hessian_spectrum.api_schemas.message import Array
from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer, RandomMatrixAnswer
from hessian_spectrum.client.arrays import file_pieces, sample_arrays
from hessian_spectrum.client.jax_export import is_flax_module, jax_parameters, jax_program
from hessian_spectrum.client.requests import (
    ApiRequest,
    Body,
    FilePath,
    PictureStyle,
    ResultFormat,
    Smoothing,
    header_text,
)

T = TypeVar("T")

_HEAVY_SECONDS = 120.0  # the server's limit for one answer that keeps a core busy
_UPLOAD_SECONDS = 120.0
_HASH_SECONDS = 600.0  # to hash checkpoints that are new to the server

_NPZ, _NPY, _SAFETENSORS = "application/x-npz", "application/x-npy", "application/x-safetensors"
_PT2 = "application/vnd.pytorch.pt2"
_ONNX, _NDJSON = "application/onnx", "application/x-ndjson"
_MEDIA_TYPES: dict[ResultFormat, str] = {
    "json": "application/json",
    "npz": _NPZ,
    "csv": "text/csv",
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}

_RANDOM_MATRIX: TypeAdapter[LawAnswer | IndexCurveAnswer] = TypeAdapter(RandomMatrixAnswer)
_RESULT: TypeAdapter[AnyJobResult] = TypeAdapter(JobResult)
_BATCH_ITEM: TypeAdapter[ClosedFormSpectrum | FailedItem] = TypeAdapter(ClosedFormSpectrum | FailedItem)
_DOCUMENT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_ARTIFACT: TypeAdapter[AnyArtifact] = TypeAdapter(AnyArtifact)


def closed_form(request: Body | bytes) -> ApiRequest[ClosedFormSpectrum]:
    """Compute the complete Hessian spectrum of a network that has a formula.

    A request with numpy arrays, or one that is an npz archive of its fields, is sent as npz.

    Args:
        request: Model of the request, a dictionary of its fields, or an npz archive.

    Returns:
        The spectrum.
    """
    return _closed_form(request, "json", ClosedFormSpectrum.model_validate_json)


def closed_form_file(request: Body | bytes, name: ResultFormat, style: PictureStyle | None = None) -> ApiRequest[bytes]:
    """Return the spectrum as JSON, npz (which holds more eigenvectors), CSV or a picture (PNG, SVG or PDF)."""
    return _closed_form(request, name, bytes, style=style)


def _closed_form(
    request: Body | bytes, name: ResultFormat, read: Callable[[bytes], T], *, style: PictureStyle | None = None
) -> ApiRequest[T]:
    headers = {"Accept": _MEDIA_TYPES[name]}
    if not isinstance(request, bytes):
        check_request(request)
    if isinstance(request, bytes) or _holds_arrays(request):
        request = request if isinstance(request, bytes) else _archive(request)
        headers["Content-Type"] = _NPZ
    return ApiRequest(
        "POST", "/v1/closed-form", read, body=request, query=style or {}, headers=headers, wait_seconds=_HEAVY_SECONDS
    )


def closed_forms(requests: Iterable[Body]) -> ApiRequest[list[ClosedFormSpectrum | FailedItem]]:
    """Compute many closed forms in one request, several times as fast as one after the other.

    Args:
        requests: Models of requests or dictionaries of their fields, whose arrays may be of numpy.

    Returns:
        For each request its spectrum, or the problem for which it has none.
    """
    lines = [to_json(request, exclude_none=True, fallback=_as_list) for request in requests]
    headers = {"Content-Type": _NDJSON}
    path, body = "/v1/closed-form/batch", b"\n".join(lines)
    return ApiRequest("POST", path, _read_lines, body=body, headers=headers, wait_seconds=_HEAVY_SECONDS)


def _read_lines(content: bytes) -> list[ClosedFormSpectrum | FailedItem]:
    return [_BATCH_ITEM.validate_json(line) for line in content.splitlines()]


def _as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a request holds {type(value).__name__}, which JSON cannot represent")


def random_matrix(request: Body) -> ApiRequest[LawAnswer | IndexCurveAnswer]:
    """Compute a random-matrix law, or its index as a function of the energy."""
    return _random_matrix(request, "json", _RANDOM_MATRIX.validate_json)


def random_matrix_file(request: Body, name: ResultFormat, style: PictureStyle | None = None) -> ApiRequest[bytes]:
    """Return the random-matrix law as JSON, npz, CSV or a picture (PNG, SVG or PDF)."""
    return _random_matrix(request, name, bytes, style=style)


def _random_matrix(
    request: Body, name: ResultFormat, read: Callable[[bytes], T], *, style: PictureStyle | None = None
) -> ApiRequest[T]:
    headers = {"Accept": _MEDIA_TYPES[name]}
    return ApiRequest(
        "POST",
        "/v1/random-matrix",
        read,
        body=check_request(request),
        query=style or {},
        headers=headers,
        wait_seconds=_HEAVY_SECONDS,
    )


def check_request(request: Any, argument: str = "request") -> Body:
    """Check that an argument is a request.

    Args:
        request: The argument.
        argument: Its name.

    Returns:
        The request.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(request, BaseModel | Mapping):
        kind = type(request).__name__
        raise TypeError(f"{argument} must be the model of a request or a dictionary of its fields, not {kind}")
    return request


def estimate(request: Body) -> ApiRequest[CostEstimate]:
    """Predict the cost of a job; nothing is queued."""
    return ApiRequest(
        "POST",
        "/v1/estimates",
        CostEstimate.model_validate_json,
        body=check_request(request),
        wait_seconds=_HEAVY_SECONDS,
    )


def submit(
    request: Body, *, wait_seconds: int = 0, idempotency_key: str | None = None, fresh: bool = False
) -> ApiRequest[Job]:
    """Submit a job.

    Args:
        request: Model of the request or a dictionary of its fields.
        wait_seconds: Time, at most 60 s, to wait for the end of the job before the call returns.
        idempotency_key: Key under which the same request, sent again within a day, returns the same job.
        fresh: Whether to compute even if an equal request has a stored result.

    Returns:
        The job's record.
    """
    headers = _submission_headers(idempotency_key, fresh)
    if wait_seconds:
        headers["Prefer"] = f"wait={wait_seconds}"
    seconds = _HEAVY_SECONDS + wait_seconds  # a large request is read before it is waited for
    body = check_request(request)
    return ApiRequest("POST", "/v1/jobs", Job.model_validate_json, body=body, headers=headers, wait_seconds=seconds)


def submit_batch(
    requests: Sequence[Body], *, idempotency_key: str | None = None, fresh: bool = False
) -> ApiRequest[list[Job]]:
    """Submit at most 1,000 jobs in one request: all of them are accepted, or none.

    Args:
        requests: Models of the requests or dictionaries of their fields.
        idempotency_key: Key under which the same requests, sent again within a day, return the same jobs.
        fresh: Whether to compute even if an equal request has a stored result.

    Returns:
        The jobs' records, in the order of the requests.
    """
    bodies = [
        each.model_dump(mode="json", exclude_none=True) if isinstance(each, BaseModel) else each for each in requests
    ]
    headers = _submission_headers(idempotency_key, fresh)
    return ApiRequest(
        "POST",
        "/v1/jobs/batch",
        lambda answer: SubmittedJobs.model_validate_json(answer).jobs,
        body={"jobs": bodies},
        headers=headers,
        wait_seconds=_HEAVY_SECONDS,
    )


def _submission_headers(idempotency_key: str | None, fresh: bool) -> dict[str, str]:
    headers = (
        {} if idempotency_key is None else {"Idempotency-Key": header_text(idempotency_key, "The idempotency key")}
    )
    return headers | ({"Cache-Control": "no-cache"} if fresh else {})


def request(job_id: str) -> ApiRequest[dict[str, Any]]:
    """Return the request of a job with its defaults, to submit it again; long ones are kept until the job ends."""
    return ApiRequest("GET", f"{_job_path(job_id)}/request", _DOCUMENT.validate_json)


def job(job_id: str, wait_seconds: float = 0.0) -> ApiRequest[Job]:
    """Return the record of a job, after at most `wait_seconds` if it has not ended."""
    query = {"wait": wait_seconds} if wait_seconds else {}
    return ApiRequest("GET", _job_path(job_id), Job.model_validate_json, query=query, wait_seconds=wait_seconds)


def jobs(state: JobState | None, tag: str | None, page_token: str | None) -> ApiRequest[JobPage]:
    """Return one page of jobs, newest first."""
    filters = {"state": state, "tag": tag, "page_token": page_token}
    query = {name: value for name, value in filters.items() if value is not None}
    return ApiRequest("GET", "/v1/jobs", JobPage.model_validate_json, query=query)


def result(job_id: str, smoothing: Smoothing | None = None, *, interim: bool = False) -> ApiRequest[AnyJobResult]:
    """Return the result of a job that succeeded; the curves of `lanczos` can be smoothed again.

    Args:
        job_id: Id of the job.
        smoothing: Settings with which to smooth the curves of `lanczos` again.
        interim: Whether the newest interim result will do while the job runs.
    """
    seconds = _HEAVY_SECONDS if smoothing else 0.0
    path = f"{_job_path(job_id)}/result"
    query = {**(smoothing or {}), **_interim(interim)}
    return ApiRequest("GET", path, _RESULT.validate_json, query=query, wait_seconds=seconds)


def result_file(
    job_id: str,
    name: ResultFormat,
    *,
    smoothing: Smoothing | None = None,
    style: PictureStyle | None = None,
    interim: bool = False,
) -> ApiRequest[bytes]:
    """Return the result as JSON, npz (the only format with eigenvectors), CSV or a picture (PNG, SVG or PDF).

    Args:
        job_id: Id of the job.
        name: Format of the result.
        smoothing: Settings with which to smooth the curves of `lanczos` again.
        style: Settings of a picture.
        interim: Whether the newest interim result will do while the job runs.
    """
    query = {**(smoothing or {}), **(style or {}), **_interim(interim)}
    return ApiRequest("GET", f"{_job_path(job_id)}/result.{name}", bytes, query=query, wait_seconds=_HEAVY_SECONDS)


def _job_path(job_id: str) -> str:
    return _path_below("/v1/jobs", job_id, "job_id")


def _series_path(name: str) -> str:
    return _path_below("/v1/series", name, "name")


def _path_below(parent: str, name: str, argument: str) -> str:
    """Return the path of one thing; with an empty name it would be that of the list of all."""
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a text, not {type(name).__name__}")
    if not name:
        raise ValueError(f"{argument} is empty")
    return f"{parent}/{quote(name, safe='')}"


def _interim(wanted: bool) -> dict[str, str]:
    return {"interim": "true"} if wanted else {}


def series(name: str) -> ApiRequest[SeriesResult]:
    """Return the numbers along a training run, from all jobs of the series that have a result."""
    return ApiRequest("GET", _series_path(name), SeriesResult.model_validate_json, wait_seconds=_HEAVY_SECONDS)


def series_file(name: str, file_format: ResultFormat, *, style: PictureStyle | None = None) -> ApiRequest[bytes]:
    """Return a series as JSON, npz, CSV or a picture (PNG, SVG or PDF)."""
    path = f"{_series_path(name)}/result.{file_format}"
    return ApiRequest("GET", path, bytes, query=style or {}, wait_seconds=_HEAVY_SECONDS)


def figures() -> ApiRequest[FigureList]:
    """Return the figures of the sources that jobs compute, with their parameters and costs."""
    return ApiRequest("GET", "/v1/figures", FigureList.model_validate_json)


def cancel(job_id: str) -> ApiRequest[Job]:
    """Cancel a job; its record shows when it has ended."""
    return ApiRequest("POST", f"{_job_path(job_id)}/cancel", Job.model_validate_json)


def delete(job_id: str) -> ApiRequest[None]:
    """Delete a job that has ended, and its result."""
    return ApiRequest("DELETE", _job_path(job_id), lambda _: None)


def upload_file(path: FilePath) -> ApiRequest[AnyArtifact]:
    """Upload a file chunk by chunk; the ending of its name says what it holds.

    Args:
        path: A file of arrays (.npz, .npy, .safetensors), a program (.pt2, .onnx) or tokens (.bin).

    Returns:
        The uploaded file, which jobs refer to by its id.

    Raises:
        OSError: If the file cannot be read.
    """
    return _UPLOADS.get(Path(path).suffix.lower(), upload_arrays)(path)


def upload_tokens(path: FilePath) -> ApiRequest[TokenArtifact]:
    """Upload a file of tokens chunk by chunk.

    Args:
        path: nanoGPT's .bin, or a .npy array of integers.

    Returns:
        The uploaded file, which jobs refer to by its id.

    Raises:
        OSError: If the file cannot be read.
    """
    return _upload(path, sent_as="application/octet-stream", read=TokenArtifact.model_validate_json)


def upload_arrays(path: FilePath, *, name: str | None = None) -> ApiRequest[ArrayArtifact]:
    """Upload a file of arrays chunk by chunk: weights, or data x and y.

    Args:
        path: A .safetensors or .npz file, or a .npy file, which holds one array.
        name: Name of the array of a .npy file; None: that of the file.

    Returns:
        The uploaded file, which jobs refer to by its id.

    Raises:
        OSError: If the file cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    sent_as = {".npz": _NPZ, ".npy": _NPY}.get(suffix, _SAFETENSORS)
    name = path.stem if name is None and suffix == ".npy" else name
    query = {} if name is None else {"name": name}
    return _upload(path, sent_as=sent_as, read=ArrayArtifact.model_validate_json, query=query)


def upload_program(path: FilePath) -> ApiRequest[ProgramArtifact]:
    """Upload a program chunk by chunk.

    Args:
        path: A .pt2 file as torch.export.save writes it, or an .onnx file.

    Returns:
        The uploaded file, which jobs refer to by its id.

    Raises:
        OSError: If the file cannot be read.
    """
    sent_as = _ONNX if Path(path).suffix.lower() == ".onnx" else _PT2
    return _upload(path, sent_as=sent_as, read=ProgramArtifact.model_validate_json)


_UPLOADS: dict[str, Callable[[FilePath], ApiRequest[Any]]] = {
    ".bin": upload_tokens,
    ".onnx": upload_program,
    ".pt2": upload_program,
}
"""Endings of files that hold no arrays."""


def upload_module(module: Any, example_inputs: Any, parameters: Any = None) -> ApiRequest[dict[str, Any]]:
    """Upload a PyTorch or JAX network as a program, after comparing outputs and gradients with those of the original.

    Jobs differentiate the parameters that require gradients, or that are `flax.nnx.Param`. The client needs its extra
    `torch` or `jax`.

    Args:
        module: A `torch.nn.Module` or `flax.nnx.Module` in eval mode, or with `parameters` a function of JAX; it
            returns one array (n, ...).
        example_inputs: Its input, or a tuple of its inputs, for at least two samples: tensors or arrays.
        parameters: A tree of arrays: `module` is called as module(parameters, *inputs), and jobs differentiate all of
            them; None for a module.

    Returns:
        The field `model` of a request, which refers to the program by its id.

    Raises:
        ModuleExportError: If the module cannot be exported, or its program differs from it.
    """
    if parameters is not None or is_flax_module(module):
        return _upload_bytes(jax_program(module, example_inputs, parameters), _ONNX, _exported)
    from hessian_spectrum.client.module_export import module_program  # noqa: PLC0415 - loads torch

    return _upload_bytes(module_program(module, example_inputs), _PT2, _exported)


def upload_parameters(module: Any) -> ApiRequest[dict[str, Any]]:
    """Upload the parameters of a network, for a program that `upload_module` has sent. Needs torch or jax.

    Args:
        module: A `torch.nn.Module` or its parameters by name, a `flax.nnx.Module`, or a tree of arrays of JAX.

    Returns:
        The field `parameters` of a model of kind `exported`, which refers to the file by its id.
    """
    if not (hasattr(module, "named_parameters") or _are_tensors(module)):
        return _upload_bytes(jax_parameters(module), _SAFETENSORS, lambda reference: reference)
    from hessian_spectrum.client.module_export import module_parameters  # noqa: PLC0415 - loads torch

    return _upload_bytes(module_parameters(module), _SAFETENSORS, lambda reference: reference)


def upload_data(x: Any, y: Any = None) -> ApiRequest[dict[str, Any]]:
    """Upload samples; each array keeps its type.

    Args:
        x: Inputs (n, ...) as an array of numpy, a tensor of torch, or anything that `numpy.asarray` takes; for a
            program with several inputs, a dictionary of arrays by the names of the inputs.
        y: Targets (n, ...): class labels as whole numbers, or real numbers; None for a loss that needs none.

    Returns:
        The field `data` of a request, which refers to the file by its id.
    """
    content = b"".join(file_pieces(sample_arrays(x, y)))
    return _upload_bytes(content, _SAFETENSORS, lambda reference: reference)


def upload_part(content: bytes) -> ApiRequest[str]:
    """Upload a part of a data set; returns its id."""
    return ApiRequest(
        "POST",
        "/v1/artifacts",
        lambda answer: _ARTIFACT.validate_json(answer).id,
        body=content,
        headers={"Content-Type": _SAFETENSORS},
        wait_seconds=_UPLOAD_SECONDS,
    )


def _are_tensors(parameters: Any) -> bool:
    return isinstance(parameters, Mapping) and all(hasattr(each, "detach") for each in parameters.values())


def _exported(reference: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "exported", "program": reference}


def _upload_bytes(
    content: bytes, sent_as: str, field: Callable[[dict[str, Any]], dict[str, Any]]
) -> ApiRequest[dict[str, Any]]:
    def read(answer: bytes) -> dict[str, Any]:
        return field({"kind": "artifact", "id": _ARTIFACT.validate_json(answer).id})

    headers = {"Content-Type": sent_as}
    return ApiRequest("POST", "/v1/artifacts", read, body=content, headers=headers, wait_seconds=_UPLOAD_SECONDS)


def _upload(
    path: FilePath, *, sent_as: str, read: Callable[[bytes], T], query: Mapping[str, str] | None = None
) -> ApiRequest[T]:
    file = Path(path)
    headers = {"Content-Type": sent_as, "Content-Length": str(file.stat().st_size)}
    return ApiRequest(
        "POST", "/v1/artifacts", read, body=file, query=query or {}, headers=headers, wait_seconds=_UPLOAD_SECONDS
    )


def artifact(artifact_id: str) -> ApiRequest[AnyArtifact]:
    """Return the description of an uploaded file."""
    return ApiRequest("GET", _path_below("/v1/artifacts", artifact_id, "artifact_id"), _ARTIFACT.validate_json)


def artifacts(page_token: str | None) -> ApiRequest[ArtifactPage]:
    """Return one page of uploaded files, newest first."""
    query = {"page_token": page_token} if page_token else {}
    return ApiRequest("GET", "/v1/artifacts", ArtifactPage.model_validate_json, query=query)


def delete_artifact(artifact_id: str) -> ApiRequest[None]:
    """Delete an uploaded file; jobs that have not read it yet fail."""
    return ApiRequest("DELETE", _path_below("/v1/artifacts", artifact_id, "artifact_id"), lambda _: None)


def models() -> ApiRequest[list[LoadableModel]]:
    """Return the checkpoints in the models directory, with the reason for those that cannot be loaded."""
    return ApiRequest(
        "GET", "/v1/models", lambda body: ModelList.model_validate_json(body).models, wait_seconds=_HASH_SECONDS
    )


def ready() -> ApiRequest[Readiness]:
    """Return the readiness of server and workers; the error of a server that is not ready lists what is missing."""
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
