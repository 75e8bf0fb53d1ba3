"""Networks that have a formula; their spectra are compared with it in tests/worker/test_closed_form_models.py."""

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from hessian_spectrum.curvature.losses import OutputValue
from hessian_spectrum.curvature.models.attention_layer import AttentionLayer
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.curvature.models.closed_form import (
    MultiInput,
    MultiOutput,
    NeuronNetwork,
    QuadraticForm,
    SelfAttention,
    TwoLayerLinear,
)
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
CPU = torch.device("cpu")
F64 = torch.float64


def test_a_neuron_network_is_an_mlp_without_biases(seeded: Seeded) -> None:
    x = torch.randn(9, 1, generator=seeded(1), dtype=F64)
    for activation in ("linear", "relu", "leaky-relu", "tanh"):
        model = NeuronNetwork(5, activation, negative_slope=-0.3)
        p = model.initial_parameters(seeded(0), F64, CPU)
        layers = {"layers.0.weight": p["v"].unsqueeze(-1), "layers.1.weight": p["w"].unsqueeze(0)}
        assert_close(model(p, x), Mlp((1, 5, 1), activation, False, negative_slope=-0.3)(layers, x))


def test_formulas(seeded: Seeded) -> None:
    x, rows = (torch.randn(7, size, generator=seeded(1), dtype=F64) for size in (1, 3))
    biased, inputs, outputs = NeuronNetwork(4, bias=True), MultiInput(3, 4), MultiOutput(3, 4)
    p = biased.initial_parameters(seeded(0), F64, CPU)
    assert_close(biased(p, x), (x * p["v"] + p["b"]) @ p["w"].unsqueeze(-1))
    p = inputs.initial_parameters(seeded(0), F64, CPU)
    assert_close(inputs(p, rows), torch.einsum("dm,dm,nd->n", p["w"], p["v"], rows).unsqueeze(-1))
    assert_close(outputs(p, x), torch.einsum("km,km,ni->nk", p["w"], p["v"], x))
    p = (network := TwoLayerLinear(3, 5, 2)).initial_parameters(seeded(0), F64, CPU)
    assert_close(network(p, rows), torch.einsum("km,md,nd->nk", p["W2"], p["W1"], rows))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "linear"])
def test_attention_of_one_number_by_hand(activation: str, seeded: Seeded) -> None:
    model = SelfAttention(6, 1.5, activation)
    p = model.initial_parameters(seeded(0), F64, CPU)
    x = torch.randn(3, 4, 1, generator=seeded(1), dtype=F64)
    scores = torch.outer(x[1, :, 0], x[1, :, 0]) * (p["w_q"] @ p["w_k"]) / 6**0.5
    scores[:, 0] += 1.5
    weights = {"softmax": scores.softmax(1), "sigmoid": scores.sigmoid(), "linear": scores}[activation]
    assert_close(model(p, x)[1], p["w_v"] * (weights @ x[1]))


def test_attention_mixes_the_positions_of_each_sequence_alone(seeded: Seeded) -> None:
    model = AttentionLayer(3, 2, 5, sink_bias=-1.0)
    p = {name: 10 * tensor for name, tensor in model.initial_parameters(seeded(0), F64, CPU).items()}
    x = torch.randn(2, 4, 3, generator=seeded(1), dtype=F64)
    y = model(p, x)
    assert y.shape == (2, 4, 5)
    assert_close(model(p, x[1:])[0], y[1])
    # the order of positions does not matter, but for the first, which is the sink
    assert_close(model(p, x[:, [0, 2, 1, 3]]), y[:, [0, 2, 1, 3]])
    by_hand = torch.nn.functional.scaled_dot_product_attention(
        x @ p["W_Q"], x @ p["W_K"], x @ p["W_V"], attn_mask=-torch.eye(4, dtype=F64)[0].expand(4, 4)
    )
    assert_close(y, by_hand)


def test_attention_starts_with_the_given_deviation(seeded: Seeded) -> None:
    parameters = AttentionLayer(50, 60, 70, initial_std=0.3).initial_parameters(seeded(0), F64, CPU)
    for values in parameters.values():
        assert float(values.std()) == pytest.approx(0.3, rel=0.05)
        assert abs(float(values.mean())) < 0.03


def test_a_quadratic_form_is_its_own_loss(seeded: Seeded) -> None:
    model = QuadraticForm(3)
    p = model.initial_parameters(seeded(0), F64, CPU)
    matrix = torch.randn(3, 3, generator=seeded(1), dtype=F64)
    value = model(p, matrix.reshape(1, 9))
    assert_close(value, (p["z"] @ matrix @ p["z"] / 2).reshape(1, 1))
    assert_close(OutputValue().total(value, torch.zeros(1, 1)), value.sum())
    for targets, num_outputs in ((torch.zeros(1), 1), (torch.zeros(1, 1), 2)):
        with pytest.raises(InvalidProblemError):
            OutputValue().check_targets(targets, (1,), num_outputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NeuronNetwork(0),
        lambda: NeuronNetwork(2, "cubic"),
        lambda: NeuronNetwork(2, "leaky-relu", negative_slope=float("nan")),
        lambda: MultiInput(0, 1),
        lambda: MultiOutput(1, 0),
        lambda: TwoLayerLinear(1, 1, 0),
        lambda: SelfAttention(0),
        lambda: SelfAttention(1, activation="tanh"),
        lambda: AttentionLayer(1, 1, 0),
        lambda: AttentionLayer(1, 1, 1, sink_bias=float("inf")),
        lambda: AttentionLayer(1, 1, 1, initial_std=-1.0),
        lambda: QuadraticForm(0),
    ],
)
def test_bad_models_are_errors(make: Callable[[], Model]) -> None:
    with pytest.raises(InvalidProblemError):
        make()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (NeuronNetwork(2), (3,)),
        (NeuronNetwork(2), (3, 2)),
        (MultiInput(3, 2), (3, 2)),
        (MultiOutput(3, 2), (3, 3)),
        (TwoLayerLinear(3, 1, 2), (3, 2)),
        (SelfAttention(2), (3, 2)),
        (AttentionLayer(2, 2, 2), (3, 2, 3)),
        (AttentionLayer(2, 2, 2), (3, 0, 2)),
        (QuadraticForm(2), (1, 2, 2)),
    ],
)
def test_bad_inputs_are_errors(model: Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidProblemError, match="real numbers"):
        model.check_inputs(torch.zeros(shape))
