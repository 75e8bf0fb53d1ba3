"""Weights and data in uploaded files, over HTTP: jobs on them are those on the same numbers in the request."""

import asyncio
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.main import app

RNG = np.random.default_rng(0)
WIDTHS = (3, 5, 4)
WEIGHTS = {
    name: value
    for index, (fan_in, fan_out) in enumerate(pairwise(WIDTHS))
    for name, value in (
        (f"layers.{index}.weight", RNG.normal(size=(fan_out, fan_in))),
        (f"layers.{index}.bias", RNG.normal(size=fan_out).astype(np.float32)),
    )
}
X = RNG.normal(size=(20, 3)).astype(np.float32)
LABELS = RNG.integers(0, 4, 20)
LABELS[3] = -100
NUMBERS = RNG.normal(size=(20, 4))


@pytest.fixture
def upload(client: SpectrumClient, tmp_path: Path) -> Any:
    """Uploads arrays as npz or as safetensors; returns their id."""

    def send(suffix: str = ".npz", **arrays: Any) -> str:
        path = tmp_path / f"arrays{suffix}"
        if suffix == ".npz":
            np.savez(path, **arrays)
        else:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        return client.upload_arrays(path).id

    return send


def named(artifact_id: str) -> dict[str, Any]:
    return {"kind": "artifact", "id": artifact_id}


def inline(x: Any, y: Any) -> dict[str, Any]:
    return {"kind": "inline", "x": x.astype(float).tolist(), "y": y.astype(float).tolist()}


def inline_weights(**changes: Any) -> list[dict[str, Any]]:
    arrays = WEIGHTS | changes
    parts = ("weight", "bias")
    return [{part: arrays[f"layers.{i}.{part}"].astype(float).tolist() for part in parts} for i in range(2)]


def job(model: dict[str, Any], data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    rest = {"loss": "cross-entropy", "method": {"kind": "exact"}}
    return {"kind": "spectrum", "model": {"kind": "mlp", "activation": "tanh"} | model, "data": data} | rest | fields


def refused(server: Any, request: dict[str, Any]) -> tuple[str, str]:
    answers = [httpx.post(f"{server.url}/v1/{path}", json=request) for path in ("jobs", "estimates")]
    assert [answer.status_code for answer in answers] == [422, 422], answers[0].text
    first, second = (answer.json()["errors"][0] for answer in answers)
    assert first == second
    return ".".join(map(str, first["loc"])), first["msg"]


@pytest.mark.parametrize(("suffix", "precision"), [(".npz", "float64"), (".safetensors", "float32")])
def test_a_job_on_uploaded_weights_and_data_is_the_one_on_the_same_numbers(
    client: SpectrumClient, upload: Any, suffix: str, precision: str
) -> None:
    weights, data = upload(suffix, **WEIGHTS), upload(suffix, x=X, y=LABELS)
    own = client.run(job({"weights": named(weights)}, named(data), precision=precision))
    expected = client.run(job({"weights": inline_weights()}, inline(X, LABELS), precision=precision))
    assert own.eigenvalues == expected.eigenvalues
    assert own.loss == expected.loss
    assert own.provenance.parameters_sha256 == expected.provenance.parameters_sha256
    assert own.provenance.data_sha256 == expected.provenance.data_sha256
    assert len(own.eigenvalues) == 44


def test_targets_may_be_numbers_and_weights_of_any_layout(client: SpectrumClient, upload: Any) -> None:
    weights = {name: np.asfortranarray(w) for name, w in WEIGHTS.items() if name.endswith("weight")}
    own = client.run(job({"weights": named(upload(**weights))}, named(upload(x=X, y=NUMBERS)), loss="mse"))
    layers = [{"weight": layer["weight"]} for layer in inline_weights()]
    expected = client.run(job({"weights": layers}, inline(X, NUMBERS), loss="mse"))
    assert own.eigenvalues == expected.eigenvalues
    assert own.loss == expected.loss


def test_tokens_and_sequences_may_be_uploaded_arrays(client: SpectrumClient, upload: Any) -> None:
    gpt2 = {"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 2, "n_positions": 4, "vocab_size": 5}
    ids = RNG.integers(0, 5, (3, 4)).astype(np.uint16)
    attention = {"kind": "attention-layer", "embedding_dim": 2, "key_dim": 2}
    sequences = RNG.normal(size=(3, 4, 2))
    for model, array, loss in ((gpt2, ids, "cross-entropy"), (attention, sequences, "mse")):
        fields = {"kind": "spectrum", "model": model, "loss": loss, "method": {"kind": "exact"}}
        own = client.run(fields | {"data": named(upload(x=array, y=array))})
        expected = client.run(fields | {"data": inline(array, array)})
        assert own.eigenvalues == expected.eigenvalues


def test_the_cost_is_that_of_the_same_job_with_its_numbers(client: SpectrumClient, upload: Any) -> None:
    weights, data = upload(**WEIGHTS), upload(x=X, y=LABELS)
    own = client.estimate(job({"weights": named(weights)}, named(data)))
    assert own == client.estimate(job({"weights": inline_weights()}, inline(X, LABELS)))
    assert own.num_parameters == 44


def test_weights_that_do_not_fit_are_refused(server: Any, client: SpectrumClient, upload: Any, tmp_path: Path) -> None:
    def without(name: str) -> dict[str, Any]:
        return {key: value for key, value in WEIGHTS.items() if key != name}

    data = inline(X, LABELS)
    np.array([1, 2], "<u2").tofile(tmp_path / "tokens.bin")
    tokens = client.upload_tokens(tmp_path / "tokens.bin").id
    good = upload(**WEIGHTS)
    for arrays, message in (
        (without("layers.0.bias"), "holds no layers.0.bias"),
        (without("layers.0.weight"), "holds no layers.0.weight"),
        (WEIGHTS | {"x": X}, "holds x besides"),
        ({"x": X, "y": LABELS}, "holds 0 weights of layers"),
        (WEIGHTS | {"layers.1.weight": np.ones((4, 6))}, "layers.1.weight has the shape [4, 6]"),
        (WEIGHTS | {"layers.1.bias": np.ones(5)}, "layers.1.bias has the shape [5]"),
        (WEIGHTS | {"layers.0.weight": np.ones(15)}, "layers.0.weight has the shape [15]"),
        ({f"layers.{i}.weight": np.ones((1, 1)) for i in range(65)}, "65 weights"),
    ):
        field, said = refused(server, job({"weights": named(upload(**arrays))}, data))
        assert field == "body.model.weights.id"
        assert message in said
    for model, field, message in (
        ({"weights": named("0" * 64)}, "model.weights.id", "no such artifact"),
        ({"weights": named("../../etc/passwd")}, "model.weights.id", "no such artifact"),
        ({"weights": named(tokens)}, "model.weights.id", "holds tokens"),
        ({"weights": named(good), "widths": [3, 6, 4]}, "model.widths", "the artifact has [3, 5, 4]"),
        ({"weights": named(good), "bias": False}, "model.bias", "the artifact has True"),
        ({"weights": {"kind": "file", "path": "/etc/passwd"}}, "model.weights.kind", "artifact"),
        ({"weights": named(good) | {"url": "http://example.org"}}, "model.weights.url", "no such field"),
        ({"weights": {"id": 5, "kind": "artifact"}}, "model.weights.id", "string"),
    ):
        found, said = refused(server, job(model, data))
        assert found == f"body.{field}"
        assert message in said
    found, said = refused(server, job({"weights": named(good)}, {"kind": "digits"}))
    assert found == "body.model.weights.id"
    assert "the input width is 3" in said


def test_data_that_do_not_fit_are_refused(server: Any, client: SpectrumClient, upload: Any, tmp_path: Path) -> None:
    np.array([1, 2], "<u2").tofile(tmp_path / "tokens.bin")
    tokens = client.upload_tokens(tmp_path / "tokens.bin").id
    good = upload(x=X, y=LABELS)
    model = {"widths": [3, 2, 4]}
    for arrays, field, message in (
        ({"x": X}, "data.id", "holds no targets y, which the loss cross-entropy needs"),
        ({"x": X, "y": LABELS, "z": X}, "data.id", "holds x, y, z;"),
        ({"x": X, "y": LABELS[:-1]}, "data.id", "y holds 19 samples, x holds 20"),
        ({"x": np.ones((20, 1, 1, 3)), "y": LABELS}, "data.x", "x has 1 x 1 x 3 numbers per sample"),
        ({"x": X[:, :2], "y": LABELS}, "data.x", "x has 2 numbers per sample"),
        ({"x": X, "y": LABELS + 1}, "data.y", "-99 is not a whole number from 0 to 3"),
        ({"x": X, "y": LABELS * 0 + 4}, "data.y", "4 is not a whole number from 0 to 3"),
        ({"x": X, "y": LABELS * 0 - 100}, "data.y", "every target is ignored"),
        ({"x": X, "y": LABELS + 0.5}, "data.y", "not whole numbers from 0 to 3"),
        ({"x": X, "y": NUMBERS}, "data.y", "labels are whole numbers from 0 of shape (n,)"),
    ):
        found, said = refused(server, job(model, named(upload(**arrays))))
        assert found == f"body.{field}"
        assert message in said
    for data, field, message in (
        (named("0" * 64), "data.id", "no such artifact"),
        (named(tokens), "data.id", "num_sequences and sequence_length"),
        (named(good) | {"x": {"dtype": "F32", "shape": [20, 4]}}, "data.x", "differs from the uploaded file"),
        (named(good) | {"num_sequences": 1, "sequence_length": 1}, "data.kind", "mlp takes no artifact data"),
        (named(good) | {"path": "/etc/passwd"}, "data.path", "no such field"),
    ):
        found, said = refused(server, job(model, data))
        assert found == f"body.{field}"
        assert message in said
    gpt2 = {"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 2, "n_positions": 4, "vocab_size": 5}
    request = job({}, named(good) | {"num_sequences": 1, "sequence_length": 1}) | {"model": gpt2}
    found, _ = refused(server, request)
    assert found == "body.data.id"


def test_a_job_whose_arrays_were_deleted_fails_and_says_so(client: SpectrumClient, upload: Any) -> None:
    """They are there when the job is submitted and gone when its turn comes."""
    data = upload(x=X, y=NUMBERS)
    long = {"kind": "lanczos", "num_steps": 300, "num_probes": 1000}
    first = client.submit(job({"widths": [3, 64, 4]}, inline(X, NUMBERS), loss="mse", method=long))
    waiting = client.submit(job({"widths": [3, 2, 4]}, named(data), loss="mse"))
    while client.job(first.id).progress.phase != "products":
        time.sleep(0.05)
    client.delete_artifact(data)
    client.cancel(first.id)
    ended = client.wait(waiting.id, 60)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.status == 422
    assert f"the uploaded arrays {data} are not there any more" in str(ended.error.detail)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_npy_files(order: Any, client: SpectrumClient, tmp_path: Path) -> None:
    """One file for each array: the same data as both in one file."""
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    np.save(tmp_path / "classes.npy", LABELS)
    x = client.upload_arrays(tmp_path / "x.npy")
    y = client.upload_arrays(tmp_path / "classes.npy", name="y")
    assert {name: (each.dtype, each.shape) for name, each in x.arrays.items()} == {"x": ("F32", [20, 3])}
    assert y.arrays["y"].whole_numbers is not None
    data = named(x.id) | {"more": [y.id]}
    estimated = client.estimate(job({"widths": list(WIDTHS)}, data))
    assert estimated.num_parameters == sum(value.size for value in WEIGHTS.values())
    found = client.run(job({"widths": list(WIDTHS)}, data), fresh=True)
    expected = client.run(job({"widths": list(WIDTHS)}, inline(X, LABELS)), fresh=True)
    assert found.eigenvalues == expected.eigenvalues  # type: ignore[union-attr]


def test_files_that_do_not_belong_together(client: SpectrumClient, tmp_path: Path) -> None:
    for name, array in {"x": X, "y": LABELS, "short": abs(LABELS[:7])}.items():
        np.save(tmp_path / f"{name}.npy", array)
    x, y = (client.upload_arrays(tmp_path / f"{name}.npy").id for name in ("x", "y"))
    short = client.upload_arrays(tmp_path / "short.npy", name="y").id
    tokens = client.upload_tokens(tmp_path / "short.npy").id
    for more, message in {
        (x,): "data.more.0: holds x, which an earlier file holds, too",
        (y, short): "data.more.1: holds y, which an earlier file holds, too",
        (short,): "y holds 7 samples, x holds 20",
        (tokens,): "a .npy array of data is uploaded with its name, as in ?name=y",
        ("0" * 64,): "data.more.0: there is no",
        ("0" * 64,) * 16: "at most 15 items",
    }.items():
        with pytest.raises(ProblemResponseError) as caught:
            client.submit(job({"widths": list(WIDTHS)}, named(x) | {"more": list(more)}))
        assert message in str(caught.value)


def test_npy_files_that_are_refused(server: Any, tmp_path: Path) -> None:
    def send(array: Any, query: str = "", sent_as: str = "application/x-npy") -> httpx.Response:
        path = tmp_path / "array.npy"
        np.save(path, array, allow_pickle=True)
        headers = {"Content-Type": sent_as}
        return httpx.post(f"{server.url}/v1/artifacts{query}", content=path.read_bytes(), headers=headers)

    for response, message in (
        (send(X), "To upload other data, give the array a name, as in ?name=x"),
        (send(X, "?name="), "at least 1 character"),
        (send(X, "?name=a%20b"), "names must have 1 to 128 ASCII letters"),
        (send(X, "?name=x", "application/octet-stream"), "is for an array sent as application/x-npy"),
        (send(np.array([{}, None], object), "?name=x"), "must hold float16, float32, float64"),
        (send(np.zeros((0, 3)), "?name=x"), "must not be empty"),
        (send(X, "?name=x", "application/x-npz"), "is for an array sent as application/x-npy"),
    ):
        assert response.status_code == 422, response.text
        assert message in response.text


def test_from_python_asynchronously_and_from_a_shell(server: Any, client: SpectrumClient, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=X, y=LABELS)

    async def send() -> Any:
        async with AsyncSpectrumClient(server.url) as own:
            return await own.upload_arrays(path)

    artifact = asyncio.run(send())
    assert client.artifact(artifact.id) == artifact
    for other in (".npz", ".safetensors"):
        if other == ".safetensors":
            save_file({"y": LABELS, "x": X}, path.with_suffix(other))
        called = CliRunner().invoke(app, ["upload", str(path.with_suffix(other)), "--url", server.url])
        assert called.exit_code == 0, called.output
        assert json.loads(called.stdout)["id"] == artifact.id
    np.save(tmp_path / "images.npy", X)
    called = CliRunner().invoke(app, ["upload", str(tmp_path / "images.npy"), "--name", "x", "--url", server.url])
    assert json.loads(called.stdout)["arrays"]["x"]["shape"] == [20, 3]
    called = CliRunner().invoke(app, ["upload", str(path), "--name", "x", "--url", server.url])
    assert called.exit_code == 2
    assert "other files have their own" in " ".join(called.output.replace("│", "").split())
    listed = CliRunner().invoke(app, ["artifacts", "--url", server.url]).stdout
    (line,) = (line for line in listed.splitlines() if line.startswith(artifact.id))
    assert line.endswith("x F32 [20, 3], y I64 [20]")
    path.write_bytes(b"PK")
    with pytest.raises(ProblemResponseError, match="400 Malformed upload"):
        client.upload_arrays(path)
