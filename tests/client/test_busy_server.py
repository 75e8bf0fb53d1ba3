"""A server that has too much to do is asked again, one with many listeners answers all, and no proxy is in between."""

import asyncio
import io
import threading
import time
from collections.abc import Callable

import pytest

from hessian_spectrum.api_schemas.health import Readiness
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.client import endpoints
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import ProblemResponseError, ServerOutageError, ServerUnreachableError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.requests import ApiRequest
from hessian_spectrum.jobs.settings import ServiceSettings
from tests.client.answers import Answer, answering

JOB_ID = "0" * 32
CROWD = 130

BUSY = Problem(type="/problems/too-much-heavy-work", title="Too many expensive requests", status=429)
REFUSED: Answer = (429, {"Retry-After": "0"}, BUSY.model_dump_json().encode())
REFUSED_FOR_LONG: Answer = (429, {"Retry-After": "60"}, BUSY.model_dump_json().encode())
PICTURE: Answer = (200, {}, b"\x89PNG")


def test_a_file_is_waited_for_as_every_answer_is() -> None:
    answers = [PICTURE, REFUSED, REFUSED]
    file = io.BytesIO()
    with answering(answers.pop) as url, SpectrumClient(url) as client:
        client.save_result(JOB_ID, file, "png")
    assert file.getvalue() == b"\x89PNG"

    async def save(url: str) -> None:
        async with AsyncSpectrumClient(url) as client:
            await client.save_result(JOB_ID, file, "png")

    answers = [PICTURE, REFUSED, REFUSED]
    with answering(answers.pop) as url:
        asyncio.run(save(url))
    assert file.getvalue() == 2 * b"\x89PNG"


def test_a_file_is_not_waited_for_without_end() -> None:
    refusal = pytest.raises(ProblemResponseError, match="Too many expensive requests")
    with answering(lambda: REFUSED) as url, SpectrumClient(url, patience_seconds=0.1) as client, refusal:
        client.save_result(JOB_ID, io.BytesIO(), "png")


def wait_async(url: str, timeout_seconds: float) -> None:
    async def wait() -> None:
        async with AsyncSpectrumClient(url) as client:
            await client.wait(JOB_ID, timeout_seconds=timeout_seconds)

    asyncio.run(wait())


def wait_sync(url: str, timeout_seconds: float) -> None:
    with SpectrumClient(url) as client:
        client.wait(JOB_ID, timeout_seconds=timeout_seconds)


both_clients = pytest.mark.parametrize("wait", [wait_sync, wait_async])


@both_clients
def test_a_deadline_holds_where_the_server_asks_for_a_longer_pause(wait: Callable[[str, float], None]) -> None:
    answers = [REFUSED_FOR_LONG] * 10
    started = time.monotonic()
    with answering(answers.pop) as url, pytest.raises(ServerOutageError, match="Too many expensive requests"):
        wait(url, 0.5)
    assert 0.4 < time.monotonic() - started < 30
    assert len(answers) == 8, "one request at the beginning, and one at the end"


@both_clients
def test_a_deadline_holds_where_the_server_is_silent(wait: Callable[[str, float], None]) -> None:
    is_over = threading.Event()

    def silent() -> Answer:
        is_over.wait(120)
        return REFUSED

    def give_up(url: str) -> None:
        try:
            wait(url, 0.5)
        finally:
            is_over.set()

    started = time.monotonic()
    with answering(silent) as url, pytest.raises(ServerUnreachableError):
        give_up(url)
    assert time.monotonic() - started < 15  # a request without a deadline waits for 30 s


def test_a_crowd_listens_through_one_client() -> None:
    everybody = threading.Barrier(CROWD, timeout=25)

    def when_all_are_there() -> Answer:
        everybody.wait()
        return 200, {}, Readiness(workers=[]).model_dump_json().encode()

    async def ask(url: str) -> list[Readiness]:
        async with AsyncSpectrumClient(url) as client:
            return await asyncio.gather(*(client.ready() for _ in range(CROWD)))

    with answering(when_all_are_there) as url:
        assert len(asyncio.run(ask(url))) == CROWD


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks://127.0.0.1:1"])
def test_a_server_on_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    body = Readiness(workers=[]).model_dump_json().encode()

    async def ask(url: str) -> Readiness:
        async with AsyncSpectrumClient(url) as client:
            return await client.ready()

    with answering(lambda: (200, {}, body)) as url:
        assert asyncio.run(ask(url)).workers == []
        with SpectrumClient(url) as client:
            assert client.ready().workers == []


@pytest.mark.parametrize(
    "heavy",
    [
        endpoints.closed_form({}),
        endpoints.random_matrix_file({}, "png", None),
        endpoints.estimate({}),
        endpoints.submit({}),
        endpoints.result(JOB_ID, {"kappa": 3.0}),
        endpoints.result_file(JOB_ID, "npz"),
    ],
)
def test_heavy_work_is_waited_for_as_long_as_the_server_does_it(heavy: ApiRequest[object]) -> None:
    """Whoever leaves before ends it, and the next try begins anew."""
    assert heavy.arguments()["timeout"].read > ServiceSettings.model_fields["heavy_seconds"].default
