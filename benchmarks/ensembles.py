"""`python -m benchmarks.ensembles`: networks of one shape together, beside one network after the other.

Tiny Lanczos jobs, and the trainings and largest eigenvalues of figure 4 of Cracking the Hessian at paper scale. Of the
networks one after the other a few are computed, in turn with the ensembles, and their mean time counts for each.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.environment import engine_environment, engine_line
from benchmarks.timing import CLOCKS, Stopwatch
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.ensembles.eigenvalues import top_eigenvalues
from hessian_spectrum.curvature.ensembles.operators import EnsembleOperator
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.ensembles import measure, prepare_ensemble, train_ensemble
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

RESULTS = Path(__file__).parent / "results"
GIGABYTE = 10**9

NUM_TINY, NUM_TINY_ALONE = 1000, 20
JOBS_PER_SECOND = 28.8
"""Tiny jobs that a server computed before there were ensembles."""
TINY_GOAL, FIGURE_GOAL = 10.0, 8.0

NUM_SAMPLES, WIDTH, BATCH_SIZE = 1024, 100, 128
DIMS = (1, 2, 5, 10, 20, 50, 100)
PARAMETRIZATIONS = ("standard", "mup", "ntk")
MAX_STEPS = 20_000
TOLERANCE = 1e-4
FIRST = {"activation": "linear", "parametrization": "standard", "precision": "float32"}
"""What runs once before anything is measured."""


@dataclass(frozen=True)
class Machine:
    """Where everything runs."""

    hardware: Hardware
    stopwatch: Stopwatch


def tiny_request(seed: int, num_points: int) -> SpectrumRequest:
    """A Lanczos run of ten steps for a network with 58 parameters."""
    return SpectrumRequest.model_validate(
        {
            "kind": "spectrum",
            "model": {"kind": "mlp", "widths": [4, 8, 2], "activation": "tanh", "seed": seed},
            "data": {"kind": "gaussian", "num_samples": 32, "input_dim": 4, "output_dim": 2, "seed": seed},
            "loss": "mse",
            "method": {"kind": "lanczos", "num_steps": 10, "num_probes": 1, "num_points": num_points},
            "precision": "float64",
            "seed": seed,
        }
    )


def figure_request(
    seed: int, dim: int, *, activation: str, parametrization: str, precision: str, num_steps: int | None
) -> SpectrumRequest:
    """The largest eigenvalue of a network of figure 4, or of figure 16; trained if `num_steps` is a number."""
    train = None
    if num_steps is not None:
        train = {
            "num_steps": num_steps,
            "learning_rate": 0.01,
            "batch_size": BATCH_SIZE,
            "seed": seed,
            "schedule": {"kind": "plateau", "min_learning_rate": 1e-5},
        }
    return SpectrumRequest.model_validate(
        {
            "kind": "spectrum",
            "model": {
                "kind": "mlp",
                "widths": [dim, WIDTH, dim],
                "activation": activation,
                "bias": False,
                "parametrization": parametrization,
                "seed": seed,
            },
            "data": {
                "kind": "gaussian",
                "num_samples": NUM_SAMPLES,
                "input_dim": dim,
                "output_dim": dim,
                "teacher": "linear" if activation == "linear" else "relu",
            },
            "loss": "mse",
            "train": train,
            "method": {"kind": "top-k", "k": 1, "tolerance": TOLERANCE},
            "precision": precision,
            "seed": seed,
        }
    )


def tiny_jobs(machine: Machine, num_points: int, num_rounds: int) -> dict[str, Any]:
    """Jobs per second of 1,000 together and of single ones, in the worker's process."""
    requests = [tiny_request(seed, num_points) for seed in range(NUM_TINY)]
    measure(requests[:10], machine.hardware, ignore_progress)
    run_spectrum_job(requests[0], machine.hardware, ignore_progress)

    def alone() -> None:
        for request in requests[:NUM_TINY_ALONE]:
            run_spectrum_job(request, machine.hardware, ignore_progress)

    calls: dict[str, Callable[[], Any]] = {
        "together": lambda: measure(requests, machine.hardware, ignore_progress),
        "alone": alone,
    }
    rounds = machine.stopwatch.interleaved(calls, num_rounds)
    rates = {
        "together": [NUM_TINY / seconds for seconds in rounds["together"]],
        "alone": [NUM_TINY_ALONE / seconds for seconds in rounds["alone"]],
    }
    factors = [one / other for one, other in zip(rates["together"], rates["alone"], strict=True)]
    return {
        "num_points": num_points,
        **{f"{name}_per_second": median(values) for name, values in rates.items()},
        "ratio": median(factors),
        "ratio_to_server_before": median(rates["together"]) / JOBS_PER_SECOND,
    }


def eigenvalues_together(requests: list[SpectrumRequest], machine: Machine) -> list[list[float]]:
    """The largest eigenvalues of all networks before and after training, each by Lanczos."""
    start = prepare_ensemble(requests, device=machine.hardware.device)
    trained = train_ensemble(requests, start)
    data = start.ensemble.compressed()
    found = []
    for parameters in (start.parameters, trained.parameters):
        tops = top_eigenvalues(
            EnsembleOperator(data, parameters),
            generators=[generator_of(request.seed) for request in requests],
            tolerance=TOLERANCE,
        )
        found.append(tops.values.tolist())
    return found


def figure_row(
    machine: Machine,
    dim: int,
    parametrization: str,
    *,
    activation: str,
    precision: str,
    num_networks: int,
    num_alone: int,
) -> dict[str, Any]:
    """Seconds of all networks of one point of the figure, together and one after the other."""
    options = {"activation": activation, "parametrization": parametrization, "precision": precision}
    requests = [figure_request(seed, dim, **options, num_steps=MAX_STEPS) for seed in range(num_networks)]
    chosen = [num_networks * index // num_alone for index in range(num_alone)]
    values: list[list[float]] = []
    seconds, own = [], []

    def together() -> None:
        values[:] = eigenvalues_together(requests, machine)

    def alone(seed: int) -> None:
        pair = []
        for request in (figure_request(seed, dim, **options, num_steps=None), requests[seed]):
            output: JobOutput = run_spectrum_job(request, machine.hardware, ignore_progress)
            pair.append(output.result.model_dump())
        own.append(pair)

    half = len(chosen) // 2
    seconds += [machine.stopwatch.seconds(lambda seed=seed: alone(seed)) for seed in chosen[:half]]  # type: ignore[misc]
    all_seconds = machine.stopwatch.seconds(together)
    seconds += [machine.stopwatch.seconds(lambda seed=seed: alone(seed)) for seed in chosen[half:]]  # type: ignore[misc]
    differences = [
        abs(values[end][seed] / result["eigenpairs"][0]["value"] - 1)
        for seed, pair in zip(chosen, own, strict=True)
        for end, result in enumerate(pair)
    ]
    return {
        "dim": dim,
        "parametrization": parametrization,
        "activation": activation,
        "mean_steps": mean(pair[1]["training"]["num_steps"] for pair in own),
        "together": all_seconds,
        "alone": num_networks * mean(seconds),
        "ratio": num_networks * mean(seconds) / all_seconds,
        "largest_difference": max(differences),
    }


def table(report: dict[str, Any]) -> str:
    """The report for readers."""
    lines = [
        "# Networks of one shape together",
        "",
        engine_line(report),
        "",
        f"{NUM_TINY:,} Lanczos jobs (widths 4, 8, 2; 10 steps of one probe) in the worker's process, in turn with "
        f"{NUM_TINY_ALONE} single ones, {report['rounds']} rounds; goal: {TINY_GOAL:g} times the {JOBS_PER_SECOND} "
        "jobs/s of a server before.",
        "",
        "| points of the curves | together | one after the other | ratio | to the server before |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['num_points']} | {row['together_per_second']:.0f} jobs/s | {row['alone_per_second']:.1f} jobs/s "
        f"| {row['ratio']:.1f} | {row['ratio_to_server_before']:.1f} |"
        for row in report["tiny"]
    ]
    lines += [
        "",
        f"Figure 4: {report['num_networks']} networks of width {WIDTH}, {NUM_SAMPLES:,} samples, batches of "
        f"{BATCH_SIZE}, {report['precision']}, learning rate 0.01 cut at plateaus down to 1e-5, at most {MAX_STEPS:,} "
        f"steps; the largest eigenvalue before and after training. One after the other: mean of {report['num_alone']} "
        f"networks, for all. Goal: {FIGURE_GOAL:g}.",
        "",
        "| activation | parametrisation | D = K | mean steps | together | one after the other | ratio | largest "
        "relative difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = report["figure"]
    lines += [
        f"| {row['activation']} | {row['parametrization']} | {row['dim']} | {row['mean_steps']:.0f} "
        f"| {row['together']:.1f} s | {row['alone']:.0f} s | {row['ratio']:.1f} | {row['largest_difference']:.1e} |"
        for row in rows
    ]
    for activation in dict.fromkeys(row["activation"] for row in rows):
        own = [row for row in rows if row["activation"] == activation]
        sums = {name: sum(row[name] for row in own) for name in ("together", "alone")}
        lines.append(
            f"| {activation} | all | all | | {sums['together']:.0f} s | {sums['alone']:.0f} s "
            f"| **{sums['alone'] / sums['together']:.1f}** | |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ensembles", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the tiny jobs; medians are reported")
    parser.add_argument("--points", type=int, nargs="*", default=[128, 1024], help="points of the tiny jobs' curves")
    parser.add_argument("--dims", type=int, nargs="*", default=list(DIMS), help="D = K of the figure")
    parser.add_argument("--parametrizations", nargs="*", choices=PARAMETRIZATIONS, default=list(PARAMETRIZATIONS))
    parser.add_argument("--activations", nargs="*", choices=["linear", "relu"], default=["linear"])
    parser.add_argument("--networks", type=int, default=200, help="networks of each point of the figure")
    parser.add_argument("--alone", type=int, default=4, help="networks that are computed one after the other")
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, help="threads of torch; default: all cores")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time of all threads")
    parser.add_argument("--memory", type=float, default=8.0, help="memory of the worker in gigabytes")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/ensembles.json and .md")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    hardware = Hardware(device, torch.get_num_threads(), int(arguments.memory * GIGABYTE))
    machine = Machine(hardware, Stopwatch(device, arguments.clock))
    warm_up = [figure_request(seed, 1, **FIRST, num_steps=2) for seed in range(2)]
    eigenvalues_together(warm_up, machine)
    run_spectrum_job(warm_up[0], hardware, ignore_progress)
    figure = [
        figure_row(
            machine,
            dim,
            parametrization,
            activation=activation,
            precision=arguments.precision,
            num_networks=arguments.networks,
            num_alone=arguments.alone,
        )
        for activation in arguments.activations
        for parametrization in arguments.parametrizations
        for dim in arguments.dims
    ]
    report = {
        **engine_environment(device, arguments.clock),
        "rounds": arguments.rounds,
        "precision": arguments.precision,
        "num_networks": arguments.networks,
        "num_alone": arguments.alone,
        "tiny": [tiny_jobs(machine, points, arguments.rounds) for points in arguments.points],
        "figure": figure,
    }
    document = json.dumps(report, indent=1) + "\n"
    if arguments.save:
        (RESULTS / "ensembles.json").write_text(document)
        (RESULTS / "ensembles.md").write_text(table(report))
    print(table(report), end="")


if __name__ == "__main__":
    main()
