"""What every operator owes the algorithms; the matrices of the risk against dense autograd, whatever the model."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import hessian, jacrev

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.linear_algebra import DenseOperator, SymmetricOperator, assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.base import Model, ParameterLayout, Parameters
from hessian_spectrum.curvature.models.conv import Conv
from hessian_spectrum.curvature.models.gpt2 import AttentionSink, Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.products import Fallback, double_backward_product
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.planning.activations import ACTIVATIONS, Activation
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from tests.fixtures.longer import long, pairs

CPU = torch.device("cpu")
F64 = torch.float64
OPERATORS: dict[str, type[RiskOperator]] = {
    "hessian": HessianOperator,
    "ggn": GgnOperator,
    "functional": FunctionalOperator,
}
Problem = tuple[Model, Loss, Dataset, Parameters]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(num_samples: int, input_dim: int, num_classes: int) -> Dataset:
    inputs = gaussian(num_samples, input_dim, 1, teacher="none", noise=1.0, generator=generator(1)).inputs
    labels = torch.randint(num_classes, (num_samples,), generator=generator(2))
    labels[[0, 1, 5]] = -100
    return Dataset(inputs, labels)


def problem(model: Model, loss: Loss, data: Dataset, *, scale: float = 1.0) -> Problem:
    start = model.initial_parameters(generator(0), F64, CPU)
    # biases that start at zero and layer norms at one hide terms
    moved = {
        name: scale * tensor + 0.1 * torch.randn(tensor.shape, generator=generator(3), dtype=F64)
        for name, tensor in start.items()
    }
    return model, loss, data, moved


def tokens(num_sequences: int, length: int, vocabulary: int) -> Dataset:
    inputs, targets = torch.randint(vocabulary, (2, num_sequences, length), generator=generator(4))
    targets[1, :3] = -100
    return Dataset(inputs, targets)


@cache
def problems() -> dict[str, Problem]:
    mlp = (4, 5, 4, 3)
    found = {
        f"{activation}-{name}": problem(Mlp(mlp, activation), loss, labelled(20, 4, 3))
        for activation in ("tanh", "relu", "gelu")
        for name, loss in (("mse", Mse()), ("cross-entropy", CrossEntropy()))
    }
    found["regression"] = problem(
        Mlp((3, 6, 2), "silu"), Mse(), gaussian(17, 3, 2, teacher="relu", noise=0.1, generator=generator(5))
    )
    found["linear-layer"] = problem(
        Mlp((3, 2)), Mse(), gaussian(17, 3, 2, teacher="linear", noise=0.1, generator=generator(5))
    )
    found["gpt2"] = problem(
        Gpt2(2, 2, 4, n_positions=5, vocab_size=7, sink=AttentionSink(0.7, (1,))),
        CrossEntropy(),
        tokens(4, 5, 7),
        scale=10,
    )
    return found


NAMES = [*(f"{a}-{b}" for a in ("tanh", "relu", "gelu") for b in ("mse", "cross-entropy"))]
NAMES += ["regression", "linear-layer", "gpt2"]


@cache
def dense(name: str) -> dict[str, Tensor]:
    """Oracle: autograd's Hessian of the mean loss; J^T H_l J with autograd's J and H_l; their difference."""
    model, loss, data, parameters = problems()[name]
    layout = ParameterLayout.of(model.parameter_shapes)
    point, count = layout.flatten(parameters), loss.num_terms(data.targets)

    def outputs(at: Tensor) -> Tensor:
        return model(layout.unflatten(at), data.inputs).flatten()

    def mean_loss(flat: Tensor) -> Tensor:
        shape = model(parameters, data.inputs).shape
        return loss.total(flat.view(shape), data.targets) / count

    J = jacrev(outputs)(point)
    ggn = J.T @ hessian(mean_loss)(outputs(point)) @ J
    whole = hessian(lambda at: mean_loss(outputs(at)))(point)
    return {"hessian": whole, "ggn": ggn, "functional": whole - ggn}


def build(matrix: str, name: str, batch_size: int | None = None, **options: object) -> RiskOperator:
    model, loss, data, parameters = problems()[name]
    return OPERATORS[matrix](EmpiricalRisk(model, loss, data.split(batch_size)), parameters, **options)


def close(found: Tensor, expected: Tensor, scale: Tensor, *, tolerance: float = 1e-10) -> bool:
    return bool((found - expected).abs().max() <= tolerance * scale.abs().max())


def diagonal_operator() -> SymmetricOperator:
    return DenseOperator(torch.diag(torch.arange(-5.0, 6.0, dtype=F64)))


CASES: dict[str, Callable[[], SymmetricOperator]] = {"dense": diagonal_operator}
CASES |= {
    f"{matrix}-{name}": lambda matrix=matrix, name=name: build(matrix, name, 6)
    for matrix in OPERATORS
    for name in NAMES
}
CASES_TAKEN = {"dense", *(f"{list(OPERATORS)[index % 3]}-{name}" for index, name in enumerate(NAMES)), "hessian-gpt2"}
"""Every model with one of the matrices; the long campaign takes all pairs."""


@pytest.mark.parametrize("case", [each if each in CASES_TAKEN else long(each) for each in CASES])
def test_symmetric_linear_deterministic_and_the_same_in_blocks(case: str) -> None:
    operator = CASES[case]()
    left, right, third = torch.randn(3, operator.dim, generator=generator(6), dtype=F64)
    product = operator.matvec(right)
    scale = product.norm() * left.norm() + 1e-300
    assert abs(left @ product - right @ operator.matvec(left)) <= 1e-13 * scale
    assert torch.equal(operator.matvec(right), product)
    combined = operator.matvec(2 * right - third)
    assert (combined - 2 * product + operator.matvec(third)).norm() <= 1e-13 * (product.norm() + 1e-300)
    columns = torch.stack([left, right, third], dim=1)
    together = operator.matmat(columns)
    assert together.shape == (operator.dim, 3)
    assert (together[:, 1] - product).norm() <= 1e-13 * (product.norm() + 1e-300)
    # two columns go through the recording of three
    assert (operator.matmat(columns[:, 1:]) - together[:, 1:]).norm() <= 1e-13 * (together.norm() + 1e-300)
    matrix = assemble(operator)
    assert torch.equal(matrix, matrix.T)
    assert (matrix @ right - product).norm() <= 1e-12 * (product.norm() + 1e-300)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("matrix", OPERATORS)
def test_equals_dense_autograd(matrix: str, name: str) -> None:
    operator = build(matrix, name)
    expected, scale = dense(name)[matrix], dense(name)["hessian"]
    identity = torch.eye(operator.dim, dtype=F64)
    assert close(operator.matmat(identity), expected, scale)
    assert close(assemble(operator), expected, scale)
    assert operator.fallback_reason is None


@pytest.mark.parametrize("name", ["tanh-cross-entropy", "regression", "gpt2"])
@pytest.mark.parametrize("matrix", OPERATORS)
@pytest.mark.parametrize("method", ["forward-over-reverse", "double-backward"])
def test_without_recording_the_matrix_is_the_same(matrix: str, name: str, method: Any) -> None:
    operator = build(matrix, name, fallback=Fallback(method, "because"))
    expected, scale = dense(name)[matrix], dense(name)["hessian"]
    columns = torch.randn(operator.dim, 2, generator=generator(9), dtype=F64)
    assert close(operator.matmat(columns), expected @ columns, scale)
    if name == "regression":
        assert close(assemble(build(matrix, name, 9, fallback=Fallback(method, "because"))), expected, scale)
    assert operator.fallback_reason == "because"


class WithoutForwardMode(torch.autograd.Function):
    """The hyperbolic tangent as BLOOM writes its activation: nothing that torch.func could transform."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh().square())


class WithoutSecondDerivative(WithoutForwardMode):
    """The same, whose gradient is a constant to autograd."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh().square())


@pytest.mark.parametrize("matrix", OPERATORS)
def test_a_model_without_forward_mode_is_differentiated_twice_backwards(
    matrix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, scale = dense("tanh-mse")[matrix], dense("tanh-mse")["hessian"]
    sensitivity = build(matrix, "tanh-mse", 6).sensitivity
    monkeypatch.setitem(
        ACTIVATIONS, "tanh", Activation(lambda _, x: WithoutForwardMode.apply(x), operations=("smooth",))
    )
    operator = build(matrix, "tanh-mse", 6)
    assert 0.3 < operator.sensitivity / sensitivity < 3  # asked before the first product
    assert close(operator.matmat(torch.eye(operator.dim, dtype=F64)), expected, scale)
    assert operator.fallback_reason is not None
    assert "no forward mode: RuntimeError" in operator.fallback_reason


def test_a_model_without_second_derivatives_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        ACTIVATIONS, "tanh", Activation(lambda _, x: WithoutSecondDerivative.apply(x), operations=("smooth",))
    )
    operator = build("hessian", "tanh-mse", 6)
    with pytest.raises(InvalidProblemError, match="cannot be differentiated twice: RuntimeError"):
        operator.matvec(torch.ones(operator.dim, dtype=F64))


@pytest.mark.parametrize(("matrix", "name"), pairs(OPERATORS, ["gpt2", "tanh-cross-entropy", "relu-mse"]))
def test_any_split_gives_the_same_matrix(matrix: str, name: str) -> None:
    expected, scale = dense(name)[matrix], dense(name)["hessian"]
    for batch_size in (3,) if name == "gpt2" else (1, 13):
        operator = build(matrix, name, batch_size)
        assert close(assemble(operator), expected, scale, tolerance=1e-12)
        assert close(operator.matmat(torch.eye(operator.dim, dtype=F64)), expected, scale, tolerance=1e-12)


@pytest.mark.parametrize("matrix", OPERATORS)
def test_what_does_not_fit_in_memory_is_recorded_anew(matrix: str) -> None:
    columns = torch.randn(len(dense("gelu-mse")[matrix]), 5, generator=generator(7), dtype=F64)
    kept = build(matrix, "gelu-mse", 6)
    kept.matmat(columns)
    some = build(matrix, "gelu-mse", 6, memory_bytes=kept.held_bytes // 2)
    none = build(matrix, "gelu-mse", 6, memory_bytes=0)
    for _ in range(2):
        assert torch.equal(some.matmat(columns), kept.matmat(columns))
        assert torch.equal(none.matmat(columns), kept.matmat(columns))
    assert none.held_bytes == 0 < some.held_bytes < kept.held_bytes


@pytest.mark.parametrize("block", ["layers.1.*", "*.bias", "layers.0.weight", "*"])
@pytest.mark.parametrize("matrix", OPERATORS)
def test_blocks_are_submatrices(matrix: str, block: str) -> None:
    operator = build(matrix, "gelu-cross-entropy", 6, block=block)
    layout = ParameterLayout.of(problems()["gelu-cross-entropy"][0].parameter_shapes)
    marks = {name: torch.full(shape, name in operator.layout.names) for name, shape in operator_shapes(layout).items()}
    chosen = layout.flatten(marks)
    whole = dense("gelu-cross-entropy")
    expected = whole[matrix][chosen][:, chosen]
    assert expected.shape == (operator.dim, operator.dim)
    assert close(assemble(operator), expected, whole["hessian"])
    assert close(operator.matmat(torch.eye(operator.dim, dtype=F64)), expected, whole["hessian"])


def operator_shapes(layout: ParameterLayout) -> dict[str, tuple[int, ...]]:
    return dict(zip(layout.names, layout.shapes, strict=True))


def test_the_tied_embedding_counts_once() -> None:
    model = problems()["gpt2"][0]
    untied = 7 * 4 + 5 * 4 + 2 * (12 * 16 + 13 * 4) + 2 * 4
    assert build("hessian", "gpt2").dim == untied == ParameterLayout.of(model.parameter_shapes).dim


@pytest.mark.parametrize("name", NAMES)
def test_ggn_is_positive_semidefinite(name: str) -> None:
    values = torch.linalg.eigvalsh(assemble(build("ggn", name)))
    assert values[0] >= -1e-12 * values[-1]


def test_conv_nets_conform() -> None:
    model = Conv((2,), activation="tanh")
    data = labelled(6, 64, 10)
    risk = EmpiricalRisk(model, CrossEntropy(), data.split(4))
    parameters = model.initial_parameters(generator(0), F64, CPU)
    H, G, F = (operator(risk, parameters) for operator in OPERATORS.values())
    columns = torch.randn(H.dim, 2, generator=generator(8), dtype=F64)
    total = H.matmat(columns)
    assert (G.matmat(columns) + F.matmat(columns) - total).norm() <= 1e-12 * total.norm()
    assert H.fallback_reason is G.fallback_reason is F.fallback_reason is None


class UnusedParameter(Mlp):
    """A network of which no output depends on the parameter `unused`."""

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return super().parameter_shapes | {"unused": (2,)}


@pytest.mark.parametrize("matrix", ["hessian", "ggn", "functional"])
def test_parameters_that_no_output_depends_on_have_zeros(matrix: Any) -> None:
    model = UnusedParameter((2, 3, 1))
    point = {name: torch.ones(shape, dtype=F64) for name, shape in model.parameter_shapes.items()}
    data = Dataset(torch.ones(4, 2, dtype=F64), torch.zeros(4, 1, dtype=F64))
    risk = EmpiricalRisk(model, Mse(), [data])

    def outputs_at(parameters: Any) -> Any:
        return model(parameters, data.inputs)

    unused = {"unused": torch.ones(2, dtype=F64)}
    found = double_backward_product(
        matrix, risk, 0, outputs_at=outputs_at, point=point, direction=unused, rows=["unused"]
    )
    assert torch.equal(found["unused"], torch.zeros(2, dtype=F64))
