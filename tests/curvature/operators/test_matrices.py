"""Each matrix of each loss, with weight decay, a preconditioner and a shift, against double backward in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver, summarise_triangle
from hessian_spectrum.curvature.classification_losses import BinaryCrossEntropy, KullbackLeibler, cross_entropy
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import EmpiricalRisk, Loss, Mse, OutputValue
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import OPERATORS, GgnOperator, GradientCovarianceOperator
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.regression_losses import GaussianNll, Huber, PoissonNll
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from tests.fixtures.longer import pairs

F64 = torch.float64
NUM_SAMPLES = 7
DECAY, SHIFT = 0.2, -0.3


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(1), dtype=F64)


def labels() -> Tensor:
    found = torch.randint(2, (NUM_SAMPLES,), generator=generator(2))
    found[[1, 4]] = -100
    return found


LOSSES: dict[str, tuple[Loss, Callable[[], Tensor]]] = {
    "mse": (Mse(), lambda: drawn(NUM_SAMPLES, 2)),
    "cross-entropy": (cross_entropy(), labels),
    "class-weights": (cross_entropy((0.5, 2.0), 0.1), labels),
    "binary-cross-entropy": (BinaryCrossEntropy(), lambda: drawn(NUM_SAMPLES, 2).sigmoid()),
    "huber": (Huber(0.8), lambda: drawn(NUM_SAMPLES, 2)),
    "gaussian-nll": (GaussianNll(), lambda: 3 * drawn(NUM_SAMPLES, 1)),
    "poisson-nll": (PoissonNll(), lambda: drawn(NUM_SAMPLES, 2).square().round()),
    "kl": (KullbackLeibler(), lambda: drawn(NUM_SAMPLES, 2).softmax(dim=-1)),
    "output": (OutputValue(), lambda: torch.zeros(NUM_SAMPLES, 1, dtype=F64)),
}


@dataclass(frozen=True)
class Problem:
    """A small network with data and a loss, at a point."""

    model: Mlp
    loss: Loss
    data: Dataset
    parameters: Parameters

    def operator(self, matrix: str, *, batch_size: int | None = None, decay: float = 0.0, **options: Any) -> Any:
        risk = EmpiricalRisk(self.model, self.loss, self.data.split(batch_size), weight_decay=decay)
        return OPERATORS[matrix](risk, self.parameters, **options)


@cache
def problem(name: str) -> Problem:
    loss, targets = LOSSES[name]
    model = Mlp((3, 4, 1 if name == "output" else 2), "tanh")
    parameters = model.initial_parameters(generator(0), F64, torch.device("cpu"))
    moved = {each: 1.5 * tensor + 0.1 for each, tensor in parameters.items()}
    return Problem(model, loss, Dataset(drawn(NUM_SAMPLES, 3), targets()), moved)


@cache
def preconditioner(name: str) -> Parameters:
    shapes = problem(name).model.parameter_shapes
    return {each: torch.rand(shape, generator=generator(5), dtype=F64) + 0.1 for each, shape in shapes.items()}


@cache
def dense(name: str) -> dict[str, Tensor]:
    """Every matrix of a problem without options, by reverse passes alone."""
    own = problem(name)
    layout = ParameterLayout.of(own.model.parameter_shapes)
    point = layout.flatten(own.parameters).requires_grad_()
    outputs = own.model(layout.unflatten(point), own.data.inputs)
    targets, weight, number = own.data.targets, own.loss.weight(own.data.targets), own.loss.num_terms(own.data.targets)

    def gradient(value: Tensor, at: Tensor, **options: Any) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(at)
        return torch.autograd.grad(value, at, retain_graph=True, materialize_grads=True, **options)[0]

    jacobian = torch.stack([gradient(each, point) for each in outputs.flatten()])
    leaf = outputs.detach().requires_grad_()
    slope = gradient(own.loss.total(leaf, targets), leaf, create_graph=True).flatten()
    curvature = torch.stack([gradient(each, leaf).flatten() for each in slope])
    first = gradient(own.loss.total(outputs, targets) / weight, point, create_graph=True)
    hessian = torch.stack([gradient(each, point) for each in first])
    terms = [own.loss.total(outputs[i : i + 1], targets[i : i + 1]) for i in range(NUM_SAMPLES)]
    scores = torch.stack([gradient(term, point) for term in terms]) * (number / weight)
    empirical, mean = scores.T @ scores / number, scores.sum(dim=0) / number
    found = {
        "hessian": hessian,
        "ggn": jacobian.T @ curvature @ jacobian / weight,
        "empirical-fisher": empirical,
        "gradient-covariance": empirical - torch.outer(mean, mean),
    }
    found["functional"] = found["hessian"] - found["ggn"]
    if name != "output":
        eye = torch.eye(leaf.numel(), dtype=F64)
        columns = [own.loss.fisher_product(leaf.detach(), targets, row.view_as(leaf)).flatten() for row in eye]
        found["fisher"] = jacobian.T @ torch.stack(columns) @ jacobian / weight
    return {matrix: values.detach() for matrix, values in found.items()}


CASES = [(name, matrix) for name in LOSSES for matrix in OPERATORS if (name, matrix) != ("output", "fisher")]


def close(found: Tensor, expected: Tensor, name: str) -> bool:
    scale = max(float(dense(name)["hessian"].abs().max()), float(expected.abs().max()))
    return bool((found - expected).abs().max() <= 1e-11 * scale)


@pytest.mark.parametrize(("name", "matrix"), CASES)
def test_products_and_the_dense_matrix(name: str, matrix: str) -> None:
    expected = dense(name)[matrix]
    operator = problem(name).operator(matrix, batch_size=3)
    assert close(operator.matmat(torch.eye(operator.dim, dtype=F64)), expected, name)
    assert close(assemble(problem(name).operator(matrix)), expected, name)
    assert name == "output" or operator.fallback_reason is None


@pytest.mark.parametrize(("name", "matrix"), [pair for pair in pairs(LOSSES, OPERATORS) if pair.values in CASES])
def test_weight_decay_a_preconditioner_and_a_shift(name: str, matrix: str) -> None:
    own = problem(name)
    layout = ParameterLayout.of(own.model.parameter_shapes)
    eye = torch.eye(layout.dim, dtype=F64)
    roots = layout.flatten(preconditioner(name)).rsqrt()
    decayed = dense(name)[matrix] + (DECAY * eye if matrix in ("hessian", "ggn") else 0)
    expected = roots[:, None] * decayed * roots + SHIFT * eye
    options: dict[str, Any] = {"preconditioner": preconditioner(name), "shift": SHIFT, "decay": DECAY}
    operator = own.operator(matrix, batch_size=3, **options)
    scale = roots.square().max() * dense(name)["hessian"].abs().max() + 1
    assert (operator.matmat(eye) - expected).abs().max() <= 1e-11 * scale
    assert (assemble(own.operator(matrix, **options)) - expected).abs().max() <= 1e-11 * scale
    backward = own.operator(matrix, fallback=Fallback("double-backward", "because"), **options)
    assert (backward.matvec(eye[2]) - expected[:, 2]).abs().max() <= 1e-11 * scale
    assert (backward.direct_products(eye[2:3])[0] - expected[2]).abs().max() <= 1e-11 * scale
    unscaled = own.operator(matrix, decay=DECAY, shift=SHIFT)
    assert (assemble(unscaled) - (decayed + SHIFT * eye)).abs().max() <= 1e-11 * scale
    block = own.operator(matrix, batch_size=3, block="layers.1.*", **options)
    inside = [index for index, each in enumerate(names_of(layout)) if each.startswith("layers.1.")]
    assert (block.matmat(torch.eye(block.dim, dtype=F64)) - expected[inside][:, inside]).abs().max() <= 1e-11 * scale
    restricted = own.operator(matrix, block="layers.1.*", **options)
    assert (assemble(restricted) - expected[inside][:, inside]).abs().max() <= 1e-11 * scale


def names_of(layout: ParameterLayout) -> list[str]:
    return [name for name, size in zip(layout.names, layout.sizes, strict=True) for _ in range(size)]


@pytest.mark.parametrize("name", ["mse", "cross-entropy", "class-weights", "binary-cross-entropy", "poisson-nll", "kl"])
def test_the_fisher_matrix_equals_gauss_newton_for_exponential_families(name: str) -> None:
    assert torch.equal(dense(name)["fisher"], dense(name)["fisher"].clone())
    assert close(dense(name)["fisher"], dense(name)["ggn"], name)


def test_of_a_loss_that_is_not_convex_the_gauss_newton_matrix_has_negative_eigenvalues_and_the_fisher_none() -> None:
    values = {matrix: torch.linalg.eigvalsh(dense("gaussian-nll")[matrix]) for matrix in ("ggn", "fisher")}
    assert values["ggn"][0] < -1e-3 * values["ggn"][-1]
    assert values["fisher"][0] > -1e-12 * values["fisher"][-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_of_a_covariance_that_cancels_lie_within_the_bound(dtype: torch.dtype) -> None:
    """All samples but for a small change are one: the covariance is a millionth of the mean gradient's square."""
    own = problem("mse")
    inputs = own.data.inputs[:1] + 1e-3 * drawn(NUM_SAMPLES, 3)
    targets = own.data.targets[:1].expand(NUM_SAMPLES, 2).contiguous() + 3
    errors, spectra = {}, {}
    for each in (torch.float64, dtype):
        data = Dataset(inputs, targets).to(each, torch.device("cpu"))
        parameters = {name: tensor.to(each) for name, tensor in own.parameters.items()}
        operator = GradientCovarianceOperator(EmpiricalRisk(own.model, own.loss, [data]), parameters)
        triangle = operator.start_triangle()
        for _ in operator.fill_triangle(triangle):
            pass
        spectra[each] = summarise_triangle(operator, triangle, eigenvectors=False)
        errors[each] = operator.product_error
    largest = abs(spectra[torch.float64].eigenvalues).max()
    difference = abs(spectra[dtype].eigenvalues - spectra[torch.float64].eigenvalues).max()
    assert difference <= spectra[dtype].zero_threshold
    assert spectra[dtype].inertia.negative == 0
    plain = problem("mse").operator("empirical-fisher").product_error
    assert errors[torch.float64] > 100 * plain
    assert largest > 0


def test_a_shift_that_cancels_the_matrix_widens_the_error() -> None:
    own = problem("mse")
    largest = float(torch.linalg.eigvalsh(dense("mse")["ggn"])[-1])
    plain = own.operator("ggn").product_error
    assert own.operator("ggn", shift=1e3 * largest).product_error < 4 * plain
    block = own.operator("ggn", block="layers.1.bias", shift=-1.0)
    assert abs(assemble(block)).max() <= 1e-14
    assert block.product_error * float(abs(assemble(block)).max()) >= 1e-17


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_preconditioner_must_be_positive(value: float) -> None:
    diagonal = {name: tensor.clone() for name, tensor in preconditioner("mse").items()}
    diagonal["layers.1.bias"][0] = value
    with pytest.raises(InvalidProblemError, match=r"must be positive and finite, but layers\.1\.bias is not"):
        problem("mse").operator("ggn", preconditioner=diagonal)
    del diagonal["layers.1.bias"]
    with pytest.raises(InvalidProblemError, match=r"no layers\.1\.bias"):
        problem("mse").operator("ggn", preconditioner=diagonal)


def test_an_exact_spectrum_of_a_preconditioned_matrix_has_its_shift() -> None:
    operator = problem("mse").operator("ggn", shift=0.5)
    assert isinstance(operator, GgnOperator)
    method = DenseEigensolver()
    state = method.init(operator, generator=generator(0))
    while not method.is_finished(state):
        state = method.step(operator, state)
    spectrum = method.result(operator, state)
    assert spectrum.eigenvalues.min() == pytest.approx(0.5, rel=1e-12)
