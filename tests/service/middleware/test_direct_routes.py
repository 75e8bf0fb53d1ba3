"""Routes that are called directly answer like those that the router calls."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.middleware.direct_routes import DirectRoutes
from hessian_spectrum.service.routes import closed_form

GOOD = b'{"model": {"kind": "quadratic", "matrix": [[2.0]]}}'
BATCH = b'{"items": [' + GOOD + b"]}"
HUGE = b'{"model": {"kind": "linear", "w": [1e200], "v": [1e200]}, "data": {"x": [1e200], "y": [0.0]}}'

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/closed-form", {"content": GOOD}),
    ("/v1/closed-form", {"content": HUGE}),
    ("/v1/closed-form", {"content": b'{"model": 1}'}),
    ("/v1/closed-form", {"content": GOOD, "headers": {"Accept": "text/html"}}),
    ("/v1/closed-form", {"content": GOOD, "headers": {"Content-Type": "text/plain"}}),
    ("/v1/closed-form", {"content": GOOD, "headers": {"Content-Encoding": "gzip"}}),
    ("/v1/closed-form?dpi=1", {"content": GOOD}),
    ("/v1/closed-form?dpi=100", {"content": GOOD}),
    ("/v1/closed-form?colour=red", {"content": GOOD}),
    ("/v1/closed-form", {"content": b" " * 2000}),
    ("/v1/closed-form", {"method": "GET"}),
    ("/v1/closed-form/", {"content": GOOD}),
    ("/v1/closed-form/batch", {"content": BATCH[:-1]}),
    ("/v1/closed-form/batch", {"content": GOOD, "headers": {"Content-Type": "text/csv"}}),
    ("/v1/closed-form/batch", {"method": "DELETE"}),
]


def application(directory: Path) -> FastAPI:
    return create_app(ServiceSettings(redis_url="unix:///nowhere", results_dir=directory, max_body_bytes=1024))  # type: ignore[arg-type]


def answers(app: FastAPI, *, raises: bool = True) -> list[tuple[int, dict[str, str], bytes]]:
    async def ask() -> list[tuple[int, dict[str, str], bytes]]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            found = []
            for path, options in REQUESTS:
                headers = {"Content-Type": "application/json", "X-Request-ID": "a"} | options.get("headers", {})
                response = await http.request(**({"method": "POST"} | options | {"url": path, "headers": headers}))
                found.append((response.status_code, dict(response.headers), response.content))
            return found

    return asyncio.run(ask())


def test_answers_are_those_of_the_router(tmp_path: Path) -> None:
    direct, routed = application(tmp_path), application(tmp_path)
    routed.user_middleware = [each for each in routed.user_middleware if each.cls is not DirectRoutes]
    assert len(routed.user_middleware) == len(direct.user_middleware) - 1
    found = answers(direct)
    assert found == answers(routed)
    statuses = [status for status, _, _ in found]
    assert statuses == [200, 422, 422, 406, 415, 415, 422, 422, 422, 413, 405, 307, 422, 415, 405]


def test_unexpected_errors_are_answered_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError

    monkeypatch.setattr(closed_form, "parse_body", fail)
    status, headers, content = answers(application(tmp_path), raises=False)[0]
    assert status == 500
    assert headers["x-request-id"] == "a"
    assert b"Internal error" in content
