"""Losses and empirical risk against torch's own losses; training against steps by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.testing import assert_close

from curvature.data.base import Dataset
from curvature.data.gaussian import gaussian
from curvature.errors import InvalidProblemError, NonFiniteError
from curvature.losses.base import Loss
from curvature.losses.cross_entropy import CrossEntropy
from curvature.losses.mse import Mse
from curvature.models.mlp import Mlp
from curvature.risk import EmpiricalRisk
from curvature.training import train

Seeded = Callable[[int], torch.Generator]
CPU = torch.device("cpu")
F64 = torch.float64


def labels_with_gaps(seeded: Seeded) -> tuple[torch.Tensor, torch.Tensor]:
    logits = 30 * torch.randn(6, 5, 4, generator=seeded(0), dtype=F64)
    labels = torch.randint(4, (6, 5), generator=seeded(1))
    labels[2] = -100
    labels[4, 1:3] = -100
    return logits, labels


def test_cross_entropy_is_that_of_torch(seeded: Seeded) -> None:
    logits, labels = labels_with_gaps(seeded)
    loss = CrossEntropy()
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    assert_close(loss.total(logits, labels), expected)
    assert loss.num_terms(labels) == 23


def test_cross_entropy_of_extreme_logits_is_finite() -> None:
    total = CrossEntropy().total(torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=F64), torch.tensor([0, 1]))
    assert float(total) == 2e4


def test_mse_of_vectors_and_of_labels(seeded: Seeded) -> None:
    outputs, targets = torch.randn(2, 6, 3, generator=seeded(0), dtype=F64)
    assert_close(Mse().total(outputs, targets), (outputs - targets).square().sum() / 2)
    assert Mse().num_terms(targets) == 6
    labels = torch.tensor([0, 2, -100, 1, 1, -100])
    one_hot = F.one_hot(labels.clamp(min=0), 3)
    expected = (outputs - one_hot).square().sum(dim=1)[labels >= 0].sum() / 2
    assert_close(Mse().total(outputs, labels), expected)
    assert Mse().num_terms(labels) == 4


@pytest.mark.parametrize("loss", [Mse(), CrossEntropy()], ids=["mse", "cross-entropy"])
@pytest.mark.parametrize("batch_size", [None, 1, 4, 9])
def test_value_and_gradient_of_any_split(loss: Loss, batch_size: int | None, seeded: Seeded) -> None:
    model = Mlp((3, 5, 4), "tanh")
    parameters = model.initial_parameters(seeded(0), F64, CPU)
    data = gaussian(10, 3, 1, "none", 0.0, seeded(1))
    data = Dataset(data.inputs, torch.randint(4, (10,), generator=seeded(2)))
    data.targets[[3, 9]] = -100
    risk = EmpiricalRisk(model, loss, data.split(batch_size))
    value, gradient = risk.value_and_gradient(parameters)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
    kept = data.targets >= 0
    expected = loss.total(model(leaves, data.inputs[kept]), data.targets[kept]) / 8
    expected.backward()
    assert_close(value, expected.detach())
    assert_close(risk.value(parameters), expected.detach())
    for name, leaf in leaves.items():
        assert_close(gradient[name], leaf.grad)
    assert risk.num_terms == 8
    assert not any(tensor.requires_grad for tensor in parameters.values())


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (CrossEntropy(), torch.zeros(4, 2), "int64"),
        (CrossEntropy(), torch.zeros(4, 2, dtype=torch.int64), "shape"),
        (CrossEntropy(), torch.tensor([0, 1, 2, 0]), "outside 0 .. 1"),
        (CrossEntropy(), torch.tensor([0, 1, -1, 0]), "outside 0 .. 1"),
        (CrossEntropy(), torch.full((4,), -100), "no valid target"),
        (Mse(), torch.zeros(4, 3), "shape"),
        (Mse(), torch.zeros(4), "shape"),
        (Mse(), torch.full((4, 2), torch.inf), "infinity"),
        (Mse(), torch.tensor([0, 1, 2, 0]), "outside 0 .. 1"),
    ],
)
def test_targets_that_do_not_fit(loss: Loss, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        EmpiricalRisk(Mlp((3, 2)), loss, [Dataset(torch.zeros(4, 3), targets)])


def test_no_batches_hold_no_target() -> None:
    with pytest.raises(InvalidProblemError, match="no valid target"):
        EmpiricalRisk(Mlp((3, 2)), Mse(), [])


# training


def test_gradient_descent_by_hand(seeded: Seeded) -> None:
    """Linear regression: three steps of theta <- theta - lr X^T (X theta - y) / n."""
    model = Mlp((2, 1), bias=False)
    data = gaussian(8, 2, 1, "linear", 0.3, seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    theta = start["layers.0.weight"].T.clone()
    for _ in range(3):
        theta = theta - 0.2 * data.inputs.T @ (data.inputs @ theta - data.targets) / 8
    for micro_batch_size in (None, 3):
        result = train(model, Mse(), data, start, 3, 0.2, seeded(0), micro_batch_size=micro_batch_size)
        assert_close(result.parameters["layers.0.weight"], theta.T)
        assert result.loss == pytest.approx(float((data.inputs @ theta - data.targets).square().sum() / 16))
    assert torch.equal(start["layers.0.weight"], model.initial_parameters(seeded(1), F64, CPU)["layers.0.weight"])


def test_batches_visit_every_sample_once_an_epoch(seeded: Seeded) -> None:
    """One layer without inputs but the bias: each step moves by lr times the batch's mean residual."""
    seen: list[float] = []

    class Spy(Mse):
        def total(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            if len(targets) < 10:
                seen.extend(targets.flatten().tolist())
            return super().total(outputs, targets)

    data = Dataset(torch.zeros(10, 1, dtype=F64), torch.arange(10, dtype=F64).unsqueeze(1))
    model = Mlp((1, 1))
    start = model.initial_parameters(seeded(0), F64, CPU)
    train(model, Spy(), data, start, 6, 0.1, seeded(0), batch_size=4)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_stochastic_training_learns_and_repeats(seeded: Seeded) -> None:
    model = Mlp((4, 16, 2), "tanh")
    data = gaussian(64, 4, 2, "linear", 0.05, seeded(0))
    start = model.initial_parameters(seeded(1), torch.float32, CPU)
    data = data.to(torch.float32, CPU)
    before = float(EmpiricalRisk(model, Mse(), [data]).value(start))
    calls: list[tuple[str, int, int]] = []
    first = train(
        model, Mse(), data, start, 100, 0.1, seeded(2), batch_size=16, progress=lambda *call: calls.append(call)
    )
    again = train(model, Mse(), data, start, 100, 0.1, seeded(2), batch_size=16)
    assert first.loss == again.loss < 0.3 * before
    assert torch.equal(first.parameters["layers.1.weight"], again.parameters["layers.1.weight"])
    assert calls == [("training", step, 100) for step in range(1, 101)]


def test_no_steps_change_nothing(seeded: Seeded) -> None:
    model, data = Mlp((2, 1)), gaussian(5, 2, 1, "linear", 0.1, seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    result = train(model, Mse(), data, start, 0, 0.1, seeded(0))
    assert torch.equal(result.parameters["layers.0.weight"], start["layers.0.weight"])
    assert result.loss == float(EmpiricalRisk(model, Mse(), [data]).value(start))


def test_divergence_is_an_error_that_names_the_cure(seeded: Seeded) -> None:
    model, data = Mlp((2, 3, 1), "relu"), gaussian(5, 2, 1, "linear", 0.1, seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    with pytest.raises(NonFiniteError, match="smaller learning rate"):
        train(model, Mse(), data, start, 200, 1e6, seeded(0))


@pytest.mark.parametrize(("num_steps", "rate", "batch_size"), [(-1, 0.1, None), (1, -0.1, None), (1, 0.1, 0)])
def test_bad_training_options(num_steps: int, rate: float, batch_size: int | None, seeded: Seeded) -> None:
    model, data = Mlp((2, 1)), gaussian(5, 2, 1, "linear", 0.1, seeded(0))
    with pytest.raises(InvalidProblemError):
        train(model, Mse(), data, model.initial_parameters(seeded(1), F64, CPU), num_steps, rate, seeded(0), batch_size)
