"""What `benchmarks.products` measures: gradients and products, each with what must be done once before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import HAS_CURVLINOPS, compiled_gradient, curvlinops_operator, eager_gradient
from benchmarks.operators import Matrix, our_operator
from benchmarks.problems import Problem
from hessian_spectrum.curvature.operators.programs import Mode

# How recordings run, by what is appended to the names of our measurements.
EXECUTIONS: dict[str, Mode] = {"": "interpreted", "_compiled": "compiled"}

BLOCK = 8

# Blocks of larger vectors are left out, except ours on a GPU: with every other measurement they would not fit 24 GiB.
MAX_BLOCK_DIM = 50_000_000

Call = Callable[[], Any]


@dataclass(frozen=True)
class Measurement:
    """A call to be timed again and again; those of one quantity give the same numbers."""

    name: str
    quantity: str
    set_up: Callable[[], Call]  # the first call that it gives may still compile or record
    num_vectors: int = 1


def measurements(problem: Problem) -> dict[str, Measurement]:
    """By name; those of curvlinops only where it is installed."""
    found = [
        Measurement("gradient_eager", "gradient", lambda: eager_gradient(problem)),
        Measurement("gradient_compiled", "gradient", lambda: compiled_gradient(problem)),
        *(each for suffix, mode in EXECUTIONS.items() for each in _ours(problem, suffix, mode)),
        *(_curvlinops(problem) if HAS_CURVLINOPS else ()),
    ]
    return {each.name: each for each in found}


def flat(result: Any) -> Tensor:
    """The vector (P,) that a call gave, of several the first."""
    if isinstance(result, tuple):
        return torch.cat([each.flatten() for each in result])
    assert isinstance(result, Tensor)
    return result if result.ndim == 1 else result[:, 0]


def _ours(problem: Problem, suffix: str, mode: Mode) -> Iterator[Measurement]:
    def product(matrix: Matrix) -> Call:
        operator, vector = our_operator(problem, matrix, mode), problem.vectors(1)[0]
        return lambda: operator.matvec(vector)

    def block() -> Call:
        # columns that are rows in memory, as they are in Lanczos
        operator, columns = our_operator(problem, "hessian", mode), problem.vectors(BLOCK).T
        return lambda: operator.matmat(columns)

    yield Measurement("hessian_product" + suffix, "hessian", lambda: product("hessian"))
    yield Measurement("ggn_product" + suffix, "ggn", lambda: product("ggn"))
    if problem.layout.dim <= MAX_BLOCK_DIM or problem.device.type == "cuda":
        yield Measurement("hessian_product_block8" + suffix, "hessian", block, BLOCK)


def _curvlinops(problem: Problem) -> Iterator[Measurement]:
    def product(matrix: Matrix) -> Call:
        operator, vector = curvlinops_operator(problem, matrix), problem.vectors(1)[0]
        return lambda: operator @ vector

    def block() -> Call:
        operator, columns = curvlinops_operator(problem, "hessian"), problem.vectors(BLOCK).T.contiguous()
        return lambda: operator @ columns

    yield Measurement("curvlinops_hessian_product", "hessian", lambda: product("hessian"))
    yield Measurement("curvlinops_ggn_product", "ggn", lambda: product("ggn"))
    if problem.layout.dim <= MAX_BLOCK_DIM:  # all columns pass at once, whatever they take
        yield Measurement("curvlinops_hessian_product_block8", "hessian", block, BLOCK)
