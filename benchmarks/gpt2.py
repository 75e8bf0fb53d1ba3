"""`python -m benchmarks.gpt2`: speed and memory of a GPT-2 of 124 million parameters, each line beside its target.

Each part runs in a process of its own. The table also lists what this device cannot do and what the options leave out.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines import HAS_CURVLINOPS
from benchmarks.environment import engine_environment, engine_line
from benchmarks.gpt2_rows import Row, Sizes, gigabytes, rows
from benchmarks.gpt2_tasks import REDUCED, Task, outcome
from benchmarks.measurements import EXECUTIONS
from benchmarks.operations import hessian_product_operations
from benchmarks.reports import common_options, new_compilations, publish, stem
from hessian_spectrum.worker.hardware import FAIR_SHARE

PROBLEMS = ["gpt2", "gpt-small", "tiny-gpt"]
PARTS = ["products", "memory", "density", "budget", "curvlinops"]
STEPS_AND_PROBES = {"gpt-small": (30, 2), "tiny-gpt": (10, 2)}
GPU_STEPS_AND_PROBES = (128, 8)
NUM_ROUNDS = 7
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "": 1}


def planned(arguments: argparse.Namespace) -> dict[str, Task | str]:
    """Every part by name: how it is measured, or why it is not."""
    device = torch.device(arguments.device)
    memory = int(FAIR_SHARE * free_bytes(device))
    threads = torch.get_num_threads()
    base = Task(
        "density",
        arguments.problem,
        arguments.device,
        num_threads=threads,
        memory_bytes=memory,
        num_rounds=arguments.rounds,
    )
    counted = replace(base, num_steps=arguments.num_steps or 2, num_probes=arguments.num_probes or 1)
    budget = replace(counted, memory_bytes=arguments.memory_budget, is_limited=True)
    found: dict[str, Task | str] = {}
    for precision in REDUCED:
        for mode in EXECUTIONS.values():
            found[f"products {precision} {mode}"] = replace(base, part="products", precision=precision, mode=mode)
        found[f"density {precision}"] = replace(counted, precision=precision)
    found |= {
        "memory": replace(base, part="memory"),
        "budget": budget,
        "curvlinops": replace(counted, part="curvlinops"),
    }
    return {name: _left_out(name, arguments) or task for name, task in found.items()}


def _left_out(name: str, arguments: argparse.Namespace) -> str | None:
    """Why a part is not measured."""
    part, *rest = name.split()
    if part not in arguments.only:
        return f"left out by --only {' '.join(arguments.only)}"
    if rest and rest[0] not in arguments.precision:
        chosen = f"left out by --precision {' '.join(arguments.precision)}"
        return chosen if arguments.chose_precision else "this device has no tensor cores"
    if part in ("density", "budget", "curvlinops") and arguments.num_steps is None:
        return "it takes hours without a GPU; set --num-steps and --num-probes to compute part of it"
    if part == "curvlinops" and not HAS_CURVLINOPS:
        return "curvlinops is not installed: make bench-setup"
    return None


def free_bytes(device: torch.device) -> int:
    """Memory that nothing uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def byte_count(text: str) -> int:
    """24GB, 24GiB, or a number of bytes.

    Raises:
        ArgumentTypeError: The text is not valid.
    """
    digits = text.rstrip("KMGiB")
    unit = text[len(digits) :]
    if not digits.isdigit() or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, such as 24GB")
    return int(digits) * UNITS[unit]


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each part found; a part that was not measured, or failed, has the reason as "missing"."""
    results: dict[str, dict[str, Any]] = {}
    for name, task in planned(arguments).items():
        if isinstance(task, str):
            results[name] = {"missing": task}
            continue
        with new_compilations():
            results[name] = outcome(task)
    return results


def table(report: dict[str, Any], found: list[Row]) -> str:
    """The report for readers."""
    sequences, length = report["input_shape"]
    lines = [
        f"# GPT-2: {report['problem']}",
        "",
        f"{engine_line(report)} P = {report['num_parameters']:,}, inputs {sequences} x {length}; "
        f"{report['operations'] / 1e12:.3g} TFLOP in the matrix products of a Hessian product; micro-batches chosen "
        f"for {gigabytes(report['memory_bytes'])}, {FAIR_SHARE:.0%} of the free memory.",
        "",
        "The targets are for 124 million parameters; those of densities and of curvlinops are for a GPU of 140 GB. The "
        "time of a density is that of a whole job, from drawing the parameters to the curves, compilation included; on "
        "a CPU its peak does not count what the process had loaded before. Densities are compared on the union of both "
        "grids.",
        "",
        "| quantity | target | measured | reached |",
        "|---|---|---|---|",
        *(each.line() for each in found),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    arguments = _arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    task = Task(
        "density",
        arguments.problem,
        arguments.device,
        num_threads=torch.get_num_threads(),
        memory_bytes=free_bytes(device),
    )
    model, data = task.content
    operations = hessian_product_operations(model, *data.inputs.shape)
    results = measure(arguments)
    sizes = Sizes(
        device_type=device.type,
        operations=operations,
        num_steps=arguments.num_steps or 0,
        num_probes=arguments.num_probes or 0,
        budget_bytes=arguments.memory_budget,
    )
    found = rows(results, sizes)
    report = {
        **engine_environment(device, "wall"),
        "problem": arguments.problem,
        "num_parameters": task.request.dim,
        "input_shape": list(data.inputs.shape),
        "operations": operations,
        "memory_bytes": int(FAIR_SHARE * task.memory_bytes),
        "budget_bytes": arguments.memory_budget,
        "rows": [asdict(each) for each in found],
        "results": {name: {key: each[key] for key in each if key != "curve"} for name, each in results.items()},
    }
    publish(arguments, stem(arguments, "gpt2"), report, table=table(report, found))


def _arguments() -> argparse.Namespace:
    parser = common_options("gpt2", __doc__, PROBLEMS)
    parser.set_defaults(device="cuda" if torch.cuda.is_available() else "cpu", rounds=NUM_ROUNDS)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure only these parts")
    parser.add_argument("--precision", nargs="+", choices=list(REDUCED), help="default: all on a GPU, else float32")
    parser.add_argument("--num-steps", type=int, help="Lanczos steps of each probe")
    parser.add_argument("--num-probes", type=int)
    parser.add_argument(
        "--memory-budget", type=byte_count, default="24GB", help="memory for the density of the part budget"
    )
    arguments = parser.parse_args()
    is_gpu = torch.device(arguments.device).type == "cuda"
    arguments.chose_precision = arguments.precision is not None
    arguments.precision = arguments.precision or (list(REDUCED) if is_gpu else ["float32"])
    steps, probes = GPU_STEPS_AND_PROBES if is_gpu else STEPS_AND_PROBES.get(arguments.problem, (None, None))
    arguments.num_steps = arguments.num_steps or steps
    arguments.num_probes = arguments.num_probes or probes
    return arguments


if __name__ == "__main__":
    main()
