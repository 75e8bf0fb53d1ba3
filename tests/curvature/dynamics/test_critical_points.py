"""Critical points: gradients and indices by automatic differentiation, energies by least squares."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.dynamics.critical_points import CriticalPoints, CriticalPointSearch
from hessian_spectrum.curvature.dynamics.single_hidden_layer import Networks, random_networks
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.serialization import Serialized, deserialize, serialize

SEARCH = CriticalPointSearch(max_descent_steps=300, patience=6, round_size=20)
WIDTH, NUM_SAMPLES, COUNT = 4, 16, 60


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(activation: str = "tanh", count: int = COUNT) -> Networks:
    return random_networks(count, WIDTH, NUM_SAMPLES, activation=activation, generator=generator(1))


@pytest.fixture(scope="module")
def searched() -> CriticalPoints:
    return run(SEARCH, problem(), generator=generator(2))


def energy_of(networks: Networks, index: int) -> Callable[[Tensor], Tensor]:
    def energy(flat: Tensor) -> Tensor:
        first, second = flat.reshape(2, WIDTH, WIDTH)
        hidden = first @ networks.inputs[index]
        outputs = second @ (hidden.tanh() if networks.activation == "tanh" else hidden)
        return (outputs - networks.targets[index]).square().sum() / (2 * NUM_SAMPLES * WIDTH)

    return energy


def test_energies_norms_and_indices_are_those_of_automatic_differentiation(searched: CriticalPoints) -> None:
    networks = problem()
    for index in range(0, COUNT, 3):
        flat = torch.from_numpy(searched.parameters[index])
        energy = energy_of(networks, index)
        gradient = WIDTH * torch.autograd.functional.jacobian(energy, flat)
        values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(energy, flat))
        assert searched.energy[index] == pytest.approx(float(energy(flat)), rel=1e-12)
        assert searched.gradient_norm[index] == pytest.approx(float(gradient.norm()), rel=1e-6, abs=1e-13)
        negative = float((values < -1e-8 * values.abs().max()).double().mean())
        assert searched.index[index] == pytest.approx(negative, abs=1e-12)


def test_some_searches_reach_critical_points_of_several_indices(searched: CriticalPoints) -> None:
    reached = searched.gradient_norm <= SEARCH.tolerance
    assert 3 <= reached.sum() < COUNT
    assert len(np.unique(searched.index[reached])) > 2


def test_searches_without_a_critical_point_slow_down_where_the_gradient_is_flat() -> None:
    search = CriticalPointSearch(max_descent_steps=300, patience=40, max_iterations=1000)
    found, networks, ratios = run(search, problem(count=16), generator=generator(2)), problem(count=16), []
    for index in np.flatnonzero(found.gradient_norm > search.tolerance):
        flat = torch.from_numpy(found.parameters[index])
        energy = energy_of(networks, int(index))
        gradient = torch.autograd.functional.jacobian(energy, flat)
        hessian = torch.autograd.functional.hessian(energy, flat)
        ratios.append(float((hessian @ gradient).norm() / (torch.linalg.matrix_norm(hessian, 2) * gradient.norm())))
    assert len(ratios) > 8
    assert np.median(ratios) < 0.1  # |H g| is small beside |H| |g|


def test_minimizers_of_linear_networks_are_least_squares() -> None:
    networks = problem("linear", 12)
    search = CriticalPointSearch(objective="loss", max_descent_steps=0, patience=50, tolerance=1e-9)
    found = run(search, networks, generator=generator(3))
    for index in range(12):
        x, y = networks.inputs[index].numpy().T, networks.targets[index].numpy().T
        rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        assert found.energy[index] == pytest.approx((rest**2).sum() / (2 * NUM_SAMPLES * WIDTH), rel=1e-10)
    assert (found.gradient_norm < 1e-9).all()
    assert (found.index == 0).all()


def test_minimising_the_loss_finds_lower_energies_than_minimising_the_gradient(searched: CriticalPoints) -> None:
    search = CriticalPointSearch(objective="loss", max_descent_steps=0, patience=50, max_iterations=200)
    found = run(search, problem(), generator=generator(3))
    converged = found.gradient_norm < 1e-8
    assert converged.sum() >= 5
    assert (found.index[converged] == 0).all()
    reached = searched.gradient_norm <= SEARCH.tolerance
    assert found.energy.mean() < searched.energy[reached].mean()


class StoppedError(Exception):
    pass


class File:
    """Serialises every state, as a file would hold it."""

    def __init__(self) -> None:
        self.saved: Serialized | None = None

    def restore(self) -> Any | None:
        return None if self.saved is None else deserialize(self.saved.document, self.saved.tensors, torch.device("cpu"))

    def update(self, snapshot: Callable[[], Any]) -> None:
        written = serialize(snapshot())
        self.saved = Serialized(written.document, [tensor.clone() for tensor in written.tensors])

    def seal(self) -> None:
        pass


def test_a_search_that_is_stopped_gives_the_same_bits(searched: CriticalPoints) -> None:
    file, reports = File(), []

    def stop(phase: str, done: int, total: int) -> None:
        reports.append((phase, done, total))
        if done == 40:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(SEARCH, problem(), generator=generator(2), progress=stop, checkpointer=file)
    assert reports == [("searches", 20, COUNT), ("searches", 40, COUNT)]
    resumed = run(SEARCH, problem(), generator=generator(99), checkpointer=file)
    for field in fields(CriticalPoints):
        assert np.array_equal(getattr(resumed, field.name), getattr(searched, field.name)), field.name
