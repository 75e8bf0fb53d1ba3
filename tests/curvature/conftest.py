"""Small problems that several files look at."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss
from hessian_spectrum.curvature.models.base import Model, ParameterLayout
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.quadrature.results import ExactSpectrum

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def seeded() -> Callable[[int], torch.Generator]:
    return lambda seed: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def autograd_hessian() -> Callable[[Model, Loss, Dataset, dict[str, Tensor]], Tensor]:
    """Oracle: torch.func.hessian of the mean loss over all data at once."""

    def dense(model: Model, loss: Loss, data: Dataset, parameters: dict[str, Tensor]) -> Tensor:
        layout = ParameterLayout.of(model.parameter_shapes)

        def risk(point: Tensor) -> Tensor:
            outputs = model(layout.unflatten(point), data.inputs)
            return loss.total(outputs, data.targets) / loss.num_terms(data.targets)

        return torch.func.hessian(risk)(layout.flatten(parameters))

    return dense


@pytest.fixture(scope="session")
def digits_operator() -> Callable[[torch.dtype], HessianOperator]:
    """Mlp 64-8-10 on 256 digits in three unequal micro-batches, P = 610."""

    @cache
    def build(dtype: torch.dtype) -> HessianOperator:
        model = Mlp((64, 8, 10), "tanh")
        parameters = model.initial_parameters(torch.Generator().manual_seed(0), dtype, CPU)
        data = digits(256, torch.Generator().manual_seed(1)).to(dtype, CPU)
        return HessianOperator(EmpiricalRisk(model, CrossEntropy(), data.split(100)), parameters)

    return build


@pytest.fixture(scope="session")
def digits_spectrum(digits_operator: Callable[[torch.dtype], HessianOperator]) -> ExactSpectrum:
    return run(DenseEigensolver(), digits_operator(torch.float64), generator=torch.Generator())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The problems are too small to share, and threads that wait for each other on a busy machine cost tenfold."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
