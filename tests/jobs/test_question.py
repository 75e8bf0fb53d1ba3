"""What makes two requests the same question."""

from typing import Any

import pytest

from api_schemas.job_requests import JobRequest
from jobs.question import question_digest
from service.routes.documentation import JOB_EXAMPLES

# those that name an uploaded file need a store to look it up in
REQUESTS = [each["value"] for each in JOB_EXAMPLES.values() if "artifact" not in str(each["value"])]


def digest(request: dict[str, Any]) -> str:
    return question_digest(JobRequest.model_validate(request).root)


@pytest.mark.parametrize("request_", REQUESTS)
def test_it_survives_the_way_to_a_worker(request_: dict[str, Any]) -> None:
    asked = JobRequest.model_validate(request_).root
    sent = JobRequest.model_validate_json(asked.model_dump_json(exclude_none=True)).root
    assert question_digest(sent) == question_digest(asked)


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_changes_no_number_is_no_part_of_it(request_: dict[str, Any]) -> None:
    said = {"tags": {"a": "b"}, "shared": True, "time_limit_seconds": 5.0}
    assert digest(request_ | said) == digest(request_)
    seeds = {"seed": 77} if request_["kind"] == "spectrum" else {"seeds": [77]}
    assert digest(request_ | seeds) != digest(request_)


def test_examples_are_different_questions() -> None:
    assert len({digest(request) for request in REQUESTS}) == len(REQUESTS)
