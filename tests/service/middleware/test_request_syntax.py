"""A target may be a whole URL: it is served like a path, and its host is checked like a Host header."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.own_service import Service

CLOSED_FORM = b'{"model": {"kind": "quadratic", "matrix": [[2.0]]}}'


@pytest.fixture(scope="module")
def service(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory: Path = tmp_path_factory.mktemp("targets")
    service = Service(redis_url, directory)
    yield service
    service.stop()


def answer(service: Service, target: str, host: str = "127.0.0.1", *, method: str = "GET", body: bytes = b"") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    found = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(head.encode() + body)
        while piece := connection.recv(65536):
            found += piece
    return found


@pytest.mark.parametrize(
    "prefix", ["", "http://127.0.0.1", "http://127.0.0.1:8000", "HTTP://LOCALHOST", "https://localhost", "http://[::1]"]
)
def test_a_whole_url_is_served_like_its_path(service: Service, prefix: str) -> None:
    assert answer(service, f"{prefix}/v1/health/live").startswith(b"HTTP/1.1 200")
    assert answer(service, f"{prefix}/v1/jobs?page_size=0").startswith(b"HTTP/1.1 422")
    head, _, found = answer(service, f"{prefix}/v1/closed-form", method="POST", body=CLOSED_FORM).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(found)["sharpness"] == 2.0


def test_a_path_that_is_not_there_is_named_without_the_host(service: Service) -> None:
    head, _, problem = answer(service, "http://127.0.0.1/no/such/page").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert json.loads(problem)["instance"] == "/no/such/page"


def test_a_url_without_a_path_is_that_of_the_page(service: Service) -> None:
    assert answer(service, "http://127.0.0.1").startswith(b"HTTP/1.1 200")
    head, _, problem = answer(service, "http://127.0.0.1?x=1").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 422")
    assert json.loads(problem)["instance"] == "/"


@pytest.mark.parametrize("authority", ["evil.example", "localhost@evil.example", "user@127.0.0.1", "", "127.0.0.1:x"])
def test_the_host_of_the_target_is_the_one_that_is_checked(service: Service, authority: str) -> None:
    target = f"http://{authority}/v1/closed-form"
    assert answer(service, target, method="POST", body=CLOSED_FORM).startswith(b"HTTP/1.1 421")
    assert answer(service, "http://127.0.0.1/v1/health/live", host="evil.example").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/v1/health/live", "//127.0.0.1/v1/health/live"])
def test_other_forms_lead_nowhere(service: Service, target: str) -> None:
    assert answer(service, target).startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
