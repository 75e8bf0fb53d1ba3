"""Cost: counts by hand, and predicted memory against what a fresh process really takes."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, geometric_mean

import pytest

from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.algorithms.trace import TraceEstimator
from hessian_spectrum.planning.job_plan import micro_batches, peak_bytes
from hessian_spectrum.planning.memory_coefficients import Matrix, memory_coefficients
from hessian_spectrum.planning.size import Size, causal_lm_size, gpt2_size, mlp_size
from hessian_spectrum.planning.work import (
    EIGENVALUE_ORDER,
    OUTPUTS_BYTES,
    Rates,
    Work,
    exact_work,
    lanczos_work,
    predicted_seconds,
    top_k_work,
    trace_work,
    training_passes,
)
from hessian_spectrum.quadrature.curves import Smoothing

MIB = 2**20

# A small problem first, so that one-time costs of libraries are not counted as the problem's.
PROGRAM = """
import ctypes
import os
import sys

import torch
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.algorithms.trace import TraceEstimator
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator

OPERATORS = {"hessian": HessianOperator, "ggn": GgnOperator, "functional": FunctionalOperator}

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

def seeded():
    return torch.Generator().manual_seed(0)

def mlp(widths, n, activation="tanh"):
    data = Dataset(torch.randn(n, widths[0], generator=seeded()), torch.randn(n, widths[-1], generator=seeded()))
    return Mlp(widths, activation), Mse(), data

def gpt2(shape, n):
    tokens = torch.randint(shape[-1], (n, shape[3] + 1), generator=seeded())
    n_layer, n_head, n_embd, n_positions, vocab_size = shape
    model = Gpt2(n_layer, n_head, n_embd, n_positions=n_positions, vocab_size=vocab_size)
    return model, CrossEntropy(), Dataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

def solve(content, matrix, dtype, method, batch=None, recording_bytes=None):
    model, loss, data = content
    cpu = torch.device("cpu")
    data = data.to(dtype, cpu)
    ctypes.CDLL(None).malloc_trim(0)
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    risk = EmpiricalRisk(model, loss, data.split(batch))
    parameters = model.initial_parameters(seeded(), dtype, cpu)
    operator = OPERATORS[matrix](risk, parameters, memory_bytes=recording_bytes)
    operator.checked_gradient_norm()
    found = method(operator)
    assert operator.fallback_reason is None
    return memory("VmHWM") - before, found

def exact(eigenvectors=False):
    return lambda operator: run(DenseEigensolver(eigenvectors), operator, generator=seeded()).eigenvalues[-1]

def lanczos(num_steps, num_probes, mode="full"):
    method = StochasticLanczosQuadrature(num_steps, num_probes, Smoothing(64, 3.0), reorthogonalisation=mode)
    return lambda operator: run(method, operator, generator=seeded()).largest.value

def top_k(k, max_products):
    method = ThickRestartLanczos(k, "largest", 1e-9, max_products=max_products)
    return lambda operator: run(method, operator, generator=seeded()).eigenvalues[0]

def trace(estimator, num_probes):
    method = TraceEstimator(estimator, num_probes=num_probes)
    return lambda operator: run(method, operator, generator=seeded()).trace.value

f32, f64 = torch.float32, torch.float64
torch.set_num_threads(1)

def warm_up():
    solve(mlp((4, 3, 2), 5), "hessian", f64, exact())
    solve(gpt2((1, 1, 4, 8, 16), 2), "hessian", f32, lanczos(2, 1))

warm_up()
for call in sys.argv[1:]:
    child = os.fork()
    if child == 0:  # with a memory record of its own
        warm_up()  # a child counts the code of libraries anew, page by page as it is used
        print(*eval(call), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def gpt2_of(shape: tuple[int, int, int, int, int], num_sequences: int, sequence_length: int) -> Size:
    """Of layers, heads, width, positions and vocabulary."""
    n_layer, n_head, n_embd, n_positions, vocab_size = shape
    return gpt2_size(
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        n_positions=n_positions,
        vocab_size=vocab_size,
        num_sequences=num_sequences,
        sequence_length=sequence_length,
    )


def test_counts_by_hand() -> None:
    assert mlp_size((64, 32, 10), True, 1).num_parameters == 64 * 32 + 32 + 32 * 10 + 10
    assert mlp_size((64, 32, 10), False, 1).num_parameters == 64 * 32 + 32 * 10
    # embeddings; layer norms, queries keys values, projection, hidden layer, its projection; last layer norm
    by_hand = (5 * 2 + 3 * 2) + (2 * 4 + (12 + 6) + (4 + 2) + (16 + 8) + (16 + 2)) + 4
    assert gpt2_of((1, 1, 2, 3, 5), 1, 1).num_parameters == by_hand


def test_a_part_of_the_samples_has_a_part_of_the_activations() -> None:
    size = mlp_size((7, 5, 3), True, 100)
    assert size.part(25).activations == mlp_size((7, 5, 3), True, 25).activations
    assert size.part(25).num_parameters == size.num_parameters
    assert size.with_logits().num_activations == size.num_activations == 100 * (7 + 2 * 5 + 3)


def test_products_are_counted() -> None:
    assert exact_work(12).num_products == 12
    assert lanczos_work(12, 5, 7).num_products == 35
    assert lanczos_work(12, 50, 7).num_products == 12 * 7
    assert top_k_work(1000, 20).num_products == 2000
    assert [top_k_work(size, 5).num_columns for size in (999_999, 1_000_000)] == [4, 1]
    assert trace_work(1000, "hutch++", 100).num_products == 100
    assert training_passes(100, 64, 256) == 25
    assert training_passes(100, None, 256) == 100


def test_methods_say_their_cost() -> None:
    assert DenseEigensolver(eigenvectors=True).cost(12) == exact_work(12, eigenvectors=True)
    lanczos = StochasticLanczosQuadrature(5, 7, Smoothing(64, 3.0), reorthogonalisation="none")
    assert lanczos.cost(12, group=2) == lanczos_work(12, 5, 7, num_points=64, reorthogonalisation="none", group=2)
    assert ThickRestartLanczos(20, "largest", 1e-5).cost(1000) == top_k_work(1000, 20)
    assert TraceEstimator("hutch++", num_probes=100).cost(1000) == trace_work(1000, "hutch++", 100)


def test_the_dense_matrix_and_the_basis_dominate_when_they_should() -> None:
    large = mlp_size((1000, 100), True, 1)
    dense = large.num_parameters**2 * 8
    assert dense < peak_bytes(large, exact_work(large.num_parameters), "hessian", itemsize=4) < 1.05 * dense
    basis = 1001 * large.num_parameters * 4
    lanczos = lanczos_work(large.num_parameters, 1000, 4, group=1)
    assert basis < peak_bytes(large, lanczos, "hessian", itemsize=4) < 1.05 * basis + 100 * MIB


GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 64, "vocab_size": 5000, "num_sequences": 16}


def gpt2_peak(change: dict[str, int], matrix: Matrix = "hessian", itemsize: int = 4) -> int:
    size = gpt2_size(**(GPT2 | {"sequence_length": 64} | change))
    return peak_bytes(size, lanczos_work(size.num_parameters, 10, 1), matrix, itemsize=itemsize)


def test_costs_grow_with_everything_they_depend_on() -> None:
    base = gpt2_peak({})
    for name in ("n_layer", "n_embd", "vocab_size"):
        assert gpt2_peak({name: 6000}) > base
    for name in ("n_head", "num_sequences", "sequence_length"):
        assert gpt2_peak({name: 64 * 2}) > base
    assert gpt2_peak({}, itemsize=8) > 1.8 * base
    assert gpt2_peak({}, "ggn") < base


def test_micro_batches_are_as_large_as_memory_allows() -> None:
    size = mlp_size((64, 256, 256, 64), True, 4096)
    work = lanczos_work(size.num_parameters, 2, 1)
    whole = micro_batches(size, work, "hessian", itemsize=4, memory_bytes=None)
    assert (whole.num_samples, whole.num_batches, whole.recording_bytes) == (4096, 1, None)
    assert micro_batches(size, work, "hessian", itemsize=4, memory_bytes=whole.peak_bytes) == whole
    before = whole
    for share in (0.9, 0.7, 0.6):  # all recordings are held
        split = micro_batches(size, work, "hessian", itemsize=4, memory_bytes=int(share * whole.peak_bytes))
        assert split.recording_bytes is None
        assert split.num_samples < before.num_samples
        assert split.peak_bytes <= share * whole.peak_bytes
        before = split
    some = micro_batches(size, work, "hessian", itemsize=4, memory_bytes=int(0.3 * whole.peak_bytes))
    assert some.recording_bytes is not None
    assert 0 < some.peak_bytes <= 0.3 * whole.peak_bytes
    none = micro_batches(size, work, "hessian", itemsize=4, memory_bytes=1)
    assert (none.num_samples, none.num_batches) == (1, 4096)
    assert none.peak_bytes > 1


def test_predicted_time_adds_up() -> None:
    rates = Rates(recording_seconds=2.0, seconds_per_product=0.5, bytes_per_second=1e9, eigenvalue_seconds=0.25)
    work = Work(num_products=10, moved_numbers=10**9, dense_order=EIGENVALUE_ORDER)
    assert predicted_seconds(work, rates, 4) == pytest.approx(2 + 10 * 0.5 + 4 + 0.25)
    assert predicted_seconds(work, rates, 8) == pytest.approx(2 + 10 * 0.5 + 8 + 0.25)
    assert predicted_seconds(work, rates, 4, all_held=False) == pytest.approx(10 * 2 + 10 * 0.5 + 4 + 0.25)
    triangle = exact_work(EIGENVALUE_ORDER)
    assert 2 < predicted_seconds(triangle, rates, 8) < 2 + EIGENVALUE_ORDER * 0.5


TALL, WIDE, DEEP = (256, 512, 256), (512, 2048, 512), (64, 256, 256, 64)


def lanczos_case(size: Size, steps: int, probes: int = 1, *, itemsize: int = 4, matrix: Matrix = "hessian") -> int:
    return peak_bytes(size, lanczos_work(size.num_parameters, steps, probes), matrix, itemsize=itemsize)


def gpt2_case(
    shape: tuple[int, int, int, int, int], n: int, itemsize: int = 4, *, matrix: Matrix = "hessian"
) -> tuple[str, int]:
    size = gpt2_of(shape, n, shape[3])
    dtype = {4: "f32", 8: "f64"}[itemsize]
    return f"solve(gpt2({shape}, {n}), '{matrix}', {dtype}, lanczos(2, 1))", lanczos_case(
        size, 2, 1, itemsize=itemsize, matrix=matrix
    )


LARGE_VOCABULARY, NUM_IN_PIECES = (1, 2, 32, 128, 24000), 24  # logits of 281 MiB
DENSE = mlp_size((32, 80, 16), True, 256)
BASIS = mlp_size(WIDE, True, 32)
SOME = mlp_size(TALL, True, 64)
CASES = {
    "activations": (
        f"solve(mlp({DEEP}, 6144), 'hessian', f32, lanczos(2, 1))",
        lanczos_case(mlp_size(DEEP, True, 6144), 2),
    ),
    "relu": (
        "solve(mlp((64, 128, 64), 28672, 'relu'), 'ggn', f32, lanczos(2, 1))",
        lanczos_case(mlp_size((64, 128, 64), True, 28672, activation="relu"), 2, matrix="ggn"),
    ),
    "functional": (
        f"solve(mlp({DEEP}, 4096, 'gelu'), 'functional', f64, lanczos(2, 1))",
        lanczos_case(mlp_size(DEEP, True, 4096, activation="gelu"), 2, 1, itemsize=8, matrix="functional"),
    ),
    "basis": (
        f"solve(mlp({WIDE}, 32), 'hessian', f32, lanczos(30, 1))",
        lanczos_case(BASIS, 30),
    ),
    "lockstep": (
        f"solve(mlp({TALL}, 64), 'hessian', f32, lanczos(20, 12))",
        lanczos_case(SOME, 20, 12),
    ),
    "gpt2-logits": gpt2_case((1, 2, 64, 64, 8192), n=8),
    "gpt2-pairs": gpt2_case((1, 8, 64, 256, 256), n=3),
    "gpt2-double": gpt2_case((2, 4, 64, 64, 256), n=12, itemsize=8),
    "gpt2-ggn": gpt2_case((2, 4, 128, 128, 512), n=12, matrix="ggn"),
    "gpt2-pieces": gpt2_case(LARGE_VOCABULARY, n=NUM_IN_PIECES, matrix="ggn"),
    "exact": (
        "solve(mlp((32, 80, 16), 256), 'hessian', f32, exact())",
        peak_bytes(DENSE, exact_work(DENSE.num_parameters, layered=True), "hessian", itemsize=4),
    ),
    "top-k": (
        f"solve(mlp({TALL}, 64), 'hessian', f32, top_k(60, 200))",
        peak_bytes(SOME, top_k_work(SOME.num_parameters, 60, 200), "hessian", itemsize=4),
    ),
    "trace": (
        f"solve(mlp({TALL}, 64), 'hessian', f32, trace('xtrace', 60))",
        peak_bytes(SOME, trace_work(SOME.num_parameters, "xtrace", 60), "hessian", itemsize=4),
    ),
}


ALLOCATORS: dict[str, dict[str, str]] = {
    # Every large tensor is a mapping of its own: the peak is that of the tensors alive, equal to 0.1 % in every run.
    "mapped": {"MALLOC_MMAP_THRESHOLD_": str(MIB // 8)},
    # How much of the heap is used again differs by up to 20 % from run to run, and by more from machine to machine.
    "heap": {},
}
RUNS: dict[str, tuple[int, Callable[[list[int]], float]]] = {"mapped": (2, min), "heap": (3, fmean)}
"""Number of runs with each allocator, and how their peaks are combined: other programs only add to what is alive."""


@pytest.fixture(scope="module")
def peaks() -> dict[str, dict[str, float]]:
    """Bytes that each case really takes with each allocator; each case has a child process in each run."""
    program = [sys.executable, "-c", PROGRAM, *(call for call, _ in CASES.values())]
    found: dict[str, dict[str, float]] = {}
    for allocator, setting in ALLOCATORS.items():
        number, combined = RUNS[allocator]
        runs = [
            subprocess.run(program, capture_output=True, text=True, check=True, timeout=140, env=os.environ | setting)
            for _ in range(number)
        ]
        lines = zip(*(run.stdout.splitlines() for run in runs), strict=True)
        found[allocator] = {
            case: combined([int(each.split()[0]) for each in of_case])
            for case, of_case in zip(CASES, lines, strict=True)
        }
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_real_peak_is_as_predicted(case: str, peaks: dict[str, dict[str, float]]) -> None:
    predicted, alive, taken = CASES[case][1], peaks["mapped"][case], peaks["heap"][case]
    assert taken > 100 * MIB  # large enough to tell
    # What is alive is the least, and a heap takes up to half as much again.
    assert 0.95 * alive < predicted < 1.55 * alive
    assert 0.95 * alive < taken < 1.25 * predicted


@pytest.mark.slow
def test_predicted_peaks_are_right_on_the_whole(peaks: dict[str, dict[str, float]]) -> None:
    ratios = [CASES[case][1] / taken for case, taken in peaks["heap"].items()]
    assert geometric_mean(ratios) == pytest.approx(1, abs=0.12)


@pytest.mark.slow
def test_logits_never_exist_all_at_once(peaks: dict[str, dict[str, float]]) -> None:
    pieces = gpt2_of(LARGE_VOCABULARY, NUM_IN_PIECES, LARGE_VOCABULARY[3])
    assert 4 * pieces.number("logits") > 2 * OUTPUTS_BYTES
    assert pieces.at_once(OUTPUTS_BYTES // 4).number("logits") == OUTPUTS_BYTES // 4
    whole = replace(pieces, has_output_layer=False)
    assert max(each["gpt2-pieces"] for each in peaks.values()) < 0.7 * lanczos_case(whole, 2, matrix="ggn")


def test_only_what_is_held_of_logits_grows_with_the_number_of_tokens() -> None:
    peaks = [lanczos_case(gpt2_of((1, 1, 2, 4, 50000), n, 4), 2) for n in (1000, 2000, 3000)]
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=1e-3)
    held = memory_coefficients("hessian")["logits"].held * 4 * 50000 * 4 * 1000
    assert peaks[1] - peaks[0] == pytest.approx(held, rel=0.01)
    # a model of transformers computes all of its logits
    shape = {"num_parameters": 100308, "n_layer": 1, "n_head": 1, "n_embd": 2, "n_inner": 8, "vocab_size": 50000}
    whole = [lanczos_case(causal_lm_size(**shape, num_sequences=n, sequence_length=4), 2) for n in (1000, 2000)]
    assert whole[1] - whole[0] > 2 * held


def test_cost_imports_no_torch() -> None:
    modules = "hessian_spectrum.planning.job_plan, hessian_spectrum.planning.work"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_engine_knows_nothing_of_the_server() -> None:
    program = """
import importlib, pkgutil, sys
from hessian_spectrum import curvature
for found in pkgutil.walk_packages(curvature.__path__, "hessian_spectrum.curvature."):
    importlib.import_module(found.name)
sys.exit(", ".join({"pydantic", "fastapi", "celery", "redis"} & set(sys.modules)) or 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
