"""`POST /v1/closed-form/batch`: many closed forms in one request; their results are streamed in order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence

import pydantic_core
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.closed_form_batch import (
    MAX_ITEMS,
    ClosedFormBatch,
    ClosedFormBatchResult,
    FailedItem,
)
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.config import API_PREFIX
from hessian_spectrum.service.context import service_context
from hessian_spectrum.service.headers import media_type
from hessian_spectrum.service.problems import ProblemError, invalid_field, problem_for, problem_of_part
from hessian_spectrum.service.request_parsing import (
    JSON,
    StrictRoute,
    json_body,
    parse_body,
    require_identity,
    unsupported_media_type,
)
from hessian_spectrum.service.routes import closed_form
from hessian_spectrum.service.routes.documentation import (
    BINARY,
    CLOSED_FORM_EXAMPLES,
    INVALID_BODY,
    batch_documentation,
)

PATH = closed_form.PATH + "/batch"

NDJSON = "application/x-ndjson"

CHUNK_ITEMS, CHUNK_BYTES = 256, 200_000
"""Largest number of items and of bytes of one task, which usually takes some tens of milliseconds."""

CHUNKS_AT_ONCE = 4
"""Number of tasks of one request that run, or whose results wait for earlier ones, at the same time."""

_LARGE_RESULTS = (b'"eigenvectors"', b'"descent"', b"\\u")
"""Texts in an item whose result may be much larger than the item; \\u can stand for any letter of a name."""

router = APIRouter(tags=["closed forms"], route_class=StrictRoute)


@router.post(
    PATH,
    response_model=ClosedFormBatchResult,
    responses={**INVALID_BODY, 200: {"content": {JSON: {}, NDJSON: {"schema": BINARY}}}},
    openapi_extra=batch_documentation(ClosedFormBatch, "items", CLOSED_FORM_EXAMPLES, ndjson=NDJSON),
    summary="Many closed forms in one request",
)
async def compute_closed_forms(request: Request) -> StreamingResponse:
    """The result of each item, in order; an item that is wrong has `problem` in place of a result.

    As JSON, the body is `{"items": [...]}` and the response `{"results": [...]}`. As `application/x-ndjson`, each line
    of the body is an item and each line of the response a result. Either is sent while later items are computed.
    """
    content_type = media_type(request.scope)
    if content_type not in (JSON, NDJSON):
        raise unsupported_media_type(JSON, NDJSON)
    require_identity(request.scope)
    split = _json_items if content_type == JSON else _lines
    items = await run_in_threadpool(split, await json_body(request))
    results = _results(request, items)
    first: list[bytes] = await anext(results, [])  # errors that concern all items become the response
    content = _as_json(first, results) if content_type == JSON else _as_lines(first, results)
    return StreamingResponse(content, media_type=content_type)


def _json_items(body: bytes) -> list[bytes]:
    batch = parse_body(body, ClosedFormBatch, max_members=len(body))  # the members of each item are counted later
    return [pydantic_core.to_json(item) for item in batch.items]


def _lines(body: bytes) -> list[bytes]:
    """Return the lines that are not blank."""
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) > MAX_ITEMS:
        raise invalid_field((), f"a batch has at most {MAX_ITEMS:,} lines")
    return lines


def chunks_of(items: Sequence[bytes]) -> Iterator[range]:
    """Divide the items of a batch into tasks.

    Args:
        items: The text of each item.

    Yields:
        The indices of the items of a task; an item whose result may be large is alone.
    """
    start = size = 0
    for index, item in enumerate(items):
        is_large = any(part in item for part in _LARGE_RESULTS)
        if index > start and (is_large or index - start >= CHUNK_ITEMS or size + len(item) > CHUNK_BYTES):
            yield range(start, index)
            start, size = index, 0
        size = CHUNK_BYTES if is_large else size + len(item)
    if len(items) > start:
        yield range(start, len(items))


async def _results(request: Request, items: Sequence[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the results of all items, some at a time."""
    tasks: deque[asyncio.Task[list[bytes]]] = deque()
    try:
        for indices in chunks_of(items):
            tasks.append(asyncio.create_task(_chunk(request, items, indices)))
            if len(tasks) >= CHUNKS_AT_ONCE:
                yield await tasks.popleft()
        while tasks:
            yield await tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _chunk(request: Request, items: Sequence[bytes], indices: range) -> list[bytes]:
    """Compute some items in another process; if they take too long together, each alone."""
    executor = service_context(request).executor
    content = b"\n".join(items[index] for index in indices)
    try:
        reply = await executor.run(request, "closed-form-batch", arguments={"first": indices.start}, content=content)
    except ProblemError as error:
        is_refused = error.problem.status < 500  # nothing was computed
        if is_refused and indices.start == 0:
            raise
        if is_refused or len(indices) == 1:
            return [_failed(error.problem, index) for index in indices]
        return [line for index in indices for line in await _chunk(request, items, range(index, index + 1))]
    return bytes(reply.content).split(b"\n")


def render_items(lines: Sequence[bytes], first: int) -> bytes:
    """Compute some items of a batch.

    Args:
        lines: The items, each a request as JSON.
        first: Index of the first one in the batch.

    Returns:
        A line of JSON for each item: its spectrum or its problem.
    """
    return b"\n".join(_render_item(line, index) for index, line in enumerate(lines, first))


def _render_item(line: bytes, index: int) -> bytes:
    try:
        return bytes(closed_form.render(parse_body(line, ClosedFormRequest), "json"))
    except Exception as error:
        known = problem_for(error)
        if known is None:
            raise
        return _failed(known.problem, index)


def _failed(problem: Problem, index: int) -> bytes:
    problem = problem_of_part(problem, API_PREFIX + PATH, "items", index)
    return FailedItem(problem=problem).model_dump_json(exclude_none=True).encode()


async def _as_json(first: list[bytes], rest: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    yield b'{"results":[' + b",".join(first)
    async for results in rest:
        yield b"," + b",".join(results)
    yield b"]}"


async def _as_lines(first: list[bytes], rest: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    yield b"".join(line + b"\n" for line in first)
    async for results in rest:
        yield b"".join(line + b"\n" for line in results)
