"""`python -m benchmarks.density`: a whole Lanczos density, operator and recording included, beside curvlinops'."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.baselines import HAS_CURVLINOPS, curvlinops_operator, load_curvlinops
from benchmarks.environment import engine_environment, engine_line
from benchmarks.operators import our_operator
from benchmarks.problems import Problem, warm_up_problem
from benchmarks.reports import Goal, chosen_problem, new_compilations, options, publish, ratio_lines, ratios, stem
from benchmarks.timing import Stopwatch
from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.operators.programs import Mode
from hessian_spectrum.quadrature.curves import MARGIN, Smoothing
from hessian_spectrum.quadrature.results import FloatArray

PROBLEMS = ["mlp", "digits", "gpt-small", "tiny"]
STEPS_AND_PROBES = {"mlp": (60, 2), "digits": (100, 10), "gpt-small": (30, 2), "tiny": (10, 2)}

NUM_POINTS = 1024
KAPPA = 3.0

OURS, CURVLINOPS = "ours", "curvlinops"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A density and what it took."""

    grid: FloatArray
    values: FloatArray
    smallest: float
    largest: float
    num_products: int


def our_density(problem: Problem, arguments: argparse.Namespace) -> Curve:
    """By `StochasticLanczosQuadrature` of a new operator."""
    num_steps, num_probes = arguments.num_steps, arguments.num_probes
    spectrum = run(
        StochasticLanczosQuadrature(
            num_steps, num_probes, Smoothing(NUM_POINTS, KAPPA), reorthogonalisation=arguments.reorthogonalisation
        ),
        our_operator(problem, "hessian", arguments.execution, num_products=num_steps * num_probes),
        generator=torch.Generator().manual_seed(0),
    )
    density = spectrum.density
    smallest, largest = spectrum.smallest.value, spectrum.largest.value
    return Curve(
        grid=density.grid,
        values=density.values,
        smallest=smallest,
        largest=largest,
        num_products=spectrum.num_products,
    )


def curvlinops_density(
    problem: Problem, num_steps: int, num_probes: int, *, micro_batch_size: int | None = None
) -> Curve:
    """By `lanczos_approximate_spectrum` of a new operator.

    The products count those of SciPy's `eigsh`, by which it finds both ends of the spectrum first.
    """
    operator = curvlinops_operator(problem, "hessian", micro_batch_size)
    num_products, multiply = 0, operator._matmat

    def counted(columns: Any) -> Any:
        nonlocal num_products
        num_products += columns[0].shape[-1]
        return multiply(columns)

    operator._matmat = counted
    torch.manual_seed(0)
    approximate = load_curvlinops().papyan2020traces.spectrum.lanczos_approximate_spectrum
    grid, values = approximate(operator, num_steps, NUM_POINTS, num_probes, KAPPA, margin=MARGIN)
    # the grid is the interval between both ends, with its margins
    margin = float(grid[-1] - grid[0]) * MARGIN / (1 + 2 * MARGIN)
    return Curve(
        grid=grid.double().cpu().numpy(),
        values=values.double().cpu().numpy(),
        smallest=float(grid[0]) + margin,
        largest=float(grid[-1]) - margin,
        num_products=num_products,
    )


def distance(first: Curve, second: Curve) -> float:
    """Integral of |p - q|, between 0 and 2, a density being zero outside its grid."""
    grid = np.union1d(first.grid, second.grid)
    values = [np.interp(grid, each.grid, each.values, left=0, right=0) for each in (first, second)]
    return float(np.trapezoid(np.abs(values[0] - values[1]), grid))


def jobs(problem: Problem, arguments: argparse.Namespace) -> dict[str, Callable[[], Curve]]:
    """The whole computations, by name."""
    found = {OURS: lambda: our_density(problem, arguments)}
    if HAS_CURVLINOPS:
        found[CURVLINOPS] = lambda: curvlinops_density(problem, arguments.num_steps, arguments.num_probes)
    return found


def measure(problem: Problem, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every number of the report; a job sets up everything anew in each round."""
    small = argparse.Namespace(**{**vars(arguments), "num_steps": 3, "num_probes": 1})
    for warm_up in jobs(warm_up_problem(problem), small).values():
        warm_up()
    curves: dict[str, Curve] = {}

    def keeping(name: str, job: Callable[[], Curve]) -> Callable[[], None]:
        return lambda: curves.__setitem__(name, job())

    calls = {name: keeping(name, job) for name, job in jobs(problem, arguments).items()}
    rounds = Stopwatch(problem.device, arguments.clock).interleaved(calls, arguments.rounds)
    seconds = {name: median(values) for name, values in rounds.items()}
    return {
        "seconds": seconds,
        "num_products": {name: curve.num_products for name, curve in curves.items()},
        "seconds_per_product": {name: seconds[name] / curve.num_products for name, curve in curves.items()},
        "ratios": ratios([Goal(CURVLINOPS, OURS)], rounds),
        "smallest": {name: curve.smallest for name, curve in curves.items()},
        "largest": {name: curve.largest for name, curve in curves.items()},
        "l1_distance": distance(curves[OURS], curves[CURVLINOPS]) if CURVLINOPS in curves else None,
        "rounds": rounds,
    }


def table(report: dict[str, Any]) -> str:
    """The report for readers."""
    lines = [
        f"# Spectral density: {report['problem']}",
        "",
        f"{engine_line(report)} P = {report['num_parameters']:,}, {report['precision']}, {report['num_steps']} steps, "
        f"{report['num_probes']} probes, ours {report['execution']}, "
        f"reorthogonalisation {report['reorthogonalisation']}, {report['num_rounds']} rounds.",
        "",
        "| whole job | median | products | per product | smallest | largest |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {seconds:.2f} s | {report['num_products'][name]} "
        f"| {1e3 * report['seconds_per_product'][name]:.2f} ms "
        f"| {report['smallest'][name]:.5g} | {report['largest'][name]:.5g} |"
        for name, seconds in report["seconds"].items()
    ]
    lines += ["", *ratio_lines(report["ratios"])]
    if report["l1_distance"] is not None:
        lines += ["", f"Integral of the absolute difference between the two densities: {report['l1_distance']:.3f}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = options("density", __doc__, PROBLEMS, precision="float32")
    parser.add_argument("--num-steps", type=int, help="Lanczos steps of each probe")
    parser.add_argument("--num-probes", type=int)
    parser.add_argument("--reorthogonalisation", choices=["none", "full"], help="of this engine; curvlinops has none")
    parser.add_argument(
        "--execution", choices=get_args(Mode), default="measured", help="how this engine runs recordings"
    )
    arguments = parser.parse_args()
    steps, probes = STEPS_AND_PROBES[arguments.problem]
    arguments.num_steps = arguments.num_steps or steps
    arguments.num_probes = arguments.num_probes or probes
    arguments.rounds = arguments.rounds or 1
    problem = chosen_problem(arguments)
    with new_compilations():
        numbers = measure(problem, arguments)
    report = {
        **engine_environment(problem.device, arguments.clock),
        "problem": problem.name,
        "precision": arguments.precision,
        "num_parameters": problem.layout.dim,
        "num_steps": arguments.num_steps,
        "num_probes": arguments.num_probes,
        "reorthogonalisation": arguments.reorthogonalisation or "full",
        "execution": arguments.execution,
        "num_rounds": arguments.rounds,
        **numbers,
    }
    publish(arguments, stem(arguments, "density"), report, table=table(report))


if __name__ == "__main__":
    main()
