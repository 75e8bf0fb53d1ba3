"""`python -m benchmarks.cost`: predicted time and memory beside what processes take, on three sizes of each problem.

Time is predicted from one product, and from the speed of vectors and of small dense eigenvalue problems, all measured
in the process that then computes; memory from numbers of the request alone. Processor time of one thread is compared.
"""

import argparse
import ctypes
import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.environment import engine_environment, engine_line
from benchmarks.footprints import OPERATORS, Content, forget_peak, gpt2, mlp, program, status
from benchmarks.networks import Recurrent, UNet, VisionTransformer, resnet18
from benchmarks.reports import RESULTS, publish
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.curvature.calibration import eigenvalue_seconds, vector_rate
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.planning.job_plan import peak_bytes
from hessian_spectrum.planning.size import Size
from hessian_spectrum.planning.work import Rates, Work, exact_work, lanczos_work, predicted_seconds
from hessian_spectrum.quadrature.curves import Smoothing

NUM_STEPS, NUM_PROBES = 20, 2
ITEM_BYTES = 4


@dataclass(frozen=True)
class Case:
    """A problem and a method."""

    content: Callable[[], Content]
    exact: bool = False

    def work(self, num_parameters: int) -> Work:
        """What the method does."""
        return (
            exact_work(num_parameters, layered=True)
            if self.exact
            else lanczos_work(num_parameters, NUM_STEPS, NUM_PROBES)
        )

    def run(self, operator: SymmetricOperator) -> None:
        """The method."""
        if self.exact:
            run(DenseEigensolver(), operator, generator=torch.Generator())
        else:
            run(
                StochasticLanczosQuadrature(NUM_STEPS, NUM_PROBES, Smoothing(64, 3.0)),
                operator,
                generator=torch.Generator().manual_seed(0),
            )


CASES = {
    "mlp-small": Case(lambda: mlp(64, 256, 256, 64, n=2048)),
    "mlp-medium": Case(lambda: mlp(64, 512, 512, 10, n=4096, activation="relu", labels=True)),
    "mlp-large": Case(lambda: mlp(512, 1024, 1024, 512, n=1024)),
    "gpt2-small": Case(lambda: gpt2(2, 4, 64, 64, 256, n=8)),
    "gpt2-medium": Case(lambda: gpt2(3, 4, 128, 128, 1024, n=4)),
    "gpt2-large": Case(lambda: gpt2(4, 8, 256, 128, 2048, n=4)),
    "exact-small": Case(lambda: mlp(64, 40, 10, n=512), exact=True),
    "exact-medium": Case(lambda: mlp(64, 64, 10, n=512), exact=True),
    "exact-large": Case(lambda: mlp(64, 80, 10, n=1024), exact=True),
    # sizes at which no coefficient was fitted
    "resnet18-width-16": Case(lambda: program(resnet18(16), 32, 3, 32, 32)),
    "vit": Case(lambda: program(VisionTransformer(96, 6, 4), 16, 3, 32, 32)),
    "lstm": Case(lambda: program(Recurrent(nn.LSTM, 48, 96), 96, 24, 48)),
    "u-net": Case(lambda: program(UNet(12), 12, 1, 48, 48, labels=False)),
}


def measured(case: Case) -> dict[str, float]:
    """Predicted and real seconds and bytes, in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        warm_up()
        os.write(writing, json.dumps(_measure(case)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found: dict[str, float] = json.loads(pipe.read())
    os.waitpid(child, 0)
    return found


def warm_up() -> None:
    """Load what libraries load once."""
    for content in (lambda: mlp(4, 3, 2, n=5), lambda: gpt2(1, 1, 4, 8, 16, n=2)):
        _measure(Case(content))
        _measure(Case(content, exact=True))


def _measure(case: Case) -> dict[str, float]:
    model, loss, data = case.content()
    parameters = model.initial_parameters(torch.Generator(), torch.float32, torch.device("cpu"))
    size: Size = model.size_on(data.inputs)
    size = size if data.targets.is_floating_point() else size.with_logits()
    work = case.work(size.num_parameters)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    forget_peak()
    started = time.process_time()
    risk = EmpiricalRisk(model, loss, [data])
    operator = OPERATORS["hessian"](risk, parameters)
    operator.checked_gradient_norm()  # as a job does
    case.run(operator)
    seconds = time.process_time() - started
    peak = status("VmHWM") - before
    return {
        "num_parameters": size.num_parameters,
        "num_products": work.num_products,
        "seconds": seconds,
        "predicted_seconds": predicted_seconds(work, _rates(OPERATORS["hessian"](risk, parameters), work), ITEM_BYTES),
        "peak_bytes": peak,
        "predicted_bytes": peak_bytes(size, work, "hessian", itemsize=ITEM_BYTES) - ITEM_BYTES * size.num_parameters,
    }


def _rates(operator: SymmetricOperator, work: Work) -> Rates:
    """From two products of the block that the method multiplies, the first of a new operator."""
    vectors = torch.randn(work.num_columns, operator.dim).T
    seconds = []
    for _ in range(2):
        started = time.process_time()
        operator.matmat(vectors)
        seconds.append(time.process_time() - started)
    return Rates(
        recording_seconds=max(seconds[0] - seconds[1], 0.0),
        seconds_per_product=seconds[1] / work.num_columns,
        bytes_per_second=vector_rate(operator.device, time.process_time),
        eigenvalue_seconds=eigenvalue_seconds(time.process_time),
    )


def table(report: dict[str, Any]) -> str:
    """The report for readers."""
    lines = [
        "# Predicted cost",
        "",
        f"{engine_line(report)}",
        "",
        "| problem | P | products | time | predicted | memory | predicted |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in report["cases"].items():
        seconds, space = each["predicted_seconds"] / each["seconds"], each["predicted_bytes"] / each["peak_bytes"]
        lines.append(
            f"| {name} | {each['num_parameters']:,} | {each['num_products']} | {each['seconds']:.2f} s "
            f"| {each['predicted_seconds']:.2f} s ({seconds - 1:+.0%}) | {each['peak_bytes'] / 2**20:.0f} MiB "
            f"| {each['predicted_bytes'] / 2**20:.0f} MiB ({space - 1:+.0%}) |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/cost-cpu.json and .md")
    parser.add_argument("--case", choices=CASES, action="append", help="cases to measure; default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    cases = {name: measured(CASES[name]) for name in arguments.case or CASES}
    report = {**engine_environment(torch.device("cpu"), "cpu"), "cases": cases}
    publish(arguments, "cost-cpu", report, table=table(report))


if __name__ == "__main__":
    main()
