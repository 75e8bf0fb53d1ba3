"""Cost: counts by hand, and the memory bound against what a fresh process really takes."""

import subprocess
import sys
from dataclasses import asdict

import pytest

from curvature.cost import Cost, exact_cost, gpt2_size, lanczos_cost, mlp_size

MIB = 2**20

# A small problem first, so that one-time costs of libraries are not counted as the problem's.
PROGRAM = """
import os
import sys

import torch
from curvature.algorithms.exact import exact_spectrum
from curvature.algorithms.stochastic_lanczos import lanczos_spectrum
from curvature.data.gaussian import gaussian
from curvature.data.text import text_windows, tokenize
from curvature.losses.cross_entropy import CrossEntropy
from curvature.losses.mse import Mse
from curvature.models.gpt2 import Gpt2
from curvature.models.mlp import Mlp
from curvature.operators.hessian import HessianOperator
from curvature.risk import EmpiricalRisk

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

def seeded():
    return torch.Generator().manual_seed(0)

def mlp(widths, num_samples, dtype, run):
    data = gaussian(num_samples, widths[0], widths[-1], "linear", 0.1, seeded())
    solve(Mlp(widths, "tanh"), Mse(), data, dtype, run)

def gpt2(shape, num_sequences, sequence_length, dtype, run):
    data = text_windows(tokenize("to be or not to be " * 99, "bytes"), num_sequences, sequence_length, seeded())
    solve(Gpt2(*shape), CrossEntropy(), data, dtype, run)

def solve(model, loss, data, dtype, run):
    cpu = torch.device("cpu")
    risk = EmpiricalRisk(model, loss, [data.to(dtype, cpu)])
    operator = HessianOperator(risk, model.initial_parameters(seeded(), dtype, cpu))
    assert operator.fallback_reason is None
    run(operator)

def lanczos(num_steps, num_probes):
    return lambda operator: lanczos_spectrum(operator, num_steps, num_probes, 64, 3.0, seeded())

f32, f64 = torch.float32, torch.float64
torch.set_num_threads(1)

def warm_up():
    mlp((4, 3, 2), 5, f64, exact_spectrum)
    gpt2((1, 1, 4, 8, 256), 2, 8, f32, lanczos(2, 1))

warm_up()
for call in sys.argv[1:]:
    child = os.fork()
    if child == 0:  # with a memory record of its own
        warm_up()  # a child counts the code of libraries anew, page by page as it is used
        before = memory("VmRSS")
        eval(call)
        print(memory("VmHWM") - before, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_counts_by_hand() -> None:
    assert mlp_size((64, 32, 10), True, 1).num_parameters == 64 * 32 + 32 + 32 * 10 + 10
    assert mlp_size((64, 32, 10), False, 1).num_parameters == 64 * 32 + 32 * 10
    # embeddings; layer norms, queries keys values, projection, hidden layer, its projection; last layer norm
    by_hand = (5 * 2 + 3 * 2) + (2 * 4 + (12 + 6) + (4 + 2) + (16 + 8) + (16 + 2)) + 4
    assert gpt2_size(1, 1, 2, 3, 5, 1, 1).num_parameters == by_hand


def test_products_are_counted() -> None:
    size = mlp_size((4, 3), False, 10)
    assert exact_cost(size).num_products == 12
    assert lanczos_cost(size, 5, 7).num_products == 35
    assert lanczos_cost(size, 50, 7).num_products == 12 * 7


def test_the_dense_matrix_and_the_basis_dominate_when_they_should() -> None:
    large = mlp_size((1000, 100), True, 1)
    dense = 2 * large.num_parameters**2 * 8
    assert dense < exact_cost(large).peak_bytes < 1.05 * dense
    basis = 1001 * large.num_parameters * 4
    assert basis < lanczos_cost(large, 1000, 4, itemsize=4).peak_bytes < 1.05 * basis + 100 * MIB


def test_costs_grow_with_everything_they_depend_on() -> None:
    def cost(**change: int) -> Cost:
        options = {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 64, "vocab_size": 5000, "num_sequences": 16}
        size = gpt2_size(**(options | {"sequence_length": 64} | change))
        return lanczos_cost(size, 10, 1, itemsize=4)

    base = cost()
    for name in ("n_layer", "n_embd", "vocab_size"):
        assert asdict(cost(**{name: 6000}))["num_parameters"] > base.num_parameters
        assert cost(**{name: 6000}).peak_bytes > base.peak_bytes
    for name in ("n_head", "num_sequences", "sequence_length"):
        assert cost(**{name: 64 * 2}).peak_bytes > base.peak_bytes


CASES = {
    "dense-matrix": (
        "mlp((32, 56, 16), 256, f32, exact_spectrum)",
        exact_cost(mlp_size((32, 56, 16), True, 256), itemsize=4),
    ),
    "activations": (
        "mlp((64, 256, 256, 64), 4096, f32, lanczos(2, 1))",
        lanczos_cost(mlp_size((64, 256, 256, 64), True, 4096), 2, 1, itemsize=4),
    ),
    "basis": (
        "mlp((512, 1024, 512), 32, f32, lanczos(30, 1))",
        lanczos_cost(mlp_size((512, 1024, 512), True, 32), 30, 1, itemsize=4),
    ),
    "gpt2": (
        "gpt2((1, 4, 64, 64, 256), 24, 64, f64, lanczos(2, 1))",
        lanczos_cost(gpt2_size(1, 4, 64, 64, 256, 24, 64), 2, 1, itemsize=8),
    ),
}


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """Bytes that each case really takes, in one process for the imports and a child for each case."""
    program = [sys.executable, "-c", PROGRAM, *(call for call, _ in CASES.values())]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=250)
    return dict(zip(CASES, map(int, done.stdout.split()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_real_peak_is_below_the_bound_and_near_it(case: str, peaks: dict[str, int]) -> None:
    bound = CASES[case][1].peak_bytes
    assert peaks[case] > 100 * MIB  # large enough to tell
    assert peaks[case] <= bound <= 3 * peaks[case]


def test_cost_imports_no_torch() -> None:
    program = "import sys, curvature.cost; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_engine_knows_nothing_of_the_server() -> None:
    program = """
import importlib, pkgutil, sys, curvature
for found in pkgutil.walk_packages(curvature.__path__, "curvature."):
    importlib.import_module(found.name)
sys.exit(", ".join({"pydantic", "fastapi", "celery", "redis"} & set(sys.modules)) or 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
