"""The fake server: programs that use the client run without a server, and are told what it does not answer."""

import asyncio
import doctest
from typing import Any, get_args

import pytest

from hessian_spectrum.api_schemas.methods import LanczosResult, TraceResult
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.client import testing
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.testing import ExampleMethod, FakeServer, example_result

JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [2, 5, 2], "activation": "tanh"},
    "data": {
        "kind": "inline",
        "x": [[1, 0], [0, 1], [1, 1], [-1, 0.5], [0.5, -1]],
        "y": [[0, 1], [1, 0], [1, 1], [0, 0], [0.5, 0.5]],
    },
    "loss": "mse",
    "precision": "float64",
}
METHODS: dict[str, dict[str, Any]] = {
    "exact": {"kind": "exact"},
    "lanczos": {"kind": "lanczos", "num_steps": 6, "num_probes": 2, "num_points": 32},
    "top-k": {"kind": "top-k", "k": 3},
    "trace": {"kind": "trace", "num_probes": 8},
}


def sharpest(client: SpectrumClient, seeds: int) -> int:
    """A program of a user."""
    requests = [JOB | {"method": METHODS["top-k"], "seed": seed} for seed in range(seeds)]
    results = client.submit_many(requests).results()
    values = [result.eigenpairs[0].value for result in results]  # type: ignore[union-attr]
    return values.index(max(values))


def test_a_program_is_tested_without_a_server() -> None:
    example = example_result("top-k")

    def answer(request: dict[str, Any]) -> Any:
        pair = example.eigenpairs[0].model_copy(update={"value": -abs(request["seed"] - 3.0)})  # type: ignore[union-attr]
        return example.model_copy(update={"eigenpairs": [pair]})

    server = FakeServer(answer)
    assert sharpest(SpectrumClient(transport=server), 6) == 3
    assert [request["seed"] for request in server.requests] == list(range(6))


@pytest.mark.parametrize("method", get_args(ExampleMethod))
def test_examples_are_what_the_server_computes(client: SpectrumClient, method: ExampleMethod) -> None:
    example, computed = example_result(method), client.run(JOB | {"method": METHODS[method]})
    one, other = example.model_dump(), computed.model_dump()
    assert one.keys() == other.keys()
    assert one["provenance"].keys() == other["provenance"].keys()
    assert example.num_parameters == computed.num_parameters == 27  # type: ignore[union-attr]
    assert example._repr_png_() is not None  # type: ignore[union-attr]


def test_every_method_that_concerns_jobs_works() -> None:
    server = FakeServer(example_result("lanczos"), closed_form=Problem(title="so", status=422))
    with SpectrumClient(transport=server) as client:
        job = client.submit({"kind": "spectrum", "tags": {"a": "b"}})
        assert isinstance(job.result(), LanczosResult)
        assert [each.state for each in client.events(job.id)] == ["succeeded"]
        assert list(client.interim_results(job.id)) == [example_result("lanczos")]
        assert job.request() == {"kind": "spectrum", "tags": {"a": "b"}}
        assert [each.id for each in client.jobs()] == [job.id]
        assert job.cancel().tags == {"a": "b"}
        job.delete()
        for call in (job.refresh, job.delete, job.request, job.result):
            with pytest.raises(ProblemResponseError, match="No such job"):
                call()
        with pytest.raises(ProblemResponseError, match="so"):
            client.closed_form({"model": {}})
        with pytest.raises(ProblemResponseError, match="Not part of the fake server"):
            client.figures()


def test_jobs_can_fail() -> None:
    server = FakeServer(Problem(title="Out of memory", status=507))
    with SpectrumClient(transport=server) as client, pytest.raises(JobFailedError, match="Out of memory"):
        client.run(JOB)


def test_asynchronous_programs_are_tested_too() -> None:
    async def use() -> Any:
        async with AsyncSpectrumClient(transport=FakeServer(example_result("trace"))) as client:
            return await client.run(JOB)

    assert isinstance(asyncio.run(use()), TraceResult)


def test_the_example_of_the_documentation_runs() -> None:
    assert doctest.testmod(testing) == (0, 5)
