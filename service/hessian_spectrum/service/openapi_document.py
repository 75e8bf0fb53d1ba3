"""The OpenAPI document: what FastAPI makes of the routes, completed, and put so that generators make good clients."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hessian_spectrum.service.plots.figure import FIGURE_FORMATS
from hessian_spectrum.service.routes.documentation import problem_documentation
from hessian_spectrum.service.routes.parameters import FIGURE_PARAMETERS, MEDIA_TYPES

Document = dict[str, Any]

_EVERY = problem_documentation(
    status_400="a body of two lengths",
    status_421="the server does not have the name in `Host`",
    status_429="too many requests; `Retry-After` says when the next one is answered",
    status_503="the server is busy",
)
_CHANGING = problem_documentation(status_403="the page of another site sent it")
_GUARDED = problem_documentation(status_401="a key is needed, and none of this server's was sent")


def operation_id(route: APIRoute) -> str:
    """The name of the route's function, which generated clients give to theirs."""
    return route.name


def complete_document(app: FastAPI, *messages: type[BaseModel], file_path: str, is_open: Callable[[str], bool]) -> None:
    """Make the application describe itself completely.

    Args:
        app: The application with all of its routes.
        messages: Bodies that routes read themselves, of which FastAPI knows nothing, and problems.
        file_path: The path of results as files, which ends in the name of a format.
        is_open: Whether a path can be asked for without a key.
    """
    describe = app.openapi

    @cache
    def described() -> Document:
        document = describe()
        schemas = document["components"]["schemas"]
        _require_constants(schemas)
        schemas |= _message_schemas(*messages)
        _say_that_unions_are_objects(schemas)
        document["paths"] = _paths_by_format(document["paths"], file_path)
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "API key; none where there are no keys"}
        }
        for path, item in document["paths"].items():
            for method, operation in item.items():
                _describe_door(operation, changes=method != "get", needs_key=not is_open(path))
                _leave_out_nulls(operation.get("parameters", []))
        return document

    app.openapi = described  # type: ignore[method-assign]


def _message_schemas(*messages: type[BaseModel]) -> Document:
    """By name, with those of their parts.

    Values that have a default have a schema of their own, which says so. Of a reference to it all generators make a
    field that may be left out: of a default in the field's own schema, some make one that callers must give.
    """
    template = "#/components/schemas/{model}"
    _, found = models_json_schema([(message, "validation") for message in messages], ref_template=template)
    schemas: Document = found["$defs"]
    for name, schema in list(schemas.items()):
        for field, described in schema.get("properties", {}).items():
            default = described.pop("default", None)
            if default is None:
                continue  # null where null is allowed: what is left out is null
            own = {key: described.pop(key) for key in ("title", "description") if key in described}
            part = name + field.title().replace("_", "")
            schemas[part] = described | {"default": default}
            schema["properties"][field] = {"$ref": template.format(model=part)} | own
    return schemas


def _require_constants(schemas: Document) -> None:
    """Whatever tells answers apart is always there."""
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            if "const" in field and "default" in field:
                del field["default"]
                schema["required"] = [*schema.get("required", []), name]


def _say_that_unions_are_objects(schemas: Document) -> None:
    """Those of messages: a generator wants to know before it follows a discriminator to one."""
    for schema in schemas.values():
        if all("$ref" in each for each in schema.get("oneOf", [{}])):
            schema["type"] = "object"


def _paths_by_format(paths: Document, file_path: str) -> Document:
    """A path for each format in which there are files of results: each answers with one media type."""
    described: Document = {}
    for path, item in paths.items():
        for name, media_type in MEDIA_TYPES.items() if path == file_path else ():
            [(method, operation)] = deepcopy(item).items()
            operation["operationId"] = operation["operationId"].removesuffix("file") + name
            operation["summary"] += f": {name}"
            unfit = {"name"} if name in FIGURE_FORMATS else {"name", *(each["name"] for each in FIGURE_PARAMETERS)}
            operation["parameters"] = [each for each in operation["parameters"] if each["name"] not in unfit]
            content = operation["responses"]["200"]["content"]
            operation["responses"]["200"]["content"] = {media_type: content[media_type]}
            described[path.replace("{name}", name)] = {method: operation}
        if path != file_path:
            described[path] = item
    return described


def _describe_door(operation: Document, *, changes: bool, needs_key: bool) -> None:
    """Add what the door may answer to any request, and the key that it wants."""
    wanted = _EVERY | (_CHANGING if changes else {}) | (_GUARDED if needs_key else {})
    operation["responses"] = {str(k): v for k, v in wanted.items()} | operation["responses"]
    operation["security"] = [{"key": []}, {}] if needs_key else []


def _leave_out_nulls(parameters: list[Document]) -> None:
    """A parameter is not sent or it is, but it is never null."""
    for parameter in parameters:
        schema = parameter["schema"]
        if schema.get("default", ...) is None:
            del schema["default"]
        kinds = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
        if len(kinds) == 1:
            schema |= kinds[0]
        elif kinds:
            schema["anyOf"] = kinds
