"""`python -m benchmarks.exact`: every eigenvalue, beside LAPACK alone and beside torch.func.hessian."""

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import engine_environment, engine_line
from benchmarks.operators import our_operator
from benchmarks.problems import Problem, warm_up_problem
from benchmarks.reports import Goal, chosen_problem, new_compilations, options, publish, ratio_lines, ratios, stem
from benchmarks.timing import Stopwatch
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.quadrature.results import FloatArray

PROBLEMS = ["digits-deep", "tiny"]

OURS, LAPACK, FUNC_HESSIAN = "exact_spectrum", "eigvalsh", "func_hessian"


def our_spectrum(problem: Problem) -> FloatArray:
    """Eigenvalues (P,) by `DenseEigensolver` of a new operator."""
    return run(DenseEigensolver(), our_operator(problem, "hessian"), generator=torch.Generator()).eigenvalues


def func_hessian_spectrum(problem: Problem) -> FloatArray:
    """Eigenvalues (P,) by `torch.func.hessian` and LAPACK."""
    layout = problem.layout

    def loss(theta: Tensor) -> Tensor:
        return problem.risk.batch_share(0, layout.unflatten(theta))

    hessian: Tensor = torch.func.hessian(loss)(layout.flatten(problem.parameters))
    return _eigenvalues(hessian.double())


def _eigenvalues(matrix: Tensor) -> FloatArray:
    eigenvalues: FloatArray = torch.linalg.eigvalsh(matrix).cpu().numpy()
    return eigenvalues


def jobs(problem: Problem) -> dict[str, Callable[[], FloatArray]]:
    """The computations by name; LAPACK alone is given the matrix."""
    matrix = assemble(our_operator(problem, "hessian"))
    return {
        OURS: lambda: our_spectrum(problem),
        LAPACK: lambda: _eigenvalues(matrix),
        FUNC_HESSIAN: lambda: func_hessian_spectrum(problem),
    }


def measure(problem: Problem, num_rounds: int, clock: str) -> dict[str, Any]:
    """Every number of the report; a job sets up everything anew in each round."""
    for warm_up in jobs(warm_up_problem(problem)).values():
        warm_up()
    found: dict[str, FloatArray] = {}

    def keeping(name: str, job: Callable[[], FloatArray]) -> Callable[[], None]:
        return lambda: found.__setitem__(name, job())

    calls = {name: keeping(name, job) for name, job in jobs(problem).items()}
    rounds = Stopwatch(problem.device, clock).interleaved(calls, num_rounds)
    seconds = {name: median(values) for name, values in rounds.items()}
    expected = found[FUNC_HESSIAN]
    return {
        "seconds": seconds,
        "ratios": ratios([Goal(OURS, LAPACK, 2.0), Goal(FUNC_HESSIAN, OURS)], rounds),
        "deviation": float(np.abs(found[OURS] - expected).max() / np.abs(expected).max()),
        "rounds": rounds,
    }


def table(report: dict[str, Any]) -> str:
    """The report for readers."""
    lines = [
        f"# Every eigenvalue: {report['problem']}",
        "",
        f"{engine_line(report)} P = {report['num_parameters']:,}, {report['precision']}, "
        f"{report['num_samples']} samples, {report['num_rounds']} rounds.",
        "",
        "| computation | median | fastest |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {report['seconds'][name]:.3f} s | {min(times):.3f} s |" for name, times in report["rounds"].items()
    ]
    deviation = f"Largest difference between eigenvalues, divided by the largest eigenvalue: {report['deviation']:.0e}."
    return "\n".join([*lines, "", *ratio_lines(report["ratios"]), "", deviation]) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    arguments = options("exact", __doc__, PROBLEMS, precision="float64").parse_args()
    problem = chosen_problem(arguments)
    num_rounds = arguments.rounds or 5
    with new_compilations():
        numbers = measure(problem, num_rounds, arguments.clock)
    report = {
        **engine_environment(problem.device, arguments.clock),
        "problem": problem.name,
        "precision": arguments.precision,
        "num_parameters": problem.layout.dim,
        "num_samples": len(problem.data),
        "num_rounds": num_rounds,
        **numbers,
    }
    publish(arguments, stem(arguments, "exact"), report, table=table(report))


if __name__ == "__main__":
    main()
