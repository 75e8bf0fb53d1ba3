"""Every network of the catalog over HTTP: its eigenvalues are those of the original module's Hessian.

Networks that take seconds are marked `slow`, those that take long and resemble others `long`, like half of the rest;
tests/curvature has all without a server.
"""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.curvature.losses import Mse
from tests.fixtures.exported import exported
from tests.fixtures.networks import LONG, NETWORKS, SAMPLE, SLOW, Network, build
from tests.fixtures.networks.catalog import Applied, images
from tests.fixtures.networks.vision import resnet18
from tests.fixtures.products import ModuleRisk, default_dtype

SCALE = 1e-9
"""Largest deviation of an eigenvalue in float64, relative to the largest one."""

OWN_FLOAT32 = 5e-6
"""The same for modules that compute in single precision in places, against the module itself."""


def original(network: Network) -> nn.Module:
    """The module in float64, with all rows of embeddings as parameters: derivatives are those of the values."""
    module = copy.deepcopy(network.module).double()
    for each in module.modules():
        if isinstance(each, nn.Embedding):
            each.padding_idx = None
    return module


def targets_of(network: Network) -> Tensor:
    """Outputs of the module with noise, in float64."""
    inputs = network.inputs.double() if network.inputs.is_floating_point() else network.inputs
    with torch.no_grad(), default_dtype(torch.float64):
        outputs = original(network)(inputs).double()
    return outputs + torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def hessian(module: nn.Module, network: Network, targets: Tensor) -> Tensor:
    inputs = network.inputs.double() if network.inputs.is_floating_point() else network.inputs
    targets = targets.unsqueeze(-1) if targets.ndim == 1 else targets
    risk = ModuleRisk(module, inputs, targets, Mse())
    with default_dtype(torch.float64):
        return risk.hessian_by_differences() if network.oracle == "differences" else risk.hessian()


def graph_of(network: Network) -> nn.Module:
    """The exported graph as the server reads it, run by autograd alone, wholly in the precision of its parameters."""
    model = exported(network.module, network.inputs)
    named = dict(network.module.named_parameters())
    parameters = {name: nn.Parameter(named[name].detach().double()) for name in model.parameter_shapes}
    run = Applied(lambda _, x: model(parameters, x))
    run.parameters = lambda recurse=True: iter(parameters.values())  # type: ignore[method-assign]
    return run


def deviation(found: Any, matrix: Tensor) -> float:
    """Largest deviation of an eigenvalue, relative to the largest one."""
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).numpy()
    return float(np.abs(np.array(found) - values).max() / np.abs(values).max())


def eigenvalues(client: SpectrumClient, network: Network, targets: Tensor) -> list[float]:
    request = {
        "kind": "spectrum",
        "model": client.upload_module(network.module, network.inputs),
        "data": client.upload_data(network.inputs, targets),
        "loss": "mse",
        "method": {"kind": "exact"},
    }
    result = client.run(request)
    assert result.provenance.product_fallback is None
    return list(result.eigenvalues)


def marks(name: str) -> list[pytest.MarkDecorator]:
    if name in SLOW - LONG:
        return [pytest.mark.slow]
    return [pytest.mark.long] if name in LONG or (name not in SAMPLE and name in list(NETWORKS)[::2]) else []


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in NETWORKS])
def test_eigenvalues_are_those_of_the_module(client: SpectrumClient, name: str) -> None:
    network = build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of export
        targets = targets_of(network)
        found = eigenvalues(client, network, targets)
        expected = hessian(original(network), network, targets)
        if network.has_own_float32:
            assert deviation(found, expected) < OWN_FLOAT32
            expected = hessian(graph_of(network), network, targets)
    assert deviation(found, expected) < max(SCALE, network.tolerance)


def physics(net: Any, x: Tensor) -> Tensor:
    """Squared residuals of u'' + u = 0 and of u(0) = 1 for each sample; derivatives are taken in the forward pass."""
    x = x.detach().requires_grad_()
    u = net.body(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return (curvature + u).square().sum(-1) + (net.body(torch.zeros_like(x)) - 1).square().sum(-1)


def test_a_physics_informed_network_that_returns_its_loss(client: SpectrumClient) -> None:
    torch.manual_seed(0)
    module = Applied(physics, body=nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)))
    x = torch.linspace(0, 3, 7).unsqueeze(1)
    request = {
        "kind": "spectrum",
        "model": client.upload_module(module, x),
        "data": client.upload_data(x),
        "loss": "output",
        "method": {"kind": "exact"},
    }
    result = client.run(request)
    double = copy.deepcopy(module).double()
    parameters = list(double.parameters())
    loss = double(x.double()).mean()
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    rows = [
        torch.cat([part.reshape(-1) for part in torch.autograd.grad(each, parameters, retain_graph=True)])
        for each in torch.cat([part.reshape(-1) for part in gradient])
    ]
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    assert deviation(result.eigenvalues, torch.stack(rows)) < SCALE


@pytest.mark.slow
def test_the_largest_eigenvalues_of_a_resnet_18(client: SpectrumClient) -> None:
    """175,000 parameters: against ARPACK on products by double backward."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(resnet18(width=8).eval(), images())
    targets = targets_of(network)
    request = {
        "kind": "spectrum",
        "model": client.upload_module(network.module, network.inputs),
        "data": client.upload_data(network.inputs, targets),
        "loss": "mse",
        "method": {"kind": "top-k", "k": 2, "which": "largest", "tolerance": 1e-10},
        "precision": "float64",
    }
    result = client.run(request)
    risk = ModuleRisk(original(network), network.inputs.double(), targets, Mse())
    product, shape = risk.hessian_product(), (risk.dim, risk.dim)
    operator = LinearOperator(shape, lambda vector: product(torch.from_numpy(vector)).numpy(), dtype=np.float64)
    start = np.random.default_rng(0).normal(size=risk.dim)
    expected = np.sort(eigsh(operator, k=2, which="LA", v0=start, return_eigenvectors=False))[::-1]
    found = np.array([each.value for each in result.eigenpairs])
    assert np.abs(found - expected).max() < SCALE * expected[0]
