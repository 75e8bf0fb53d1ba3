"""A program that takes far more memory than it says fails its own job, and the next job of the worker runs."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.security.program_files import BATCH, Parts, changed, node, tensor, value

pytestmark = pytest.mark.slow

_SECONDS = 240.0


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


def filled(num_numbers: int) -> Callable[[Parts], None]:
    """A network that adds the sum of so many zeros to its output, and says that they are three."""

    def change(each: Parts) -> None:
        size = {"as_ints": [num_numbers]}
        zeros = {"as_float": 0.0}
        calls = [
            node("torch.ops.aten.full.default", "zeros", ("size", size), ("fill_value", zeros)),
            node("torch.ops.aten.sum.default", "total", ("self", value("zeros"))),
            node("torch.ops.aten.add.Tensor", "more", ("self", value("out")), ("other", value("total"))),
        ]
        each.nodes.extend(calls)
        each.values.update(zeros=tensor(3), total=tensor(), more=tensor(BATCH, 1))
        each.return_value("more")

    return change


def outcome(http: httpx.Client, program: bytes) -> dict[str, Any]:
    """The ended job of an exact spectrum of a program."""
    upload = http.post("/v1/artifacts", content=program, headers={"Content-Type": "application/vnd.pytorch.pt2"})
    assert upload.status_code in (200, 201), upload.text
    request = {
        "kind": "spectrum",
        "model": {"kind": "exported", "program": {"kind": "artifact", "id": upload.json()["id"]}},
        "data": {"kind": "inline", "x": [[1.0, 2.0], [0.5, -1.0], [0.1, 0.2]], "y": [[0.5], [0.1], [-0.3]]},
        "loss": "mse",
        "method": {"kind": "exact"},
    }
    accepted = http.post("/v1/jobs", json=request)
    assert accepted.status_code in (200, 201, 202), accepted.text
    with http.stream("GET", f"/v1/jobs/{accepted.json()['id']}/events", timeout=_SECONDS) as events:
        for _ in events.iter_lines():
            pass
    job: dict[str, Any] = http.get(f"/v1/jobs/{accepted.json()['id']}").json()
    return job


@pytest.mark.parametrize("num_numbers", [2**50, 2**36], ids=["more-than-addresses", "more-than-the-machine-has"])
def test_a_program_that_takes_all_memory_fails_alone(http: httpx.Client, num_numbers: int) -> None:
    job = outcome(http, changed(filled(num_numbers))())
    assert job["state"] == "failed", job
    assert job["error"]["status"] in (422, 507), job["error"]
    small = outcome(http, changed(filled(3))())
    assert small["state"] == "succeeded", small
