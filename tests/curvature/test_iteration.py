"""The loop that runs every computation: what it restores, reports and saves, and in which order."""

import doctest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.curvature import iteration
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.algorithms.trace import TraceEstimator
from hessian_spectrum.curvature.iteration import finish, iterates, last_state, run
from hessian_spectrum.curvature.linear_algebra import DenseOperator
from hessian_spectrum.curvature.serialization import Serialized, deserialize, serialize
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

METHODS: dict[str, Method[Any, Any]] = {
    "exact": DenseEigensolver(eigenvectors=True),
    "lanczos": StochasticLanczosQuadrature(9, 5, Smoothing(32, 3.0), memory_bytes=2 * 11 * 300 * 8),
    "top-k": ThickRestartLanczos(3, "both-ends", 1e-9),
    "trace": TraceEstimator("xtrace", tolerance=0.2, diagonal=True),
}


class StoppedError(Exception):
    """What a caller raises to stop a computation."""


class File:
    """A checkpointer that serialises every state, as a file would hold it."""

    def __init__(self, saved: Serialized | None = None) -> None:
        self.saved, self.calls = saved, list[str]()

    def restore(self) -> Any | None:
        self.calls.append("restore")
        return None if self.saved is None else deserialize(self.saved.document, self.saved.tensors, torch.device("cpu"))

    def update(self, snapshot: Callable[[], Any]) -> None:
        self.calls.append("update")
        written = serialize(snapshot())
        self.saved = Serialized(written.document, [tensor.clone() for tensor in written.tensors])

    def seal(self) -> None:
        self.calls.append("seal")


def operator() -> DenseOperator:
    matrix = torch.randn(300, 300, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return DenseOperator(matrix + matrix.T)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def flat(result: Any) -> list[Any]:
    """The numbers of a result, whatever it is made of."""
    if isinstance(result, np.ndarray):
        return result.ravel().tolist()
    if isinstance(result, list | tuple):
        return [number for each in result for number in flat(each)]
    return flat(list(vars(result).values())) if hasattr(result, "__dataclass_fields__") else [result]


@pytest.mark.parametrize("name", METHODS)
def test_a_computation_that_is_stopped_continues_from_its_last_saved_state(name: str) -> None:
    method, reports = METHODS[name], list[tuple[str, int, int]]()
    whole = run(method, operator(), generator=generator(), progress=lambda *report: reports.append(report))
    steps = [report for report in reports if report[0] == method.phase]
    assert len(steps) > 2
    middle, first = len(steps) // 2, File()

    def stop_in_the_middle(*report: Any) -> None:
        if report == steps[middle]:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(method, operator(), generator=generator(), progress=stop_in_the_middle, checkpointer=first)
    assert first.calls == ["restore", *["update"] * middle]
    second, again = File(first.saved), list[Any]()
    found = run(
        method,
        operator(),
        generator=torch.Generator(),  # another one: that of the state counts
        progress=lambda *report: again.append(report),
        checkpointer=second,
    )
    assert flat(found) == flat(whole)
    assert again == reports[middle:]
    assert second.calls == ["restore", *["update"] * (len(steps) - middle), "seal"]


@pytest.mark.parametrize("name", METHODS)
def test_a_finished_state_that_was_saved_has_no_further_step(name: str) -> None:
    method, first = METHODS[name], File()
    whole = run(method, operator(), generator=generator(), checkpointer=first)
    second = File(first.saved)
    assert flat(run(method, operator(), generator=generator(), checkpointer=second)) == flat(whole)
    assert second.calls == ["restore", "seal"]


def test_states_come_one_by_one_from_the_first_to_the_finished_one() -> None:
    method = METHODS["top-k"]
    counts = [method.count(state).done for state in iterates(method, operator(), generator=generator())]
    assert counts[0] == 0
    assert counts == sorted(set(counts))
    state = last_state(method, operator(), generator=generator())
    assert method.is_finished(state)
    assert method.count(state).done == counts[-1]
    assert flat(finish(method, operator(), state)) == flat(run(method, operator(), generator=generator()))


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_shards_of_probes_have_the_spectrum_of_all(num_shards: int) -> None:
    method = METHODS["lanczos"]
    shards = method.split(num_shards)
    states = [last_state(shard, operator(), generator=generator()) for shard in shards]
    assert sum(shard.count(state).total for shard, state in zip(shards, states, strict=True)) == 45
    found, whole = finish(method, operator(), method.join(states)), run(method, operator(), generator=generator())
    assert len(found.quadrature) == 5
    np.testing.assert_allclose(found.density.values, whole.density.values, rtol=1e-9, atol=1e-12)
    assert found.num_products == whole.num_products == 45


def test_what_cannot_be_split_is_one_shard() -> None:
    for name in ("exact", "top-k", "trace"):
        assert METHODS[name].split(1) == [METHODS[name]]
        with pytest.raises(InvalidProblemError):
            METHODS[name].split(2)
    with pytest.raises(InvalidProblemError):
        METHODS["lanczos"].split(6)


def test_methods_say_their_cost_before_they_run() -> None:
    for method in METHODS.values():
        state = last_state(method, operator(), generator=generator())
        assert method.count(state).done <= method.cost(300).num_products


def test_the_example_in_the_documentation_is_right() -> None:
    assert doctest.testmod(iteration) == (0, 5)
