"""The fake server: programs that use the client run without a server, and are told what it does not answer."""

import asyncio
import doctest
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
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
    "slice": {"kind": "slice", "num_points": 5},
    "top-k": {"kind": "top-k", "k": 3},
    "trace": {"kind": "trace", "num_probes": 8},
}


def request_of(example: ExampleMethod, client: SpectrumClient) -> dict[str, Any]:
    """The request whose result is the example."""
    match example:
        case "sweep":
            return {"kind": "sweep", "base": JOB | {"method": METHODS["exact"]}, "over": {"seed": [0, 1]}}
        case "series":
            points = [{"step": 10 * step, "parameters": parameters(client, step)} for step in range(2)]
            points = [point | {"learning_rate": 0.5} for point in points]
            return JOB | {"kind": "series", "name": "example", "points": points, "method": METHODS["top-k"]}
        case method:
            return JOB | {"method": METHODS[method]}


def parameters(client: SpectrumClient, step: int) -> dict[str, str]:
    generator = np.random.default_rng(step)
    shapes = {"0.weight": (5, 2), "0.bias": (5,), "1.weight": (2, 5), "1.bias": (2,)}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "parameters.npz"
        np.savez(path, **{f"layers.{name}": generator.normal(size=shape) for name, shape in shapes.items()})
        return {"kind": "artifact", "id": client.upload_arrays(path).id}


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
    example, computed = example_result(method), client.run(request_of(method, client))
    one, other = example.model_dump(), computed.model_dump()
    assert one.keys() == other.keys()
    if method in METHODS:
        assert one["provenance"].keys() == other["provenance"].keys()
        assert one["num_parameters"] == other["num_parameters"] == 27
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


def test_an_example_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no example 'top_k', only exact, lanczos, series, slice, sweep, top-k, trace"):
        example_result("top_k")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_drawn(name: Any, begin: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = SpectrumClient(transport=FakeServer(example_result("lanczos")))
    job = client.submit(JOB)
    client.save_result(job.id, tmp_path / "a", name, style={"width_inches": 3, "title": "A title"})
    assert (tmp_path / "a").read_bytes().startswith(begin)
    if name == "svg":
        assert b">A title</text>" in (tmp_path / "a").read_bytes()
    monkeypatch.setitem(sys.modules, "hessian_spectrum.results.plots.drawings", None)
    with pytest.raises(ProblemResponseError, match=r"cannot draw pictures\n.*pip install"):
        client.result_file(job.id, name)


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
