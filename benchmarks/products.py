"""`python -m benchmarks.products`: products with Hessian and GGN, beside gradients and beside curvlinops."""

from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import engine_environment, engine_line
from benchmarks.measurements import EXECUTIONS, Call, Measurement, flat, measurements
from benchmarks.memory import peak_bytes
from benchmarks.problems import Problem, warm_up_problem
from benchmarks.reports import Goal, chosen_problem, new_compilations, options, publish, ratio_lines, ratios, stem
from benchmarks.timing import Stopwatch

PROBLEMS = ["gpt-small", "mlp", "gpt2", "resnet18", "vit", "tiny", "tiny-gpt", "tiny-resnet18", "tiny-vit"]
ROUNDS = {"gpt-small": 30, "mlp": 50, "gpt2": 5, "resnet18": 20, "vit": 20}
FEW_ROUNDS = 5

# Relative deviation of two results that should be equal, in the norm.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}

WRONG_ELSEWHERE = {(name, "curvlinops_hessian_product") for name in ("vit", "tiny-vit")}
"""Results that deviate because the other library's are wrong: jvp over jacrev, where there is a layer norm."""


OF_MODULES = [
    Goal("hessian_product", "gradient_eager", 1.9),
    Goal("ggn_product", "gradient_eager", 1.2),
    Goal("curvlinops_hessian_product", "hessian_product", 3.0, at_most=False),
    Goal("curvlinops_ggn_product", "ggn_product", 2.5, at_most=False),
]
"""What the ratios of a network of one's own should be."""


def goals(problem: Problem) -> list[Goal]:
    """What every ratio should be."""
    if problem.module is not None:
        return OF_MODULES
    found = [Goal("gradient_eager", "gradient_compiled")]
    for suffix in EXECUTIONS:
        hessian, ggn, block = (name + suffix for name in ("hessian_product", "ggn_product", "hessian_product_block8"))
        found += [
            Goal(hessian, "gradient_compiled", 2.0),
            Goal(ggn, "gradient_compiled", 1.4),
            Goal("curvlinops_hessian_product", hessian, 2.0, at_most=False),
            Goal("curvlinops_ggn_product", ggn, 1.5, at_most=False),
            Goal(block, "gradient_compiled"),
            Goal("curvlinops_hessian_product_block8", block),
        ]
    return found


def measure(
    problem: Problem, num_rounds: int, clock: str, *, only: list[str] | None, with_memory: bool
) -> dict[str, Any]:
    """Every number of the report.

    Args:
        only: Names of the measurements to take; None: all.

    Raises:
        ArithmeticError: If results that should be equal are not.
    """
    chosen = {name: each for name, each in measurements(problem).items() if only is None or name in only}
    stopwatch = Stopwatch(problem.device, clock)
    for name, each in measurements(warm_up_problem(problem)).items():
        if name in chosen:
            each.set_up()()
    calls: dict[str, Call] = {}
    setup_seconds, deviations = {}, _Deviations(problem)
    for name, each in chosen.items():
        # always the wall: compilers work in processes of their own
        setup_seconds[name] = Stopwatch(problem.device).seconds(partial(_make_ready, calls, each))
        deviations.add(each, flat(calls[name]()))
    times = stopwatch.interleaved(calls, num_rounds)
    rounds = {name: [each / chosen[name].num_vectors for each in times[name]] for name in times}
    seconds = {name: median(values) for name, values in rounds.items()}
    calls.clear()  # what they hold is no longer needed, and other processes follow
    peaks = {name: peak_bytes(problem, name) for name in chosen} if with_memory else {}
    return {
        **{name: seconds.get(name) for name in measurements(problem)},
        "ratios": ratios(goals(problem), rounds),
        "setup_seconds": setup_seconds,
        "peak_bytes": {name: each["peak"] for name, each in peaks.items()},
        "steady_peak_bytes": {name: each["steady"] for name, each in peaks.items()},
        "deviations": deviations.found,
        "rounds": rounds,
    }


def _make_ready(calls: dict[str, Call], measurement: Measurement) -> None:
    """Set up and call once: from then on nothing is compiled or recorded any more."""
    calls[measurement.name] = measurement.set_up()
    calls[measurement.name]()


class _Deviations:
    """Compares each result with the first of the same quantity."""

    def __init__(self, problem: Problem) -> None:
        self.found: dict[str, float] = {}
        self._problem = problem.name
        self._tolerance = TOLERANCE[problem.dtype]
        self._first: dict[str, tuple[str, Tensor]] = {}  # by quantity

    def add(self, measurement: Measurement, result: Tensor) -> None:
        """Raises:  ArithmeticError if the result deviates, or holds NaN."""
        name = measurement.name
        first, expected = self._first.setdefault(measurement.quantity, (name, result))
        if first == name:
            return
        deviation = float((result - expected).norm() / expected.norm())
        self.found[f"{name} from {first}"] = deviation
        if not deviation <= self._tolerance and (self._problem, name) not in WRONG_ELSEWHERE:
            raise ArithmeticError(f"{name} deviates from {first} by {deviation:.1e}")


def table(report: dict[str, Any]) -> str:
    """The report for readers."""
    lines = [
        f"# Products: {report['problem']}",
        "",
        f"{engine_line(report)} P = {report['num_parameters']:,}, {report['precision']}, "
        f"inputs {' x '.join(map(str, report['input_shape']))}, {report['num_rounds']} rounds.",
        "",
        "| measurement | median | fastest | setup and first call | peak | peak of the third call |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in report["rounds"].items():
        peaks = [_mebibytes(report[key].get(name)) for key in ("peak_bytes", "steady_peak_bytes")]
        lines.append(
            f"| {name} | {1e3 * report[name]:.2f} ms | {1e3 * min(values):.2f} ms "
            f"| {report['setup_seconds'][name]:.1f} s | {peaks[0]} | {peaks[1]} |"
        )
    lines += ["", *ratio_lines(report["ratios"]), "", f"Largest deviation: {_largest(report['deviations'])}."]
    return "\n".join(lines) + "\n"


def _mebibytes(number: int | None) -> str:
    return "" if number is None else f"{number / 2**20:,.0f} MiB"


def _largest(deviations: dict[str, float]) -> str:
    if not deviations:
        return "nothing was compared"
    name = max(deviations, key=lambda each: deviations[each])
    return f"{deviations[name]:.0e} ({name})"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = options("products", __doc__, PROBLEMS, precision="float32")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="take only these measurements")
    parser.add_argument("--no-memory", action="store_true", help="omit memory peaks, which take a process each")
    arguments = parser.parse_args()
    problem = chosen_problem(arguments)
    unknown = set(arguments.only or ()) - set(measurements(problem))
    if unknown:
        parser.error(
            f"unknown measurements: {', '.join(sorted(unknown))}; known ones: {', '.join(measurements(problem))}"
        )
    num_rounds = arguments.rounds or ROUNDS.get(problem.name, FEW_ROUNDS)
    with new_compilations():
        numbers = measure(
            problem, num_rounds, arguments.clock, only=arguments.only, with_memory=not arguments.no_memory
        )
    report = {
        **engine_environment(problem.device, arguments.clock),
        "problem": problem.name,
        "precision": arguments.precision,
        "num_parameters": problem.layout.dim,
        "input_shape": list(problem.data.inputs.shape),
        "num_rounds": num_rounds,
        **numbers,
    }
    publish(arguments, stem(arguments, "products"), report, table=table(report))


if __name__ == "__main__":
    main()
