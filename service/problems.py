"""Every error as `application/problem+json`; none echoes what the caller sent at length."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from api_schemas.closed_form_models import CLOSED_FORM_KINDS
from api_schemas.job_requests import JOB_KINDS
from api_schemas.problem import PROBLEM_MEDIA_TYPE, FieldError, Problem
from api_schemas.random_matrix import RANDOM_MATRIX_LAWS
from jobs.artifacts import UnknownArtifactError
from jobs.quotas import QuotaError
from jobs.results import ResultDamagedError
from jobs.store import KeyReusedError, UnknownJobError
from service.doors.page_headers import PAGE_HEADERS
from theory.errors import TheoryError

MAX_ERRORS = 20
_MAX_MESSAGE_LENGTH = 300
_MAX_NAME_LENGTH = 64

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

# Fields whose value is one of several messages: pydantic puts the chosen one into the location of an error.
_UNIONS = {
    "model": {*CLOSED_FORM_KINDS, "mlp", "conv", "attention-layer", "gpt2", "causal-lm"},
    "data": {"inline", "gaussian", "gaussian-sequences", "digits", "text", "artifact"},
    "method": {"exact", "lanczos", "top-k", "trace"},
    "body": {*RANDOM_MATRIX_LAWS, *JOB_KINDS},
    "laws": {*RANDOM_MATRIX_LAWS},
    "schedule": {"plateau", "warmup-cosine"},
    "bias": {"one", "several"},
    "mean_score": {"one", "several"},
    "weights": {"layers", "artifact"},
    "artifact": {"tokens", "arrays"},
    "x": {"numbers", "rows", "sequences"},
    "y": {"numbers", "rows", "sequences"},
}
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_UNKNOWN_KIND = {"union_tag_invalid", "union_tag_not_found"}

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
    return ProblemError(invalid_request([FieldError(loc=["query", name], msg=message)]))


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
        return problem_response(request, problem, {**PAGE_HEADERS, "X-Request-ID": request_id})


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


def _storage_away(error: Exception) -> ProblemError:
    _logger.warning("Redis does not answer: %s", error)
    problem = Problem(
        type="/problems/storage-unavailable",
        title="Jobs cannot be reached at the moment",
        status=503,
        detail="Redis does not answer; closed forms still do.",
    )
    return ProblemError(problem, {"Retry-After": "5"})


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


def _field_error(error: Mapping[str, Any]) -> FieldError:
    location = _path(error["loc"][:16], ends_in_field=error["type"] == "extra_forbidden")
    if error["type"] in _UNKNOWN_KIND:
        field = "law" if error["ctx"].get("discriminator") == "'law'" else "kind"
        parents = [part for part in location if isinstance(part, str)]
        known = sorted(_UNIONS.get(parents[-1] if parents else "", ()))
        tags = error["ctx"].get("expected_tags") or ", ".join(f"'{tag}'" for tag in known)
        return FieldError(loc=[*location, field], msg=f"must be one of {tags}")
    return FieldError(loc=location, msg=str(error["msg"])[:_MAX_MESSAGE_LENGTH])


def _path(location: Sequence[str | int], *, ends_in_field: bool) -> list[str | int]:
    """The path as it stands in the request; `ends_in_field`: the last part is none of the messages of a union."""
    path: list[str | int] = []
    parent = None
    for place, part in enumerate(location, start=1):
        if isinstance(part, int):
            path.append(part)
            continue
        if (ends_in_field and place == len(location)) or part not in _UNIONS.get(str(parent), ()):
            path.append(part[:_MAX_NAME_LENGTH])
        parent = part
    return path
