"""Callers who begin a body and send no more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.doors import body_limit

BODY = b'{"model": {"kind": "quadratic", "matrix": [[2.0]]}}'


async def in_two_parts(pause_seconds: float) -> AsyncIterator[bytes]:
    yield BODY[:10]
    await asyncio.sleep(pause_seconds)
    yield BODY[10:]


def test_their_requests_end_and_give_their_places_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "BODY_SECONDS", 0.3)
    app = create_app(ServiceSettings(redis_url="unix:///nowhere", results_dir=tmp_path, max_requests=3))
    headers = {"Content-Type": "application/json"}

    async def use() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as http:
            slow = [http.post("/v1/closed-form", content=in_two_parts(60)) for _ in range(3)]
            for answer in await asyncio.gather(*slow):
                assert answer.status_code == 408
                assert answer.json()["type"] == "/problems/body-too-slow"
            answers = await asyncio.gather(*(http.post("/v1/closed-form", content=in_two_parts(0.1)) for _ in range(3)))
            assert [answer.status_code for answer in answers] == [200] * 3

    asyncio.run(use())
