"""`python -m benchmarks.figure_costs`: predicted times of measurements of figures beside measured ones, on two threads.

Of each figure and scale, a few of the measurements that are predicted to take between a fiftieth of a second and half a
minute, from the fastest to the slowest. Measurements that several figures share are timed once.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.environment import engine_environment, engine_line
from benchmarks.reports import RESULTS, publish
from hessian_spectrum.api_schemas.figures import FIGURES, Measurement
from hessian_spectrum.worker.figures.measurement import Context, measure
from hessian_spectrum.worker.hardware import Hardware

NUM_THREADS, MEMORY_BYTES = 2, 8 * 2**30
LEAST_SECONDS, MOST_SECONDS = 0.02, 30.0


def chosen(per_figure: int, names: list[str]) -> Iterator[tuple[str, Measurement]]:
    """The figures' measurements that are timed, each with the first figure that needs it."""
    known: set[str] = set()
    for name, figure in FIGURES.items():
        for scale in ("quick", "paper"):
            parameters = figure.parameters.model_validate(figure.defaults(scale))
            points = [p for p in figure.points(parameters) if LEAST_SECONDS <= p.cost.seconds <= MOST_SECONDS]
            points.sort(key=lambda point: point.cost.seconds)
            places = np.linspace(0, len(points) - 1, min(per_figure, len(points))).round().astype(int)
            for place in np.unique(places):
                point = points[place]
                if (not names or name in names) and (key := point.model_dump_json()) not in known:
                    known.add(key)
                    yield name, point


def row(figure: str, measurement: Measurement) -> dict[str, Any]:
    """Predicted and measured seconds."""
    context = Context(hardware=Hardware(torch.device("cpu"), NUM_THREADS, MEMORY_BYTES))
    start = time.perf_counter()
    measure(measurement, context)
    return {
        "figure": figure,
        "measurement": measurement.kind,
        "predicted_seconds": measurement.cost.seconds,
        "seconds": time.perf_counter() - start,
    }


def table(rows: list[dict[str, Any]], environment: dict[str, Any]) -> str:
    """The ratios of each kind of measurement, then all rows."""
    lines = [engine_line(environment), "", "| measurement | number | predicted / measured: least | median | most |"]
    lines.append("|---|---|---|---|---|")
    for kind in sorted({each["measurement"] for each in rows}):
        found = [each["predicted_seconds"] / each["seconds"] for each in rows if each["measurement"] == kind]
        lines.append(f"| {kind} | {len(found)} | {min(found):.2f} | {np.median(found):.2f} | {max(found):.2f} |")
    lines += ["", "| figure | measurement | predicted (s) | measured (s) | ratio |", "|---|---|---|---|---|"]
    for each in rows:
        predicted, seconds = each["predicted_seconds"], each["seconds"]
        numbers = f"{predicted:.3g} | {seconds:.3g} | {predicted / seconds:.2f}"
        lines.append(f"| {each['figure']} | {each['measurement']} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Time the measurements; report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figure_costs", description=__doc__)
    parser.add_argument("figures", nargs="*", help="names of figures; default: all")
    parser.add_argument("--per-figure", type=int, default=4, help="measurements of each figure and scale")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/figure-costs-cpu.json and .md")
    arguments = parser.parse_args()
    torch.set_num_threads(NUM_THREADS)
    rows = []
    for figure, measurement in chosen(arguments.per_figure, arguments.figures):
        rows.append(row(figure, measurement))
        print(json.dumps(rows[-1]), flush=True)
    environment = engine_environment(torch.device("cpu"), "wall")
    publish(arguments, "figure-costs-cpu", {"environment": environment, "rows": rows}, table=table(rows, environment))


if __name__ == "__main__":
    main()
