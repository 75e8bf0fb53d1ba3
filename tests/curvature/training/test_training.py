"""Training against steps by hand, plain torch, and the closed form of gradient descent."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.data.text import TokenStream
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.closed_form import NeuronNetwork
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.training import (
    AdamW,
    Plateau,
    Sgd,
    Training,
    TrainingPlan,
    WarmupCosine,
    checkpoint,
    summarise_training,
)
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.theory.closed_form.descent import linear_descent

Seeded = Callable[[int], torch.Generator]
CPU = torch.device("cpu")
F64 = torch.float64


def test_gradient_descent_by_hand(seeded: Seeded) -> None:
    """Linear regression: three steps of theta <- theta - lr X^T (X theta - y) / n."""
    model = Mlp((2, 1), bias=False)
    data = gaussian(8, 2, 1, teacher="linear", noise=0.3, generator=seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    theta = start["layers.0.weight"].T.clone()
    losses = []
    for _ in range(3):
        losses.append(float((data.inputs @ theta - data.targets).square().sum() / 16))
        theta = theta - 0.2 * data.inputs.T @ (data.inputs @ theta - data.targets) / 8
    residual = data.inputs @ theta - data.targets
    for micro_batch_size in (None, 3):
        plan = TrainingPlan(3, 0.2, micro_batch_size=micro_batch_size)
        result = run(Training(model, Mse(), data, plan=plan), start, generator=seeded(0))
        assert_close(result.parameters["layers.0.weight"], theta.T)
        assert result.loss == pytest.approx(float(residual.square().sum() / 16))
        assert result.gradient_norm == pytest.approx(float((data.inputs.T @ residual / 8).norm()))
        assert (result.num_steps, result.stopped) == (3, "num-steps")
        assert result.loss_curve.points() == ([1, 2, 3], pytest.approx(losses))
        assert not result.parameters["layers.0.weight"].requires_grad
    assert torch.equal(start["layers.0.weight"], model.initial_parameters(seeded(1), F64, CPU)["layers.0.weight"])


def test_gradient_descent_of_the_linear_network_is_its_closed_form(seeded: Seeded) -> None:
    """`theory` steps two numbers, not weights."""
    model = NeuronNetwork(6)
    start = model.initial_parameters(seeded(0), F64, CPU)
    data = gaussian(20, 1, 1, teacher="linear", noise=0.5, generator=seeded(1))
    x, y = data.inputs[:, 0].numpy(), data.targets[:, 0].numpy()
    expected = linear_descent(w=start["w"].numpy(), v=start["v"].numpy(), x=x, y=y, learning_rate=0.05, num_steps=40)
    training = Training(model, Mse(), data, plan=TrainingPlan(40, 0.05))
    state = training.init(start, generator=seeded(2))
    slopes = []
    while not training.is_finished(state):
        training.step(start, state)
        slopes.append(float((state.parameters["w"] @ state.parameters["v"]).detach()))
    np.testing.assert_allclose(slopes, expected.c[1:], rtol=1e-11)
    assert summarise_training(state, EmpiricalRisk(model, Mse(), [data])).loss == pytest.approx(
        expected.loss[-1], rel=1e-11
    )


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_steps_are_those_of_torch(momentum: float, nesterov: bool, batch_size: int | None, seeded: Seeded) -> None:
    model = Mlp((3, 4, 2), "tanh")
    data = Dataset(torch.randn(12, 3, generator=seeded(0), dtype=F64), torch.randint(2, (12,), generator=seeded(1)))
    start = model.initial_parameters(seeded(2), F64, CPU)
    plan = TrainingPlan(7, 0.3, batch_size=batch_size, optimizer=Sgd(momentum, nesterov))
    result = run(Training(model, CrossEntropy(), data, plan=plan), start, generator=seeded(3))
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    network.load_state_dict({f"{2 * int(n.split('.')[1])}.{n.split('.')[2]}": t for n, t in start.items()})
    optimizer = torch.optim.SGD(network.parameters(), 0.3, momentum, nesterov=nesterov)
    generator = seeded(3)
    epochs = [torch.randperm(12, generator=generator).split(5) if batch_size else [torch.arange(12)] for _ in range(7)]
    for chosen in [batch for epoch in epochs for batch in epoch][:7]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data.inputs[chosen]), data.targets[chosen]).backward()
        optimizer.step()
    for ours, theirs in zip(result.parameters.values(), network.parameters(), strict=True):
        assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-13)


def test_each_parameter_moves_at_its_own_rate(seeded: Seeded) -> None:
    model = Mlp((3, 8, 2), "tanh", parametrization="mup")
    data = gaussian(10, 3, 2, teacher="linear", noise=0.1, generator=seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    _, gradient = EmpiricalRisk(model, Mse(), [data]).value_and_gradient(start)
    result = run(Training(model, Mse(), data, plan=TrainingPlan(1, 0.25)), start, generator=seeded(2))
    rates = model.learning_rate_multipliers()
    for name, values in start.items():
        assert_close(result.parameters[name], values - 0.25 * rates[name] * gradient[name])
    assert result.learning_rate == pytest.approx(0.25, rel=1e-15)


def test_batches_visit_every_sample_once_an_epoch(seeded: Seeded) -> None:
    """One layer without inputs but the bias: each step moves by lr times the batch's mean residual."""
    seen: list[float] = []

    class Spy(Mse):
        def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
            if len(targets) < 10:
                seen.extend(targets.flatten().tolist())
            return super().total(outputs, targets)

    data = Dataset(torch.zeros(10, 1, dtype=F64), torch.arange(10, dtype=F64).unsqueeze(1))
    model = Mlp((1, 1))
    start = model.initial_parameters(seeded(0), F64, CPU)
    run(Training(model, Spy(), data, plan=TrainingPlan(6, 0.1, batch_size=4)), start, generator=seeded(0))
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_stochastic_training_learns_and_repeats(seeded: Seeded) -> None:
    model = Mlp((4, 16, 2), "tanh")
    data = gaussian(64, 4, 2, teacher="linear", noise=0.05, generator=seeded(0)).to(torch.float32, CPU)
    start = model.initial_parameters(seeded(1), torch.float32, CPU)
    before = float(EmpiricalRisk(model, Mse(), [data]).value(start))
    calls: list[tuple[str, int, int]] = []
    plan = TrainingPlan(100, 0.1, batch_size=16)
    first = run(
        Training(model, Mse(), data, plan=plan), start, generator=seeded(2), progress=lambda *call: calls.append(call)
    )
    again = run(Training(model, Mse(), data, plan=plan), start, generator=seeded(2))
    assert first.loss == again.loss < 0.3 * before
    assert torch.equal(first.parameters["layers.1.weight"], again.parameters["layers.1.weight"])
    assert calls == [("training", step, 100) for step in range(1, 101)]


def test_a_batch_whose_targets_are_ignored_changes_nothing(seeded: Seeded) -> None:
    model = Mlp((2, 3))
    data = Dataset(torch.ones(2, 2, dtype=F64), torch.tensor([1, -100]))
    start = model.initial_parameters(seeded(0), F64, CPU)
    result = run(
        Training(model, CrossEntropy(), data, plan=TrainingPlan(2, 0.1, batch_size=1)), start, generator=seeded(1)
    )
    once = run(Training(model, CrossEntropy(), data, plan=TrainingPlan(1, 0.1)), start, generator=seeded(1))
    assert_close(result.parameters, once.parameters)


def test_no_steps_change_nothing(seeded: Seeded) -> None:
    model, data = Mlp((2, 1)), gaussian(5, 2, 1, teacher="linear", noise=0.1, generator=seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    result = run(Training(model, Mse(), data, plan=TrainingPlan(0, 0.1)), start, generator=seeded(0))
    assert torch.equal(result.parameters["layers.0.weight"], start["layers.0.weight"])
    assert result.loss == float(EmpiricalRisk(model, Mse(), [data]).value(start))


# the learning rate's schedule


def test_plateaus_cut_the_rate_down_to_the_floor_and_then_end(seeded: Seeded) -> None:
    """A steep direction oscillates at the first rate: a cut; then it converges to 1/2, cut after cut."""
    data = Dataset(torch.ones(2, 1, dtype=F64), torch.tensor([[1.0], [-1.0]], dtype=F64))
    model = Mlp((1, 1), bias=False)
    plan = TrainingPlan(1000, 2.0, schedule=Plateau(factor=0.1, patience=3, threshold=1e-3, min_learning_rate=2e-3))
    training = Training(model, Mse(), data, plan=plan)
    start = {"layers.0.weight": torch.ones(1, 1, dtype=F64)}
    state = training.init(start, generator=seeded(0))
    rates = []
    while not training.is_finished(state):
        training.step(start, state)
        rates.append(state.learning_rate)
    # the first step sets the least loss, 4 more in a row are one too many
    assert rates[:5] == [2.0] * 4 + [pytest.approx(0.2)]
    result = summarise_training(state, EmpiricalRisk(model, Mse(), [data]))
    assert result.stopped == "plateau"
    assert result.learning_rate_cuts == 3
    assert result.learning_rate == pytest.approx(2e-3)
    assert sorted({f"{rate:.3g}" for rate in rates}, key=float) == ["0.002", "0.02", "0.2", "2"]
    assert 20 < result.num_steps == len(rates) < 100
    assert result.loss == pytest.approx(0.5, rel=1e-2)


def test_rates_are_cut_together_and_epochs_count_not_steps(seeded: Seeded) -> None:
    model = Mlp((2, 8, 1), "tanh", parametrization="mup")
    data = gaussian(12, 2, 1, teacher="none", noise=1.0, generator=seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    rule = Plateau(factor=0.5, patience=1, threshold=0.9999, min_learning_rate=0.0)
    training = Training(model, Mse(), data, plan=TrainingPlan(100, 1e-3, batch_size=5, schedule=rule))
    state = training.init(start, generator=seeded(2))
    rates = []
    for _ in range(15):
        training.step(start, state)
        rates.append(state.learning_rate)
    # three steps an epoch; epoch 1 sets the least loss, 2 is borne, 3 cuts, and so on every second one
    assert rates == pytest.approx([1e-3] * 8 + [5e-4] * 6 + [2.5e-4])
    rates_of = {id(p): group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
    found = [rates_of[id(leaf)] for leaf in state.parameters.values()]
    assert found == pytest.approx([2.5e-4 * multiplier for multiplier in model.learning_rate_multipliers().values()])


def test_warmup_and_cosine_at_their_corners() -> None:
    """nanoGPT's `get_lr` with warmup_iters 4, lr_decay_iters 12, learning_rate 1, min_lr 0.1."""
    rates = [WarmupCosine(4, 12, 0.1).rate(1.0, step) for step in range(15)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[8] == pytest.approx(0.55)  # half way down
    assert rates[6] == pytest.approx(0.1 + 0.9 * (1 + 0.5**0.5) / 2)
    assert rates[12:] == [0.1, 0.1, 0.1]
    assert [WarmupCosine(3, 3, 0.1).rate(1.0, step) for step in (0, 2, 3, 4)] == pytest.approx([0.25, 0.75, 0.1, 0.1])
    assert WarmupCosine(0, 1).rate(1.0, 0) == 1.0


def test_adamw_with_clipping_and_schedule_is_the_loop_of_nanogpt(seeded: Seeded) -> None:
    """The loop is written with torch's own modules; clipped are some of the gradients, not all."""
    data = Dataset(torch.randn(12, 3, generator=seeded(0), dtype=F64), torch.randint(2, (12,), generator=seeded(1)))
    model = Mlp((3, 4, 2), "tanh")
    start = model.initial_parameters(seeded(2), F64, CPU)
    limit = 0.45
    plan = TrainingPlan(
        30,
        0.05,
        batch_size=5,
        optimizer=AdamW(beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=0.3),
        schedule=WarmupCosine(6, 20, 0.01),
        max_gradient_norm=limit,
    )
    found = [
        run(Training(model, CrossEntropy(), data, plan=replace(plan, micro_batch_size=m)), start, generator=seeded(3))
        for m in (None, 2)
    ]

    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    network.load_state_dict({f"{2 * int(n.split('.')[1])}.{n.split('.')[2]}": t for n, t in start.items()})
    decaying = [p for p in network.parameters() if p.dim() >= 2]
    others = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": decaying, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05, betas=(0.8, 0.9), eps=1e-6)
    generator = seeded(3)
    batches = [batch for _ in range(10) for batch in torch.randperm(12, generator=generator).split(5)]
    norms = []
    for step, chosen in enumerate(batches):
        ratio = 0.5 * (1 + math.cos(math.pi * (step - 6) / 14))
        rate = 0.05 * (step + 1) / 7 if step < 6 else 0.01 if step > 20 else 0.01 + ratio * 0.04
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data.inputs[chosen]), data.targets[chosen]).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(network.parameters(), limit)))
        optimizer.step()
    assert min(norms) < limit < max(norms)
    for result in found:
        assert result.learning_rate == pytest.approx(0.01)
        for ours, theirs in zip(result.parameters.values(), network.parameters(), strict=True):
            assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


# a token stream


def test_batches_of_a_stream_are_windows_at_uniform_positions(seeded: Seeded) -> None:
    """One step of gradient descent on the sequences that the generator gives."""
    stream = TokenStream(torch.randint(5, (50,), generator=seeded(0)).numpy(), 6)
    model = Gpt2(1, 1, 4, n_positions=6, vocab_size=5)
    start = model.initial_parameters(seeded(1), F64, CPU)
    training = Training(model, CrossEntropy(), stream, plan=TrainingPlan(2, 0.1, batch_size=3, micro_batch_size=2))
    state = training.init(start, generator=seeded(2))
    training.step(start, state)
    generator = seeded(2)
    first, second = (stream.windows(3, generator) for _ in range(2))
    _, gradient = EmpiricalRisk(model, CrossEntropy(), [first]).value_and_gradient(start)
    for name, values in start.items():
        assert_close(state.parameters[name].detach(), values - 0.1 * gradient[name])
    assert not torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.inputs[:, 1:], first.targets[:, :-1])
    training.step(start, state)
    assert training.is_finished(state)


def test_streams_that_do_not_fit_are_errors(seeded: Seeded) -> None:
    model, tokens = Gpt2(1, 1, 4, n_positions=6, vocab_size=5), np.tile(np.arange(5), 4)
    for stream, plan in (
        (TokenStream(tokens, 7), TrainingPlan(1, 0.1, batch_size=2)),  # longer than the model's positions
        (TokenStream(tokens + 1, 6), TrainingPlan(1, 0.1, batch_size=2)),  # a token beyond the vocabulary
        (TokenStream(tokens, 6), TrainingPlan(1, 0.1)),  # no batch size
    ):
        with pytest.raises(InvalidProblemError):
            Training(model, CrossEntropy(), stream, plan=plan).init({}, generator=seeded(0))
    for bad, length in ((tokens, 20), (tokens, 0), (-tokens, 3), (tokens.astype(float), 3), (tokens[None], 3)):
        with pytest.raises(InvalidProblemError):
            TokenStream(bad, length)


# runs that stop and go on


RULES = {
    "sgd": (Sgd(0.9), Plateau(patience=1, threshold=0.2, min_learning_rate=1e-3), 0.2),
    "adamw": (AdamW(), WarmupCosine(5, 30, 1e-3), 0.05),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_run_goes_on_from_its_checkpoint_as_if_nothing_had_been(
    batch_size: int | None, rule: str, seeded: Seeded
) -> None:
    model, data = Mlp((3, 6, 1), "tanh"), gaussian(12, 3, 1, teacher="linear", noise=0.3, generator=seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    optimizer, schedule, rate = RULES[rule]
    plan = TrainingPlan(40, rate, batch_size=batch_size, optimizer=optimizer, schedule=schedule, max_gradient_norm=0.5)
    whole = run(Training(model, Mse(), data, plan=plan), start, generator=seeded(2))
    training = Training(model, Mse(), data, plan=plan)
    state = training.init(start, generator=seeded(2))
    for _ in range(8):
        training.step(start, state)
    saved = checkpoint(state)
    for _ in range(3):
        training.step(start, state)  # must not reach into what was saved
    for _ in range(2):  # nor must a run that goes on from it
        resumed = Training(model, Mse(), data, plan=plan)
        state = resumed.load(start, saved)
        while not resumed.is_finished(state):
            resumed.step(start, state)
        found = summarise_training(state, EmpiricalRisk(model, Mse(), [data]))
        for name in ("loss", "gradient_norm", "num_steps", "learning_rate", "learning_rate_cuts", "stopped"):
            assert getattr(found, name) == getattr(whole, name), name
        assert found.loss_curve.points() == whole.loss_curve.points()
        for name, values in whole.parameters.items():
            assert torch.equal(found.parameters[name], values)
    assert (whole.learning_rate_cuts > 0) == (rule == "sgd")


# errors


def test_divergence_is_an_error_that_names_the_cure(seeded: Seeded) -> None:
    model, data = Mlp((2, 3, 1), "relu"), gaussian(5, 2, 1, teacher="linear", noise=0.1, generator=seeded(0))
    start = model.initial_parameters(seeded(1), F64, CPU)
    with pytest.raises(NonFiniteError, match="smaller learning rate"):
        run(Training(model, Mse(), data, plan=TrainingPlan(200, 1e6)), start, generator=seeded(0))


@pytest.mark.parametrize(
    "options",
    [
        {"num_steps": -1},
        {"learning_rate": -0.1},
        {"learning_rate": float("inf")},
        {"batch_size": 0},
        {"micro_batch_size": 0},
        {"max_gradient_norm": 0.0},
    ],
)
def test_bad_plans_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidProblemError):
        TrainingPlan(**{"num_steps": 1, "learning_rate": 0.1} | options)


@pytest.mark.parametrize(
    "options", [{"factor": 0.0}, {"factor": 1.0}, {"patience": -1}, {"threshold": 1.0}, {"min_learning_rate": -1.0}]
)
def test_bad_schedules_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidProblemError):
        Plateau(**options)


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"momentum": -0.1}, {"nesterov": True}])
def test_bad_descents_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidProblemError):
        Sgd(**options)


@pytest.mark.parametrize("options", [{"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": 0.0}, {"weight_decay": -1.0}])
def test_bad_moments_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidProblemError):
        AdamW(**options)


@pytest.mark.parametrize("numbers", [(-1, 5), (6, 5), (1, 5, -0.1)])
def test_bad_warmups_are_errors(numbers: Any) -> None:
    with pytest.raises(InvalidProblemError):
        WarmupCosine(*numbers)


def test_data_that_do_not_fit_are_errors() -> None:
    data = Dataset(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(InvalidProblemError):
        Training(Mlp((2, 1)), Mse(), data, plan=TrainingPlan(1, 0.1)).init({}, generator=torch.Generator())


def test_weight_decay_of_the_loss_is_that_of_gradient_descent(seeded: Seeded) -> None:
    """torch's weight decay of plain gradient descent adds d theta to the gradient, as does the term (d/2) |theta|^2."""
    model = Mlp((3, 4, 2), "tanh")
    data = gaussian(8, 3, 2, teacher="linear", noise=0.1, generator=seeded(1))
    start = model.initial_parameters(seeded(0), torch.float64, torch.device("cpu"))
    training = Training(model, Mse(), data, plan=TrainingPlan(5, 0.1), weight_decay=0.3)
    state = training.init(start, generator=seeded(2))
    while not training.is_finished(state):
        state = training.step(start, state)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = torch.optim.SGD(leaves.values(), 0.1, weight_decay=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        (Mse().total(model(leaves, data.inputs), data.targets) / 8).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    result = training.result(start, state)
    for name, leaf in leaves.items():
        torch.testing.assert_close(result.parameters[name], leaf.detach())
    penalty = sum(float(leaf.detach().square().sum()) for leaf in leaves.values())
    data_loss = float(Mse().total(model(result.parameters, data.inputs), data.targets)) / 8
    assert result.loss == pytest.approx(data_loss + 0.15 * penalty, rel=1e-12)
