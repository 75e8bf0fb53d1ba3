"""Training runs tracked over HTTP: the curve is that of the module, whatever happens to the run."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.transformers import Logits

SCALE = 1e-9
"""Largest deviation of an eigenvalue, relative to the largest one."""

X = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (12,), generator=torch.Generator().manual_seed(1))


class Network(nn.Module):
    """A convolution with batch norm, dropout, tied weights and a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.head.weight
        self.other.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.stem(x))).mean((2, 3))
        return self.other(torch.tanh(self.head(self.drop(hidden))))  # type: ignore[no-any-return]


def hessian_eigenvalues(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    """The oracle: the Hessian by double backward, row by row."""

    def flat(value: Tensor, **options: bool) -> Tensor:
        parts = torch.autograd.grad(value, parameters, materialize_grads=True, **options)
        return torch.cat([each.reshape(-1) for each in parts])

    matrix = torch.stack([flat(entry, retain_graph=True) for entry in flat(loss, create_graph=True)])
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2)


def eigenvalues(state: dict[str, Tensor], chosen: list[str]) -> Tensor:
    """Of the module in eval mode, in float64."""
    module = Network().double().eval()
    module.load_state_dict(state)
    parameters = [dict(module.named_parameters())[name] for name in chosen]
    return hessian_eigenvalues(cross_entropy(module(X.double()), Y), parameters)


@pytest.mark.parametrize("trainable", [None, "*.weight"])
def test_each_point_has_the_spectrum_of_the_module_in_eval_mode(
    client: SpectrumClient, tmp_path: Path, trainable: str | None
) -> None:
    """With the running statistics of batch norm at that step, which are not differentiated."""
    module = Network().train()
    options: dict[str, Any] = {"method": {"kind": "exact"}, "precision": "float64", "trainable": trainable}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    states = {}
    tracker = client.track(module, loss="cross-entropy", data=(X, Y), every=2, directory=tmp_path, **options)
    with tracker:
        for step in range(5):
            states[step] = {name: each.detach().double().clone() for name, each in module.state_dict().items()}
            tracker.step(learning_rate=0.5)
            optimizer.zero_grad()
            cross_entropy(module(X), Y).backward()
            optimizer.step()
    points = tracker.series(wait=100).points
    assert [point.step for point in points] == [0, 2, 4]
    names = [name for name, each in module.named_parameters() if each.requires_grad]
    chosen = names if trainable is None else [name for name, _ in module.named_parameters() if name.endswith("weight")]
    for point in points:
        assert point.problem is None, point
        exact = eigenvalues(states[point.step], chosen)
        found = np.array(point.eigenvalues)
        assert np.abs(found - exact.numpy()).max() <= SCALE * float(exact.abs().max())
        assert point.stability_threshold == 4.0
    assert not torch.equal(states[0]["norm.running_mean"], states[4]["norm.running_mean"])
    assert tracker.picture().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_a_language_model_of_transformers_is_measured_at_its_logits(client: SpectrumClient, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=7, n_positions=8, n_embd=4, n_layer=1, n_head=2, **ends))
    tokens = torch.randint(7, (6, 5), generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {"method": {"kind": "exact"}, "precision": "float64", "directory": tmp_path}
    with client.track(Logits(model), loss="cross-entropy", data=(tokens, tokens), every=1, **options) as tracker:
        tracker.step()
    (point,) = tracker.series(wait=100).points
    network = Logits(model.double().eval())
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        loss = cross_entropy(network(tokens).reshape(-1, 7), tokens.reshape(-1))
        exact = hessian_eigenvalues(loss, list(network.parameters()))
    assert np.abs(np.array(point.eigenvalues) - exact.numpy()).max() <= SCALE * float(exact.abs().max())
    assert point.loss == pytest.approx(float(loss), rel=1e-12)


SCRIPT = """
    import os, signal, sys, threading
    import torch
    from torch import nn
    from hessian_spectrum.client.http import SpectrumClient

    url, directory, name = sys.argv[1:]
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    client = SpectrumClient(url)
    tracker = client.track(module, loss="mse", data=(x, y), every=1, name=name, directory=directory)
    for step in range(12):
        with torch.no_grad():
            module[0].weight.mul_(0.99)
        tracker.step()
    while len(list(tracker.directory.glob("point-*.json"))) < 12:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_run_is_sent_by_the_command(server: Any, client: SpectrumClient, tmp_path: Path) -> None:
    name = "killed-run"
    arguments = ["http://127.0.0.1:1", str(tmp_path), name]
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments], check=False, timeout=100)
    assert killed.returncode == -9
    command = [Path(sys.executable).with_name("spectrum"), "track", "send", str(tmp_path), "--url", server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == f"{name}  12 points\n"
    for job in client.jobs(tag=f"series:{name}"):
        assert client.wait(job.id, 100).state == "succeeded"
    points = client.series(name).points
    assert [point.step for point in points] == list(range(12))
    sharpness = [point.largest.value for point in points]
    assert len(set(sharpness)) == 12


def test_parameters_of_another_network_are_refused_before_the_job(client: SpectrumClient) -> None:
    model, data = client.upload_module(Network().eval(), X), client.upload_data(X, Y)
    other = client.upload_parameters({"stem.weight": torch.zeros(2)})
    points = [{"step": 0, "parameters": other}]
    with pytest.raises(ProblemResponseError) as refused:
        client.submit(
            {
                "kind": "series",
                "name": "other",
                "points": points,
                "model": model,
                "data": data,
                "loss": "cross-entropy",
                "method": {"kind": "top-k", "k": 1},
            }
        )
    (error,) = refused.value.problem.errors or []
    assert error.loc == ["body", "points", 0, "parameters"]
    assert error.msg.startswith("lacks ")
