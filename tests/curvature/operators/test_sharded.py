"""Products, Lanczos and extreme eigenpairs of two processes that share the parameters, against those of one process."""

import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from hessian_spectrum.curvature.algorithms.lanczos import advance, start, tridiagonal
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, dot, norm, sharded_vectors
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import OPERATORS
from hessian_spectrum.curvature.operators.sharded import ShardedLayout, ShardedOperator, split_batches
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

NUM_PROCESSES, NUM_STEPS, K = 2, 12, 2
MATRICES = ("hessian", "ggn", "functional", "fisher")
F64 = torch.float64
ROUNDINGS = 100 * torch.finfo(F64).eps


@dataclass(frozen=True)
class Problem:
    """A network at some parameters, with two vectors."""

    risk: EmpiricalRisk
    parameters: dict[str, Tensor]
    vectors: Tensor  # (2, P)


def mlp() -> Problem:
    """Sizes that two processes cannot halve; four micro-batches of different sizes, and weight decay."""
    generator = torch.Generator().manual_seed(0)
    model = Mlp((5, 31, 3), activation="tanh")
    inputs, targets = torch.randn(30, 5, generator=generator, dtype=F64), torch.arange(30) % 3
    batches = Dataset(inputs, targets).split(8)
    return _problem(EmpiricalRisk(model, CrossEntropy(), batches, weight_decay=0.1), generator)


def gpt2() -> Problem:
    """A transformer, which uses its embedding twice."""
    generator = torch.Generator().manual_seed(1)
    model = Gpt2(n_layer=2, n_head=2, n_embd=8, n_positions=6, vocab_size=11)
    tokens = torch.randint(11, (4, 7), generator=generator)
    risk = EmpiricalRisk(model, CrossEntropy(), Dataset(tokens[:, :-1], tokens[:, 1:]).split(2))
    return _problem(risk, generator)


def _problem(risk: EmpiricalRisk, generator: torch.Generator) -> Problem:
    parameters = {
        name: 0.4 * torch.randn(shape, generator=generator, dtype=F64)
        for name, shape in risk.model.parameter_shapes.items()
    }
    dim = sum(each.numel() for each in parameters.values())
    return Problem(risk, parameters, torch.randn(2, dim, generator=generator, dtype=F64))


PROBLEMS = {"mlp": mlp, "gpt2": gpt2}


def spectra(operator: SymmetricOperator, probe: Tensor) -> dict[str, Tensor]:
    """Coefficients of Lanczos from the probe, and the largest eigenvalues."""
    state = start(operator, [probe], num_probes=1, num_steps=NUM_STEPS)
    while not state.finished:
        advance(operator, state)
    found = tridiagonal(state)
    pairs = run(ThickRestartLanczos(K, "largest", 1e-6), operator, generator=torch.Generator().manual_seed(5))
    return {
        "diagonal": found.diagonal,
        "off_diagonal": found.off_diagonal,
        "values": torch.as_tensor(pairs.eigenvalues, dtype=F64),
    }


def sharded(problem: Problem, matrix: Any, group: ProcessGroup) -> tuple[ShardedOperator, ShardedLayout]:
    """The operator of this process, with its half of the data."""
    risk = split_batches(problem.risk, group)
    layout = ShardedLayout(ShardedOperator.layout_of(risk), group)
    whole = layout.whole.flatten(problem.parameters)
    operator = ShardedOperator(matrix, risk, layout.own.unflatten(layout.shard(whole)), group)
    return operator, layout


def compute(rank: int, directory: str) -> None:
    """Compute everything that the tests compare, in one of the processes."""
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=NUM_PROCESSES, timeout=timedelta(seconds=100)
    )
    group = dist.group.WORLD
    assert group is not None
    found: dict[str, Any] = {}
    for name, make in PROBLEMS.items():
        problem = make()
        for matrix in MATRICES:
            operator, layout = sharded(problem, matrix, group)
            parts = torch.stack([layout.shard(vector) for vector in problem.vectors])
            with sharded_vectors(group):
                products = operator.matmat(parts.T).T
                lengths = [norm(1e-200 * parts[0]), norm(parts[0]), dot(parts[0], parts[1])]
                computed = spectra(operator, parts[0]) if name == "mlp" and matrix in ("hessian", "ggn") else {}
            whole = torch.stack([layout.assembled(part) for part in products])
            sizes = {"own": operator.dim, "gathered": operator.num_gathered, "parameters": len(layout.whole.names)}
            found[f"{name} {matrix}"] = {"products": whole, "lengths": lengths, "sizes": sizes, **computed}
    found["refusal"] = refusal(mlp(), group)
    torch.save(found, f"{directory}/{rank}.pt")
    dist.destroy_process_group()


def refusal(problem: Problem, group: ProcessGroup) -> str:
    """Why processes with different numbers of micro-batches do not compute."""
    risk = problem.risk
    uneven = EmpiricalRisk(risk.model, risk.loss, risk.batches[: 1 + group.rank()])
    layout = ShardedLayout(ShardedOperator.layout_of(risk), group)
    shards = layout.own.unflatten(layout.shard(layout.whole.flatten(problem.parameters)))
    try:
        ShardedOperator("hessian", uneven, shards, group)
    except InvalidProblemError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process has computed."""
    directory = tmp_path_factory.mktemp("sharded")
    torch.multiprocessing.spawn(compute, (str(directory),), NUM_PROCESSES)
    return [torch.load(Path(directory) / f"{rank}.pt") for rank in range(NUM_PROCESSES)]


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_products_are_those_of_one_process(found: list[dict[str, Any]], name: str, matrix: str) -> None:
    problem = PROBLEMS[name]()
    expected = OPERATORS[matrix](problem.risk, problem.parameters).matmat(problem.vectors.T).T
    for each in found:
        products = each[f"{name} {matrix}"]["products"]
        assert torch.linalg.vector_norm(products - expected) <= ROUNDINGS * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_lanczos_and_extreme_eigenvalues_are_those_of_one_process(found: list[dict[str, Any]], matrix: str) -> None:
    problem = mlp()
    expected = spectra(OPERATORS[matrix](problem.risk, problem.parameters), problem.vectors[0])
    size = float(expected["values"].abs().max())
    for each in found:
        for quantity, bound in {"diagonal": 1e-9, "off_diagonal": 1e-9, "values": 1e-9}.items():
            assert torch.allclose(each[f"mlp {matrix}"][quantity], expected[quantity], rtol=0, atol=bound * size)


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_process_has_its_part_alone_and_few_parameters_are_ever_whole(
    found: list[dict[str, Any]], name: str
) -> None:
    dim = PROBLEMS[name]().vectors.shape[1]
    sizes = [each[f"{name} hessian"]["sizes"] for each in found]
    assert sum(each["own"] for each in sizes) == dim
    assert max(each["own"] for each in sizes) <= dim / NUM_PROCESSES + sizes[0]["parameters"]
    assert all(each["gathered"] <= 4 for each in sizes)
    assert PROBLEMS[name] is mlp or sizes[0]["parameters"] > 20


def test_lengths_are_those_of_whole_vectors(found: list[dict[str, Any]]) -> None:
    left, right = mlp().vectors
    for each in found:
        tiny, length, product = each["mlp hessian"]["lengths"]
        assert math.isclose(length, float(torch.linalg.vector_norm(left)), rel_tol=1e-14)
        assert math.isclose(tiny, 1e-200 * length, rel_tol=1e-14)
        assert math.isclose(product, float(left @ right), rel_tol=1e-12)


def test_processes_with_different_numbers_of_micro_batches_are_refused(found: list[dict[str, Any]]) -> None:
    assert all("same number of micro-batches" in each["refusal"] for each in found)
