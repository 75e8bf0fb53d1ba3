"""Names that lead here by another's hand, and pages of other sites: neither gets anything done."""

import pytest
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from hessian_spectrum.service.middleware.trusted_host import TrustedHost
from hessian_spectrum.service.problems import ProblemError


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nothing is passed on")


def status(allowed: list[str], method: str = "GET", *, is_key_required: bool = False, **headers: str) -> int:
    sent = Headers({name.replace("_", "-"): text for name, text in headers.items()})
    try:
        TrustedHost(application, allowed).check(method, sent, is_key_required=is_key_required)
    except ProblemError as refused:
        return refused.problem.status
    return 200


OURS = ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "10.1.2.3", "[2001:db8::1]", "lab.example:80"]
STRANGE = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example:8000",
    "lab.example.",
    "0x7f.1",
]
MALFORMED = ["", "[", "[::1", "a b", "a/b", "a@127.0.0.1", "127.0.0.1:99999999", "127.0.0.1\\@x", "ä.example", "x\n"]


@pytest.mark.parametrize("host", OURS)
def test_our_names_are_answered(host: str) -> None:
    for is_key_required in (True, False):
        assert status(["Lab.Example"], host=host, is_key_required=is_key_required) == 200


@pytest.mark.parametrize("host", STRANGE)
def test_other_names_are_not_unless_keys_are_needed_or_all_names_are_ours(host: str) -> None:
    assert status([], host=host) == 421
    assert status(["lab.example"], host=host, is_key_required=True) == 421
    assert status([], host=host, is_key_required=True) == 200
    assert status(["*"], host=host) == 200


@pytest.mark.parametrize("host", MALFORMED)
def test_what_is_no_name_is_never_answered(host: str) -> None:
    assert status(["*"], host=host, is_key_required=True) == 421


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "https://127.0.0.1:8000"}, 200),  # a proxy with TLS in front
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:8000"}, 403),
        ({"sec_fetch_site": "same-origin", "origin": "http://lab.example"}, 200),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "X"])
def test_pages_of_other_sites_change_nothing(method: str, headers: dict[str, str], expected: int) -> None:
    assert status([], method, host="127.0.0.1:8000", **headers) == expected
    assert status([], "GET", host="127.0.0.1:8000", **headers) == 200
