"""A state that goes through a file between any two products ends as the undisturbed one, to the last bit."""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hessian_spectrum.curvature.algorithms import lanczos
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.algorithms.lanczos import (
    StochasticLanczosQuadrature,
)
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.algorithms.trace import TraceEstimator
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import DenseOperator, SymmetricOperator
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.curvature.serialization import deserialize, serializable, serialize
from hessian_spectrum.quadrature.curves import Smoothing

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(dim: int = 60, dtype: torch.dtype = torch.float64) -> DenseOperator:
    matrix = torch.randn(dim, dim, generator=seeded(5), dtype=torch.float64)
    return DenseOperator((matrix + matrix.T).to(dtype))


def through_a_file(state: Any) -> Any:
    """What is left of a state after its tensors were copied and its document was text."""
    written = serialize(state)
    copies = [tensor.clone() for tensor in written.tensors]
    return deserialize(json.loads(json.dumps(written.document, allow_nan=False)), copies, CPU)


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, whatever it is made of."""
    if is_dataclass(one):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | torch.Tensor):
        return bool((np.asarray(one) == np.asarray(other)).all())
    return bool(one == other)


Between = Callable[[Any], Any]


def finished(method: Method[Any, Any], operator: SymmetricOperator, between: Between) -> Any:
    """The result, with every state but the first, the finished one included, through `between`."""
    state = method.init(operator, generator=seeded())
    while not method.is_finished(state):
        state = between(method.step(operator, state))
    return method.result(operator, state)


def finished_lanczos(operator: SymmetricOperator, between: Between, mode: Any, *, memory: int | None) -> Any:
    options = {"reorthogonalisation": mode, "memory_bytes": memory}
    return finished(StochasticLanczosQuadrature(12, 5, Smoothing(32, 3.0), **options), operator, between)


def finished_search(operator: SymmetricOperator, between: Between, which: Any) -> Any:
    method = ThickRestartLanczos(5, which, 1e-9, memory_bytes=20 * operator.dim * 8)
    return finished(method, operator, between)


def finished_trace(operator: SymmetricOperator, between: Between, estimator: Any, **ends: Any) -> Any:
    return finished(TraceEstimator(estimator, diagonal=True, **ends), operator, between)


def finished_exact(operator: SymmetricOperator, between: Between) -> Any:
    return finished(DenseEigensolver(eigenvectors=True), operator, between)


def unchanged(state: Any) -> Any:
    return state


# two probes in lockstep, then two, then one
RUNS: dict[str, Callable[[Callable[[Any], Any]], Any]] = {
    "lanczos": lambda between: finished_lanczos(dense(), between, "full", memory=None),
    "lanczos-groups": lambda between: finished_lanczos(dense(), between, "full", memory=2 * 14 * 60 * 8),
    "lanczos-short": lambda between: finished_lanczos(dense(200, torch.float32), between, "none", memory=None),
    "lanczos-invariant": lambda between: finished_lanczos(DenseOperator(torch.eye(30)), between, "full", memory=None),
    "top-k": lambda between: finished_search(dense(), between, "both-ends"),
    "top-k-copies": lambda between: finished_search(
        DenseOperator(torch.eye(60, dtype=torch.float64) * 2), between, "largest"
    ),
    "hutchinson": lambda between: finished_trace(dense(), between, "hutchinson", num_probes=50),
    "hutch++": lambda between: finished_trace(dense(), between, "hutch++", num_probes=55),
    "xtrace": lambda between: finished_trace(dense(), between, "xtrace", num_probes=44),
    "tolerance": lambda between: finished_trace(dense(200), between, "hutch++", tolerance=0.05),
    "columns": lambda between: finished_trace(dense(), between, "hutch++", tolerance=1e-12),
    "exact-dense": lambda between: finished_exact(dense(200), between),
    "exact-layered": lambda between: finished_exact(mlp_operator(), between),
    "exact-recorded": lambda between: finished_exact(gpt2_operator(), between),
}


def mlp_operator() -> HessianOperator:
    model = Mlp((3, 5, 4, 2), "tanh")
    data = Dataset(torch.randn(9, 3, generator=seeded(1)), torch.randint(2, (9,), generator=seeded(2)))
    parameters = model.initial_parameters(seeded(), torch.float32, CPU)
    return HessianOperator(EmpiricalRisk(model, CrossEntropy(), data.split(4)), parameters)


def gpt2_operator() -> HessianOperator:
    model = Gpt2(1, 1, 4, n_positions=4, vocab_size=6)
    tokens = torch.randint(6, (3, 5), generator=seeded(1))
    data = Dataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    parameters = model.initial_parameters(seeded(), torch.float32, CPU)
    return HessianOperator(EmpiricalRisk(model, CrossEntropy(), data.split(2)), parameters)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_as_if_nothing_had_been(name: str) -> None:
    calls: list[Any] = []

    def between(state: Any) -> Any:
        calls.append(state)
        return through_a_file(state)

    undisturbed, interrupted = RUNS[name](unchanged), RUNS[name](between)
    assert same(undisturbed, interrupted)
    assert calls


def test_only_rows_that_were_computed_are_kept() -> None:
    operator = dense()
    lanczos_method = StochasticLanczosQuadrature(12, 5, Smoothing(32, 3.0))
    state = lanczos_method.init(operator, generator=seeded())
    for _ in range(3):
        state = lanczos_method.step(operator, state)
    assert (5, 4, 60) in {tuple(tensor.shape) for tensor in serialize(state).tensors}
    search_method = ThickRestartLanczos(5, "largest", 1e-9)
    search = search_method.step(operator, search_method.init(operator, generator=seeded()))
    assert (search.num_rows, 60) in {tuple(tensor.shape) for tensor in serialize(search).tensors}
    assert search.num_rows < len(search.basis)


def test_a_basis_is_as_large_again() -> None:
    operator = dense()
    state = lanczos.start(operator, [torch.ones(60)], num_probes=1, num_steps=12)
    lanczos.advance(operator, state)
    again = through_a_file(state)
    assert again.basis.shape == (1, 13, 60)
    assert torch.equal(again.basis[:, :2], state.basis[:, :2])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back(value: Any) -> None:
    again = through_a_file(value)
    assert again == value
    assert type(again) is type(value)


def test_what_is_not_known_is_refused_both_ways() -> None:
    with pytest.raises(TypeError, match="Smoothing"):
        serialize(Smoothing(32, 3.0))
    with pytest.raises(KeyError):
        deserialize({"Popen": {"args": ["true"]}}, [], CPU)


def test_two_kinds_of_state_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="SubspaceState"):
        serializable()(type("SubspaceState", (), {}))
