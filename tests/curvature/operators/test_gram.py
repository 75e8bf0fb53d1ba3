"""Spectra of Gauss-Newton matrices by way of their Gram matrices, against the dense matrices."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver, DenseMatrixState
from hessian_spectrum.curvature.classification_losses import CrossEntropy, cross_entropy
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.curvature.models.class_axis import ClassesLast
from hessian_spectrum.curvature.models.conv import Conv
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators import gram
from hessian_spectrum.curvature.operators.matrices import OPERATORS
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.regression_losses import GaussianNll
from hessian_spectrum.quadrature.results import ExactSpectrum
from tests.fixtures.exported import exported
from tests.fixtures.networks import QUICK_SAMPLE, build, sampled

F64, CPU = torch.float64, torch.device("cpu")
MATRICES = ("ggn", "fisher", "empirical-fisher", "gradient-covariance")
TOLERANCE = 1e-12
"""Largest error of an eigenvalue, relative to the largest; the requirement is 1e-10."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(1), dtype=F64)


def labels(*shape: int, classes: int) -> Tensor:
    found = torch.randint(classes, shape, generator=generator(2))
    found.view(-1)[[1, 4]] = -100
    return found


def mlp_problem() -> tuple[Model, Loss, Dataset]:
    return Mlp((3, 8, 6, 3), "tanh", parametrization="ntk"), CrossEntropy(), Dataset(drawn(8, 3), labels(8, classes=3))


def weighted_problem() -> tuple[Model, Loss, Dataset]:
    model, _, data = mlp_problem()
    return model, cross_entropy((0.5, 2.0, 1.0), 0.1), data


def squares_problem() -> tuple[Model, Loss, Dataset]:
    return Mlp((3, 9, 2), "gelu", bias=False), Mse(), Dataset(drawn(7, 3), drawn(7, 2))


def tied_problem() -> tuple[Model, Loss, Dataset]:
    """A language model whose embedding is its output layer, with ignored tokens."""
    model = Gpt2(n_layer=1, n_head=2, n_embd=8, n_positions=4, vocab_size=5)
    tokens = torch.randint(5, (4, 3), generator=generator(3))
    return model, CrossEntropy(), Dataset(tokens, labels(4, 3, classes=5))


def conv_problem() -> tuple[Model, Loss, Dataset]:
    return Conv(channels=(2,), activation="tanh"), CrossEntropy(), Dataset(drawn(5, 64), labels(5, classes=10))


PROBLEMS = {
    "mlp": mlp_problem,
    "class weights": weighted_problem,
    "squares": squares_problem,
    "tied": tied_problem,
    "conv": conv_problem,
}


def operator_of(
    name: str, matrix: str, *, dtype: torch.dtype = F64, decay: float = 0.0, **options: Any
) -> RiskOperator:
    model, loss, data = PROBLEMS[name]()
    parameters = model.initial_parameters(generator(0), dtype, CPU)
    risk = EmpiricalRisk(model, loss, data.to(dtype, CPU).split(3), weight_decay=decay)
    return OPERATORS[matrix](risk, parameters, **options)


def spectrum_of(operator: RiskOperator) -> ExactSpectrum:
    return run(DenseEigensolver(), operator, generator=generator(0))


def error(spectrum: ExactSpectrum, operator: RiskOperator) -> float:
    """Return the largest error of an eigenvalue, relative to the largest of the dense matrix."""
    expected = torch.linalg.eigvalsh(assemble(operator))
    found = torch.from_numpy(spectrum.eigenvalues)
    assert len(found) == operator.dim
    return float((found - expected).abs().max() / expected.abs().max())


def uses_gram(operator: RiskOperator) -> bool:
    return DenseEigensolver().init(operator, generator=generator(0)).is_gram


class Mixed(nn.Module):
    """Outputs that depend on the other samples, as a function says."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.mix = nn.Linear(3, 8), nn.Linear(8, 2), mix

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.last(self.mix(torch.tanh(self.first(x))))
        return mixed


MIXTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda hidden: hidden - hidden.mean(0),
    "attention": lambda hidden: torch.softmax(hidden @ hidden.T, -1) @ hidden,
    "pairs": lambda hidden: hidden * hidden.flip(0),
}


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("num_samples", [2, 6])
def test_networks_that_mix_samples(mixture: str, matrix: str, num_samples: int) -> None:
    """Rows of B are those of the whole micro-batch: of a sample alone they would be wrong."""
    program = exported(Mixed(MIXTURES[mixture]).eval(), drawn(4, 3).float())
    model = ClassesLast(program, axis=1, output_axes=(2,)) if num_samples == 2 else program
    risk = EmpiricalRisk(model, Mse(), Dataset(drawn(num_samples, 3), drawn(num_samples, 2)).split(num_samples))
    operator = OPERATORS[matrix](risk, model.initial_parameters(generator(0), F64, CPU))
    assert uses_gram(operator)
    assert error(spectrum_of(operator), operator) < TOLERANCE


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_eigenvalues_are_those_of_the_dense_matrix(name: str, matrix: str) -> None:
    operator = operator_of(name, matrix)
    assert uses_gram(operator)
    spectrum = spectrum_of(operator)
    assert error(spectrum, operator) < TOLERANCE
    assert spectrum.num_products == operator.gram_form.order < operator.dim
    assert spectrum.inertia.negative == 0
    assert spectrum.inertia.zero >= operator.dim - operator.gram_form.order
    assert spectrum.trace.value == pytest.approx(spectrum.eigenvalues.sum())


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_a_preconditioner_a_block_decay_and_a_shift(name: str, matrix: str) -> None:
    shapes = PROBLEMS[name]()[0].parameter_shapes
    diagonal = {each: torch.rand(shape, generator=generator(5), dtype=F64) + 0.1 for each, shape in shapes.items()}
    block = next(iter(shapes)).rsplit(".", 1)[0] + ".*"
    for options in ({"preconditioner": diagonal, "shift": -0.3}, {"decay": 0.2, "shift": 0.1}, {"block": block}):
        operator = operator_of(name, matrix, **options)
        assert error(spectrum_of(operator), operator) < TOLERANCE


def test_a_shift_moves_the_zeros() -> None:
    operator = operator_of("mlp", "ggn", shift=0.5)
    spectrum = spectrum_of(operator)
    assert (spectrum.inertia.zero, spectrum.inertia.positive) == (0, operator.dim)
    assert (spectrum.eigenvalues == 0.5).sum() >= operator.dim - operator.gram_form.order


def test_weight_decay_with_a_preconditioner_takes_the_dense_way() -> None:
    diagonal = {name: torch.full(shape, 2.0) for name, shape in PROBLEMS["mlp"]()[0].parameter_shapes.items()}
    assert operator_of("mlp", "ggn", decay=0.2, preconditioner=diagonal).gram_form is None
    assert operator_of("mlp", "fisher", decay=0.2, preconditioner=diagonal).gram_form is not None


def test_a_loss_that_is_not_convex_takes_the_dense_way() -> None:
    model = Mlp((3, 8, 4), "tanh")
    risk = EmpiricalRisk(model, GaussianNll(), [Dataset(drawn(3, 3), 3 * drawn(3, 2))])
    parameters = model.initial_parameters(generator(0), F64, CPU)
    ggn, fisher = (OPERATORS[matrix](risk, parameters) for matrix in ("ggn", "fisher"))
    assert ggn.gram_form is None
    assert spectrum_of(ggn).inertia.negative > 0
    assert error(spectrum_of(fisher), fisher) < TOLERANCE


def test_eigenvectors_and_the_hessian_take_the_dense_way() -> None:
    state = DenseEigensolver(eigenvectors=True).init(operator_of("mlp", "ggn"), generator=generator(0))
    assert not state.is_gram
    assert operator_of("mlp", "hessian").gram_form is None


@pytest.mark.parametrize("name", ["mlp", "tied", "conv"])
def test_rows_in_many_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = spectrum_of(operator_of(name, "ggn"))
    operator = operator_of(name, "ggn")
    monkeypatch.setattr(gram, "BLOCK_BYTES", 5 * 16 * operator.dim)
    monkeypatch.setattr(gram, "HELD_ROWS_BYTES", 4 * 16 * operator.dim)
    split = spectrum_of(operator)
    assert abs(split.eigenvalues - whole.eigenvalues).max() < TOLERANCE * whole.eigenvalues.max()


@pytest.mark.parametrize("name", ["mlp", pytest.param("tied", marks=pytest.mark.long)])
def test_a_run_that_is_resumed_gives_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = operator_of(name, "ggn")
    monkeypatch.setattr(gram, "BLOCK_BYTES", 5 * 16 * operator.dim)
    monkeypatch.setattr(gram, "HELD_ROWS_BYTES", 4 * 16 * operator.dim)
    whole = spectrum_of(operator)
    solver = DenseEigensolver()
    state = solver.init(operator, generator=generator(0))
    counts = []
    while not solver.is_finished(state):
        # the steps of another process begin with the triangle alone
        state = solver.step(operator_of(name, "ggn"), DenseMatrixState(state.triangle, state.is_gram))
        counts.append(solver.count(state).done)
    assert len(counts) > 2
    assert counts == sorted(counts)
    assert (solver.result(operator, state).eigenvalues == whole.eigenvalues).all()


def test_float32_is_within_its_stated_error() -> None:
    single, double = operator_of("conv", "ggn", dtype=torch.float32), operator_of("conv", "ggn")
    found, expected = spectrum_of(single), spectrum_of(double)
    assert abs(found.eigenvalues - expected.eigenvalues).max() <= found.zero_threshold


def test_a_large_matrix_lists_its_zeros_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hessian_spectrum.curvature.algorithms.exact.LARGEST_LIST", 10)
    whole, operator = operator_of("mlp", "ggn"), operator_of("mlp", "ggn", shift=-0.1)
    spectrum = spectrum_of(operator)
    assert spectrum.repeated is not None
    assert spectrum.repeated.value == -0.1
    assert len(spectrum.eigenvalues) + spectrum.repeated.multiplicity == operator.dim
    assert sum((spectrum.inertia.negative, spectrum.inertia.zero, spectrum.inertia.positive)) == operator.dim
    assert spectrum.trace.value == pytest.approx(float(assemble(whole).trace()) - 0.1 * operator.dim)


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of export
        yield


@pytest.mark.parametrize("name", sampled(of=QUICK_SAMPLE))
def test_networks_of_users(name: str) -> None:
    network = build(name)
    with quiet():
        model = exported(network.module, network.inputs)
    named = dict(network.module.named_parameters())
    parameters = {each: named[each].detach().double() for each in model.parameter_shapes}
    inputs = network.inputs.double() if network.inputs.is_floating_point() else network.inputs
    outputs = model(parameters, inputs).detach()
    data = Dataset(inputs, outputs + torch.randn(outputs.shape, generator=generator(1), dtype=F64))
    operator = OPERATORS["empirical-fisher"](EmpiricalRisk(model, Mse(), data.split(2)), parameters)
    form = operator.gram_form
    triangle = form.start()
    for _ in form.fill(triangle):
        pass
    matrix = triangle.rows.tril() + triangle.rows.tril(-1).T
    trace = float(matrix.trace())
    # trace and Frobenius norm are those of the dense matrix, whose products are checked elsewhere
    square = float(matrix.square().sum())
    dense = torch.cat([operator.matmat(block) for block in torch.eye(operator.dim, dtype=F64).split(512, 1)], dim=1)
    assert trace == pytest.approx(float(dense.trace()), rel=1e-10)
    assert square == pytest.approx(float(dense.square().sum()), rel=1e-10)
