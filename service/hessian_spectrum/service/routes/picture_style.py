"""How a caller wants a picture, in the query of every address that draws one."""

from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hessian_spectrum.api_schemas.patterns import PRINTABLE
from hessian_spectrum.service.pictures.sheet import AS_USUAL, PICTURES, Style
from hessian_spectrum.service.problems import invalid_query

_Inches = Annotated[float | None, Field(ge=2, le=20)]


class _PictureQuery(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    width_inches: _Inches = Field(default=None, description="width of a picture in inches")
    height_inches: _Inches = Field(default=None, description="height of a picture in inches")
    dpi: int | None = Field(default=None, ge=30, le=600, description="pixels per inch of a png picture")
    title: str | None = Field(
        default=None,
        max_length=200,
        pattern=PRINTABLE,
        description="title of a picture instead of its own; an empty one: none",
    )


PICTURE_PARAMETERS: list[dict[str, Any]] = [
    {"name": name, "in": "query", "required": False, "description": schema.pop("description"), "schema": schema}
    for name, schema in _PictureQuery.model_json_schema()["properties"].items()
]
"""For `openapi_extra` of a route that calls `picture_style`."""


def picture_style(request: Request, name: str) -> Style:
    """What the query says of the picture; FastAPI would take a quarter of the time of a closed form to look.

    Args:
        name: The format of the answer.

    Raises:
        RequestValidationError: A parameter is wrong.
        ProblemError: 422 for an answer that is no picture.
    """
    given = {each: request.query_params[each] for each in _PictureQuery.model_fields if each in request.query_params}
    if not given:
        return AS_USUAL
    try:
        query = _PictureQuery.model_validate_strings(given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("query", *fault["loc"])} for fault in faults]) from None
    if name not in PICTURES:
        raise invalid_query(next(iter(given)), f"is for pictures ({', '.join(PICTURES)}); this answer is {name}")
    return Style(**query.model_dump())
