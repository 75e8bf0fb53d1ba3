"""Data of one's own for one's own networks, over HTTP: types, scaling, names, fixed batches, and data sets in parts."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hessian_spectrum.client.http import SpectrumClient

RNG = np.random.default_rng(0)
NUM_SAMPLES = 12
IMAGES = RNG.integers(0, 256, (NUM_SAMPLES, 2, 4, 4)).astype(np.uint8)
LABELS = RNG.integers(0, 3, NUM_SAMPLES).astype(np.int16)
LABELS[2] = -100
MEAN, STD = [0.4, 0.5], [0.2, 0.3]


def spectrum(model: dict[str, Any], data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    rest = {"loss": "cross-entropy", "method": {"kind": "exact"}}
    return {"kind": "spectrum", "model": model, "data": data} | rest | fields


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double().eval()


def eigenvalues(module: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    """Eigenvalues of the Hessian of a loss of the module, by double backward."""
    parameters = list(module.parameters())
    gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss(), parameters, create_graph=True)])
    rows = [torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True) for each in gradient]
    return torch.linalg.eigvalsh(torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]))


def assert_spectrum(found: Any, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert np.allclose(sorted(found.eigenvalues), expected.numpy(), rtol=0, atol=1e-10 * scale)


def refusal(server: Any, request: dict[str, Any]) -> tuple[str, str]:
    answer = httpx.post(f"{server.url}/v1/jobs", json=request)
    assert answer.status_code == 422, answer.text
    error = answer.json()["errors"][0]
    return ".".join(map(str, error["loc"])), error["msg"]


@pytest.fixture(scope="module")
def own(server: Any) -> Iterator[SpectrumClient]:
    with SpectrumClient(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def network(own: SpectrumClient) -> dict[str, Any]:
    return own.upload_module(cnn(), torch.zeros(3, 2, 4, 4, dtype=torch.float64))


@pytest.fixture(scope="module")
def expected() -> Tensor:
    module, scaled = cnn(), (IMAGES / 255 - np.reshape(MEAN, (2, 1, 1))) / np.reshape(STD, (2, 1, 1))
    inputs, labels = torch.from_numpy(scaled), torch.from_numpy(LABELS.astype(np.int64))
    return eigenvalues(module, lambda: cross_entropy(module(inputs), labels))


SCALING = {"x": {"scale": 1 / 255, "mean": MEAN, "std": STD}}


def test_images_in_uint8_are_scaled_as_stated(
    own: SpectrumClient, network: dict[str, Any], expected: Tensor, server: Any
) -> None:
    data = own.upload_data(IMAGES, LABELS)
    assert_spectrum(own.run(spectrum(network, data | {"scaling": SCALING})), expected)
    field, message = refusal(server, spectrum(network, data))
    assert field == "body.data.scaling"
    assert "uint8" in message
    assert "0.00392" in message
    for scaling, where, what in (
        ({"z": {}}, "body.data.scaling.z", "no such array"),
        ({"x": {"mean": [1.0]}}, "body.data.scaling.x", "1 entries do not fit axis 1"),
        ({"x": {"std": 0}}, "body.data.scaling.x.std", "greater than 0"),
        ({"x": {}, "y": {"scale": 2}}, "body.data.scaling.y", "no scaling"),
    ):
        field, message = refusal(server, spectrum(network, data | {"scaling": scaling}))
        assert field == where
        assert what in message


def test_what_labels_are_is_said_where_they_have_another_shape(
    own: SpectrumClient, network: dict[str, Any], server: Any
) -> None:
    one_hot = np.eye(3)[np.abs(LABELS.astype(np.int64)) % 3]
    for y, shape, advice in ((LABELS[:, None], "(n, 1)", "of shape (n,)"), (one_hot, "(n, 3)", "use the loss kl")):
        field, message = refusal(server, spectrum(network, own.upload_data(IMAGES.astype(np.float32), y)))
        assert field == "body.data.y"
        assert f"y has shape {shape}, and the model returns 3 numbers per sample, for 3 classes" in message
        assert message.endswith(advice)


def test_a_data_set_in_parts_is_the_whole_one(
    own: SpectrumClient, network: dict[str, Any], expected: Tensor, server: Any
) -> None:
    bounds = [(0, 5), (5, 6), (6, NUM_SAMPLES)]
    parts = [own.upload_data(IMAGES[start:stop], LABELS[start:stop])["id"] for start, stop in bounds]
    data = {"kind": "parts", "parts": parts, "scaling": SCALING}
    found = own.run(spectrum(network, data))
    assert_spectrum(found, expected)
    whole = own.run(spectrum(network, own.upload_data(IMAGES, LABELS) | {"scaling": SCALING}))
    assert found.eigenvalues == whole.eigenvalues
    assert found.provenance.data_sha256 == whole.provenance.data_sha256
    other = own.upload_data(IMAGES.astype(np.float32), LABELS)["id"]
    for wrong, where, what in (
        ([*parts, other], "body.data.parts", "parts differ in x"),
        ([*parts, 64 * "0"], "body.data.parts.3", "no such artifact"),
        ([], "body.data.parts", "at least 1"),
    ):
        field, message = refusal(server, spectrum(network, data | {"parts": wrong}))
        assert field == where
        assert what in message


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.bool_])
def test_inputs_may_have_any_type_of_number(own: SpectrumClient, network: dict[str, Any], dtype: Any) -> None:
    images = (RNG.normal(size=IMAGES.shape) * 3).astype(dtype)
    module, inputs = cnn(), torch.from_numpy(images.astype(np.float64))
    labels = torch.from_numpy(np.abs(LABELS.astype(np.int64)) % 3)
    found = own.run(spectrum(network, own.upload_data(images, labels.numpy())))
    assert_spectrum(found, eigenvalues(module, lambda: cross_entropy(module(inputs), labels)))


class TwoInputs(nn.Module):
    """An embedding of indices, scaled by another input of each sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        return self.head((torch.tanh(self.table(tokens)) * weights.unsqueeze(-1)).sum(1))


TOKENS = RNG.integers(0, 5, (6, 4)).astype(np.uint8)
WEIGHTS = RNG.normal(size=(6, 4)).astype(np.float32)
TARGETS = RNG.normal(size=(6, 2)).astype(np.float16)


def test_a_program_of_several_inputs_takes_arrays_of_their_names(own: SpectrumClient, server: Any) -> None:
    module = TwoInputs().double()
    example = (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.float64))
    model = own.upload_module(module, example)
    data = own.upload_data({"tokens": TOKENS, "weights": WEIGHTS}, torch.from_numpy(TARGETS))
    found = own.run(spectrum(model, data, loss="mse"))
    tokens, weights = torch.from_numpy(TOKENS.astype(np.int64)), torch.from_numpy(WEIGHTS).double()
    targets = torch.from_numpy(TARGETS).double()
    expected = eigenvalues(module, lambda: (module(tokens, weights) - targets).square().sum() / (2 * len(tokens)))
    assert_spectrum(found, expected)
    outside = TOKENS + (5 - TOKENS.max())
    for x, where, what in (
        (TOKENS, "body.data.id", "those of the program are tokens, weights"),
        (
            {"tokens": outside, "weights": WEIGHTS},
            "body.data.tokens",
            "holds 5; the program takes indices into a table",
        ),
        ({"tokens": TOKENS + 0.5, "weights": WEIGHTS}, "body.data.tokens", "not whole"),
        (
            {"tokens": TOKENS[:, :2], "weights": WEIGHTS},
            "body.data.tokens",
            "each sample of tokens is 2; the program has",
        ),
    ):
        field, message = refusal(server, spectrum(model, own.upload_data(x, TARGETS), loss="mse"))
        assert field == where
        assert what in message


class Fixed(nn.Module):
    """Takes exactly as many samples as it was exported with."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) + 0 * torch.zeros(len(x), 1, dtype=x.dtype)


def test_a_program_for_a_fixed_number_of_samples_is_given_that_many_at_a_time(own: SpectrumClient, server: Any) -> None:
    module = Fixed().double()
    with pytest.warns(UserWarning, match="4"):
        model = own.upload_module(module, torch.zeros(4, 3, dtype=torch.float64))
    assert own.artifact(model["program"]["id"]).num_samples == 4
    x, y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 2))
    found = own.run(spectrum(model, own.upload_data(x, y), loss="mse"))
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    assert_spectrum(found, eigenvalues(module, lambda: (module(inputs) - targets).square().sum() / 24))
    assert found.provenance.micro_batch_size == 4
    field, message = refusal(server, spectrum(model, own.upload_data(x[:10], y[:10]), loss="mse"))
    assert field == "body.data.x"
    assert "4 at a time" in message
    train = {"num_steps": 2, "learning_rate": 0.1, "batch_size": 6}
    field, message = refusal(server, spectrum(model, own.upload_data(x, y), loss="mse", train=train))
    assert field == "body.train.batch_size"
    result = own.run(spectrum(model, own.upload_data(x, y), loss="mse", train=train | {"batch_size": 8}))
    assert result.training.num_steps == 2


class Residual(nn.Module):
    """Returns the loss of each sample: the squared residual of f' = -f for a small network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(1, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        slope = self.second.weight * (1 - hidden**2) @ self.first.weight
        return (slope + self.second(hidden)).square().sum(-1)


POINTS = np.linspace(0, 2, 7)[:, None]


def test_a_program_that_returns_its_loss_needs_no_targets(own: SpectrumClient, server: Any) -> None:
    module = Residual().double()
    model = own.upload_module(module, torch.zeros(3, 1, dtype=torch.float64))
    inputs = torch.from_numpy(POINTS)
    expected = eigenvalues(module, lambda: module(inputs).mean())
    inline = {"kind": "inline", "x": POINTS.tolist()}
    for data in (inline, inline | {"y": None}, inline | {"y": POINTS.tolist()}, own.upload_data(POINTS)):
        assert_spectrum(own.run(spectrum(model, data, loss="output")), expected)
    functional = spectrum(model, inline, loss="output", matrix="functional")
    assert_spectrum(own.run(functional), expected)  # the loss is linear in the output
    field, message = refusal(server, spectrum(model, inline, loss="mse"))
    assert field == "body.data.y"
    assert "the loss mse needs" in message
    field, message = refusal(server, spectrum(model, own.upload_data(POINTS), loss="mse"))
    assert field == "body.data.id"
    assert "the loss mse needs" in message


def test_targets_are_needed_by_the_other_losses_of_every_kind_of_model(own: SpectrumClient, server: Any) -> None:
    inline: dict[str, Any] = {"kind": "inline", "x": POINTS.tolist()}
    perceptron = {"kind": "mlp", "widths": [1, 3, 1], "activation": "tanh"}
    targets = {"y": np.zeros_like(POINTS).tolist()}
    sources = (inline, inline | targets, own.upload_data(POINTS))
    results: list[Any] = [own.run(spectrum(perceptron, data, loss="output")) for data in sources]
    assert results[0].eigenvalues == results[1].eigenvalues == results[2].eigenvalues
    tokens = {"kind": "inline", "x": [[0, 1, 2, 1]]}
    gpt2 = {"kind": "gpt2", "vocab_size": 3, "n_positions": 4, "n_embd": 4, "n_head": 2, "n_layer": 1}
    attention = {"kind": "attention-layer", "key_dim": 1}
    for model, data, loss in ((perceptron, inline, "mse"), (gpt2, tokens, "cross-entropy"), (attention, tokens, "mse")):
        field, message = refusal(server, spectrum(model, data, loss=loss))
        assert field == "body.data.y", (field, message)
        assert "field required" in message
