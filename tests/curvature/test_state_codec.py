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
from hessian_spectrum.curvature.algorithms.exact import summarise_triangle
from hessian_spectrum.curvature.algorithms.stochastic_lanczos import (
    advance_sweep,
    start_sweep,
    summarise_sweep,
)
from hessian_spectrum.curvature.algorithms.thick_restart import advance_search, start_search, summarise_search
from hessian_spectrum.curvature.algorithms.trace import advance_trace, start_trace, summarise_trace
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses.cross_entropy import CrossEntropy
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.curvature.operators.dense import DenseOperator
from hessian_spectrum.curvature.operators.hessian import HessianOperator
from hessian_spectrum.curvature.risk import EmpiricalRisk
from hessian_spectrum.curvature.state_codec import freeze, thaw
from hessian_spectrum.quadrature.curves import Smoothing

CPU = torch.device("cpu")
Step = Callable[[SymmetricOperator, Any], bool]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(dim: int = 60, dtype: torch.dtype = torch.float64) -> DenseOperator:
    matrix = torch.randn(dim, dim, generator=seeded(5), dtype=torch.float64)
    return DenseOperator((matrix + matrix.T).to(dtype))


def through_a_file(state: Any) -> Any:
    """What is left of a state after its tensors were copied and its document was text."""
    frozen = freeze(state)
    copies = [tensor.clone() for tensor in frozen.tensors]
    return thaw(json.loads(json.dumps(frozen.document, allow_nan=False)), copies, CPU)


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, whatever it is made of."""
    if is_dataclass(one):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | torch.Tensor):
        return bool((np.asarray(one) == np.asarray(other)).all())
    return bool(one == other)


def finished_sweep(operator: SymmetricOperator, between: Callable[[Any], Any], mode: Any, memory: int | None) -> Any:
    state = start_sweep(operator, 12, 5, seeded(), mode, memory)
    while not state.finished:
        advance_sweep(operator, state)
        state = between(state)
    return summarise_sweep(operator, state, Smoothing(32, 3.0))


def finished_search(operator: SymmetricOperator, between: Callable[[Any], Any], which: Any) -> Any:
    state = start_search(operator, 5, which, 1e-9, seeded(), memory_bytes=20 * operator.dim * 8)
    while state.phase != "finished":
        advance_search(operator, state)
        state = between(state)
    return summarise_search(operator, state)


def finished_trace(operator: SymmetricOperator, between: Callable[[Any], Any], estimator: Any, **ends: Any) -> Any:
    state = start_trace(operator, estimator, seeded(), diagonal=True, **ends)
    while not state.finished:
        advance_trace(operator, state)
        state = state if state.finished else between(state)
    return summarise_trace(state)


def finished_exact(operator: SymmetricOperator, between: Callable[[Any], Any]) -> Any:
    triangle = operator.start_triangle()
    while True:
        filling = operator.fill_triangle(triangle)
        if next(filling, "done") == "done":
            return summarise_triangle(operator, triangle, eigenvectors=True)
        triangle = between(triangle)


def unchanged(state: Any) -> Any:
    return state


# two probes of the sweep in lockstep, then two, then one
RUNS: dict[str, Callable[[Callable[[Any], Any]], Any]] = {
    "lanczos": lambda between: finished_sweep(dense(), between, "full", None),
    "lanczos-groups": lambda between: finished_sweep(dense(), between, "full", 2 * 14 * 60 * 8),
    "lanczos-short": lambda between: finished_sweep(dense(200, torch.float32), between, "none", None),
    "lanczos-invariant": lambda between: finished_sweep(DenseOperator(torch.eye(30)), between, "full", None),
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
    model = Gpt2(1, 1, 4, 4, 6)
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
    sweep = start_sweep(operator, 12, 5, seeded())
    for _ in range(3):
        advance_sweep(operator, sweep)
    assert (5, 4, 60) in {tuple(tensor.shape) for tensor in freeze(sweep).tensors}
    search = start_search(operator, 5, "largest", 1e-9, seeded())
    advance_search(operator, search)
    assert (search.num_rows, 60) in {tuple(tensor.shape) for tensor in freeze(search).tensors}
    assert search.num_rows < len(search.basis)


def test_a_basis_is_as_large_again() -> None:
    operator = dense()
    state = lanczos.start(operator, [torch.ones(60)], 1, 12)
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
        freeze(Smoothing(32, 3.0))
    with pytest.raises(KeyError):
        thaw({"Popen": {"args": ["true"]}}, [], CPU)
