"""Losses against torch's own, their closed derivatives against double backward, and Fisher information as a mean."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.classification_losses import BinaryCrossEntropy, KullbackLeibler, cross_entropy
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import EmpiricalRisk, Loss, Mse, OutputValue
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.regression_losses import GaussianNll, Huber, PoissonNll
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

F64 = torch.float64
NUM_SAMPLES, NUM_OUTPUTS = 5, 4
WEIGHTS = (0.5, 0.0, 2.0, 1.25)


@dataclass(frozen=True)
class Case:
    """A loss with what draws its targets, and torch's mean loss, without a constant that ours leaves out."""

    loss: Loss
    targets: Callable[[torch.Generator], Tensor]
    torch_mean: Callable[[Tensor, Tensor], Tensor]


def real(generator: torch.Generator) -> Tensor:
    return 2 * torch.randn(NUM_SAMPLES, NUM_OUTPUTS, generator=generator, dtype=F64)


def labels(generator: torch.Generator) -> Tensor:
    drawn = torch.randint(NUM_OUTPUTS, (NUM_SAMPLES,), generator=generator)
    drawn[1] = -100
    drawn[0] = 2
    return drawn


def events(generator: torch.Generator) -> Tensor:
    drawn = torch.rand(NUM_SAMPLES, NUM_OUTPUTS, generator=generator, dtype=F64)
    drawn[0, 1] = drawn[2] = -100
    return drawn


def distributions(generator: torch.Generator) -> Tensor:
    return (3 * real(generator)).softmax(dim=-1)


def counts(generator: torch.Generator) -> Tensor:
    return torch.randint(6, (NUM_SAMPLES, NUM_OUTPUTS), generator=generator).to(F64)


def bce(f: Tensor, y: Tensor) -> Tensor:
    valid = y != -100
    total = F.binary_cross_entropy_with_logits(f[valid], y[valid], reduction="sum")
    return total / valid.any(dim=1).sum()


def gaussian_nll(f: Tensor, y: Tensor) -> Tensor:
    return NUM_OUTPUTS // 2 * F.gaussian_nll_loss(f[:, :2], y, f[:, 2:].exp(), eps=1e-300)


CASES = {
    "mse": Case(Mse(), real, lambda f, y: NUM_OUTPUTS / 2 * F.mse_loss(f, y)),
    "cross-entropy": Case(cross_entropy(), labels, F.cross_entropy),
    "weights": Case(
        cross_entropy(WEIGHTS), labels, lambda f, y: F.cross_entropy(f, y, torch.tensor(WEIGHTS, dtype=F64))
    ),
    "smoothing": Case(cross_entropy(None, 0.1), labels, lambda f, y: F.cross_entropy(f, y, label_smoothing=0.1)),
    "both": Case(
        cross_entropy(WEIGHTS, 0.3),
        labels,
        lambda f, y: F.cross_entropy(f, y, torch.tensor(WEIGHTS, dtype=F64), label_smoothing=0.3),
    ),
    "binary-cross-entropy": Case(BinaryCrossEntropy(), events, bce),
    "huber": Case(Huber(0.7), real, lambda f, y: NUM_OUTPUTS * F.huber_loss(f, y, delta=0.7)),
    "gaussian-nll": Case(GaussianNll(), lambda generator: real(generator)[:, :2].contiguous(), gaussian_nll),
    "poisson-nll": Case(PoissonNll(), counts, lambda f, y: NUM_OUTPUTS * F.poisson_nll_loss(f, y)),
    "kl": Case(KullbackLeibler(), distributions, lambda f, y: F.kl_div(f.log_softmax(-1), y, reduction="batchmean")),
}
SEEDS = st.integers(0, 2**31)


def drawn(name: str, seed: int, scale: float = 1.0) -> tuple[Loss, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = CASES[name].targets(generator)
    outputs, direction = scale * torch.randn(2, NUM_SAMPLES, NUM_OUTPUTS, generator=generator, dtype=F64)
    return CASES[name].loss, outputs, targets, direction


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_the_mean_is_that_of_torch(name: str, seed: int, scale: float) -> None:
    loss, outputs, targets, _ = drawn(name, seed, scale)
    assert_close(
        loss.total(outputs, targets) / loss.weight(targets),
        CASES[name].torch_mean(outputs, targets),
        rtol=1e-11,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_closed_derivatives_are_those_of_double_backward(name: str, seed: int, scale: float) -> None:
    loss, outputs, targets, direction = drawn(name, seed, scale)
    leaf = outputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.total(leaf, targets), leaf, create_graph=True)
    (product,) = torch.autograd.grad((gradient * direction).sum(), leaf, materialize_grads=True)
    for found, expected in (
        (loss.gradient(outputs, targets), gradient.detach()),
        (loss.hessian_product(outputs, targets, direction), product),
    ):
        assert (found - expected).abs().max() <= 1e-12 * (1 + expected.abs().max())


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_targets_share_nothing_and_ignored_ones_count_for_nothing(name: str, seed: int) -> None:
    loss, outputs, targets, direction = drawn(name, seed)
    for method in (loss.hessian_product, loss.fisher_product, loss.gradient_outer_product):
        whole = method(outputs, targets, direction)
        alone = [method(outputs[i : i + 1], targets[i : i + 1], direction[i : i + 1]) for i in range(NUM_SAMPLES)]
        assert_close(whole, torch.cat(alone), rtol=1e-13, atol=1e-13)
        if name in ("cross-entropy", "weights", "smoothing", "both"):
            assert not whole[1].any()
    if name == "binary-cross-entropy":
        assert not loss.gradient(outputs, targets)[2].any()
        assert loss.num_terms(targets) == NUM_SAMPLES - 1


def outcomes(name: str, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Targets with their probabilities under the model's distribution for each sample, of shape (n, K) or (n,)."""
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(20))
    weights = weights / math.sqrt(2 * math.pi)
    match name:
        case "cross-entropy":
            for label, probability in enumerate(outputs.softmax(dim=-1).T):
                yield torch.full((len(outputs),), label), probability
        case "binary-cross-entropy":
            yield torch.ones_like(outputs), outputs.sigmoid()
            yield torch.zeros_like(outputs), 1 - outputs.sigmoid()
        case "poisson-nll":
            for count in range(80):
                log = count * outputs - outputs.exp() - math.lgamma(count + 1)
                yield torch.full_like(outputs, count), log.exp()
        case "mse":
            for node, weight in zip(nodes, weights, strict=True):
                yield outputs + node, torch.full_like(outputs, float(weight))
        case "gaussian-nll":
            mean, log_variance = outputs.chunk(2, dim=-1)
            for node, weight in zip(nodes, weights, strict=True):
                yield mean + node * (log_variance / 2).exp(), torch.full_like(mean, float(weight))
        case "huber":
            grid = torch.linspace(-60, 60, 60_001, dtype=F64)
            clamped = grid.clamp(-0.7, 0.7)
            density = (-clamped * (grid - clamped / 2)).exp()
            for node, weight in zip(grid[::20], density[::20] / density[::20].sum(), strict=True):
                yield outputs - node, torch.full_like(outputs, float(weight))


@pytest.mark.parametrize(
    "name", ["mse", "cross-entropy", "binary-cross-entropy", "huber", "gaussian-nll", "poisson-nll"]
)
def test_fisher_information_is_the_mean_of_outer_products_of_gradients(name: str) -> None:
    loss, outputs, _, direction = drawn(name, 3)
    total = torch.zeros_like(outputs)
    for targets, probability in outcomes(name, outputs):
        residual = loss.gradient(outputs, targets)
        if name == "cross-entropy":
            total += probability.unsqueeze(-1) * residual * (residual * direction).sum(-1, keepdim=True)
            continue
        # outputs of one coordinate are independent of the others, whose mean gradient is zero
        groups = residual.reshape(NUM_SAMPLES, -1, targets.shape[-1]) if name == "gaussian-nll" else residual[:, None]
        along = direction.reshape(groups.shape)
        part = groups * (groups * along).sum(dim=1, keepdim=True) * probability[:, None]
        total += part.reshape(outputs.shape)
    found = loss.fisher_product(
        outputs, torch.full_like(total[:, :2], 0.0) if name == "gaussian-nll" else targets, direction
    )
    assert_close(found, total, rtol=1e-3 if name == "huber" else 1e-9, atol=1e-9)


def test_where_the_second_derivative_does_not_depend_on_the_target_it_is_the_fisher_information() -> None:
    for name in ("mse", "cross-entropy", "both", "binary-cross-entropy", "poisson-nll", "kl"):
        loss, outputs, targets, direction = drawn(name, 4)
        assert torch.equal(
            loss.fisher_product(outputs, targets, direction), loss.hessian_product(outputs, targets, direction)
        )
    with pytest.raises(InvalidProblemError, match="no Fisher matrix"):
        OutputValue().fisher_product(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1))


def test_gaussian_nll_is_not_convex_away_from_its_mean() -> None:
    loss, outputs, targets = GaussianNll(), torch.tensor([[1.5, 0.4]], dtype=F64), torch.zeros(1, 1, dtype=F64)
    columns = [loss.hessian_product(outputs, targets, row.unsqueeze(0))[0] for row in torch.eye(2, dtype=F64)]
    determinant = torch.linalg.det(torch.stack(columns))
    assert_close(float(determinant), -(1.5**2) * math.exp(-0.8) / 2)


def test_extreme_outputs_stay_finite() -> None:
    outputs = torch.tensor([[1e4, -1e4, 800.0]], dtype=F64)
    targets = torch.tensor([[0.0, 1.0, 1.0]], dtype=F64)
    loss = BinaryCrossEntropy()
    assert float(loss.total(outputs, targets)) == 2e4
    assert bool(loss.hessian_product(outputs, targets, torch.ones_like(outputs)).isfinite().all())
    assert float(KullbackLeibler().total(outputs, torch.tensor([[0.0, 1.0, 0.0]], dtype=F64))) == 2e4


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_risk_of_any_split_with_weight_decay(name: str, batch_size: int | None) -> None:
    loss, _, targets, _ = drawn(name, 5)
    model = Mlp((3, 5, NUM_OUTPUTS), "tanh")
    generator = torch.Generator().manual_seed(0)
    parameters = model.initial_parameters(generator, F64, torch.device("cpu"))
    inputs = torch.randn(NUM_SAMPLES, 3, generator=generator, dtype=F64)
    risk = EmpiricalRisk(model, loss, Dataset(inputs, targets).split(batch_size), weight_decay=0.3)
    value, gradient = risk.value_and_gradient(parameters)
    leaves = {each: tensor.clone().requires_grad_() for each, tensor in parameters.items()}
    penalty = torch.stack([leaf.square().sum() for leaf in leaves.values()]).sum()
    expected = loss.total(model(leaves, inputs), targets) / loss.weight(targets) + 0.15 * penalty
    expected.backward()  # type: ignore[no-untyped-call]
    assert_close(value, expected.detach())
    assert_close(risk.value(parameters), expected.detach())
    for each, leaf in leaves.items():
        assert_close(gradient[each], leaf.grad)


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (cross_entropy((1.0, 2.0, 3.0)), torch.tensor([0, 1]), "3 class weights for 2 classes"),
        (cross_entropy((0.0, 1.0)), torch.tensor([0, 0]), "class of weight 0"),
        (BinaryCrossEntropy(), torch.tensor([[0.5, 2.0], [0, 0]]), "from 0 to 1, not 2"),
        (BinaryCrossEntropy(), torch.full((2, 2), -100.0), "no valid target"),
        (KullbackLeibler(), torch.tensor([[0.5, 0.6], [0, 1]]), "must sum to 1; a sum is 0.1 off"),
        (PoissonNll(), torch.tensor([[1.0, -1.0], [0, 1]]), "of at least 0, not -1"),
        (GaussianNll(), torch.zeros(2, 2), r"\(2, 1\)"),
        (OutputValue(), torch.zeros(2, 1), "must have one output, not 2"),
    ],
)
def test_targets_that_do_not_fit(loss: Loss, targets: Tensor, message: str) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        EmpiricalRisk(Mlp((3, 2)), loss, [Dataset(torch.zeros(2, 3), targets)])
