"""Memory of programs, counted from their graphs, is what processes take."""

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from hessian_spectrum.planning.job_plan import micro_batches
from hessian_spectrum.planning.size import SORTS, attention_size, counted_size, mlp_size
from hessian_spectrum.planning.work import lanczos_work
from hessian_spectrum.programs.cost import program_cost
from tests.fixtures.exported import exported
from tests.fixtures.networks import build

NETWORKS = ("resnet18-width-16", "vit", "lstm", "u-net")
"""None of these sizes is among those that the coefficients were fitted to."""


def counted(module: nn.Module, inputs: Tensor) -> dict[str, int]:
    numbers = program_cost(exported(module.eval(), inputs).program).numbers_per_sample
    return {sort: number for sort, number in numbers.items() if number}


def test_counts_by_hand() -> None:
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3), nn.Tanh(), nn.Unflatten(1, (3, 1)))
    assert counted(module, torch.randn(4, 5)) == {"inputs": 5, "linear": 10, "piecewise": 7, "outputs": 3}
    # the first norm is folded into the convolution, the second one is not
    norms = (nn.BatchNorm2d(3), nn.GELU(), nn.BatchNorm2d(3))
    images = nn.Sequential(nn.Conv2d(2, 3, 3), *norms, nn.AvgPool2d(2), nn.Flatten())
    assert counted(images, torch.randn(4, 2, 6, 6)) == {
        **{"inputs": 72, "convolutions": 48, "batch-norms": 48, "smooth": 48, "piecewise": 48, "outputs": 12}
    }


class Repeated(nn.Module):
    """One number for each sample, returned three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)).expand(-1, 3)


def test_results_that_the_output_repeats_are_not_counted() -> None:
    assert counted(Repeated(), torch.randn(4, 5)) == {"inputs": 5, "linear": 1, "outputs": 3}


class Contrastive(nn.Module):
    """Each sample's loss is that of its similarity to all samples of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(x))
        return -torch.log_softmax(hidden @ hidden.T, dim=-1).diagonal()


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layer(x)
        return hidden - hidden.mean(dim=0)


def test_numbers_of_pairs_of_samples_are_counted_and_such_networks_are_not_split() -> None:
    model = exported(Contrastive(), torch.randn(4, 5))
    cost = program_cost(model.program)
    assert cost.numbers_per_pair == {"products": 2, "softmax": 2}
    assert {sort: number for sort, number in cost.numbers_per_sample.items() if number} == {
        **{"inputs": 5, "linear": 7, "smooth": 7, "outputs": 1}
    }
    assert cost.mixes_samples
    size = model.size_on(torch.randn(1000, 5))
    assert (size.number("products"), size.number("softmax"), size.number("smooth")) == (2 * 10**6, 2 * 10**6, 7000)
    split = micro_batches(size, lanczos_work(size.num_parameters, 5, 1), "hessian", itemsize=4, memory_bytes=2**25)
    assert (split.num_samples, split.num_batches) == (1000, 1)
    assert split.peak_bytes > 2**25


@pytest.mark.parametrize(
    ("module", "mixes"),
    [(Centred(), True), (nn.Sequential(nn.Linear(5, 3), nn.Softmax(dim=-1)), False), (nn.Linear(5, 1), False)],
)
def test_only_shapes_without_an_axis_of_samples_show_that_they_are_mixed(module: nn.Module, mixes: bool) -> None:
    assert program_cost(exported(module, torch.randn(4, 5)).program).mixes_samples is mixes


@pytest.mark.parametrize("name", ["swin", "lstm_steps_first", "bert", "deep_sets", "contrastive", "gaussian_process"])
@pytest.mark.filterwarnings("ignore")  # of torch.export
def test_networks_of_independent_samples_are_not_taken_for_others(name: str) -> None:
    network = build(name)
    cost = program_cost(exported(network.module, network.inputs).program)
    assert not cost.mixes_samples
    assert cost.numbers_per_pair == {}


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
