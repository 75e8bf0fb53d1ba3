"""HessianOperator against autograd's dense Hessian and against closed forms that autograd had no part in."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.data.text import text_windows
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.base import Model, ParameterLayout
from hessian_spectrum.curvature.models.gpt2 import AttentionSink, Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from tests.fixtures.longer import pairs

Seeded = Callable[[int], torch.Generator]

CPU = torch.device("cpu")
F64 = torch.float64


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def raw_matrix(operator: SymmetricOperator) -> Tensor:
    """Products with the identity, not symmetrised."""
    return operator.matmat(torch.eye(operator.dim, dtype=operator.dtype))


def labelled(num_samples: int, input_dim: int, num_classes: int, *, generator: torch.Generator) -> Dataset:
    data = gaussian(num_samples, input_dim, 1, teacher="none", noise=1.0, generator=generator)
    return Dataset(data.inputs, torch.randint(num_classes, (num_samples,), generator=generator))


@pytest.mark.parametrize(
    "sink", [None, AttentionSink(0.7), AttentionSink(-1.3, (0, 1), (1,))], ids=["none", "everywhere", "one-block"]
)
def test_gpt2_equals_double_backward(sink: AttentionSink | None, seeded: Seeded) -> None:
    model = Gpt2(n_layer=2 if sink and sink.blocks else 1, n_head=2, n_embd=8, n_positions=6, vocab_size=11, sink=sink)
    # 10 x GPT-2's scale, so that attention is far from uniform and every term of the second derivative counts
    start = model.initial_parameters(seeded(0), F64, CPU)
    parameters = {name: tensor * (10 if tensor.ndim == 2 else 1) for name, tensor in start.items()}
    tokens = torch.randint(11, (200,), generator=seeded(1))
    data = text_windows(tokens.numpy(), num_sequences=4, sequence_length=6, generator=seeded(2))
    risk = EmpiricalRisk(model, CrossEntropy(), data.split(3))
    operator = HessianOperator(risk, parameters)
    assert operator.fallback_reason is None
    vectors = torch.randn(operator.dim, 4, generator=seeded(3), dtype=F64)
    point = operator.layout.flatten(parameters).requires_grad_()
    value = risk.batch_share(0, operator.layout.unflatten(point)) + risk.batch_share(
        1, operator.layout.unflatten(point)
    )
    (gradient,) = torch.autograd.grad(value, point, create_graph=True)
    columns = [torch.autograd.grad(gradient @ vector, point, retain_graph=True)[0] for vector in vectors.T]
    expected = torch.stack(columns, dim=1)
    assert relative_error(operator.matmat(vectors), expected) < 1e-12
    assert relative_error(operator.matvec(vectors[:, 0]), expected[:, 0]) < 1e-12
    assert operator.checked_gradient_norm() == pytest.approx(float(gradient.detach().norm()), rel=1e-12)


@pytest.mark.parametrize(
    ("operator", "block", "num_ignored"),
    pairs([HessianOperator, GgnOperator, FunctionalOperator], product([None, "wte.*", "blocks.0.mlp.*"], [0, 5])),
)
def test_logits_in_pieces_give_the_same_products(
    operator: type[RiskOperator], block: str | None, num_ignored: int, seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Gpt2(n_layer=1, n_head=2, n_embd=8, n_positions=6, vocab_size=11)
    parameters = model.initial_parameters(seeded(0), F64, CPU)
    tokens = torch.randint(11, (3, 7), generator=seeded(1))
    targets = tokens[:, 1:].clone()
    targets.view(-1)[:num_ignored] = -100  # the whole first piece, and part of another
    risk = EmpiricalRisk(model, CrossEntropy(), [Dataset(tokens[:, :-1].contiguous(), targets)])
    whole = operator(risk, parameters, block=block)
    vectors = torch.randn(whole.dim, 3, generator=seeded(2), dtype=F64)
    expected, value, gradient = whole.matmat(vectors), *risk.value_and_gradient(parameters)
    monkeypatch.setattr("hessian_spectrum.curvature.losses.OUTPUTS_BYTES", 4 * 11 * 8)  # four tokens
    assert len(list(risk.output_chunks(0, torch.zeros(3, 6, 8, dtype=F64)))) == 5
    assert relative_error(operator(risk, parameters, block=block).matmat(vectors), expected) < 1e-13
    again, in_pieces = risk.value_and_gradient(parameters)
    assert_close(again, value, rtol=1e-14, atol=0)
    assert_close(risk.value(parameters), risk.batch_share(0, parameters), rtol=1e-14, atol=0)
    for name, part in torch.func.grad(lambda point: risk.batch_share(0, point))(parameters).items():
        assert relative_error(in_pieces[name], part) < 1e-13
        assert relative_error(gradient[name], part) < 1e-13


@pytest.mark.parametrize("loss", [Mse(), CrossEntropy()], ids=["mse", "cross-entropy"])
@pytest.mark.parametrize("batch_size", [7, 29])
def test_micro_batches_with_ignored_labels_give_the_same_matrix(loss: Loss, batch_size: int, seeded: Seeded) -> None:
    model = Mlp((4, 6, 3), "silu")
    data = labelled(30, 4, 3, generator=seeded(0))
    data.targets[[0, 1, 2, 3, 4, 5, 6, 19, 29]] = -100  # one whole micro-batch of 7, and the whole last one of 29
    parameters = model.initial_parameters(seeded(1), F64, CPU)
    whole = assemble(HessianOperator(EmpiricalRisk(model, loss, data.split(None)), parameters))
    valid = data.targets != -100
    kept = Dataset(data.inputs[valid], data.targets[valid])
    split = assemble(HessianOperator(EmpiricalRisk(model, loss, data.split(batch_size)), parameters))
    assert relative_error(split, whole) < 1e-14
    assert relative_error(assemble(HessianOperator(EmpiricalRisk(model, loss, [kept]), parameters)), whole) < 1e-14


def test_micro_batches_of_sequences_weigh_by_valid_tokens(seeded: Seeded) -> None:
    model = Gpt2(n_layer=1, n_head=1, n_embd=4, n_positions=5, vocab_size=7)
    data = text_windows(
        torch.randint(7, (60,), generator=seeded(0)).numpy(), num_sequences=5, sequence_length=5, generator=seeded(1)
    )
    data.targets[0, 1:] = -100
    data.targets[3, :2] = -100
    parameters = model.initial_parameters(seeded(2), F64, CPU)
    whole, split = (
        assemble(HessianOperator(EmpiricalRisk(model, CrossEntropy(), data.split(size)), parameters))
        for size in (None, 2)
    )
    assert relative_error(split, whole) < 1e-14


def test_linear_regression_closed_form(seeded: Seeded) -> None:
    """One linear layer, mse: H = I_K (x) mean(x~ x~^T), x~ = (x, 1), whatever the weights and targets."""
    model = Mlp((3, 2))
    data = gaussian(40, 3, 2, teacher="linear", noise=0.5, generator=seeded(0))
    operator = HessianOperator(
        EmpiricalRisk(model, Mse(), data.split(11)), model.initial_parameters(seeded(1), F64, CPU)
    )
    second, first = data.inputs.T @ data.inputs / 40, data.inputs.mean(dim=0)
    expected = torch.zeros(8, 8, dtype=F64)
    for k in range(2):
        row = slice(3 * k, 3 * k + 3)
        expected[row, row] = second
        expected[row, 6 + k] = expected[6 + k, row] = first
        expected[6 + k, 6 + k] = 1
    assert_close(assemble(operator), expected, rtol=1e-13, atol=1e-14)


def test_logistic_regression_closed_form(seeded: Seeded) -> None:
    """One linear layer, cross-entropy: H = mean((diag(p) - p p^T) (x) x x^T)."""
    model = Mlp((4, 3), bias=False)
    data = labelled(50, 4, 3, generator=seeded(0))
    parameters = model.initial_parameters(seeded(1), F64, CPU)
    operator = HessianOperator(EmpiricalRisk(model, CrossEntropy(), data.split(13)), parameters)
    scores = (data.inputs @ parameters["layers.0.weight"].T).exp()
    p = scores / scores.sum(dim=1, keepdim=True)
    expected = sum(
        torch.kron(torch.diag(p_i) - torch.outer(p_i, p_i), torch.outer(x_i, x_i)) / 50
        for p_i, x_i in zip(p, data.inputs, strict=True)
    )
    assert_close(assemble(operator), expected, rtol=1e-13, atol=1e-14)


def test_two_layer_linear_trace(seeded: Seeded) -> None:
    """tr H = |W2|^2 mean |x|^2 + K mean |W1 x|^2: the residual has no diagonal."""
    model = Mlp((3, 5, 2), "linear", bias=False)
    data = gaussian(30, 3, 2, teacher="linear", noise=1.0, generator=seeded(0))
    parameters = model.initial_parameters(seeded(1), F64, CPU)
    operator = HessianOperator(EmpiricalRisk(model, Mse(), data.split(7)), parameters)
    W1, W2 = parameters["layers.0.weight"], parameters["layers.1.weight"]
    expected = W2.square().sum() * data.inputs.square().sum() / 30 + 2 * (data.inputs @ W1.T).square().sum() / 30
    assert_close(assemble(operator).trace(), expected, rtol=1e-13, atol=0)


def test_scalar_linear_network_eigenvalues(seeded: Seeded) -> None:
    """f = <w, v> x: bulk +-d, m - 1 times each, outliers (t +- sqrt(t^2 + 4 d (d + 2 s2 c))) / 2 (Cracking 3.1)."""
    m = 4
    model = Mlp((1, m, 1), "linear", bias=False)
    data = gaussian(20, 1, 1, teacher="linear", noise=0.5, generator=seeded(0))
    parameters = model.initial_parameters(seeded(1), F64, CPU)
    operator = HessianOperator(EmpiricalRisk(model, Mse(), [data]), parameters)
    v, w = parameters["layers.0.weight"].flatten(), parameters["layers.1.weight"].flatten()
    s2, c = data.inputs.square().mean(), w @ v
    d, t = c * s2 - (data.inputs * data.targets).mean(), s2 * (w @ w + v @ v)
    root = (t**2 + 4 * d * (d + 2 * s2 * c)).sqrt()
    expected = torch.stack([*[d, -d] * (m - 1), (t + root) / 2, (t - root) / 2]).sort().values
    assert_close(torch.linalg.eigvalsh(assemble(operator)), expected, rtol=1e-12, atol=1e-13)


def test_float32_agrees_with_float64(digits_operator: Callable[[torch.dtype], HessianOperator]) -> None:
    exact, rounded = assemble(digits_operator(torch.float64)), assemble(digits_operator(torch.float32))
    assert rounded.dtype == F64
    assert 1e-12 < relative_error(rounded, exact) < 1e-5


class InPlaceMlp(Mlp):
    """A model that assigns in place, which torch.func.linearize silently gets wrong in PyTorch 2.13."""

    def __call__(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        factors = torch.zeros(self.widths[-1], dtype=inputs.dtype)
        factors[[0, 1]] = 3.0
        return super().__call__(parameters, inputs) * (factors + 1)


def double_backward(
    model: Model, loss: Loss, data: Dataset, *, parameters: dict[str, Tensor], layout: ParameterLayout
) -> Tensor:
    point = layout.flatten(parameters).requires_grad_()
    value = loss.total(model(layout.unflatten(point), data.inputs), data.targets) / loss.num_terms(data.targets)
    (gradient,) = torch.autograd.grad(value, point, create_graph=True)
    return torch.stack([torch.autograd.grad(entry, point, retain_graph=True)[0] for entry in gradient])


def test_assignments_in_place_are_not_lost(seeded: Seeded) -> None:
    model = InPlaceMlp((3, 4, 3), "tanh")
    data = labelled(12, 3, 3, generator=seeded(0))
    parameters = model.initial_parameters(seeded(1), F64, CPU)
    operator = HessianOperator(EmpiricalRisk(model, Mse(), data.split(5)), parameters)
    assert operator.fallback_reason is None
    assert (
        relative_error(
            raw_matrix(operator), double_backward(model, Mse(), data, parameters=parameters, layout=operator.layout)
        )
        < 1e-12
    )


def test_gradient_that_is_not_finite_is_an_error(seeded: Seeded) -> None:
    model = Mlp((3, 4, 2), "relu")
    parameters = model.initial_parameters(seeded(0), torch.float32, CPU)
    parameters["layers.0.weight"] = parameters["layers.0.weight"] * 1e30
    data = gaussian(5, 3, 2, teacher="linear", noise=0.1, generator=seeded(1)).to(torch.float32, CPU)
    operator = HessianOperator(EmpiricalRisk(model, Mse(), [data]), parameters)
    with pytest.raises(NonFiniteError):
        operator.checked_gradient_norm()


def test_parameters_of_another_model_are_refused(seeded: Seeded) -> None:
    data = gaussian(5, 3, 2, teacher="linear", noise=0.1, generator=seeded(0))
    risk = EmpiricalRisk(Mlp((3, 4, 2)), Mse(), [data])
    with pytest.raises(InvalidProblemError, match=r"layers\.0\.weight"):
        HessianOperator(risk, Mlp((3, 5, 2)).initial_parameters(seeded(0), F64, CPU))
    with pytest.raises(InvalidProblemError, match="expected"):
        HessianOperator(risk, Mlp((3, 4, 4, 2)).initial_parameters(seeded(0), F64, CPU))


def test_progress_is_told_and_may_cancel(seeded: Seeded) -> None:
    data = gaussian(10, 3, 2, teacher="linear", noise=0.1, generator=seeded(0))
    model = Mlp((3, 4, 2))
    risk, parameters = EmpiricalRisk(model, Mse(), data.split(4)), model.initial_parameters(seeded(1), F64, CPU)
    calls = []
    operator = HessianOperator(risk, parameters, progress=lambda *call: calls.append(call))
    for _ in range(2):
        operator.matvec(torch.ones(operator.dim, dtype=F64))
    assert calls == [("linearisation", done, 3) for done in (1, 2, 3)]

    def cancel(phase: str, done: int, total: int) -> None:
        raise InterruptedError

    operator = HessianOperator(risk, parameters, progress=cancel)
    with pytest.raises(InterruptedError):
        operator.matvec(torch.ones(operator.dim, dtype=F64))
