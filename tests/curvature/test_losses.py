"""Losses and empirical risk against torch's own losses."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.testing import assert_close

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

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
    data = gaussian(10, 3, 1, teacher="none", noise=0.0, generator=seeded(1))
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
        (Mse(), torch.zeros(4, 3), r"\(4, 2\), not \(4, 3\)"),
        (Mse(), torch.zeros(4), r"\(4, 2\), not \(4,\)"),
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


@pytest.mark.parametrize("batch_size", [None, 4])
def test_mean_residual_norm_is_that_of_autograd_over_valid_targets(batch_size: int | None, seeded: Seeded) -> None:
    model = Mlp((3, 5, 4), "tanh")
    labels = torch.randint(4, (9,), generator=seeded(0))
    labels[2] = labels[7] = -100
    data = Dataset(torch.randn(9, 3, generator=seeded(1), dtype=F64), labels)
    parameters = model.initial_parameters(seeded(2), F64, CPU)
    norms = []
    for x, y in zip(data.inputs, labels, strict=True):
        if y != -100:
            logits = model(parameters, x).detach().requires_grad_()
            (residual,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
            norms.append(residual.norm())
    found = EmpiricalRisk(model, CrossEntropy(), data.split(batch_size)).mean_residual_norm(parameters)
    assert_close(found, torch.stack(norms).mean())
