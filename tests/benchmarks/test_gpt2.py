"""`benchmarks.gpt2` has a line for everything, with the reason where something was not measured."""

import argparse
import json
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpt2, reports
from benchmarks.baselines import HAS_CURVLINOPS
from benchmarks.density import Curve, distance
from benchmarks.gpt2_rows import Sizes, rows
from benchmarks.gpt2_tasks import REDUCED, Task, measured, outcome
from benchmarks.operations import forward_operations, hessian_product_operations
from benchmarks.operators import Setting, our_operator
from benchmarks.problems import make_problem

CPU = torch.device("cpu")
GIGABYTE = 10**9

needs_curvlinops = pytest.mark.skipif(not HAS_CURVLINOPS, reason="curvlinops is not installed: make bench-setup")


def tiny(part: str, **options: Any) -> Task:
    """A part that takes no time."""
    return Task(part, "tiny-gpt", "cpu", num_threads=1, memory_bytes=GIGABYTE, **options)  # type: ignore[arg-type]


def sizes(device_type: str) -> Sizes:
    return Sizes(device_type=device_type, operations=10**12, num_steps=128, num_probes=8, budget_bytes=24 * GIGABYTE)


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """By the program, its parts in this process."""
    monkeypatch.setattr(sys, "argv", ["benchmark", "--problem", "tiny-gpt", "--device", "cpu", *options])
    monkeypatch.setattr(gpt2, "outcome", measured)
    gpt2.main()
    return capsys.readouterr().out


def addition_operations(total: list[int], left: list[int], right: list[int], **_: Any) -> int:
    """Of c + a b in place, which PyTorch's counter does not know."""
    return 2 * prod(left) * right[-1]


def test_operations_are_those_that_are_run() -> None:
    problem = make_problem("tiny-gpt", CPU, torch.float32)
    shape = problem.data.inputs.shape
    with FlopCounterMode(display=False) as forward:
        problem.model(problem.parameters, problem.data.inputs)
    assert forward.get_total_flops() == forward_operations(problem.model, *shape)  # type: ignore[arg-type]
    operator, vector = our_operator(problem, "hessian"), problem.vectors(1)[0]
    operator.matvec(vector)
    in_place = {torch.ops.aten.addmm_: addition_operations, torch.ops.aten.baddbmm_: addition_operations}
    with FlopCounterMode(display=False, custom_mapping=in_place) as product:
        operator.matvec(vector)
    assert product.get_total_flops() == hessian_product_operations(problem.model, *shape)  # type: ignore[arg-type]


@needs_curvlinops
def test_every_line_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(reports, "RESULTS", tmp_path)
    options = ["--precision", "float32", "bfloat16", "--only", "memory", "density", "budget", "curvlinops"]
    table = printed(monkeypatch, capsys, *options, "--num-steps", "20", "--num-probes", "8", "--save")
    report = json.loads((tmp_path / "gpt2-tiny-gpt-cpu.json").read_text())
    found = {each["quantity"]: each for each in report["rows"]}
    assert table == (tmp_path / "gpt2-tiny-gpt-cpu.md").read_text()
    assert all(name in table for name in found)
    assert found["largest eigenvalue, float32 from curvlinops, relative"]["reached"]
    assert found["largest eigenvalue, bfloat16 from float32, relative"]["reached"]
    assert found["density, bfloat16 from float32, integral of the difference"]["reached"]
    assert found["the same density within 24 GB, float32"]["reached"]
    products = [each for name, each in found.items() if name.startswith("Hessian product,")]
    assert len(products) == 6
    assert all(each["missing"] and "left out by --only" in each["measured"] for each in products)
    left_out = [each for name, each in found.items() if ", tf32" in name and each not in products]
    assert left_out
    assert all("left out by --precision" in each["measured"] for each in left_out)
    assert 1e-4 < report["results"]["density bfloat16"]["precision_deviation"] < 0.1


def test_products_in_their_own_process() -> None:
    found = outcome(tiny("memory"))
    assert 10**8 < found["later_bytes"] <= found["first_bytes"] + 10**6 < GIGABYTE
    assert found["fallback"] is None


def test_a_process_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    assert outcome(tiny("memory")) == {"missing": "its process ended with 1"}


def test_a_density_of_many_parameters_is_not_begun_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(gpt2.STEPS_AND_PROBES, "tiny-gpt")
    table = printed(monkeypatch, capsys, "--only", "density")
    assert (
        "| density, 1,024 products, float32 | one command: time, peak, TFLOP/s | not measured here: it takes" in table
    )
    assert "this device has no tensor cores" in table


def test_rows_are_held_against_their_targets() -> None:
    curve = {"grid": [0.0, 1.0, 2.0], "values": [0.0, 1.0, 0.0], "smallest": 0.2, "largest": 1.8}
    near = curve | {"largest": 1.801}
    density = {
        "seconds": 10.0,
        "num_products": 1024,
        "peak_bytes": 20 * GIGABYTE,
        "predicted_bytes": 25 * GIGABYTE,
        "micro_batch_size": 1,
        "execution": "compiled",
        "reorthogonalisation": "none",
        "precision_deviation": 1e-3,
        "fallback": None,
        "curve": curve,
    }
    product = {"seconds": {"hessian_product": 3.0, "compiled_gradient": 2.0}, "fallback": "why not"}
    results = {
        **{f"products {name} {mode}": product for name in REDUCED for mode in ("interpreted", "compiled")},
        **{f"density {name}": density for name in REDUCED},
        "density tf32": density | {"curve": near},
        "memory": {"first_bytes": 5 * GIGABYTE, "later_bytes": 3 * GIGABYTE, "fallback": None},
        "budget": density,
        "curvlinops": density | {"seconds": 49.0},
    }
    found = {each.quantity: each for each in rows(results, sizes("cuda"))}
    assert found["Hessian product, tf32, compiled"].measured == "1.50 (3000.0 ms, 2000.0 ms); not recorded: why not"
    assert found["Hessian product, tf32, compiled"].reached
    assert "102 TFLOP/s" in found["density, 128 steps of 8 probes, float32"].measured
    assert found["largest eigenvalue, tf32 from float32, relative"].reached
    assert not found["the same density within 24 GB, float32"].reached
    assert "a worker would refuse it" in found["the same density within 24 GB, float32"].measured
    assert not found["curvlinops / ours, end to end, float32"].reached
    assert not any(each.missing for each in found.values())
    on_cpu = rows(results, sizes("cpu"))
    assert [each.reached for each in on_cpu if each.target == "at most 4 GB"] == [False]


def test_micro_batches_of_a_setting_give_the_same_product() -> None:
    problem = make_problem("tiny-gpt", CPU, torch.float32)
    vector = problem.vectors(1)[0]
    whole = our_operator(problem, "hessian").matvec(vector)
    parts = our_operator(problem, "hessian", setting=Setting(1, 0))
    assert (parts.matvec(vector) - whole).norm() < 1e-5 * whole.norm()
    assert parts.held_bytes == 0


def test_a_budget_splits_the_data_as_a_job_does() -> None:
    task = Task("density", "gpt2", "cuda", num_threads=1, memory_bytes=24 * 10**9, num_steps=128, num_probes=8)
    assert task.content[1].inputs.shape == (8, 1024)
    assert task.plan.micro_batch_size == 1
    assert task.plan.work.num_products == 1024


def test_numbers_of_bytes() -> None:
    assert [gpt2.byte_count(text) for text in ("24GB", "2GiB", "77")] == [24 * GIGABYTE, 2**31, 77]
    for text in ("GB", "24XB", "-1GB", "1.5GB", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            gpt2.byte_count(text)


def test_distance_of_densities_beside_each_other() -> None:
    near, far = (
        Curve(
            grid=torch.tensor(grid).numpy(),
            values=torch.tensor([0.0, 1.0, 0.0]).numpy(),
            smallest=0,
            largest=0,
            num_products=1,
        )
        for grid in ([0.0, 1.0, 2.0], [5.0, 6.0, 7.0])
    )
    assert distance(near, near) == 0
    assert distance(near, far) == pytest.approx(2)
