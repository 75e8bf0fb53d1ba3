"""The OpenAPI document of FastAPI, completed so that generators make good clients of it, and its page `/docs`."""

from collections.abc import Callable, Collection
from copy import deepcopy
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hessian_spectrum.results.plots.figure_style import FIGURE_FORMATS
from hessian_spectrum.service.middleware.security_headers import documentation_policy
from hessian_spectrum.service.request_parsing import FIGURE_PARAMETERS, MEDIA_TYPES
from hessian_spectrum.service.routes.documentation import problem_documentation

Document = dict[str, Any]

_PAGE_FILES = "/static-offline-docs"

_EVERY = problem_documentation(
    status_400="The request has two body lengths.",
    status_421="The server does not have the name in `Host`.",
    status_429="There are too many requests; `Retry-After` says when to send the next one.",
    status_503="The server is busy.",
)
_CHANGING = problem_documentation(status_403="A page of another site sent the request.")
_GUARDED = problem_documentation(status_401="No valid API key was sent.")


def operation_id(route: APIRoute) -> str:
    """Return the operation id of a route: the name of its function, which generated clients use."""
    return route.name


def complete_document(
    app: FastAPI, *messages: type[BaseModel], file_paths: Collection[str], is_open: Callable[[str], bool]
) -> None:
    """Make the application describe itself completely.

    Args:
        app: The application with all of its routes.
        messages: Bodies that routes read themselves, of which FastAPI knows nothing, and problems.
        file_paths: The paths of results as files, which end in the name of a format.
        is_open: Whether a path requires no API key.
    """
    describe = app.openapi

    @cache
    def described() -> Document:
        document = describe()
        schemas = document["components"]["schemas"]
        _require_constants(schemas)
        schemas |= _message_schemas(*messages)
        _declare_unions_as_objects(schemas)
        document["paths"] = _paths_by_format(document["paths"], file_paths)
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "The API key; servers without keys need none."}
        }
        for path, item in document["paths"].items():
            for method, operation in item.items():
                _describe_middlewares(operation, changes=method != "get", needs_key=not is_open(path))
                _leave_out_nulls(operation.get("parameters", []))
        return document

    app.openapi = described  # type: ignore[method-assign]


def _message_schemas(*messages: type[BaseModel]) -> Document:
    """Return the schemas of messages and of their parts by name.

    Values that have a default have a schema of their own, which says so. Of a reference to it all generators make a
    field that may be left out: of a default in the field's own schema, some make one that callers must give.

    Returns:
        The schemas by name.
    """
    template = "#/components/schemas/{model}"
    _, generated = models_json_schema([(message, "validation") for message in messages], ref_template=template)
    schemas: Document = generated["$defs"]
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
    """Make the fields that distinguish responses required."""
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            if "const" in field and "default" in field:
                del field["default"]
                schema["required"] = [*schema.get("required", []), name]


def _declare_unions_as_objects(schemas: Document) -> None:
    """Declare unions of messages as objects; some generators need the type before they follow a discriminator."""
    for schema in schemas.values():
        if all("$ref" in each for each in schema.get("oneOf", [{}])):
            schema["type"] = "object"


def _paths_by_format(paths: Document, file_paths: Collection[str]) -> Document:
    """Return one path for each file format of results, so that each responds with one media type."""
    described: Document = {}
    for path, item in paths.items():
        for name, media_type in MEDIA_TYPES.items() if path in file_paths else ():
            [(method, operation)] = deepcopy(item).items()
            operation["operationId"] = operation["operationId"].removesuffix("file") + name
            operation["summary"] += f": {name}"
            unfit = {"name"} if name in FIGURE_FORMATS else {"name", *(each["name"] for each in FIGURE_PARAMETERS)}
            operation["parameters"] = [each for each in operation["parameters"] if each["name"] not in unfit]
            content = operation["responses"]["200"]["content"]
            operation["responses"]["200"]["content"] = {media_type: content[media_type]}
            described[path.replace("{name}", name)] = {method: operation}
        if path not in file_paths:
            described[path] = item
    return described


def _describe_middlewares(operation: Document, *, changes: bool, needs_key: bool) -> None:
    """Add the problems of the middlewares and the API key."""
    problems = _EVERY | (_CHANGING if changes else {}) | (_GUARDED if needs_key else {})
    operation["responses"] = {str(k): v for k, v in problems.items()} | operation["responses"]
    operation["security"] = [{"key": []}, {}] if needs_key else []


def _leave_out_nulls(parameters: list[Document]) -> None:
    """Remove null from parameters: one may be left out, but not sent as null."""
    for parameter in parameters:
        schema = parameter["schema"]
        if schema.get("default", ...) is None:
            del schema["default"]
        kinds = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
        if len(kinds) == 1:
            schema |= kinds[0]
        elif kinds:
            schema["anyOf"] = kinds


def add_documentation_page(app: FastAPI) -> None:
    """Serve `/docs` from the files of fastapi-offline, with a content security policy that allows its own script."""
    made = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=app.title,
        swagger_js_url=f"{_PAGE_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_PAGE_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_PAGE_FILES}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )
    page = bytes(made.body)
    policy = {"Content-Security-Policy": documentation_policy(page)}

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(page, headers=policy)
