"""The measuring programs say what they promise, of problems that take no time. Times are never tested."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import density, exact, exported, products, reports
from benchmarks.baselines import HAS_CURVLINOPS
from benchmarks.measurements import flat, measurements
from benchmarks.memory import measure
from benchmarks.problems import make_problem
from benchmarks.reports import Goal, ratios
from benchmarks.timing import Stopwatch

CPU = torch.device("cpu")
MACHINE = {"device", "date", "versions", "num_threads", "clock", "problem", "precision", "num_parameters", "num_rounds"}

needs_curvlinops = pytest.mark.skipif(not HAS_CURVLINOPS, reason="curvlinops is not installed: make bench-setup")


class Runner:
    """Runs a program's main on a tiny problem, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, program: ModuleType, *options: str) -> str:
        """What it prints."""
        self._monkeypatch.setattr(sys, "argv", ["benchmark", "--problem", "tiny", *options])
        program.main()
        return self._capsys.readouterr().out


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


def test_products(run: Runner) -> None:
    names = ["gradient_eager", "hessian_product", "ggn_product", "hessian_product_block8"]
    report = json.loads(run(products, "--json", "--rounds", "2", "--no-memory", "--only", *names))
    assert report.keys() >= MACHINE | {"ratios", "setup_seconds", "peak_bytes", "steady_peak_bytes", "deviations"}
    assert report.keys() >= {"gradient_compiled", "hessian_product_compiled", "ggn_product_compiled"}
    assert report["gradient_compiled"] is None
    assert all(report[name] > 0 and len(report["rounds"][name]) == 2 for name in names)
    assert report["deviations"]["hessian_product_block8 from hessian_product"] < 1e-6


def test_products_that_deviate_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(products.TOLERANCE, torch.float32, -1.0)  # some machines round both the same
    problem, names = make_problem("tiny", CPU, torch.float32), ["hessian_product", "hessian_product_block8"]
    with pytest.raises(ArithmeticError, match="hessian_product_block8 deviates from hessian_product by"):
        products.measure(problem, 1, "wall", only=names, with_memory=False)


@needs_curvlinops
@pytest.mark.parametrize("problem", ["tiny", "tiny-gpt"])
def test_curvlinops_multiplies_the_same_matrices(problem: str) -> None:
    found = measurements(make_problem(problem, CPU, torch.float64))
    for matrix in ("hessian", "ggn"):
        ours, theirs = (flat(found[name].set_up()()) for name in (f"{matrix}_product", f"curvlinops_{matrix}_product"))
        assert (theirs - ours).norm() < 1e-12 * ours.norm()


def test_peak_of_a_measurement_counts_what_it_holds() -> None:
    problem = make_problem("mlp", CPU, torch.float32)
    vector = 4 * problem.layout.dim
    found = measure(problem, "hessian_product")
    # the point, the gradient, the vector and the product at least
    assert 4 * vector < found["steady"] <= found["peak"] < 100 * vector


@needs_curvlinops
def test_density(run: Runner) -> None:
    report = json.loads(run(density, "--json", "--num-steps", "20", "--num-probes", "4"))
    assert report.keys() >= MACHINE | {"seconds", "num_steps", "num_probes", "execution", "reorthogonalisation"}
    assert report["num_products"]["ours"] == 80 < report["num_products"]["curvlinops"]
    for end in ("smallest", "largest"):
        assert report[end]["curvlinops"] == pytest.approx(report[end]["ours"], rel=0.02)
    assert 0 < report["l1_distance"] < 0.5
    assert set(report["ratios"]) == {"curvlinops / ours"}


def test_density_without_curvlinops(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "HAS_CURVLINOPS", False)
    assert "| ours |" in run(density)


def test_exact(run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reports, "RESULTS", tmp_path)
    table = run(exact, "--rounds", "1", "--save")
    assert table == (tmp_path / "exact-tiny-cpu.md").read_text()
    report = json.loads((tmp_path / "exact-tiny-cpu.json").read_text())
    assert report.keys() >= MACHINE | {"num_samples", "ratios", "deviation"}
    assert report["seconds"].keys() == {"exact_spectrum", "eigvalsh", "func_hessian"}
    assert report["deviation"] < 1e-12


def test_exported(run: Runner) -> None:
    report = json.loads(run(exported, "--rounds", "2", "--json"))
    assert report.keys() >= MACHINE
    assert report["seconds"].keys() == {"built_in_hessian", "built_in_ggn", "program_hessian", "program_ggn"}
    assert report["ratios"].keys() == {"program_hessian / built_in_hessian", "program_ggn / built_in_ggn"}


def test_ratios_of_each_round_stand_beside_their_goals() -> None:
    rounds = {"a": [3.0, 90.0, 2.0], "b": [2.0, 30.0, 2.0]}  # the machine was busy in the second
    found = ratios([Goal("a", "b", 1.4), Goal("a", "b", 1.4, at_most=False), Goal("a", "c", 1.0)], rounds)
    assert found == {"a / b": {"value": 1.5, "goal": "at least 1.4", "reached": True}}
    assert Goal("a", "b", 1.4).ratio(rounds) == {"value": 1.5, "goal": "at most 1.4", "reached": False}


def test_measurements_alternate() -> None:
    order: list[str] = []
    times = Stopwatch(CPU).interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert "".join(order) == "abbaab"
    assert all(len(each) == 3 and min(each) >= 0 for each in times.values())
    with pytest.raises(ValueError, match="GPU"):
        Stopwatch(torch.device("cuda"), "cpu")
