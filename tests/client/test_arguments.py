"""Wrong arguments of the client are refused by a sentence that names them; paths may be texts."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import JobFailedError, JobTimeoutError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.testing import FakeServer, example_result
from tests.fixtures.jobs import EXACT_JOB

ENDLESS = EXACT_JOB | {"train": {"num_steps": 10_000_000, "learning_rate": 1e-9}}


@pytest.fixture
def fake() -> SpectrumClient:
    return SpectrumClient(transport=FakeServer(example_result("exact")))


@pytest.mark.parametrize("key", ["secret\nX-Other: 1", "sécret", "secret ", " secret", "secret\x7f", "\udce9secret"])
@pytest.mark.parametrize("kind", [SpectrumClient, AsyncSpectrumClient])
def test_a_key_that_no_header_can_have_is_refused_without_showing_it(kind: Callable[..., Any], key: str) -> None:
    with pytest.raises(ValueError, match="The API key") as raised:
        kind(api_key=key)
    assert str(raised.value) == "The API key contains characters that an HTTP header cannot have."
    assert raised.value.__cause__ is None


def test_other_texts_of_headers_are_refused_too(fake: SpectrumClient) -> None:
    with pytest.raises(ValueError, match="The idempotency key contains characters"):
        fake.submit(EXACT_JOB, idempotency_key="é")


def test_an_empty_key_is_none() -> None:
    assert "authorization" not in SpectrumClient(api_key="")._http.headers
    assert SpectrumClient(api_key="a b~")._http.headers["authorization"] == "Bearer a b~"


@pytest.mark.parametrize("address", ["ftp://a.example", "a.example", "", "http://", "http://[", "http://a:999999"])
def test_an_address_must_be_one_of_a_server(address: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a server"):
        SpectrumClient(address)


@pytest.mark.parametrize("request_", [None, [], "x", 3, [EXACT_JOB]])
def test_what_is_no_request_is_refused(fake: SpectrumClient, request_: Any) -> None:
    for call in (fake.submit, fake.run, fake.estimate, fake.random_matrix, fake.closed_form):
        with pytest.raises(TypeError, match="request must be the model of a request or a dictionary of its fields"):
            call(request_)


@pytest.mark.parametrize(
    ("requests", "over", "kind", "message"),
    [
        (None, None, TypeError, "requests must be the model of a request"),
        ("x", None, TypeError, "requests must be the model of a request"),
        ([EXACT_JOB, "x"], None, TypeError, r"requests\[1\] must be the model of a request"),
        ([EXACT_JOB], {"seed": [1]}, TypeError, "requests must be one, not several"),
        (EXACT_JOB, [1], TypeError, "over must be a dictionary"),
        (EXACT_JOB, {"model.seed": 3}, TypeError, r"over\['model.seed'\] must be a list of values, not int"),
        (EXACT_JOB, {"loss": "mse"}, TypeError, r"over\['loss'\] must be a list of values, not str"),
        (EXACT_JOB, {"model.seed": []}, ValueError, r"over\['model.seed'\] has no values"),
        (EXACT_JOB, {"loss.x": [1]}, ValueError, "loss in the request is 'mse', which has no fields"),
        (EXACT_JOB, {"model..seed": [1]}, ValueError, "not the path of a field"),
    ],
)
def test_a_wrong_grid_is_refused(
    fake: SpectrumClient, requests: Any, over: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fake.submit_many(requests, over)


def test_values_of_a_grid_may_be_an_array() -> None:
    server = FakeServer(example_result("exact"))
    SpectrumClient(transport=server).submit_many(EXACT_JOB, over={"seed": np.arange(2), "model.seed": range(2)})
    assert [each["seed"] for each in server.requests] == [0, 0, 1, 1]


def test_an_empty_id_is_not_that_of_the_list(fake: SpectrumClient) -> None:
    fake.submit(EXACT_JOB)
    for call in (fake.job, fake.delete, fake.cancel, fake.result, fake.request):
        with pytest.raises(ValueError, match="job_id is empty"):
            call("")
    for call in (fake.artifact, fake.delete_artifact):
        with pytest.raises(ValueError, match="artifact_id is empty"):
            call("")
    assert len(list(fake.jobs())) == 1


def test_paths_may_be_texts(client: SpectrumClient, server: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(8))
    np.savez(tmp_path / "data.npz", x=np.ones((2, 1)))
    tokens, arrays = str(tmp_path / "tokens.npy"), str(tmp_path / "data.npz")
    assert client.upload_tokens(tokens) == client.upload_tokens(Path(tokens))
    assert client.upload_arrays(arrays) == client.upload_file(arrays) == client.upload_files([arrays])[0]
    with pytest.raises(FileNotFoundError):
        client.upload_program("none.pt2")
    job = client.submit(EXACT_JOB)
    job.result()
    client.save_result(job.id, str(tmp_path / "one.svg"), "svg")

    async def use() -> None:
        async with AsyncSpectrumClient(server.url) as own:
            assert await own.upload_arrays(arrays) == client.upload_arrays(arrays)
            await own.save_result(job.id, str(tmp_path / "other.svg"), "svg")

    asyncio.run(use())
    assert (tmp_path / "one.svg").read_bytes()[:5] == (tmp_path / "other.svg").read_bytes()[:5] == b"<?xml"


def test_a_failed_job_does_not_hide_the_results_of_the_others() -> None:
    def answer(request: dict[str, Any]) -> Any:
        return Problem(title="Out of memory", status=507) if request["seed"] == 1 else example_result("exact")

    jobs = SpectrumClient(transport=FakeServer(answer)).submit_many(EXACT_JOB, over={"seed": [0, 1, 2]})
    with pytest.raises(JobFailedError, match="Out of memory"):
        jobs.results()
    first, second, third = jobs.results(return_errors=True)
    assert first == third == example_result("exact")
    assert isinstance(second, JobFailedError)
    assert second.job.id == jobs[1].id


def test_a_result_is_waited_for_no_longer_than_one_wants(client: SpectrumClient, server: Any) -> None:
    job = client.submit(ENDLESS, fresh=True)
    with pytest.raises(JobTimeoutError, match=f"job {job.id} has not ended within 0.2 s"):
        job.result(timeout_seconds=0.2)

    async def use() -> None:
        async with AsyncSpectrumClient(server.url) as own:
            with pytest.raises(TimeoutError, match="has not ended"):
                await (await own.job(job.id)).result(0.2)

    asyncio.run(use())
    job.cancel().wait()
