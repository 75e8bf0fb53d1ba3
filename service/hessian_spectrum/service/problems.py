"""Every error as `application/problem+json`; none echoes what the caller sent at length."""

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

from hessian_spectrum.api_schemas.patterns import SENTENCES
from hessian_spectrum.api_schemas.problem import PROBLEM_MEDIA_TYPE, FieldError, Problem
from hessian_spectrum.jobs.quotas import QuotaError
from hessian_spectrum.jobs.redis_faults import described, fault_of
from hessian_spectrum.jobs.store import KeyReusedError, UnknownJobError
from hessian_spectrum.service.message_places import MessagePlace, message_place
from hessian_spectrum.service.middleware.security_headers import SECURITY_HEADERS
from hessian_spectrum.service.near_names import near_name, unknown_name
from hessian_spectrum.storage.artifacts import UnknownArtifactError
from hessian_spectrum.storage.results import ResultDamagedError
from hessian_spectrum.theory.errors import TheoryError

MAX_ERRORS = 20
_MAX_MESSAGE_LENGTH = 300
_MAX_NAME_LENGTH = 64
_MAX_DEPTH = 16

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

_SECONDS_OF_A_FULL_QUEUE = 10
"""After which it is worth another look."""

_QUOTAS = {
    "jobs": ("queue-full", "quota-of-queued-jobs"),
    "requests": ("requests-full", "quota-of-requests"),
    "records": ("records-full", "quota-of-records"),
}
"""Types of the problems with what is kept: of all, of one key."""

_logger = logging.getLogger(__name__)


class ProblemError(Exception):
    """An answer other than success, raised where it is decided."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.title)
        self.problem = problem
        self.headers = headers


def problem_response(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The problem as the answer to this request."""
    content = problem.model_copy(update={"instance": problem.instance or request.scope["path"][:200]})
    return Response(
        content.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def invalid_request(errors: Sequence[FieldError], num_errors: int = 0) -> Problem:
    """Problem 422 of fields that are wrong, `num_errors` if these are not all."""
    shown = list(errors[:MAX_ERRORS])
    first = ".".join(str(part) for part in shown[0].loc) if shown else ""
    detail = f"{first}: {shown[0].msg}" if shown else "Far too much of it is wrong."
    if max(len(errors), num_errors) > len(shown):
        detail = f"{detail} ({max(len(errors), num_errors)} errors, the first {len(shown)} are listed)"
    return Problem(type="/problems/invalid-request", title="Invalid request", status=422, detail=detail, errors=shown)


def invalid_field(path: Sequence[str | int], message: str) -> ProblemError:
    """Error 422 of one field of the body."""
    return ProblemError(invalid_request([FieldError(loc=["body", *path], msg=message)]))


def invalid_query(name: str, message: str) -> ProblemError:
    """Error 422 of one parameter of the query."""
    return ProblemError(invalid_request([FieldError(loc=["query", name[:_MAX_NAME_LENGTH]], msg=message)]))


def register_problem_handlers(app: FastAPI) -> None:
    """Translate every exception that leaves a route, once."""
    for kind, translate in _TRANSLATIONS.items():
        app.add_exception_handler(kind, _handler(translate))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == BODY_TOO_LARGE.status:
            return problem_response(request, BODY_TOO_LARGE)
        title = _TITLES.get(error.status_code, "Request refused")
        problem = Problem(title=title, status=error.status_code, detail=str(error.detail)[:_MAX_MESSAGE_LENGTH])
        headers = {**(error.headers or {})}
        if error.status_code == 405:
            headers["Allow"] = _allowed_methods(request)
        return problem_response(request, problem, headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        # Answered outside of all middleware: what that adds to other answers is added here.
        request_id = str(request.state.request_id)
        _logger.exception("unforeseen error", exc_info=error, extra={"request_id": request_id})
        problem = Problem(title="Internal error", status=500)
        return problem_response(request, problem, {**SECURITY_HEADERS, "X-Request-ID": request_id})


def translated(error: Exception) -> ProblemError | None:
    """The answer to an error, as it would be if a route raised it; None: it was not foreseen."""
    translate = next((_TRANSLATIONS[kind] for kind in type(error).__mro__ if kind in _TRANSLATIONS), None)
    try:
        return None if translate is None else translate(error)
    except type(error):  # that kind was foreseen, and not this one of it
        return None


def _handler(translate: Callable[[Any], ProblemError]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        answered = translate(error)
        return problem_response(request, answered.problem, answered.headers)

    return answer


def _invalid(error: RequestValidationError) -> ProblemError:
    errors = error.errors()
    return ProblemError(invalid_request([_field_error(e) for e in errors[:MAX_ERRORS]], len(errors)))


def _outside_the_formula(error: TheoryError) -> ProblemError:
    return invalid_field(["model", *([error.field] if error.field else [])], str(error))


def _unknown_job(error: UnknownJobError) -> ProblemError:
    return ProblemError(Problem(type="/problems/unknown-job", title="No such job", status=404))


def _unknown_artifact(error: UnknownArtifactError) -> ProblemError:
    return ProblemError(Problem(type="/problems/unknown-artifact", title="No such artifact", status=404))


def _damaged_result(error: ResultDamagedError) -> ProblemError:
    _logger.error("%s", error)
    title = "The stored result is damaged or missing"
    return ProblemError(Problem(type="/problems/result-damaged", title=title, status=500))


def _key_reused(error: KeyReusedError) -> ProblemError:
    problem = Problem(
        type="/problems/idempotency-key-reused",
        title="The Idempotency-Key was sent with another request before",
        status=422,
        errors=[FieldError(loc=["header", "Idempotency-Key"], msg="stands for another request; send a new key")],
    )
    return ProblemError(problem)


def _quota(error: QuotaError) -> ProblemError:
    whose, size = "of this key " if error.is_owners else "", f"{error.limit / 2**20:,.6g} MiB"
    match error.what:
        case "jobs":
            title, detail = "Too many jobs wait", f"At most {error.limit:,} jobs {whose}wait at a time."
        case "requests":
            title = "The requests of waiting jobs take too much"
            detail = (
                f"Those {whose}whose jobs have not ended take at most {size} together: wait until some have ended, or "
                "upload weights, data and tokens to `/v1/artifacts` and name them."
            )
        case "records":
            title = "The records of jobs take too much"
            detail = (
                f"Those {whose}take at most {size} together: delete jobs that have ended and are no longer needed "
                "(`DELETE /v1/jobs/ID`), or send fewer and shorter tags."
            )
    headers = {} if error.what == "records" else {"Retry-After": str(_SECONDS_OF_A_FULL_QUEUE)}
    kind = _QUOTAS[error.what][error.is_owners]
    return ProblemError(Problem(type=f"/problems/{kind}", title=title, status=429, detail=detail), headers)


def _storage_away(error: RedisError | OperationalError) -> ProblemError:
    _logger.warning("%s: %s", described(error), error)
    is_full = fault_of(error) == "full"
    problem = Problem(
        type="/problems/redis-full" if is_full else "/problems/storage-unavailable",
        title="There is no memory left for jobs" if is_full else "Jobs cannot be reached at the moment",
        status=503,
        detail=f"{described(error).capitalize()}; closed forms are answered all the same.",
    )
    return ProblemError(problem, {"Retry-After": "5"})


def _disk_away(error: OSError) -> ProblemError:
    """Of whatever a route read or wrote: all that it has to do with is the storage of results and models.

    Raises:  the error itself if it is none of a file.
    """
    if error.errno is None or isinstance(error, ConnectionError | TimeoutError | BlockingIOError):
        raise error
    _logger.error("the storage of files fails: %s", error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ProblemError(Problem(type="/problems/storage-full", title="The server's disk is full", status=507))
    problem = Problem(
        type="/problems/disk-unavailable",
        title="The server cannot use its files at the moment",
        status=503,
        detail=f"The system says: {os.strerror(error.errno)}. Closed forms are answered all the same.",
    )
    return ProblemError(problem, {"Retry-After": "30"})


def _gone(error: ClientDisconnect) -> ProblemError:
    return ProblemError(Problem(title="The request ended too early", status=400))


_TRANSLATIONS: dict[type[Exception], Callable[[Any], ProblemError]] = {
    ProblemError: lambda error: error,
    RequestValidationError: _invalid,
    TheoryError: _outside_the_formula,
    UnknownJobError: _unknown_job,
    UnknownArtifactError: _unknown_artifact,
    ResultDamagedError: _damaged_result,
    KeyReusedError: _key_reused,
    QuotaError: _quota,
    RedisError: _storage_away,
    OperationalError: _storage_away,
    OSError: _disk_away,
    ClientDisconnect: _gone,
}


def _allowed_methods(request: Request) -> str:
    """Those of every route at this path; Starlette names the first one's alone."""
    scope = {"type": "http", "path": request.url.path, "root_path": "", "headers": []}
    return ", ".join(
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    )


def invalid_body(message: type[BaseModel], errors: Sequence[Mapping[str, Any]], num_errors: int) -> ProblemError:
    """Error 422 of a body that is none of these messages, from pydantic's errors, `num_errors` if these are not all."""
    return ProblemError(invalid_request([_body_error(message, e) for e in errors[:MAX_ERRORS]], num_errors))


def _body_error(message: type[BaseModel], error: Mapping[str, Any]) -> FieldError:
    place = message_place(message, error["loc"][:_MAX_DEPTH])
    location = ["body", *_shortened(place.path)]
    match error["type"]:
        case "extra_forbidden":
            return FieldError(loc=location, msg=unknown_name("field", str(place.path[-1]), place.fields))
        case "union_tag_invalid" | "union_tag_not_found":
            choice = [place.discriminator] if place.discriminator is not None else []
            return FieldError(loc=[*location, *choice], msg=_one_of(place, error["ctx"].get("tag")))
        case _:
            return FieldError(loc=location, msg=_said(error))


def _field_error(error: Mapping[str, Any]) -> FieldError:
    return FieldError(loc=_shortened(error["loc"][:_MAX_DEPTH]), msg=_said(error))


def _one_of(place: MessagePlace, tag: str | None) -> str:
    kinds = ", ".join(f"'{kind}'" for kind in place.kinds)
    near = near_name(tag, place.kinds) if tag is not None else None
    return f"must be one of {kinds}" + (f"; did you mean '{near}'?" if near is not None else "")


def _said(error: Mapping[str, Any]) -> str:
    """The message of an error in words that a caller can use."""
    if error["type"] == "string_pattern_mismatch":
        return SENTENCES.get(error["ctx"]["pattern"], "has a form that is not allowed here")
    return str(error["msg"])[:_MAX_MESSAGE_LENGTH]


def _shortened(path: Sequence[str | int]) -> list[str | int]:
    return [part[:_MAX_NAME_LENGTH] if isinstance(part, str) else part for part in path]
