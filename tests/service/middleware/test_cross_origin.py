"""Pages of listed origins may use the API, with a key or without; pages of others may not."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.auth import KeyStore

LISTED, OTHER = "https://lab.example.org", "https://evil.example"
BODY = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}
PATH = "/v1/closed-form"


@pytest.fixture(params=[True, False], ids=["listed", "none listed"])
def is_listed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def use(tmp_path: Path, is_listed: bool) -> Callable[[Callable[[httpx.AsyncClient, dict[str, str]], Any]], None]:
    keys = KeyStore(tmp_path / "keys.json")
    key = {"Authorization": f"Bearer {keys.add('someone')}"}
    app = create_app(
        ServiceSettings(
            redis_url="unix:///nowhere",
            results_dir=tmp_path,
            keys_file=keys.path,
            allowed_origins=f"{LISTED}, https://other.example.org" if is_listed else "",
        )
    )

    def run(test: Callable[[httpx.AsyncClient, dict[str, str]], Any]) -> None:
        async def with_client() -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
                await test(http, key)

        asyncio.run(with_client())

    return run


def preflight(origin: str, method: str = "POST", header: str = "authorization, content-type") -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": header}


def test_browsers_are_told_what_pages_of_listed_origins_may_send(use: Any, is_listed: bool) -> None:
    async def test(http: httpx.AsyncClient, _key: dict[str, str]) -> None:
        for method in ("GET", "POST", "DELETE"):
            answer = await http.options(PATH, headers=preflight(LISTED, method))
            assert (answer.status_code == 200) == is_listed
            assert (answer.headers.get("access-control-allow-origin") == LISTED) == is_listed
        for headers in (preflight(OTHER), preflight(LISTED, "PUT"), preflight(LISTED, header="x-strange")):
            refused = await http.options(PATH, headers=headers)
            assert refused.status_code == (403 if is_listed else 401)
            assert refused.headers["content-type"] == "application/problem+json"

    use(test)


def test_requests_of_listed_origins_are_answered_and_those_of_others_are_not(use: Any, is_listed: bool) -> None:
    async def test(http: httpx.AsyncClient, key: dict[str, str]) -> None:
        page = {"Origin": LISTED, "Sec-Fetch-Site": "cross-site"}
        answer = await http.post(PATH, json=BODY, headers=page | key)
        assert answer.status_code == (200 if is_listed else 403)
        assert (answer.headers.get("access-control-allow-origin") == LISTED) == is_listed
        assert "access-control-allow-credentials" not in answer.headers
        refused = await http.post(PATH, json=BODY, headers=page)
        assert refused.status_code == (401 if is_listed else 403)
        stranger = await http.post(PATH, json=BODY, headers=page | key | {"Origin": OTHER})
        assert stranger.status_code == 403
        assert "access-control-allow-origin" not in stranger.headers

    use(test)
