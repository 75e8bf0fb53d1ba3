"""Parsing of requests: the body, the accepted format, the style of a figure and the place in a list.

The handlers of closed forms call these functions themselves: as dependencies of FastAPI they would take a third of
the time.
"""

import base64
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, TypeVar

import jiter
from fastapi import Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from hessian_spectrum.api_schemas.message import PRINTABLE, described
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.results.plots.figure_style import DEFAULT_STYLE, FIGURE_FORMATS, FigureStyle
from hessian_spectrum.service.headers import header, media_type
from hessian_spectrum.service.problems import ProblemError, invalid_body, invalid_field, invalid_query
from hessian_spectrum.service.validation_errors import unknown_name

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"

LARGE_BODY_BYTES = 100_000
"""Size in bytes above which a body is parsed in the process pool: parsing takes milliseconds and would block the
event loop."""

MAX_VALUES = 2_500_000
"""Largest number of values (numbers, strings, lists and objects) in a body; each takes 100 to 160 bytes of memory
while it is parsed."""

MAX_MEMBERS = 10_000
"""Largest number of members of all objects in a body together; each unknown member costs a kilobyte of errors."""

MAX_COLLECTED_ERRORS = 10_000
"""Largest number of validation errors that are read; others are only counted, as a body may hold a million unknown
fields."""

_VALUE_DELIMITERS = (b",", b"[", b"{")
_DUPLICATE_KEY = "Detected duplicate key"
_MAX_MESSAGE_LENGTH = 200


def unsupported_media_type(*accepted: str) -> ProblemError:
    """Return error 415 that lists the accepted media types."""
    detail = f"Send the body with the header Content-Type: {' or '.join(accepted)}."
    problem = Problem(
        type="/problems/unsupported-media-type", title="Unsupported media type", status=415, detail=detail
    )
    return ProblemError(problem)


def has_media_type(scope: Scope, media_types: Mapping[str, Collection[str]]) -> bool:
    """Return whether the body of a request has one of the media types that are listed for its path."""
    listed = media_types.get(scope["path"])
    return listed is not None and media_type(scope) in listed


async def require_json(request: Request) -> None:
    """Dependency of routes that take JSON alone; it is asynchronous because FastAPI starts a thread for others.

    Raises:
        ProblemError: 415 for any other media type.
    """
    if media_type(request.scope) != JSON:
        raise unsupported_media_type(JSON)


def require_identity(scope: Scope) -> None:
    """Refuse a body that is compressed as a whole.

    Raises:
        ProblemError: 415.
    """
    encoding = (header(scope, b"content-encoding") or "").strip().lower()
    if encoding not in ("", "identity"):
        problem = Problem(
            type="/problems/unsupported-encoding",
            title="Unsupported content encoding",
            status=415,
            detail="Send the body without Content-Encoding; the members of an npz may be deflated.",
        )
        raise ProblemError(problem)


async def json_body(request: Request) -> bytes:
    """Return the whole body of a request.

    Returns:
        The bytes of the body.

    Raises:
        ProblemError: 415 for a compressed body.
        ClientDisconnect: The client has closed the connection before.
    """
    require_identity(request.scope)
    chunks: list[bytes] = []
    is_complete = False
    while not is_complete:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        is_complete = not message.get("more_body", False)
    return b"".join(chunks)


def parse_body(
    body: bytes, kind: type[M], context: Mapping[str, Any] | None = None, *, max_members: int = MAX_MEMBERS
) -> M:
    """Parse a JSON body into a message in one pass.

    Args:
        body: The text of the JSON document.
        kind: The class of the message.
        context: Context for validators of the message.
        max_members: Most members of all objects in the body together.

    Returns:
        The message.

    Raises:
        ProblemError: 413 or 422.
    """

    def parse(text: bytes) -> M:
        check_json(text, max_members=max_members)
        return kind.model_validate_json(text, context=context)

    return _validated(kind, parse, body)


def validate_document(kind: type[M], document: Any) -> M:
    """Validate a parsed document.

    Args:
        kind: The class of the message.
        document: Content of the JSON or of the upload.

    Returns:
        The message.

    Raises:
        ProblemError: 422 for an invalid field.
    """
    return _validated(kind, kind.model_validate, document)


def _validated(kind: type[M], validate: Callable[[Any], M], document: Any) -> M:
    try:
        return validate(document)
    except ValidationError as error:
        num_errors = error.error_count()
        is_collected = num_errors <= MAX_COLLECTED_ERRORS
        errors = error.errors(include_url=False, include_input=False) if is_collected else []
        raise invalid_body(kind, errors, num_errors) from None


def check_json(body: bytes, *, max_members: int = MAX_MEMBERS) -> None:
    """Refuse JSON with too many values or with a name twice in one object; a body that is not JSON passes.

    Parsing the message then reports what is not JSON. The parser gives up beyond 200 nested lists or objects.

    Raises:
        ProblemError: 413 for too many values, 422 for too many or duplicate names.
    """
    if len(body) > MAX_VALUES and sum(body.count(delimiter) for delimiter in _VALUE_DELIMITERS) > MAX_VALUES:
        detail = f"A body of JSON holds at most {MAX_VALUES:,} values; send arrays as files."
        raise ProblemError(
            Problem(type="/problems/too-many-values", title="Too many values", status=413, detail=detail)
        )
    try:
        document = jiter.from_json(body, catch_duplicate_keys=True)
    except ValueError as error:
        if str(error).startswith(_DUPLICATE_KEY):
            raise invalid_field((), str(error)[:_MAX_MESSAGE_LENGTH]) from None
        return
    if len(body) > max_members and _num_members(document) > max_members:
        raise invalid_field((), f"its objects have more than {max_members:,} members")


def _num_members(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_num_members(member) for member in value.values())
    if isinstance(value, list):
        return sum(_num_members(part) for part in value if type(part) in (dict, list))
    return 0


ResultFormat = Literal["json", "npz", "csv", "png", "svg", "pdf"]

MEDIA_TYPES: dict[ResultFormat, str] = {
    "json": "application/json",
    "npz": "application/x-npz",
    "csv": "text/csv",
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}


class StrictRoute(APIRoute):
    """Refuses query parameters that the route does not have; every router of the service makes its routes so.

    A dependency of the whole application would do the same, but take a tenth of the time of a closed form.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which checks the query first."""
        handle = super().get_route_handler()

        async def handle_known(request: Request) -> Response:
            self._check_query(request)
            return await handle(request)

        return handle_known

    async def respond(self, request: Request) -> Response:
        """Return the response of a handler that needs the request alone and makes its response itself."""
        self._check_query(request)
        response: Response = await self.endpoint(request)
        return response

    def _check_query(self, request: Request) -> None:
        if not request.scope["query_string"]:
            return
        known = self._known_query_names
        for name in request.query_params:
            if name not in known:
                raise invalid_query(name, unknown_name("parameter", name, known))

    @cached_property
    def _known_query_names(self) -> tuple[str, ...]:
        return (*_query_names(self.dependant), *_documented_query_names(self.openapi_extra or {}))


def _query_names(dependant: Dependant) -> list[str]:
    own = [parameter.alias for parameter in dependant.query_params]
    return own + [name for each in dependant.dependencies for name in _query_names(each)]


def _documented_query_names(openapi_extra: dict[str, Any]) -> list[str]:
    """Return the names of the parameters that a handler reads from the query by itself."""
    return [each["name"] for each in openapi_extra.get("parameters", ()) if each["in"] == "query"]


@lru_cache(maxsize=64)
def require_format(accept: str | None) -> ResultFormat:
    """Choose the format of a response.

    Args:
        accept: The Accept header; None without one.

    Returns:
        The format that the header prefers; JSON without a header.

    Raises:
        ProblemError: 406 if the header accepts none of them.
    """
    if not accept:
        return "json"
    ranked = sorted((_quality(part), -index, part) for index, part in enumerate(accept.split(",")[:32]))
    for quality, _, part in reversed(ranked):
        accepted = part.split(";")[0].strip().lower()
        for name, offered in MEDIA_TYPES.items():
            if quality > 0 and accepted in (offered, offered.split("/")[0] + "/*", "*/*"):
                return name
    detail = f"The available formats are {', '.join(MEDIA_TYPES.values())}."
    raise ProblemError(Problem(title="Not acceptable", status=406, detail=detail))


def _quality(part: str) -> float:
    for parameter in part.split(";")[1:]:
        key, _, value = parameter.strip().partition("=")
        if key == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


_Inches = Annotated[float | None, Field(ge=2, le=20)]


class _FigureQuery(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    width_inches: _Inches = Field(default=None, description="The width of the figure in inches.")
    height_inches: _Inches = Field(default=None, description="The height of the figure in inches.")
    dpi: int | None = Field(default=None, ge=30, le=600, description="The pixels per inch of a png figure.")
    title: str | None = Field(
        default=None,
        max_length=200,
        pattern=PRINTABLE,
        description="Replaces the title of the figure; an empty title removes it.",
    )


FIGURE_PARAMETERS: list[dict[str, Any]] = [
    {"name": name, "in": "query", "required": False, "description": schema.pop("description"), "schema": schema}
    for name, schema in _FigureQuery.model_json_schema()["properties"].items()
]
"""Query parameters of a figure, for `openapi_extra` of a route that calls `figure_style`."""


def figure_style(request: Request, name: ResultFormat) -> FigureStyle:
    """Parse the figure style in the query; FastAPI would take a quarter of the time of a closed form.

    Args:
        request: The request, of which the query alone is read.
        name: The format of the response.

    Returns:
        The style.

    Raises:
        RequestValidationError: A parameter is wrong.
        ProblemError: 422 if the response is not a figure.
    """
    query_params = request.query_params if request.scope["query_string"] else {}
    given = {name: query_params[name] for name in _FigureQuery.model_fields if name in query_params}
    if not given:
        return DEFAULT_STYLE
    try:
        query = _FigureQuery.model_validate_strings(given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("query", *fault["loc"])} for fault in faults]) from None
    if name not in FIGURE_FORMATS:
        raise invalid_query(
            next(iter(given)), f"applies to figures ({', '.join(FIGURE_FORMATS)}); this response is {name}"
        )
    return FigureStyle(**query.model_dump())


def chosen_options(options: object) -> dict[str, Any]:
    """Return the options that a caller has chosen, by name; those that were left out are None in the dataclass."""
    return {name: value for name, value in vars(options).items() if value is not None}


_PAGE_TOKEN = described(r"^[A-Za-z0-9_-]{21}[AQgw]$", "must be the next_page_token of another page")

PageToken = Annotated[str | None, Query(pattern=_PAGE_TOKEN, description="`next_page_token` of the page before")]
"""Page token: 16 bytes in URL-safe base64, of whose last character only two bits count."""


def encode_page_token(last_id: str) -> str:
    """Return the token of the page that begins after an id of 32 hexadecimal digits."""
    return base64.urlsafe_b64encode(bytes.fromhex(last_id)).decode().rstrip("=")


def decode_page_token(token: str | None) -> str | None:
    """Return the id of 32 hexadecimal digits after which a page begins; None for the first page."""
    return None if token is None else base64.urlsafe_b64decode(f"{token}==").hex()
