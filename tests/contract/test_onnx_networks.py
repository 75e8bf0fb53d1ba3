"""ONNX files over HTTP: what is uploaded is described, and a job's spectrum is that of the original module."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch import nn
from typer.testing import CliRunner

from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.main import app
from tests.fixtures.exported import saved_as_onnx
from tests.security.onnx_files import graph, model, node

ONNX = {"Content-Type": "application/onnx"}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3)
        )
    return module.eval()


def upload(server: Any, content: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/artifacts", content=content, headers=ONNX)


def eigenvalues(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray[Any, Any]:
    """Of the Hessian of the cross-entropy, by double backward."""
    module = module.double()
    parameters = list(module.parameters())
    loss = nn.functional.cross_entropy(module(x), y)
    gradient = torch.cat([each.reshape(-1) for each in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in gradient]
    matrix = torch.stack([torch.cat([each.reshape(-1) for each in row]) for row in rows])
    return np.asarray(torch.linalg.eigvalsh(matrix).numpy())


def test_a_network_is_described(server: Any) -> None:
    module = network()
    response = upload(server, saved_as_onnx(module, torch.randn(2, 1, 4, 4)))
    assert response.status_code in (200, 201), response.text
    artifact = response.json()
    assert artifact["source"] == "onnx"
    trainable = {each["name"]: tuple(each["shape"]) for each in artifact["parameters"] if each["trainable"]}
    assert trainable == {name: tuple(value.shape) for name, value in module.named_parameters()}
    assert artifact["inputs"][0]["shape"] == [None, 1, 4, 4]
    assert artifact["num_samples"] is None


def test_a_file_is_uploaded_from_python_and_from_a_shell(server: Any, client: SpectrumClient, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(saved_as_onnx(network(), torch.randn(2, 1, 4, 4)))

    async def send() -> Any:
        async with AsyncSpectrumClient(server.url) as own:
            return await own.upload_program(path)

    artifact = client.upload_program(path)
    assert artifact.source == "onnx"
    assert asyncio.run(send()) == artifact
    for name in ("network.onnx", "NETWORK.ONNX"):
        called = CliRunner().invoke(app, ["upload", str(path.rename(path.with_name(name))), "--url", server.url])
        assert called.exit_code == 0, called.output
        assert json.loads(called.stdout)["id"] == artifact.id
        path = path.with_name(name)


def test_the_spectrum_is_that_of_the_module(server: Any, client: SpectrumClient) -> None:
    module = network()
    artifact = upload(server, saved_as_onnx(module, torch.randn(2, 1, 4, 4))).json()
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(6, 1, 4, 4)), np.array([0, 1, 2, 0, 1, 2])
    file = io.BytesIO()
    np.savez(file, x=x, y=y)
    npz = {"Content-Type": "application/x-npz"}
    data = httpx.post(f"{server.url}/v1/artifacts", content=file.getvalue(), headers=npz).json()
    job = {
        "kind": "spectrum",
        "model": {"kind": "exported", "program": {"kind": "artifact", "id": artifact["id"]}},
        "data": {"kind": "artifact", "id": data["id"]},
        "loss": "cross-entropy",
        "method": {"kind": "exact"},
        "precision": "float64",
    }
    result = client.run(job)
    expected = eigenvalues(module, torch.from_numpy(x), torch.from_numpy(y))
    found = np.sort(np.asarray(result.eigenvalues))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_all_nodes_that_cannot_be_used_are_listed(server: Any) -> None:
    nodes = [node("NonZero", "x", "z"), node("Launder", "x", "h"), node("MatMul", "h w", "y")]
    response = upload(server, model(graph(*nodes)).SerializeToString())
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert "NonZero in node_z" in error["msg"]
    assert "Launder in node_h" in error["msg"]
