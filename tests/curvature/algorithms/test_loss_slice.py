"""The loss along eigenvectors: values of the risk itself, and a quadratic model that it approaches."""

import copy

import pytest
import torch

from hessian_spectrum.curvature.algorithms.loss_slice import LossSlice
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator

F64 = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def risk() -> EmpiricalRisk:
    inputs = torch.randn(9, 3, generator=generator(1), dtype=F64)
    data = Dataset(inputs, torch.randint(2, (9,), generator=generator(2)))
    return EmpiricalRisk(Mlp((3, 4, 2), "tanh"), CrossEntropy(), data.split(4), weight_decay=0.1)


def operator_of(risk: EmpiricalRisk, block: str | None = None) -> HessianOperator:
    parameters = risk.model.initial_parameters(generator(0), F64, torch.device("cpu"))
    return HessianOperator(risk, parameters, block=block)


def slice_of(radius: float, num_directions: int = 2, num_points: int = 5) -> LossSlice:
    return LossSlice(num_directions, "both-ends", radius, num_points, 1e-8, 200)


def test_losses_are_those_of_displaced_parameters(risk: EmpiricalRisk) -> None:
    operator = operator_of(risk)
    found = run(slice_of(0.5), operator, generator=generator(3))
    point = operator.layout.flatten(risk.model.initial_parameters(generator(0), F64, torch.device("cpu")))
    vectors = torch.from_numpy(found.eigenvectors)
    expected = [
        float(risk.value(operator.layout.unflatten(point + a * vectors[0] + b * vectors[1])))
        for a in found.offsets
        for b in found.offsets
    ]
    assert found.losses == pytest.approx(expected, rel=1e-12)
    assert all(pair.converged for pair in found.eigenpairs)


@pytest.mark.parametrize("num_directions", [1, 2])
def test_the_quadratic_model_is_off_by_the_third_power(num_directions: int, risk: EmpiricalRisk) -> None:
    def deviation(radius: float) -> float:
        found = run(slice_of(radius, num_directions), operator_of(risk), generator=generator(3))
        return max(abs(a - b) for a, b in zip(found.losses, found.quadratic_model, strict=True))

    assert deviation(0.01) == pytest.approx(deviation(0.02) / 8, rel=0.2)


def test_a_block_moves_its_own_parameters(risk: EmpiricalRisk) -> None:
    whole = operator_of(risk)
    block = operator_of(risk, "layers.1.*")
    displacement = torch.ones(block.dim, dtype=F64)
    padded = torch.zeros(whole.dim, dtype=F64)
    padded[-block.dim :] = 1
    assert block.loss_at(displacement) == whole.loss_at(padded)


def test_a_run_that_is_resumed_gives_the_same_numbers(risk: EmpiricalRisk) -> None:
    method, operator = slice_of(0.5), operator_of(risk)
    state = method.init(operator, generator=generator(3))
    while not method.is_finished(state):
        state = copy.deepcopy(method.step(operator, state))
    assert method.result(operator, state).losses == run(method, operator, generator=generator(3)).losses
