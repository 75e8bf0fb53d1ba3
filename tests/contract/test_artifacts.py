"""`/v1/artifacts` over HTTP, and jobs on what was uploaded."""

import asyncio
import io
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.main import app
from hessian_spectrum.curvature.data.text import named_tokens, text_windows

TOKENS = np.random.default_rng(0).integers(0, 300, 5000)
MODEL = {"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 8, "vocab_size": 300}


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.bin"
    TOKENS.astype(np.uint16).tofile(path)
    return path


def job(data: dict[str, Any], **model: Any) -> dict[str, Any]:
    return {
        "kind": "spectrum",
        "model": MODEL | model,
        "data": data,
        "loss": "cross-entropy",
        "method": {"kind": "lanczos", "num_steps": 6, "num_probes": 1},
        "precision": "float64",
    }


def uploaded(artifact_id: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "artifact", "id": artifact_id, "num_sequences": 3, "sequence_length": 8, "seed": 7} | fields


def inline(tokens: Any) -> dict[str, Any]:
    windows = text_windows(tokens, num_sequences=3, sequence_length=8, generator=torch.Generator().manual_seed(7))
    rows = {"x": windows.inputs.double().tolist(), "y": windows.targets.double().tolist()}
    return {"kind": "inline"} | rows


def refused_field(server: Any, path: str, request: dict[str, Any]) -> tuple[str, str]:
    response = httpx.post(f"{server.url}{path}", json=request)
    assert response.status_code == 422, response.text
    error = response.json()["errors"][0]
    return ".".join(map(str, error["loc"])), error["msg"]


def same_spectrum(one: Any, other: Any) -> bool:
    fields = ("quadrature", "density", "largest", "loss")
    return all(getattr(one, name) == getattr(other, name) for name in fields) and (
        one.provenance.data_sha256 == other.provenance.data_sha256
    )


def test_a_job_on_uploaded_tokens_is_the_one_on_the_same_tokens_inline(
    client: SpectrumClient, token_file: Path
) -> None:
    artifact = client.upload_tokens(token_file)
    assert (artifact.num_tokens, artifact.largest_token) == (5000, 299)
    assert client.artifact(artifact.id) == artifact
    assert artifact in list(client.artifacts())
    array = token_file.with_suffix(".npy")
    np.save(array, TOKENS)
    assert client.upload_tokens(array) == artifact
    request = job(uploaded(artifact.id))
    assert client.estimate(request).peak_bytes > 0
    assert same_spectrum(client.run(request), client.run(job(inline(TOKENS))))
    other = client.run(job(uploaded(artifact.id, seed=8)))
    assert not same_spectrum(other, client.run(request))


def test_a_job_on_gpt2_tokens_is_the_one_on_the_same_tokens_inline(client: SpectrumClient) -> None:
    text = {"kind": "text", "name": "pydoc-topics", "tokenizer": "gpt2"}
    windows = {"num_sequences": 3, "sequence_length": 8, "seed": 7}
    own, expected = (
        client.run(job(data, vocab_size=50_257, n_embd=1))
        for data in (text | windows, inline(named_tokens("pydoc-topics", "gpt2")))
    )
    assert same_spectrum(own, expected)


def test_a_text_that_gives_gpt2_too_few_tokens_fails_and_says_so(client: SpectrumClient) -> None:
    data = {"kind": "text", "text": "representation", "tokenizer": "gpt2", "num_sequences": 1, "sequence_length": 8}
    with pytest.raises(JobFailedError, match="2 tokens are too few for a sequence of 8"):
        client.run(job(data, vocab_size=50_257, n_embd=1))


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/estimates"])
def test_what_does_not_fit_is_refused_with_its_field(
    server: Any, client: SpectrumClient, token_file: Path, path: str
) -> None:
    known = client.upload_tokens(token_file).id
    text = {"kind": "text", "text": "to be or not", "num_sequences": 1, "sequence_length": 4, "tokenizer": "gpt2"}
    for request, field, message in (
        (job(uploaded("0" * 64)), "data.id", "no such artifact"),
        (job(uploaded("../etc/passwd")), "data.id", "64 hexadecimal digits"),
        (job(uploaded("A" * 64)), "data.id", "64 hexadecimal digits"),
        (job(uploaded(known), vocab_size=299), "model.vocab_size", "tokens outside the vocabulary"),
        (job(uploaded(known, sequence_length=9)), "data.sequence_length", "the model has 8 positions"),
        (job(uploaded(known, sequence_length=5000), n_positions=5000), "data.sequence_length", "5000 tokens"),
        (job(uploaded(known, num_sequences=0)), "data.num_sequences", "greater than or equal to 1"),
        (job(text), "model.vocab_size", "50257"),
        (job(text | {"tokenizer": "bpe"}), "data.tokenizer", "gpt2"),
        (job(uploaded(known)) | {"model": {"kind": "mlp", "widths": [2, 2]}}, "data.kind", "no artifact data"),
    ):
        found, said = refused_field(server, path, request)
        assert found == f"body.{field}"
        assert message in said


def test_a_job_whose_tokens_were_deleted_fails_and_says_so(
    server: Any, client: SpectrumClient, token_file: Path
) -> None:
    """The tokens are there when the job is submitted and gone when its turn comes."""
    TOKENS[:100].astype(np.uint16).tofile(token_file)
    artifact = client.upload_tokens(token_file)
    longest = job(uploaded(artifact.id)) | {"method": {"kind": "lanczos", "num_steps": 300, "num_probes": 1000}}
    first = client.submit(longest)
    waiting = client.submit(job(uploaded(artifact.id)), fresh=True)
    while client.job(first.id).progress.phase != "products":
        time.sleep(0.05)
    client.delete_artifact(artifact.id)
    client.cancel(first.id)
    ended = client.wait(waiting.id, 60)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.status == 422
    assert "not there any more" in str(ended.error.detail)


def test_unknown_artifacts(server: Any, client: SpectrumClient) -> None:
    for call in (client.artifact, client.delete_artifact):
        with pytest.raises(ProblemResponseError, match="404 No such artifact"):
            call("0" * 64)
    for name in ("0" * 63, "A" * 64, "draft-x", "%2e%2e%2fresults"):
        for method in ("GET", "DELETE"):
            assert httpx.request(method, f"{server.url}/v1/artifacts/{name}").status_code in (404, 422)
    assert httpx.get(f"{server.url}/v1/artifacts?page_token=x").status_code == 422


def test_pages(server: Any, client: SpectrumClient, tmp_path: Path) -> None:
    for number in range(3):
        np.array([number, 9], "<u2").tofile(tmp_path / "few.bin")
        client.upload_tokens(tmp_path / "few.bin")
    url = f"{server.url}/v1/artifacts"
    first = httpx.get(url, params={"page_size": 2}).json()
    assert len(first["artifacts"]) == 2
    second = httpx.get(url, params={"page_size": 2, "page_token": first["next_page_token"]}).json()
    found = [artifact["id"] for artifact in first["artifacts"] + second["artifacts"]]
    everything = [artifact.id for artifact in client.artifacts()]
    assert found == everything[: len(found)]
    assert len(set(everything)) == len(everything) >= 3


def test_an_upload_that_breaks_off_leaves_nothing(server: Any) -> None:
    directory = server.data_directory / "results" / "artifacts"
    before = sorted(directory.rglob("*"))
    fields = ("Host: localhost", "Content-Type: application/octet-stream", "Content-Length: 4000000")
    head = "\r\n".join(("POST /v1/artifacts HTTP/1.1", *fields, "", ""))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + b"ab" * 1_500_000)
        deadline = time.monotonic() + 30
        while not list(directory.glob("draft-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(directory.glob("draft-*"))
    while list(directory.glob("draft-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sorted(directory.rglob("*")) == before


def test_from_python_asynchronously(server: Any, client: SpectrumClient, token_file: Path) -> None:
    async def use() -> None:
        async with AsyncSpectrumClient(server.url) as own:
            artifact = await own.upload_tokens(token_file)
            assert await own.artifact(artifact.id) == artifact == client.artifact(artifact.id)
            assert artifact in [found async for found in own.artifacts()]
            await own.delete_artifact(artifact.id)
            with pytest.raises(ProblemResponseError):
                await own.artifact(artifact.id)
            token_file.write_bytes(b"odd")
            with pytest.raises(ProblemResponseError, match="3 bytes"):
                await own.upload_tokens(token_file)
            with pytest.raises(FileNotFoundError):
                await own.upload_tokens(token_file.with_name("none.bin"))

    asyncio.run(use())


def test_from_a_shell(server: Any, token_file: Path) -> None:
    def spectrum(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "--url", server.url])

    called = spectrum("upload", str(token_file))
    assert called.exit_code == 0, called.output
    artifact_id = json.loads(called.stdout)["id"]
    (line,) = (line for line in spectrum("artifacts").stdout.splitlines() if line.startswith(artifact_id))
    assert line.endswith("5000 tokens up to 299")
    assert spectrum("delete-artifact", artifact_id).exit_code == 0
    assert artifact_id not in spectrum("artifacts").stdout
    assert spectrum("delete-artifact", artifact_id).exit_code == 1
    assert spectrum("upload", str(token_file.with_name("none.bin"))).exit_code == 2
    unclear = token_file.rename(token_file.with_suffix(".dat"))
    called = spectrum("upload", str(unclear))
    assert called.exit_code == 2
    assert "the ending of train.dat" in " ".join(called.output.replace("│", " ").split())


def test_objects_are_never_unpickled(server: Any) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], object), allow_pickle=True)
    headers = {"Content-Type": "application/x-npy"}
    response = httpx.post(f"{server.url}/v1/artifacts", content=buffer.getvalue(), headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["body"]
