"""Losses with options, and matrices beside the Hessian, over HTTP against torch's losses and double backward."""

import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hessian_spectrum.client.http import SpectrumClient

F64 = torch.float64
WEIGHTS = [0.5, 2.0]
LABELS = [0, 1, -100, 1, 0, 1]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Network:
    """A network with tanh at random weights, as a request states it and as a function of a flat vector."""

    def __init__(self, num_outputs: int = 2) -> None:
        self.shapes = [(4, 3), (4,), (num_outputs, 4), (num_outputs,)]
        self.weights = [drawn(index, *shape) for index, shape in enumerate(self.shapes)]
        self.inputs = drawn(9, 6, 3)
        self.flat = torch.cat([weight.flatten() for weight in self.weights])

    def outputs(self, flat: Tensor) -> Tensor:
        pieces = torch.split(flat, [weight.numel() for weight in self.weights])
        first, bias, last, offset = (piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True))
        return (self.inputs @ first.T + bias).tanh() @ last.T + offset

    def body(self, targets: Any, **fields: Any) -> dict[str, Any]:
        first, bias, last, offset = (weight.tolist() for weight in self.weights)
        layers = [{"weight": first, "bias": bias}, {"weight": last, "bias": offset}]
        return {
            "kind": "spectrum",
            "model": {"kind": "mlp", "weights": layers, "activation": "tanh"},
            "data": {"kind": "inline", "x": self.inputs.tolist(), "y": targets},
            "method": {"kind": "exact"},
            **fields,
        }


def hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    point = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(point), point, create_graph=True)
    return torch.stack([torch.autograd.grad(each, point, retain_graph=True)[0] for each in gradient])


def spectra(client: SpectrumClient, requests: list[dict[str, Any]]) -> list[Any]:
    ids = [client.submit(request, fresh=True).id for request in requests]
    ended = [client.wait(job_id, timeout_seconds=200) for job_id in ids]
    assert {job.state for job in ended} == {"succeeded"}, [job.error for job in ended]
    return [client.result(job_id) for job_id in ids]


def check(result: Any, expected: Tensor) -> None:
    values = torch.linalg.eigvalsh(expected)
    np.testing.assert_allclose(result.eigenvalues, values.numpy(), rtol=0, atol=1e-11 * float(values.abs().max()))


LOSSES: dict[str, tuple[Any, Tensor, Callable[[Tensor, Tensor], Tensor]]] = {
    "weights": (
        {"kind": "cross-entropy", "class_weights": WEIGHTS, "label_smoothing": 0.1},
        torch.tensor(LABELS),
        lambda f, y: F.cross_entropy(f, y, torch.tensor(WEIGHTS, dtype=F64), label_smoothing=0.1),
    ),
    "bce": (
        "binary-cross-entropy",
        drawn(8, 6, 2).sigmoid(),
        lambda f, y: 2 * F.binary_cross_entropy_with_logits(f, y),
    ),
    "huber": ({"kind": "huber", "delta": 0.5}, drawn(8, 6, 2), lambda f, y: 2 * F.huber_loss(f, y, delta=0.5)),
    "gaussian": ("gaussian-nll", drawn(8, 6, 1), lambda f, y: F.gaussian_nll_loss(f[:, :1], y, f[:, 1:].exp())),
    "poisson": ("poisson-nll", drawn(8, 6, 2).abs().round(), lambda f, y: 2 * F.poisson_nll_loss(f, y)),
    "kl": ("kl", drawn(8, 6, 2).softmax(-1), lambda f, y: F.kl_div(f.log_softmax(-1), y, reduction="batchmean")),
    "output": ("output", torch.zeros(6, 1), lambda f, y: f.mean()),
}


@pytest.mark.timeout(600)
def test_the_hessian_of_each_loss(client: SpectrumClient) -> None:
    networks = {name: Network(1 if name == "output" else 2) for name in LOSSES}
    requests = [networks[name].body(y.tolist(), loss=loss) for name, (loss, y, _) in LOSSES.items()]
    for name, result in zip(LOSSES, spectra(client, requests), strict=True):
        network, (_, targets, reference) = networks[name], LOSSES[name]

        def risk(flat: Tensor, network: Network = network, targets: Tensor = targets, of: Any = reference) -> Tensor:
            value: Tensor = of(network.outputs(flat), targets)
            return value

        check(result, hessian(risk, network.flat))
        assert result.loss == pytest.approx(float(risk(network.flat)), rel=1e-12)


@pytest.mark.timeout(600)
def test_each_matrix_with_its_options(client: SpectrumClient, server: Any) -> None:
    network, targets = Network(), torch.tensor(LABELS)
    scores, weight = [], 0.0
    for index, label in enumerate(LABELS):
        if label >= 0:
            point = network.flat.clone().requires_grad_()
            loss = F.cross_entropy(network.outputs(point)[index : index + 1], targets[index : index + 1])
            scores.append(WEIGHTS[label] * torch.autograd.grad(loss, point)[0])
            weight += WEIGHTS[label]
    gradients = torch.stack(scores) * len(scores) / weight
    empirical, mean = gradients.T @ gradients / len(scores), gradients.mean(dim=0)
    jacobian = torch.autograd.functional.jacobian(network.outputs, network.flat)
    fisher = torch.zeros_like(empirical)
    for label, outputs, rows in zip(LABELS, network.outputs(network.flat), jacobian, strict=True):
        if label >= 0:
            p = outputs.softmax(-1)
            fisher += WEIGHTS[label] / weight * rows.T @ (p.diag() - torch.outer(p, p)) @ rows
    eye = torch.eye(len(network.flat), dtype=F64)
    diagonal = drawn(5, len(eye)).square() + 0.1
    parts = torch.split(diagonal, [each.numel() for each in network.weights])
    names = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    arrays = {name: part.view(shape).numpy() for name, part, shape in zip(names, parts, network.shapes, strict=True)}
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    identifier = uploaded(server, archive.getvalue())
    preconditioner = {"kind": "artifact", "id": identifier}
    loss = {"kind": "cross-entropy", "class_weights": WEIGHTS}
    requests = [
        network.body(LABELS, loss=loss, **fields)
        for fields in (
            {"matrix": "fisher"},
            {"matrix": "empirical-fisher"},
            {"matrix": {"kind": "gradient-covariance", "shift": 0.5}},
            {"matrix": {"kind": "ggn", "preconditioner": preconditioner, "shift": 0.25}, "weight_decay": 0.125},
            {"matrix": "hessian", "weight_decay": 0.125},
        )
    ]
    found = spectra(client, requests)
    roots = diagonal.rsqrt()
    check(found[0], fisher)
    check(found[1], empirical)
    check(found[2], empirical - torch.outer(mean, mean) + 0.5 * eye)
    check(found[3], roots[:, None] * (fisher + 0.125 * eye) * roots + 0.25 * eye)
    assert found[3].preconditioner == identifier
    assert (found[2].shift, found[3].shift) == (0.5, 0.25)
    for each in found:
        stated = {name: getattr(each, name) for name in ("matrix", "preconditioner", "shift", "block")}
        assert {name: getattr(each.provenance, name) for name in stated} == stated

    def risk(flat: Tensor) -> Tensor:
        value = F.cross_entropy(network.outputs(flat), targets, torch.tensor(WEIGHTS, dtype=F64))
        return value + 0.0625 * flat.square().sum()

    check(found[4], hessian(risk, network.flat))
    assert found[4].loss == pytest.approx(float(risk(network.flat)), rel=1e-12)
    del arrays["layers.1.bias"]
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    matrix = {"kind": "ggn", "preconditioner": {"kind": "artifact", "id": uploaded(server, archive.getvalue())}}
    answer = httpx.post(f"{server.url}/v1/jobs", json=network.body(LABELS, loss=loss, matrix=matrix), timeout=60)
    (error,) = answer.json()["errors"]
    assert error == {"loc": ["body", "matrix", "preconditioner", "id"], "msg": "lacks the parameters layers.1.bias"}


def uploaded(server: Any, body: bytes) -> str:
    headers = {"Content-Type": "application/x-npz"}
    answer = httpx.post(f"{server.url}/v1/artifacts", content=body, headers=headers, timeout=60)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


class Pixels(torch.nn.Module):
    """Logits (n, 3, height, width): as many classes as columns, so that either axis could hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 2, 3, padding=1)
        self.last = torch.nn.Conv2d(2, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(images).tanh())
        return logits


@pytest.mark.timeout(600)
def test_classes_of_an_exported_program_lie_along_a_stated_axis(client: SpectrumClient, server: Any) -> None:
    torch.manual_seed(0)
    module = Pixels().double()
    images, labels = drawn(3, 4, 1, 3, 3), torch.randint(3, (4, 3, 3))
    labels[0, 1] = -100
    model = client.upload_module(module, images)
    archive = io.BytesIO()
    np.savez(archive, x=images.numpy(), y=labels.numpy())
    data = {"kind": "artifact", "id": uploaded(server, archive.getvalue())}
    base = {"kind": "spectrum", "model": model, "data": data, "method": {"kind": "exact"}}
    loss = {"kind": "cross-entropy", "class_axis": 1}
    (result,) = spectra(client, [base | {"loss": loss}])
    leaves = list(module.parameters())
    gradient = torch.autograd.grad(F.cross_entropy(module(images), labels), leaves, create_graph=True)
    flat = torch.cat([each.flatten() for each in gradient])
    rows = [torch.autograd.grad(each, leaves, retain_graph=True) for each in flat]
    check(result, torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]))
    answer = httpx.post(f"{server.url}/v1/jobs", json=base | {"loss": "cross-entropy"}, timeout=60)
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["body", "loss", "class_axis"]
    assert "state class_axis" in error["msg"]
