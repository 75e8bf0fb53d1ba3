"""Memory of programs, counted from their graphs, is what processes take."""

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from hessian_spectrum.planning.size import SORTS, attention_size, counted_size, mlp_size
from hessian_spectrum.programs.cost import numbers_per_sample
from tests.fixtures.exported import exported
from tests.fixtures.networks import build

NETWORKS = ("resnet18-width-16", "vit", "lstm", "u-net")
"""None of these sizes is among those that the coefficients were fitted to."""


def counted(module: nn.Module, inputs: Tensor) -> dict[str, int]:
    numbers = numbers_per_sample(exported(module.eval(), inputs).program)
    return {sort: number for sort, number in numbers.items() if number}


def test_counts_by_hand() -> None:
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3), nn.Tanh(), nn.Unflatten(1, (3, 1)))
    assert counted(module, torch.randn(4, 5)) == {"inputs": 5, "linear": 10, "piecewise": 7, "outputs": 3}
    images = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten())
    assert counted(images, torch.randn(4, 2, 6, 6)) == {
        **{"inputs": 72, "convolutions": 48, "batch-norms": 48, "smooth": 48, "outputs": 12}
    }


@pytest.mark.parametrize(
    ("name", "layer"),
    [("relu", nn.ReLU), ("tanh", nn.Tanh), ("gelu", nn.GELU), ("sigmoid", nn.Sigmoid), ("silu", nn.SiLU)],
)
def test_a_built_in_network_is_counted_like_the_same_network_as_a_program(name: str, layer: type[nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(5, 7), layer(), nn.Linear(7, 6), layer(), nn.Linear(6, 3))
    inputs = torch.randn(4, 5)
    assert exported(network, inputs).size_on(inputs) == mlp_size((5, 7, 6, 3), True, 4, activation=name)


def test_built_in_attention_is_counted_like_a_program() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(6, width, bias=False) for width in (5, 5, 3))

        def forward(self, x: Tensor) -> Tensor:
            scores = self.query(x) @ self.key(x).transpose(-1, -2) / 5**0.5
            result: Tensor = scores.softmax(dim=-1) @ self.value(x)
            return result

    inputs = torch.randn(4, 8, 6)
    program = exported(Attention(), inputs).size_on(inputs)
    built_in = attention_size(embedding_dim=6, key_dim=5, value_dim=3, num_sequences=4, sequence_length=8)
    assert program.num_parameters == built_in.num_parameters
    for sort in SORTS:
        sink = 4 * 8 * 8 if sort == "sums" else 0  # which is added to the scores
        assert built_in.number(sort) - program.number(sort) == sink, sort


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # of torch.export, for recurrent layers
def test_steps_of_recurrent_layers_are_counted() -> None:
    def gates(num_steps: int, depth: int) -> int:
        return counted(build_recurrent(depth), torch.randn(3, num_steps, 5))["recurrent"]

    assert gates(7, 1) == 7 * 4 * 6
    assert gates(14, 2) == 2 * 14 * 4 * 6


def build_recurrent(depth: int) -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.LSTM(5, 6, depth, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            last: Tensor = self.cells(x)[0][:, -1]
            return last

    return Last()


def test_what_depends_on_no_parameter_is_not_counted() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer((x.sin() + 1) ** 2)
            return result

    assert counted(Shifted(), torch.randn(4, 5)) == {"inputs": 5, "outputs": 2}


@pytest.mark.filterwarnings("ignore:The tensor attributes")
@pytest.mark.parametrize("name", ["vit", "resnet", "lstm", "unet"])
def test_numbers_of_samples_do_not_matter(name: str) -> None:
    network = build(name)
    some, twice = (
        exported(network.module, torch.cat([network.inputs] * copies)).size_on(network.inputs) for copies in (1, 2)
    )
    assert some == twice


def test_costs_grow_with_every_sort() -> None:
    none = counted_size(10, 8, {})
    for index, sort in enumerate(SORTS):
        assert counted_size(10, 8, {sort: 5}).activations[index] == 40
    assert none.num_activations == 0


@pytest.mark.slow
def test_memory_is_as_predicted() -> None:
    chosen = [text for name in NETWORKS for text in ("--case", name)]
    command = [sys.executable, "-m", "benchmarks.cost", "--json", *chosen]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    cases = json.loads(printed.stdout)["cases"]
    assert set(cases) == set(NETWORKS)
    for name, case in cases.items():
        assert case["peak_bytes"] > 90 * 2**20  # large enough to tell
        assert case["predicted_bytes"] / case["peak_bytes"] == pytest.approx(1, abs=0.2), name
