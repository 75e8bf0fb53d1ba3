"""`python -m benchmarks.exported`: products of built-in networks beside those of the same networks as programs."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from torch import Tensor, nn

from benchmarks.environment import engine_environment, engine_line
from benchmarks.networks import exported
from benchmarks.operators import our_operator
from benchmarks.problems import Problem
from benchmarks.reports import Goal, chosen_problem, options, publish, ratio_lines, ratios, stem
from benchmarks.timing import Stopwatch
from hessian_spectrum.curvature.data.base import input_tensors
from hessian_spectrum.curvature.models.base import Model, Parameters

PROBLEMS = ["mlp", "conv", "gpt-small", "tiny"]
ROUNDS = 20


class Functional(nn.Module):
    """A built-in network as a module, to be exported."""

    def __init__(self, model: Model, parameters: Parameters) -> None:
        super().__init__()
        self._model = model
        for name, values in parameters.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(values))

    def forward(self, x: Tensor) -> Tensor:
        """The outputs."""
        return self._model({name.replace("/", "."): each for name, each in self.named_parameters()}, x)


def as_program(problem: Problem) -> Problem:
    """The same network and data, with the network as a program."""
    module = Functional(problem.model, problem.parameters)
    model = exported(module, input_tensors(problem.data.inputs)[0][:2])
    parameters = {name: problem.parameters[name.replace("/", ".")] for name in model.parameter_shapes}
    return replace(problem, model=model, parameters=parameters)


def measure(problem: Problem, num_rounds: int, clock: str) -> dict[str, Any]:
    """Every number of the report.

    Raises:
        ArithmeticError: If products that should be equal are not.
    """
    vector = problem.vectors(1)[0]
    calls: dict[str, Callable[[], Tensor]] = {}
    for source, each in (("built_in", problem), ("program", as_program(problem))):
        for matrix in ("hessian", "ggn"):
            calls[f"{source}_{matrix}"] = partial(our_operator(each, matrix).matvec, vector)
    for matrix in ("hessian", "ggn"):
        one, other = calls[f"built_in_{matrix}"](), calls[f"program_{matrix}"]()
        if float((one - other).norm()) > 1e-4 * float(one.norm()):
            raise ArithmeticError(f"products with the {matrix} differ")
    rounds = Stopwatch(problem.device, clock).interleaved(calls, num_rounds)
    seconds = {name: median(values) for name, values in rounds.items()}
    wanted = [Goal(f"program_{matrix}", f"built_in_{matrix}", 1.05) for matrix in ("hessian", "ggn")]
    return {"seconds": seconds, "ratios": ratios(wanted, rounds), "rounds": rounds}


def table(report: dict[str, Any]) -> str:
    """The report for readers."""
    lines = [
        f"# A built-in network and the same network as a program: {report['problem']}",
        "",
        f"{engine_line(report)} P = {report['num_parameters']:,}, {report['precision']}, "
        f"{report['num_rounds']} rounds.",
        "",
        "| product | median | fastest |",
        "|---|---|---|",
    ]
    for name, times in report["rounds"].items():
        lines.append(f"| {name} | {1e3 * report['seconds'][name]:.2f} ms | {1e3 * min(times):.2f} ms |")
    return "\n".join([*lines, "", *ratio_lines(report["ratios"])]) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    arguments = options("exported", __doc__, PROBLEMS, precision="float32").parse_args()
    problem = chosen_problem(arguments)
    numbers = measure(problem, arguments.rounds or ROUNDS, arguments.clock)
    report = {
        **engine_environment(problem.device, arguments.clock),
        "problem": problem.name,
        "precision": arguments.precision,
        "num_parameters": problem.layout.dim,
        "num_rounds": arguments.rounds or ROUNDS,
        **numbers,
    }
    publish(arguments, stem(arguments, "exported"), report, table=table(report))


if __name__ == "__main__":
    main()
