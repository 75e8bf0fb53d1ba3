"""The async client against the real stack: the same answers as the sync one."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError, ServerUnreachableError
from hessian_spectrum.client.http import SpectrumClient

JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [2, 3, 1]},
    "data": {"kind": "inline", "x": [[1.0, 2.0], [0.5, -1.0]], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
    "tags": {"test": "async-client"},
}


OF_TRAINING_LOOPS = {"track", "send_tracked"}
"""Methods that the synchronous client alone has: they have threads of their own."""


def test_both_clients_have_the_same_methods() -> None:
    def signatures(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in members if not name.startswith("_")}

    synchronous = signatures(SpectrumClient)
    assert synchronous.keys() >= OF_TRAINING_LOOPS
    others = {name: parameters for name, parameters in synchronous.items() if name not in OF_TRAINING_LOOPS}
    assert others == signatures(AsyncSpectrumClient)


def test_every_call(server: Any, client: SpectrumClient, tmp_path: Path) -> None:
    async def use() -> None:
        async with AsyncSpectrumClient(server.url) as own:
            assert len((await own.ready()).workers) == 1
            quadratic = {"model": {"kind": "quadratic", "matrix": [[3.0]]}}
            assert (await own.closed_form(quadratic)).sharpness == 3.0
            assert (await own.closed_form_file(quadratic, "png")).startswith(b"\x89PNG")
            semicircle = {"law": "wigner", "num_points": 16}
            assert await own.random_matrix(semicircle) == client.random_matrix(semicircle)
            assert (await own.random_matrix_file(semicircle, "npz"))[:2] == b"PK"
            heard: list[str] = []
            result = await own.run(JOB, on_change=lambda job: heard.append(job.state))
            assert heard[-1] == "succeeded"
            job = await anext(own.jobs(tag="test:async-client"))
            assert client.result(job.id) == result == await own.result(job.id)
            assert (await own.result_file(job.id, "npz"))[:2] == b"PK"
            await own.save_result(job.id, tmp_path / "spectrum.svg", "svg")
            assert b"<svg" in (tmp_path / "spectrum.svg").read_bytes()
            with pytest.raises(ProblemResponseError, match="kappa"):
                await own.save_result(job.id, tmp_path / "other.svg", "svg", smoothing={"kappa": 2})
            assert not (tmp_path / "other.svg").exists()
            assert (await own.cancel(job.id)).state == "succeeded"
            await own.delete(job.id)
            with pytest.raises(ProblemResponseError):
                await own.job(job.id)
            diverging = JOB | {"train": {"num_steps": 200, "learning_rate": 1e9}}
            with pytest.raises(JobFailedError, match="learning rate"):
                await own.run(diverging)

    asyncio.run(use())


def test_a_server_that_is_not_there_is_named() -> None:
    with SpectrumClient("http://127.0.0.1:1") as nowhere, pytest.raises(ServerUnreachableError) as caught:
        nowhere.ready()
    assert "127.0.0.1:1" in str(caught.value)
