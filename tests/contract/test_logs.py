"""What the stack logs: lines of JSON that tell the story of a job."""

import json
from typing import Any

import httpx
import pytest

from hessian_spectrum.client.http import SpectrumClient
from tests.contract.log_lines import lines, wait_for_lines
from tests.fixtures.jobs import EXACT_JOB


def test_a_worker_says_what_it_takes_and_how_it_ends(server: Any, client: SpectrumClient) -> None:
    job_id = client.submit(EXACT_JOB, wait_seconds=30, fresh=True).id
    claimed, ended = wait_for_lines(server, 2, job_id=job_id, logger="hessian_spectrum.worker.runtime.job_runner")
    assert (claimed["event"], claimed["attempt"]) == ("claimed", 1)
    assert (ended["event"], ended["attempt"], ended["state"]) == ("ended", 1, "succeeded")
    assert claimed["pid"] == ended["pid"] in server.pids("-m hessian_spectrum.worker")


def test_one_id_finds_a_request_and_all_that_came_of_it(server: Any) -> None:
    headers = {"X-Request-ID": "paper-7.a_B", "Prefer": "wait=30", "Cache-Control": "no-cache"}
    sent = httpx.post(f"{server.url}/v1/jobs", json=EXACT_JOB, headers=headers)
    assert sent.headers["x-request-id"] == "paper-7.a_B"
    job_id = sent.json()["id"]
    [request] = wait_for_lines(server, 1, request_id="paper-7.a_B", event="request")
    assert (request["method"], request["route"], request["status"]) == ("POST", "/v1/jobs", 200)
    assert 0 < request["milliseconds"] < 30_000
    assert request["time"].endswith("Z")
    claimed = wait_for_lines(server, 1, request_id="paper-7.a_B", event="claimed")[0]
    assert claimed["job_id"] == job_id


@pytest.mark.parametrize("sent", ["a b", "x" * 65, "é".encode(), '{"level": "ERROR"}', "", "a/b"])
def test_an_id_that_could_be_anything_is_replaced(server: Any, sent: str | bytes) -> None:
    made = [httpx.get(f"{server.url}/v1/health/live", headers={"X-Request-ID": sent}) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in made}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)


def test_lines_name_routes_and_hold_nothing_of_a_caller(server: Any) -> None:
    marker = "tell-nobody"
    key = {"X-Request-ID": "of-routes", "Authorization": f"Bearer {marker}"}
    for method, path in (
        ("GET", f"/{marker}"),
        ("GET", f"/v1/jobs/{'0' * 32}?wait=0"),
        ("GET", f"/v1/jobs/{'0' * 32}?wait=0&{marker}"),
        ("GET", f"/v1/jobs?tag=a:{marker}"),
        (marker.upper(), "/v1/jobs"),
        ("POST", "/v1/closed-form"),
    ):
        httpx.request(method, f"{server.url}{path}", headers=key, json={marker: marker})
    found = wait_for_lines(server, 6, request_id="of-routes", event="request")
    assert [(line["method"], line["route"], line["status"]) for line in found] == [
        ("GET", "other", 404),
        ("GET", "/v1/jobs/{job_id}", 404),
        ("GET", "/v1/jobs/{job_id}", 422),
        ("GET", "/v1/jobs", 200),
        ("other", "/v1/jobs", 405),
        ("POST", "/v1/closed-form", 422),
    ]
    text = server.log.read_text()
    assert marker not in text.lower()
    assert server.redis().connection_pool.connection_kwargs["password"] not in text


def test_every_line_is_an_object_with_the_same_fields(server: Any, client: SpectrumClient) -> None:
    before, requests = len(server.log.read_text()), "hessian_spectrum.service.requests"
    num_requests = len(lines(server, logger=requests))
    job_id = client.submit(EXACT_JOB, wait_seconds=30, fresh=True).id
    wait_for_lines(server, 2, job_id=job_id)
    wait_for_lines(server, num_requests + 1, logger=requests)
    every = [json.loads(line) for line in server.log.read_text()[before:].rpartition("\n")[0].splitlines()]
    assert all({"time", "level", "logger", "message", "pid"} <= line.keys() for line in every)
    assert {line["logger"] for line in every} >= {
        "hessian_spectrum.worker.runtime.job_runner",
        requests,
    }
    said = [line["message"] for line in lines(server, logger="hessian_spectrum.launcher.main")]
    assert any(message.startswith(f"Serving at {server.url}") for message in said)
