"""Networks of users: exported, saved and read, their products are those of the original module."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from tests.fixtures.exported import exported
from tests.fixtures.networks import QUICK_SAMPLE, SAMPLE, SLOW, build, sampled
from tests.fixtures.products import ModuleRisk, columns, default_dtype

CPU = torch.device("cpu")
LARGEST_DENSE = 130
"""Number of parameters up to which the dense matrix is computed, too."""

TAKEN = SAMPLE | SLOW
"""The sample, and the networks that the default suite does not take over HTTP."""

OPERATORS: dict[str, type[RiskOperator]] = {
    "hessian": HessianOperator,
    "ggn": GgnOperator,
    "functional": FunctionalOperator,
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Case:
    """A network with its exported form, data and oracle products with three columns."""

    def __init__(self, name: str) -> None:
        network = build(name)
        self.network = network
        self.recordings = (1, 3) if name in SAMPLE else (3,)
        """Numbers of columns for each of which there is a recording to test."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of export
            self.model: Exported = exported(network.module, network.inputs)
        module = network.module.double()
        for each in module.modules():
            if isinstance(each, torch.nn.Embedding):
                each.padding_idx = None  # all rows are parameters: derivatives are those of the values
        inputs = network.inputs.double() if network.inputs.is_floating_point() else network.inputs
        with torch.no_grad(), default_dtype(torch.float64):
            outputs = module(inputs).double()
        outputs = outputs.unsqueeze(-1) if outputs.ndim == 1 else outputs
        self.data = Dataset(inputs, outputs + torch.randn(outputs.shape, generator=seeded(1), dtype=torch.float64))
        self.risk = ModuleRisk(module, inputs, self.data.targets, Mse())
        self.outputs = outputs
        dim = sum(each.numel() for each in self.risk.parameters)
        self.vectors = torch.randn(dim, 3, generator=seeded(2), dtype=torch.float64)
        self._expected: dict[str, Tensor] = {}

    def parameters(self, dtype: torch.dtype) -> Parameters:
        named = dict(self.network.module.named_parameters())
        return {name: named[name].detach().to(dtype) for name in self.model.parameter_shapes}

    def operator(self, matrix: str, dtype: torch.dtype, batch_size: int = 2) -> RiskOperator:
        batches = self.data.to(dtype, CPU).split(batch_size)
        return OPERATORS[matrix](EmpiricalRisk(self.model, Mse(), batches), self.parameters(dtype))

    def expected(self, matrix: str) -> Tensor:
        if matrix not in self._expected:
            self._expected[matrix] = self._products(matrix)
        return self._expected[matrix]

    def _products(self, matrix: str) -> Tensor:
        with default_dtype(torch.float64):
            if self.network.oracle == "differences":
                return columns(self.risk.product_by_differences, self.vectors)
            return columns(lambda vector: self.risk.product(matrix, vector), self.vectors)


@pytest.fixture(autouse=True)
def no_slow_vmap() -> Iterator[None]:
    """Operators without a rule for vmap raise, where they are otherwise computed column by column with a warning."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    """All tests of a network come one after the other, so that no more than one is held at a time."""
    return Case(request.param)


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", sampled(of=TAKEN), indirect=True)
def test_outputs_are_those_of_the_module(case: Case) -> None:
    outputs = case.model(case.parameters(torch.float64), case.data.inputs)
    tolerance = 1e-6 if case.network.has_own_float32 else 1e-14
    assert outputs.dtype == torch.float64
    assert relative_error(outputs, case.outputs) < tolerance


# Each test has all networks as parameters in the same order, by which pytest groups the tests of a network.
@pytest.mark.parametrize("case", sampled(of=TAKEN), indirect=True)
def test_products_of_the_hessian(case: Case) -> None:
    for num_columns in case.recordings:
        check_products(case, "hessian", num_columns)


@pytest.mark.parametrize("case", sampled(), indirect=True)
def test_products_of_the_gauss_newton_matrix(case: Case) -> None:
    check_products(case, "ggn", 3)


@pytest.mark.parametrize("case", sampled(of=QUICK_SAMPLE), indirect=True)
def test_products_of_the_functional_hessian(case: Case) -> None:
    check_products(case, "functional", 3)


def check_products(case: Case, matrix: str, num_columns: int) -> None:
    """Those in float64 against the oracle."""
    if case.network.oracle == "differences" and matrix != "hessian":
        pytest.skip("there is no oracle")
    expected = case.expected(matrix)
    tolerance = 5e-6 if case.network.has_own_float32 else case.network.tolerance
    assert expected.any()
    operator = case.operator(matrix, torch.float64)
    products = operator.matmat(case.vectors[:, :num_columns])
    assert relative_error(products, expected[:, :num_columns]) < tolerance
    assert (operator.fallback_reason is None) == (case.network.fallback is None), operator.fallback_reason
    assert operator.fallback_reason is None or str(case.network.fallback) in operator.fallback_reason


@pytest.mark.parametrize("case", sampled(of=QUICK_SAMPLE), indirect=True)
def test_products_in_float32(case: Case) -> None:
    expected = case.expected("hessian")
    operator = case.operator("hessian", torch.float32, batch_size=3)  # and one sample alone
    assert relative_error(operator.matmat(case.vectors.float()), expected) < max(5e-6, case.network.tolerance)
    assert (operator.fallback_reason is None) == (case.network.fallback is None), operator.fallback_reason


@pytest.mark.parametrize("case", sampled(), indirect=True)
def test_the_dense_matrix_is_that_of_the_products(case: Case) -> None:
    """Groups of parameters have recordings of their own there, with tangents of their own parameters alone."""
    if len(case.vectors) > LARGEST_DENSE:
        pytest.skip("too large")
    operator = case.operator("hessian", torch.float64)
    matrix = assemble(operator)
    products = operator.matmat(case.vectors)
    assert relative_error(matrix @ case.vectors, products) < 1e-12
    assert operator.fallback_reason is None
