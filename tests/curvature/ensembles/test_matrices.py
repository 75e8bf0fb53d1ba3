"""Products, dense spectra, largest eigenvalues and traces of all members, against dense autograd of each."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.ensembles import operators
from hessian_spectrum.curvature.ensembles.eigenvalues import dense_matrices, dense_spectra, top_eigenvalues, traces
from hessian_spectrum.curvature.ensembles.operators import EnsembleOperator, MemberOperator
from hessian_spectrum.curvature.ensembles.stack import Ensemble, stacked
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import OPERATORS
from hessian_spectrum.curvature.operators.products import Matrix
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

CPU = torch.device("cpu")
SIZE, NUM_SAMPLES, DIM, OUTPUTS = 5, 11, 3, 2

Oracle = Callable[[Model, Loss, Dataset, Parameters], Tensor]

MODELS = {
    "tanh": Mlp((DIM, 4, OUTPUTS), "tanh"),
    "relu-ntk": Mlp((DIM, 4, 3, OUTPUTS), "relu", parametrization="ntk"),
    "linear": Mlp((DIM, 4, 3, OUTPUTS), "linear", bias=False, parametrization="mup"),
    "single": Mlp((DIM, OUTPUTS), "relu"),
}


def members(
    model: Mlp, loss: Loss, *, is_shared: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[list[Dataset], list[Parameters]]:
    """Data and parameters of each network."""
    data = []
    for index in range(SIZE):
        generator = torch.Generator().manual_seed(0 if is_shared else index)
        own = gaussian(NUM_SAMPLES, DIM, OUTPUTS, teacher="linear", noise=0.3, generator=generator)
        if not isinstance(loss, Mse):
            own = Dataset(own.inputs, torch.randint(0, OUTPUTS, (NUM_SAMPLES,), generator=generator))
        data.append(data[0] if is_shared and data else own.to(dtype, CPU))
    drawn = [model.initial_parameters(torch.Generator().manual_seed(50 + index), dtype, CPU) for index in range(SIZE)]
    return data, drawn


@pytest.mark.parametrize("loss", [Mse(), CrossEntropy()], ids=["mse", "cross-entropy"])
@pytest.mark.parametrize("is_shared", [False, True], ids=["own data", "shared data"])
@pytest.mark.parametrize("name", MODELS)
def test_matrices_and_traces_are_those_of_autograd(
    name: str, is_shared: bool, loss: Loss, autograd_hessian: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "PART_BYTES", 6_000)  # several parts, not all of one size
    model = MODELS[name]
    data, drawn = members(model, loss, is_shared=is_shared)
    exact = torch.stack([autograd_hessian(model, loss, *each) for each in zip(data, drawn, strict=True)])
    ensemble, parameters = Ensemble.of(model, loss, data), stacked(drawn)
    scale = float(exact.abs().max())
    found = dense_matrices(EnsembleOperator(ensemble, parameters))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-13 * scale)
    if ensemble.is_linear:
        found = dense_matrices(EnsembleOperator(ensemble.compressed(), parameters))
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12 * scale)
    own_traces = exact.diagonal(dim1=1, dim2=2).sum(dim=1)
    torch.testing.assert_close(traces(ensemble, parameters), own_traces, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("matrix", ["hessian", "ggn", "functional", "fisher", "empirical-fisher"])
def test_products_and_their_errors_are_those_of_single_operators(matrix: Matrix) -> None:
    model, loss = MODELS["tanh"], CrossEntropy()
    data, drawn = members(model, loss)
    ensemble = Ensemble.of(model, loss, data, weight_decay=0.25)
    whole = EnsembleOperator(ensemble, stacked(drawn), matrix=matrix, block="*.weight", micro_batch_size=4)
    vectors = torch.randn(3, SIZE, whole.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    products, direct = whole.products(vectors), whole.direct_products(vectors)
    for index, (own, parameters) in enumerate(zip(data, drawn, strict=True)):
        risk = EmpiricalRisk(model, loss, [own], weight_decay=0.25)
        single = OPERATORS[matrix](risk, parameters, block="*.weight")
        expected = single.matmat(vectors[:, index].T).T
        for found in (products[:, index], direct[:, index], MemberOperator(whole, index).matmat(vectors[:, index].T).T):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-14 * float(expected.abs().max()))
        plain = OPERATORS[matrix](EmpiricalRisk(model, loss, [own]), parameters, block="*.weight")
        # a measurement of rounding, which is itself rounded in another order
        assert float(whole.product_errors[index]) == pytest.approx(plain.product_error, rel=0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["tanh", "linear"])
def test_largest_eigenvalues_and_residuals(name: str, dtype: torch.dtype) -> None:
    model = MODELS[name]
    data, drawn = members(model, Mse(), dtype=dtype)
    operator = EnsembleOperator(Ensemble.of(model, Mse(), data), stacked(drawn))
    spectra = dense_spectra(operator)
    generators = [torch.Generator().manual_seed(index) for index in range(SIZE)]
    found = top_eigenvalues(operator, generators=generators, tolerance=1e-4)
    scale, rounding = spectra.abs().amax(dim=1), 100 * torch.finfo(dtype).eps
    assert bool(found.converged.all())
    assert bool((found.residuals <= 1e-4 * found.values).all())
    assert bool(((found.values - spectra[:, -1]).abs() <= (1e-6 + rounding) * scale).all())
    distances = (spectra - found.values.unsqueeze(1)).abs().amin(dim=1)
    assert bool((distances <= found.residuals + rounding * scale).all())


def test_runs_that_end_early_or_late_do_not_disturb_the_others() -> None:
    # the first network is zero, so that its Hessian is, too, and its run ends at the first step; the limit ends others
    model = MODELS["linear"]
    data, drawn = members(model, Mse())
    drawn[0] = {name: torch.zeros_like(values) for name, values in drawn[0].items()}
    operator = EnsembleOperator(Ensemble.of(model, Mse(), data), stacked(drawn))
    spectra = dense_spectra(operator)
    generators = [torch.Generator().manual_seed(index) for index in range(SIZE)]
    found = top_eigenvalues(operator, generators=generators, tolerance=1e-10, max_steps=100)
    torch.testing.assert_close(found.values, spectra[:, -1], rtol=1e-9, atol=1e-12)
    assert found.num_steps[0] == 1
    short = top_eigenvalues(operator, generators=generators, tolerance=0.0, max_steps=3)
    assert short.converged.tolist() == [True, *[False] * (SIZE - 1)]
    assert bool((short.values <= spectra[:, -1] + 1e-12).all())


def test_an_ensemble_refuses_targets_that_do_not_count() -> None:
    model = MODELS["tanh"]
    data, _ = members(model, CrossEntropy())
    ensemble = Ensemble.of(model, CrossEntropy(), data)
    labels = ensemble.targets.clone()
    labels[1, 2] = -100
    with pytest.raises(InvalidProblemError, match="must count"):
        replace(ensemble, targets=labels)
