"""JSON bodies that are made to hurt: refused with a problem, before they take time or memory."""

import json
import resource
import time

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.request_parsing import MAX_MEMBERS, MAX_VALUES, check_json

BODY_BYTES = 16 * 2**20


@pytest.mark.parametrize("piece", [b"1,", b"[],", b"{},", b'"",', b"[[[[]]]],", b'{"a":1},'])
def test_a_body_of_too_many_values_is_refused_at_once(piece: bytes) -> None:
    body = b"[" + piece * (BODY_BYTES // len(piece)) + b"1]"
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ProblemError) as refused:
        check_json(body)
    assert refused.value.problem.status == 413
    assert time.process_time() - started < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_the_most_numbers_pass() -> None:
    check_json(b'{"x": [' + b"1," * (MAX_VALUES - 3) + b"1]}")


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind": "a", "kind": "b"}',
        b'{"a": {"b": 1, "b": 1}}',
        b'[{"a": [{"b": 1, "c": 2, "b": 3}]}]',
        b'{"a": 1, "\\u0061": 2}',
        b'{"": 1, "": 2}',
        b'{"' + b"n" * 5000 + b'": 1, "' + b"n" * 5000 + b'": 2}',
    ],
)
def test_a_name_twice_is_refused(body: bytes) -> None:
    with pytest.raises(ProblemError, match="Invalid request") as refused:
        check_json(body)
    assert refused.value.problem.status == 422
    assert refused.value.problem.errors is not None
    assert refused.value.problem.errors[0].msg.startswith("Detected duplicate key")
    assert len(refused.value.problem.model_dump_json()) < 1000


def test_the_same_name_in_two_objects_is_no_fault() -> None:
    check_json(b'{"model": {"kind": 1}, "data": {"kind": 2}, "kind": [{"kind": 3}, {"kind": 4}]}')


@pytest.mark.parametrize("wrap", ['{"model": %s}', "[1, %s]", "[[%s]]", '{"a": {"b": [{"c": %s}]}}'])
def test_too_many_names_are_refused(wrap: str) -> None:
    members = json.dumps({str(number): 1 for number in range(MAX_MEMBERS + 1)})
    with pytest.raises(ProblemError) as refused:
        check_json((wrap % members).encode())
    assert refused.value.problem.status == 422
    few = json.dumps({str(number): 1 for number in range(MAX_MEMBERS - 5)})
    check_json((wrap % few).encode())


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":['])
def test_depth_has_an_end(opening: bytes) -> None:
    """That of the parser, which looks before it goes deeper: no stack is used up."""
    body = opening * 100_000
    started = time.process_time()
    check_json(body)
    with pytest.raises(ValidationError, match="recursion limit exceeded"):
        JobRequest.model_validate_json(body)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("body", [b"", b"{", b"nothing", b"\xff\xfe", b'{"a": NaN', b"[1,]"])
def test_what_is_no_json_is_left_to_the_message(body: bytes) -> None:
    check_json(body)
