"""Lanczos runs of all members: those of each member alone, resumed with the same bits, and undisturbed by failures."""

import json

import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms import lanczos as single
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.ensembles.lanczos import EnsembleLanczos, EnsembleLanczosState, LanczosSummaries, norms
from hessian_spectrum.curvature.ensembles.operators import EnsembleOperator
from hessian_spectrum.curvature.ensembles.stack import Ensemble, stacked
from hessian_spectrum.curvature.iteration import last_state
from hessian_spectrum.curvature.linear_algebra import norm, sphere_probe
from hessian_spectrum.curvature.losses import EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.curvature.serialization import deserialize, serialize
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.quadrature.exceptions import NonFiniteError
from hessian_spectrum.quadrature.results import LanczosSpectrum, Reorthogonalisation

CPU = torch.device("cpu")
SIZE, NUM_STEPS, NUM_PROBES = 4, 6, 2
MODEL = Mlp((3, 5, 2), "tanh")
DATA = [
    gaussian(12, 3, 2, teacher="linear", noise=0.2, generator=torch.Generator().manual_seed(index))
    for index in range(SIZE)
]


def drawn() -> list[dict[str, Tensor]]:
    generators = [torch.Generator().manual_seed(20 + index) for index in range(SIZE)]
    return [MODEL.initial_parameters(generator, torch.float64, CPU) for generator in generators]


def operator_at(parameters: list[dict[str, Tensor]]) -> EnsembleOperator:
    return EnsembleOperator(Ensemble.of(MODEL, Mse(), DATA), stacked(parameters))


def runs(reorthogonalisation: Reorthogonalisation = "full") -> EnsembleLanczos:
    generators = [torch.Generator().manual_seed(index) for index in range(SIZE)]
    return EnsembleLanczos(NUM_STEPS, NUM_PROBES, generators, reorthogonalisation)


def finished(operator: EnsembleOperator, iteration: EnsembleLanczos) -> EnsembleLanczosState:
    return last_state(iteration, operator, generator=torch.Generator())


@pytest.mark.parametrize("reorthogonalisation", ["full", "none"])
def test_runs_are_those_of_each_member(reorthogonalisation: Reorthogonalisation) -> None:
    parameters = drawn()
    state = finished(operator_at(parameters), runs(reorthogonalisation))
    for member, (data, own) in enumerate(zip(DATA, parameters, strict=True)):
        operator = HessianOperator(EmpiricalRisk(MODEL, Mse(), [data]), own)
        generator = torch.Generator().manual_seed(member)
        probes = [sphere_probe(operator.dim, generator) for _ in range(NUM_PROBES)]
        alone = single.start(
            operator,
            probes,
            num_probes=NUM_PROBES,
            num_steps=NUM_STEPS,
            reorthogonalisation=reorthogonalisation,
        )
        while not alone.finished:
            single.advance(operator, alone)
        scale = max(alone.scale)
        for found, expected in ((state.diagonal, alone.diagonal), (state.off_diagonal, alone.off_diagonal)):
            torch.testing.assert_close(found[:, member], expected, rtol=0, atol=1e-11 * scale)
        assert state.num_done[:, member].tolist() == alone.num_done
        assert state.scale[:, member].tolist() == pytest.approx(alone.scale, rel=1e-12)


def test_a_saved_state_continues_with_the_same_bits() -> None:
    operator, iteration = operator_at(drawn()), runs()
    whole = finished(operator, iteration)
    state = runs().init(operator, generator=torch.Generator())
    for _ in range(3):
        iteration.step(operator, state)
    saved = serialize(iteration.save(state))
    document, tensors = json.loads(json.dumps(saved.document)), [each.clone() for each in saved.tensors]
    state = iteration.load(operator, deserialize(document, tensors, CPU))
    while not iteration.is_finished(state):
        iteration.step(operator, state)
    assert torch.equal(state.diagonal, whole.diagonal)
    assert torch.equal(state.off_diagonal, whole.off_diagonal)


def test_a_member_whose_products_are_not_finite_fails_alone() -> None:
    parameters = drawn()
    healthy = finished(operator_at(parameters), runs())
    parameters[1]["layers.0.weight"][0, 0] = torch.nan
    operator = operator_at(parameters)
    state = finished(operator, runs())
    assert state.failed_at.tolist() == [[0, 1, 0, 0]] * NUM_PROBES
    others = [0, 2, 3]
    torch.testing.assert_close(state.diagonal[:, others], healthy.diagonal[:, others], rtol=1e-12, atol=1e-12)
    spectra = LanczosSummaries(operator, Smoothing(16, 3.0)).spectra(state)
    assert [isinstance(each, LanczosSpectrum) for each in spectra] == [True, False, True, True]
    assert isinstance(spectra[1], NonFiniteError)
    assert str(spectra[1]) == "the matrix-vector product of Lanczos step 1 holds NaN or infinity"


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200, 0.0])
def test_norms_neither_overflow_nor_underflow(size: float) -> None:
    vectors = size * torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert norms(vectors).tolist() == pytest.approx([norm(vector) for vector in vectors], rel=1e-13)
