"""Networks that come as ONNX files: their parameters, values and products are those of the original module."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import EmpiricalRisk, Mse
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.programs.program import ProgramError
from tests.fixtures.exported import loaded, saved_as_onnx, stored_onnx
from tests.fixtures.longer import long
from tests.fixtures.networks import build
from tests.fixtures.products import ModuleRisk, columns

FLAX = Path(__file__).parents[2] / "fixtures" / "flax"
GOLDEN = json.loads((FLAX / "eigenvalues.json").read_text())
CPU = torch.device("cpu")

FAST = ["resnet", "tied_autoencoder", "embedding_with_padding", "masked_softmax", "tied_language_model"]
SLOW = [
    "gru",
    "weight_norm",
    "bert",
    "bert_with_eager_attention",
    "roberta",
    "vit_of_transformers",
    "convnext_of_transformers",
    "resnet_of_transformers",
    "rnn_tanh",
    "rnn_relu",
    "lstm",
    "lstm_steps_first",
    "temporal_convolutions",
    "embedding",
    "deep_sets",
    "siren",
    "einsum_and_bilinear",
    "contrastive",
    "checkpointed",
    "spectral_norm",
    "physics_informed",
    "one_number",
    "resnet_bottleneck",
    "mobilenet",
    "densenet",
]
"""Further networks; an export takes a few seconds."""

NETWORKS = [
    *FAST,
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    *map(long, ["multihead_attention", "convnext"]),
]


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_products_are_those_of_the_module(name: str, seeded: Callable[[int], torch.Generator]) -> None:
    network = build(name)
    model = loaded(stored_onnx(saved_as_onnx(network.module, network.inputs)))
    module = network.module.double()
    for each in module.modules():
        if isinstance(each, nn.Embedding):
            each.padding_idx = None  # all rows are parameters: derivatives are those of the values
    inputs = network.inputs.double() if network.inputs.is_floating_point() else network.inputs
    # of a parameter with two names the file has one
    parameters = dict(module.named_parameters(remove_duplicate=False))
    assert set(model.parameter_shapes) <= set(parameters)
    assert {id(parameters[key]) for key in model.parameter_shapes} == set(map(id, module.parameters()))
    with torch.no_grad():
        outputs = module(inputs).double()
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs  # one number for each sample
    ordered = {key: parameters[key].detach() for key in model.parameter_shapes}
    assert relative_error(model(ordered, inputs), outputs) < 1e-9

    data = Dataset(inputs, outputs + torch.randn(outputs.shape, generator=seeded(1), dtype=torch.float64))
    risk = ModuleRisk(module, inputs, data.targets, Mse())
    names = {id(parameters[key]): key for key in model.parameter_shapes}
    order = [names[id(each)] for each in module.parameters()]
    sizes = [each.numel() for each in module.parameters()]
    vectors = torch.randn(sum(sizes), 3, generator=seeded(2), dtype=torch.float64)
    product = risk.product_by_differences if network.oracle == "differences" else lambda v: risk.product("hessian", v)
    expected = _reordered(columns(product, vectors), order, sizes, list(ordered))
    batches = data.split(2)
    operator = HessianOperator(EmpiricalRisk(model, Mse(), batches), ordered)
    products = operator.matmat(_reordered(vectors, order, sizes, list(ordered)))
    assert relative_error(products, expected) < 1e-9
    assert operator.fallback_reason is None or network.fallback is not None


def _reordered(rows: Tensor, names: list[str], sizes: list[int], order: list[str]) -> Tensor:
    """Rows by parameter, in the order of the file."""
    parts = dict(zip(names, rows.split(sizes), strict=True))
    return torch.cat([parts[name] for name in order])


@pytest.mark.parametrize("name", GOLDEN)
def test_eigenvalues_of_flax_networks_are_those_of_jax(name: str) -> None:
    model = loaded(stored_onnx((FLAX / f"{name}.onnx").read_bytes()))
    generator = np.random.default_rng(0)
    shape = (6, *GOLDEN[name]["input_shape"])
    samples = generator.integers(0, 7, shape) if name == "attention" else generator.normal(size=shape)
    data = Dataset(torch.from_numpy(samples), torch.from_numpy(generator.normal(size=(6, 3))))
    parameters = model.initial_parameters(torch.Generator(), torch.float64, CPU)
    operator = HessianOperator(EmpiricalRisk(model, Mse(), [data]), parameters)
    expected = torch.tensor(GOLDEN[name]["eigenvalues"], dtype=torch.float64)
    assert operator.dim == len(expected)
    values = torch.linalg.eigvalsh(operator.matmat(torch.eye(operator.dim, dtype=torch.float64)))
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_statistics_of_batch_norm_are_no_parameters() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    model = loaded(stored_onnx(saved_as_onnx(module, torch.randn(3, 1, 4, 4))))
    trainable = {each.name for each in model.program.parameters if each.is_trainable}
    assert trainable == dict(module.named_parameters()).keys()
    assert {each.name for each in model.program.parameters} - trainable == {"1.running_mean", "1.running_var"}


def test_a_folded_batch_norm_is_another_parametrisation() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    model = loaded(stored_onnx(saved_as_onnx(module, torch.randn(3, 1, 4, 4), optimize=True)))
    assert "1.weight" not in model.parameter_shapes


def test_any_number_of_samples() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 2)).eval()
    model = loaded(stored_onnx(saved_as_onnx(module, torch.randn(3, 3))))
    parameters = model.initial_parameters(torch.Generator(), torch.float32, CPU)
    assert model.program.fixed_size is None
    for count in (1, 2, 17):
        inputs = torch.randn(count, 3)
        torch.testing.assert_close(model(parameters, inputs), module(inputs))


def test_all_nodes_that_cannot_be_used_are_listed_at_once() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return self.layer(y + torch.randn_like(y) + torch.rand_like(y))

    with pytest.raises(ProgramError, match=r"RandomNormal\w* in .*random numbers.*; RandomUniform\w* in "):
        stored_onnx(saved_as_onnx(Noisy(), torch.randn(3, 3)))
