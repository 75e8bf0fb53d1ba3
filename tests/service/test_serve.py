"""What the service sets before it serves: defaults of the system and of libraries are meant for fewer callers."""

import gc
import resource
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from hessian_spectrum.service.__main__ import serve


@pytest.fixture
def few_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, few_files: None) -> dict[str, Any]:
    """With which uvicorn is run, without that it is."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda _, **options: given.update(options))
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    serve(FastAPI(), host="127.0.0.1", port=0)
    return given


def test_a_connection_is_kept_for_longer_than_its_client_keeps_it(options: dict[str, Any]) -> None:
    with httpx.Client() as client:
        seconds = client._transport._pool._keepalive_expiry  # type: ignore[attr-defined]
    assert options["timeout_keep_alive"] > seconds + 1


@pytest.mark.usefixtures("options")
def test_as_many_files_are_open_as_the_system_allows() -> None:
    used, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert used == most > 256


def test_the_garbage_collector_that_rests_while_modules_load_works_again(request: pytest.FixtureRequest) -> None:
    gc.disable()
    try:
        request.getfixturevalue("options")
        assert gc.isenabled()
    finally:
        gc.enable()
