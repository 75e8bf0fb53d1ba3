"""The stated error of every eigenvalue holds for networks of users, whatever the rounding of their operators."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.written_out import WRITTEN_OUT
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.quadrature.results import ExactSpectrum
from tests.fixtures.exported import exported
from tests.fixtures.longer import long

F64 = torch.float64
Function = Callable[[Tensor], Tensor]


def prefix_sums(h: Tensor) -> Tensor:
    return torch.stack([torch.logsumexp(h[:, : end + 1], -1) for end in range(h.shape[-1])], -1)


def prefix_products(h: Tensor) -> Tensor:
    return torch.stack([h[:, 0], h[:, 0] * h[:, 1], h[:, 0] * h[:, 1] * h[:, 2]], -1)


PAIRS: dict[str, tuple[Function, Function]] = {
    "logcumsumexp": (lambda h: torch.logcumsumexp(h, -1), prefix_sums),
    "logcumsumexp far apart": (
        lambda h: torch.logcumsumexp(30 * h, -1) / 30,
        lambda h: prefix_sums(30 * h) / 30,
    ),
    "cumprod": (lambda h: torch.cumprod(h, -1), prefix_products),
    "tanh": (torch.tanh, lambda h: 1 - 2 / (torch.exp(2 * h) + 1)),
    "softmax": (lambda h: F.softmax(h, -1), lambda h: torch.exp(h) / torch.exp(h).sum(-1, keepdim=True)),
    "layer norm": (
        lambda h: F.layer_norm(h, (3,)),
        lambda h: (h - h.mean(-1, True)) / (h.var(-1, keepdim=True, correction=0) + 1e-5).sqrt(),
    ),
    "gelu": (F.gelu, lambda h: h * (1 + torch.erf(h / 2**0.5)) / 2),
    "softplus": (F.softplus, lambda h: torch.log1p(torch.exp(h))),
}
"""Functions and the same in another order of operations."""


class Net(nn.Module):
    """Two linear layers around a function."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 3), nn.Linear(3, 2), function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.function(self.first(x)))
        return result


def spectrum(function: Function, seed: int, dtype: torch.dtype) -> ExactSpectrum:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net(function)
    x = torch.randn(6, 4, generator=generator)
    labels = torch.randint(0, 2, (6,), generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of export
        model = exported(net, x)
    parameters = {name: dict(net.named_parameters())[name].detach().to(dtype) for name in model.parameter_shapes}
    risk = EmpiricalRisk(model, CrossEntropy(), [Dataset(x.to(dtype), labels)])
    return run(DenseEigensolver(), HessianOperator(risk, parameters), generator=generator)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seed", [1, long(2), long(3)])
def test_eigenvalues_are_known_to_the_stated_error(name: str, seed: int) -> None:
    """In float64 both orders of operations have errors; float32 is measured against float64."""
    function, other = PAIRS[name]
    reference = spectrum(other, seed, F64)
    scale = np.abs(reference.eigenvalues).max()
    for dtype in (F64, torch.float32):
        found = spectrum(function, seed, dtype)
        error = np.abs(found.eigenvalues - reference.eigenvalues).max()
        assert error <= found.zero_threshold
        assert found.zero_threshold <= 200 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_an_operator_rounds_away_is_part_of_the_stated_error(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own logcumsumexp has errors of hundreds to thousands of epsilons, which the sensitivity misses."""
    function, other = PAIRS["logcumsumexp"]
    reference = spectrum(other, seed, F64)
    monkeypatch.setitem(WRITTEN_OUT, "aten.logcumsumexp", torch.logcumsumexp)  # type: ignore[arg-type]
    found = spectrum(function, seed, F64)
    error = np.abs(found.eigenvalues - reference.eigenvalues).max()
    assert 3 * reference.zero_threshold < error <= found.zero_threshold <= 100 * error
