"""What routes read of a request beside its body: the accepted format, the style of a figure, unknown parameters."""

from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hessian_spectrum.api_schemas.message import PRINTABLE
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.plots.figure import DEFAULT_STYLE, FIGURE_FORMATS, FigureStyle
from hessian_spectrum.service.problems import ProblemError, invalid_query
from hessian_spectrum.service.validation_errors import unknown_name

ResultFormat = Literal["json", "npz", "png", "svg", "pdf"]

MEDIA_TYPES: dict[ResultFormat, str] = {
    "json": "application/json",
    "npz": "application/x-npz",
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}


class StrictRoute(APIRoute):
    """Refuses query parameters that the route does not have; every router of the service makes its routes so.

    A dependency of the whole application would do the same, but take a tenth of the time of a closed form.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, which checks the query first."""
        handle = super().get_route_handler()
        known = (*_query_names(self.dependant), *_documented_query_names(self.openapi_extra or {}))

        async def handle_known(request: Request) -> Response:
            if request.scope["query_string"]:
                for name in request.query_params:
                    if name not in known:
                        raise invalid_query(name, unknown_name("parameter", name, known))
            return await handle(request)

        return handle_known


def _query_names(dependant: Dependant) -> list[str]:
    own = [parameter.alias for parameter in dependant.query_params]
    return own + [name for each in dependant.dependencies for name in _query_names(each)]


def _documented_query_names(openapi_extra: dict[str, Any]) -> list[str]:
    """Names of the parameters that a handler reads from the query by itself."""
    return [each["name"] for each in openapi_extra.get("parameters", ()) if each["in"] == "query"]


@lru_cache(maxsize=64)
def require_format(accept: str | None) -> ResultFormat:
    """The format that an Accept header prefers; JSON without a header.

    Raises:
        ProblemError: 406 if the header accepts none of them.
    """
    if not accept:
        return "json"
    ranked = sorted((_quality(part), -index, part) for index, part in enumerate(accept.split(",")[:32]))
    for quality, _, part in reversed(ranked):
        accepted = part.split(";")[0].strip().lower()
        for name, media_type in MEDIA_TYPES.items():
            if quality > 0 and accepted in (media_type, media_type.split("/")[0] + "/*", "*/*"):
                return name
    detail = f"a result can be had as {', '.join(MEDIA_TYPES.values())}"
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
"""For `openapi_extra` of a route that calls `figure_style`."""


def figure_style(request: Request, name: ResultFormat) -> FigureStyle:
    """The style of the figure that the query asks for; FastAPI would take a quarter of the time of a closed form.

    Args:
        request: The request, of which the query alone is read.
        name: The format of the response.

    Returns:
        The style.

    Raises:
        RequestValidationError: A parameter is wrong.
        ProblemError: 422 if the response is not a figure.
    """
    given = {each: request.query_params[each] for each in _FigureQuery.model_fields if each in request.query_params}
    if not given:
        return DEFAULT_STYLE
    try:
        query = _FigureQuery.model_validate_strings(given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("query", *fault["loc"])} for fault in faults]) from None
    if name not in FIGURE_FORMATS:
        raise invalid_query(next(iter(given)), f"is for pictures ({', '.join(FIGURE_FORMATS)}); this answer is {name}")
    return FigureStyle(**query.model_dump())
