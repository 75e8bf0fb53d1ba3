"""The order in which the middlewares look at a request: of several reasons to refuse it, the first one is given."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.auth import KeyStore

BODY = b'{"model": {"kind": "quadratic", "matrix": [[2.0]]}}'
TWO_LENGTHS = {"Transfer-Encoding": "chunked"}
STRANGE_HOST = {"Host": "a b"}
CROSS_ORIGIN = {"Origin": "https://evil.example"}
SECURITY = {"content-security-policy", "cross-origin-resource-policy", "referrer-policy", "x-content-type-options"}
RATE = {"ratelimit", "ratelimit-policy"}


class Deployment:
    """A service in this process with one slot, and a key that may ask three times a minute."""

    def __init__(self, directory: Path) -> None:
        self.keys = KeyStore(directory / "keys.json")
        self.key = {"Authorization": f"Bearer {self.keys.add('someone', requests_per_minute=3)}"}
        settings = {"keys_file": self.keys.path, "max_requests": 1, "requests_per_minute": 3, "max_body_bytes": 1024}
        self.app: FastAPI = create_app(
            ServiceSettings(redis_url="unix:///nowhere", results_dir=directory, **settings)  # type: ignore[arg-type]
        )

    def use(self, test: Callable[[Callable[..., Any]], Any]) -> None:
        """Run a test that is given a function which sends requests."""

        async def run() -> None:
            transport = httpx.ASGITransport(self.app, client=("192.0.2.7", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:

                async def send(path: str = "/v1/closed-form", content: Any = BODY, **headers: str) -> httpx.Response:
                    named = {name.replace("_", "-"): text for name, text in headers.items()}
                    return await http.post(path, content=content, headers={"Content-Type": "application/json"} | named)

                await test(send)

        asyncio.run(run())


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("/problems/")


def assert_headers(response: httpx.Response, *, is_counted: bool, is_private: bool) -> None:
    names = set(response.headers)
    assert names >= SECURITY | {"x-request-id"}
    assert (names >= RATE) == is_counted
    assert (response.headers.get("cache-control") == "no-store") == is_private


def test_the_first_of_several_reasons_is_given(deployment: Deployment) -> None:
    whole = deployment.keys.path.read_bytes()

    async def test(send: Callable[..., Any]) -> None:
        deployment.keys.path.write_text("damaged")
        first = await send(**deployment.key, **TWO_LENGTHS, **STRANGE_HOST, **CROSS_ORIGIN)
        assert refusal(first) == (400, "two-lengths")
        assert_headers(first, is_counted=False, is_private=False)
        second = await send(**deployment.key, **STRANGE_HOST, **CROSS_ORIGIN)
        assert refusal(second) == (503, "keys-unreadable")
        assert_headers(second, is_counted=False, is_private=False)
        deployment.keys.path.write_bytes(whole)
        third = await send(**deployment.key, **STRANGE_HOST, **CROSS_ORIGIN)
        assert refusal(third) == (421, "unknown-host")
        assert_headers(third, is_counted=False, is_private=False)
        fourth = await send(**deployment.key, **CROSS_ORIGIN)
        assert refusal(fourth) == (403, "cross-origin")
        assert_headers(fourth, is_counted=False, is_private=False)
        for _ in range(3):  # of which none above was counted
            answered = await send(**deployment.key)
            assert answered.status_code == 200
            assert_headers(answered, is_counted=True, is_private=True)
        fifth = await send(**deployment.key)
        assert refusal(fifth) == (429, "too-many-requests")
        assert_headers(fifth, is_counted=True, is_private=False)

    deployment.use(test)


def test_guesses_of_keys_are_counted_before_they_are_refused(deployment: Deployment) -> None:
    wrong = {"Authorization": "Bearer spectrum_000000000000_" + "0" * 64}

    async def test(send: Callable[..., Any]) -> None:
        for headers in (wrong, {}, wrong):
            refused = await send(**headers)
            assert refusal(refused) == (401, "no-key")
            assert refused.json()["alias"] == "/problems/unauthenticated"
            assert ("invalid_token" in refused.headers["www-authenticate"]) == bool(headers)
            assert_headers(refused, is_counted=True, is_private=False)
        assert refusal(await send(**wrong)) == (429, "too-many-requests")
        assert (await send(**deployment.key)).status_code == 200

    deployment.use(test)


def test_slots_come_after_keys_and_before_bodies(deployment: Deployment) -> None:
    is_over = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield BODY[:5]
        await is_over.wait()
        yield BODY[5:]

    async def test(send: Callable[..., Any]) -> None:
        holder = asyncio.create_task(send(content=endless(), **deployment.key))
        for _ in range(10):
            await asyncio.sleep(0)
        assert refusal(await send()) == (401, "no-key")
        busy = await send(content=b" " * 2000, **deployment.key)
        assert refusal(busy) == (503, "too-many-requests-at-once")
        assert_headers(busy, is_counted=True, is_private=True)
        assert (await send("/v1/health/live")).status_code == 405
        is_over.set()
        assert (await holder).status_code == 200
        large = await send(content=b" " * 2000, **deployment.key)
        assert refusal(large) == (413, "body-too-large")
        assert large.headers["connection"] == "close"
        assert_headers(large, is_counted=True, is_private=True)

    deployment.use(test)


@pytest.mark.parametrize("path", ["/v1/version", "/docs", "/v1/health/live"])
def test_public_paths_are_answered_while_the_keys_cannot_be_read(deployment: Deployment, path: str) -> None:
    deployment.keys.path.write_text("damaged")

    async def test(send: Callable[..., Any]) -> None:
        assert (await send(path)).status_code == 405
        assert refusal(await send("/v1/jobs")) == (503, "keys-unreadable")
        assert refusal(await send(path, **STRANGE_HOST)) == (421, "unknown-host")

    deployment.use(test)
