"""Responses to errors as `application/problem+json`; no problem repeats long texts that the caller sent."""

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from kombu.exceptions import OperationalError
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from hessian_spectrum.api_schemas.problem import PROBLEM_MEDIA_TYPE, FieldError, Problem
from hessian_spectrum.jobs.connection import described, fault_of
from hessian_spectrum.jobs.creation import KeyReusedError
from hessian_spectrum.jobs.record import QuotaError
from hessian_spectrum.jobs.store import UnknownJobError
from hessian_spectrum.results.plots.figure_style import FigureTooLargeError
from hessian_spectrum.service.middleware.security_headers import SECURITY_HEADERS
from hessian_spectrum.service.validation_errors import (
    MAX_MESSAGE_LENGTH,
    MAX_NAME_LENGTH,
    body_error,
    parameter_error,
)
from hessian_spectrum.storage.artifacts import UnknownArtifactError
from hessian_spectrum.storage.results import ResultDamagedError
from hessian_spectrum.theory.exceptions import TheoryError

MAX_ERRORS = 20

_TITLES = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    422: "Invalid request",
}

BODY_TOO_LARGE = Problem(
    type="/problems/body-too-large",
    title="Body too large",
    status=413,
    detail="JSON is for small arrays. Closed forms take large ones as application/x-npz or multipart/form-data, jobs "
    "take weights, data and tokens that were uploaded; docs/deployment.md says how large bodies and uploads may be.",
)

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

_QUOTA_RETRY_SECONDS = 10

_logger = logging.getLogger(__name__)


class ProblemError(Exception):
    """Raised anywhere to answer a request with a problem."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.title)
        self.problem = problem
        self.headers = headers


def problem_response(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response that carries a problem."""
    content = problem.model_copy(update={"instance": problem.instance or request.scope["path"][:200]})
    return Response(
        content.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def refusal_response(scope: Scope, refusal: ProblemError) -> Response:
    """Return the response of a middleware that does not pass a request on; the body of the request is not read."""
    return problem_response(Request(scope), refusal.problem, refusal.headers)


def invalid_request(errors: Sequence[FieldError], num_errors: int = 0) -> Problem:
    """Return problem 422 that lists the wrong fields.

    Args:
        errors: The wrong fields, of which the first `MAX_ERRORS` are listed.
        num_errors: Number of all errors, if `errors` is only a part of them.

    Returns:
        The problem.
    """
    shown = list(errors[:MAX_ERRORS])
    first = ".".join(str(part) for part in shown[0].loc) if shown else ""
    detail = f"{first}: {shown[0].msg}" if shown else "The request has too many errors to list."
    if max(len(errors), num_errors) > len(shown):
        detail = f"{detail} ({max(len(errors), num_errors)} errors, the first {len(shown)} are listed)"
    return Problem(type="/problems/invalid-request", title="Invalid request", status=422, detail=detail, errors=shown)


def invalid_field(path: Sequence[str | int], message: str) -> ProblemError:
    """Return error 422 for one field of the body."""
    return ProblemError(invalid_request([FieldError(loc=["body", *path], msg=message)]))


def invalid_query(name: str, message: str) -> ProblemError:
    """Return error 422 for one query parameter."""
    return ProblemError(invalid_request([FieldError(loc=["query", name[:MAX_NAME_LENGTH]], msg=message)]))


def problem_of_part(problem: Problem, url_path: str, *path: str | int) -> Problem:
    """Return a problem with a part of a body, in place of the same problem with a body of its own.

    Args:
        problem: The problem, whose locations begin at the part.
        url_path: Path of the request.
        *path: Path from the body to the part.

    Returns:
        The problem with locations from the body on, and with a pointer to the part as its instance.
    """
    pointer = "/".join(str(part) for part in path)
    changes: dict[str, Any] = {"instance": f"{url_path}#/{pointer}"}
    if problem.errors:
        errors = [each.model_copy(update={"loc": ["body", *path, *each.loc[1:]]}) for each in problem.errors]
        before, after = (".".join(map(str, each.loc)) for each in (problem.errors[0], errors[0]))
        changes |= {"errors": errors, "detail": after + (problem.detail or "").removeprefix(before)}
    return problem.model_copy(update=changes)


def malformed_upload(detail: str) -> ProblemError:
    """Return error 400 for an upload whose parts cannot be separated."""
    problem = Problem(type="/problems/malformed-upload", title="Malformed upload", status=400, detail=detail)
    return ProblemError(problem)


def register_problem_handlers(app: FastAPI) -> None:
    """Make the application answer every exception that leaves a route with a problem."""
    for kind, translate in _TRANSLATIONS.items():
        app.add_exception_handler(kind, _handler(translate))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == BODY_TOO_LARGE.status:
            return problem_response(request, BODY_TOO_LARGE)
        title = _TITLES.get(error.status_code, "Request refused")
        problem = Problem(title=title, status=error.status_code, detail=str(error.detail)[:MAX_MESSAGE_LENGTH])
        headers = {**(error.headers or {})}
        if error.status_code == 405:
            headers["Allow"] = _allowed_methods(request)
        return problem_response(request, problem, headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        # This response bypasses all middleware, so that their headers are added here.
        request_id = str(request.state.request_id)
        _logger.exception("unexpected error", exc_info=error, extra={"request_id": request_id})
        problem = Problem(title="Internal error", status=500)
        return problem_response(request, problem, {**SECURITY_HEADERS, "X-Request-ID": request_id})


def problem_for(error: Exception) -> ProblemError | None:
    """Return the problem that answers an error if a route raises it; None for an unexpected error."""
    translate = next((_TRANSLATIONS[kind] for kind in type(error).__mro__ if kind in _TRANSLATIONS), None)
    try:
        return None if translate is None else translate(error)
    except type(error):  # the translation raises an error again that it does not know
        return None


def _handler(translate: Callable[[Any], ProblemError]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        translated = translate(error)
        return problem_response(request, translated.problem, translated.headers)

    return handle


def _invalid_parameters(error: RequestValidationError) -> ProblemError:
    errors = error.errors()
    return ProblemError(invalid_request([parameter_error(e) for e in errors[:MAX_ERRORS]], len(errors)))


def _theory_error(error: TheoryError) -> ProblemError:
    return invalid_field(["model", *([error.field] if error.field else [])], str(error))


def _unknown_job(error: UnknownJobError) -> ProblemError:
    return ProblemError(Problem(type="/problems/unknown-job", title="No such job", status=404))


def _unknown_artifact(error: UnknownArtifactError) -> ProblemError:
    return ProblemError(Problem(type="/problems/unknown-artifact", title="No such artifact", status=404))


def _result_damaged(error: ResultDamagedError) -> ProblemError:
    _logger.error("%s", error)
    title = "The stored result is damaged or missing"
    return ProblemError(Problem(type="/problems/result-damaged", title=title, status=500))


def _key_reused(error: KeyReusedError) -> ProblemError:
    problem = Problem(
        type="/problems/idempotency-key-reused",
        title="The Idempotency-Key belongs to another request",
        status=422,
        errors=[FieldError(loc=["header", "Idempotency-Key"], msg="belongs to another request; send a new key")],
    )
    return ProblemError(problem)


def _quota(error: QuotaError) -> ProblemError:
    whose, size = "of this key " if error.is_owners else "", f"{error.limit / 2**20:,.6g} MiB"
    retry = {"Retry-After": str(_QUOTA_RETRY_SECONDS)}
    match error.what:
        case "jobs":
            kind = "quota-of-queued-jobs" if error.is_owners else "queue-full"
            title, detail = "Too many queued jobs", f"At most {error.limit:,} jobs {whose}may wait at a time."
        case "requests":
            kind = "quota-of-requests" if error.is_owners else "requests-full"
            title = "Queued requests take too much space"
            detail = (
                f"The requests of unfinished jobs {whose}may take {size} in total: wait until some jobs have ended, or "
                "upload weights, data and tokens to `/v1/artifacts` and refer to them."
            )
        case "records":
            kind = "quota-of-records" if error.is_owners else "records-full"
            title = "Job records take too much space"
            detail = (
                f"The records of jobs {whose}may take {size} in total: delete ended jobs that you no longer need "
                "(`DELETE /v1/jobs/ID`), or send fewer and shorter tags."
            )
            retry = {}
    return ProblemError(Problem(type=f"/problems/{kind}", title=title, status=429, detail=detail), retry)


def _redis_unavailable(error: RedisError | OperationalError) -> ProblemError:
    _logger.warning("%s: %s", described(error), error)
    is_full = fault_of(error) == "full"
    problem = Problem(
        type="/problems/redis-full" if is_full else "/problems/storage-unavailable",
        title="Redis is full" if is_full else "The job queue is unavailable",
        status=503,
        detail=f"{described(error).capitalize()}; closed forms still work.",
    )
    return ProblemError(problem, {"Retry-After": "5"})


def _files_unavailable(error: OSError) -> ProblemError:
    """Translate an error of the file system; routes use only the files of results, artifacts and models.

    Returns:
        507 for a full disk, 503 for all else.

    Raises:
        OSError: The error itself if it is not about a file.
    """
    if error.errno is None or isinstance(error, ConnectionError | TimeoutError | BlockingIOError):
        raise error
    _logger.error("file storage failed: %s", error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ProblemError(Problem(type="/problems/storage-full", title="The server's disk is full", status=507))
    problem = Problem(
        type="/problems/disk-unavailable",
        title="The server cannot access its files",
        status=503,
        detail=f"The system reports: {os.strerror(error.errno)}. Closed forms still work.",
    )
    return ProblemError(problem, {"Retry-After": "30"})


def _client_disconnected(error: ClientDisconnect) -> ProblemError:
    return ProblemError(Problem(title="Incomplete request", status=400))


_TRANSLATIONS: dict[type[Exception], Callable[[Any], ProblemError]] = {
    ProblemError: lambda error: error,
    RequestValidationError: _invalid_parameters,
    TheoryError: _theory_error,
    FigureTooLargeError: lambda error: invalid_query("dpi", str(error)),
    UnknownJobError: _unknown_job,
    UnknownArtifactError: _unknown_artifact,
    ResultDamagedError: _result_damaged,
    KeyReusedError: _key_reused,
    QuotaError: _quota,
    RedisError: _redis_unavailable,
    OperationalError: _redis_unavailable,
    OSError: _files_unavailable,
    ClientDisconnect: _client_disconnected,
}


def _allowed_methods(request: Request) -> str:
    """Return the methods of every route at this path; Starlette names those of the first route alone.

    A path that some route has literally is not meant for one with a parameter in its place.
    """
    path = request.url.path
    scope = {"type": "http", "path": path, "root_path": "", "headers": []}
    documented = request.app.openapi()["paths"].get(path, {})
    return ", ".join(
        method
        for method in _METHODS
        if (not documented or method.lower() in documented)
        and any(route.matches({**scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    )


def invalid_body(message: type[BaseModel], errors: Sequence[Mapping[str, Any]], num_errors: int) -> ProblemError:
    """Return error 422 for a body that is not a valid message.

    Args:
        message: The class that refused the body.
        errors: Errors that pydantic reports.
        num_errors: Number of all errors, if `errors` is only a part of them.

    Returns:
        The error to raise.
    """
    return ProblemError(invalid_request([body_error(message, e) for e in errors[:MAX_ERRORS]], num_errors))
