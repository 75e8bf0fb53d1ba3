"""`python -m benchmarks.gpt2_tasks TASK`: one part of `benchmarks.gpt2`, in a process whose memory is all its own."""

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any, Literal

import torch

from benchmarks.baselines import compiled_gradient
from benchmarks.density import KAPPA, NUM_POINTS, Curve, curvlinops_density
from benchmarks.memory import Meter
from benchmarks.operators import Setting, our_operator
from benchmarks.problems import RECIPES, Problem
from benchmarks.timing import Stopwatch
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.operators.programs import MatmulPrecision, Mode
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.worker.builders import build_parameters
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

Part = Literal["products", "memory", "density", "curvlinops"]
Precision = Literal["float32", "tf32", "bfloat16"]

REDUCED: dict[Precision, MatmulPrecision | None] = {"float32": None, "tf32": "tf32", "bfloat16": "bfloat16"}
WARM_UP = "tiny-gpt"
TIMEOUT_SECONDS = 12 * 3600


@dataclass(frozen=True)
class Task:
    """What is measured, and on what."""

    part: Part
    problem: str  # of RECIPES, a GPT-2
    device: str
    _: KW_ONLY
    num_threads: int
    memory_bytes: int  # from which micro-batches are chosen
    precision: Precision = "float32"
    mode: Mode = "interpreted"  # of products
    num_rounds: int = 1  # of products
    num_steps: int = 2
    num_probes: int = 1
    is_limited: bool = False  # whether a GPU's allocator gives no more than memory_bytes

    @property
    def torch_device(self) -> torch.device:
        """Where it is measured."""
        return torch.device(self.device)

    @cached_property
    def content(self) -> tuple[Gpt2, Dataset]:
        """The model and its tokens, on the CPU."""
        model, data, _ = RECIPES[self.problem].content(torch.Generator().manual_seed(0), self.torch_device.type)
        assert isinstance(model, Gpt2)
        return model, data

    @cached_property
    def request(self) -> SpectrumRequest:
        """The density as a job."""
        model, data = self.content
        sizes = {name: getattr(model, name) for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")}
        counts = {"num_steps": self.num_steps, "num_probes": self.num_probes, "num_points": NUM_POINTS}
        return SpectrumRequest.model_validate(
            {
                "kind": "spectrum",
                "model": {"kind": "gpt2", **sizes},
                "data": {"kind": "inline", "x": data.inputs.tolist(), "y": data.targets.tolist()},
                "loss": "cross-entropy",
                "method": {"kind": "lanczos", "kappa": KAPPA, **counts},
                "precision": self.precision,
            }
        )

    @property
    def plan(self) -> ComputationPlan:
        """Micro-batches and recordings, as a worker with so much memory chooses them."""
        return estimate(self.request, self.memory_bytes)

    def make_problem(self) -> Problem:
        """The risk at the job's parameters, in float32 on the device."""
        (model, data), device = self.content, self.torch_device
        parameters = build_parameters(self.request.model, model, dtype=torch.float32, device=device)
        return Problem(self.problem, model, data.to(torch.float32, device), parameters)

    def make_operator(self, problem: Problem) -> RiskOperator:
        """The Hessian before its first product."""
        plan = self.plan
        setting = Setting(plan.micro_batch_size, plan.recording_bytes, REDUCED[self.precision])
        return our_operator(problem, "hessian", self.mode, setting=setting)


def outcome(task: Task) -> dict[str, Any]:
    """What a process of its own found, or as "missing" the reason why it found nothing."""
    program = [sys.executable, "-m", "benchmarks.gpt2_tasks", json.dumps(asdict(task))]
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"missing": f"it took more than {TIMEOUT_SECONDS} seconds"}
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        lines = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        return {"missing": lines[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(task: Task) -> dict[str, Any]:
    """What the task asks, in this process."""
    return _PARTS[task.part](task)


def _products(task: Task) -> dict[str, Any]:
    """Seconds of compiled gradients of all data and of Hessian products, alternating."""
    problem = task.make_problem()
    operator, vector = task.make_operator(problem), problem.vectors(1)[0]
    calls: dict[str, Callable[[], Any]] = {
        "compiled_gradient": compiled_gradient(problem, REDUCED[task.precision]),
        "hessian_product": lambda: operator.matvec(vector),
    }
    stopwatch = Stopwatch(problem.device)
    setup = {name: stopwatch.seconds(call) for name, call in calls.items()}
    rounds = stopwatch.interleaved(calls, task.num_rounds)
    return {
        "seconds": {name: median(values) for name, values in rounds.items()},
        "rounds": rounds,
        "setup_seconds": setup,
        "micro_batch_size": task.plan.micro_batch_size,
        "precision_deviation": operator.precision_deviation,
        "fallback": operator.fallback_reason,
    }


def _memory(task: Task) -> dict[str, Any]:
    """Of a process that takes products: up to the end of the first, which is recorded, and during a later one."""
    meter = Meter(task.torch_device)
    problem = task.make_problem()
    operator, vector = task.make_operator(problem), problem.vectors(1)[0]
    operator.matvec(vector)
    first = meter.whole_peak()
    meter.reset()
    operator.matvec(vector)
    return {
        "first_bytes": first,
        "later_bytes": meter.whole_peak(),
        "micro_batch_size": task.plan.micro_batch_size,
        "fallback": operator.fallback_reason,
    }


def _density(task: Task) -> dict[str, Any]:
    """A job as a worker runs it: parameters drawn, recorded, compiled where that pays, Lanczos, curves."""
    device, plan = task.torch_device, task.plan
    hardware, answers = Hardware(device, task.num_threads, task.memory_bytes), []
    run_spectrum_job(_small(task).request, hardware, ignore_progress)
    if task.is_limited and device.type == "cuda":
        share = task.memory_bytes / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
    meter = Meter(device)

    def job() -> None:
        answers.append(run_spectrum_job(task.request, hardware, ignore_progress))

    seconds = Stopwatch(device).seconds(job)
    result = answers[0].result
    assert isinstance(result, LanczosResult)
    origin = result.provenance
    ends = {"smallest": result.smallest.value, "largest": result.largest.value}
    return {
        "seconds": seconds,
        "peak_bytes": meter.peak(),
        "predicted_bytes": plan.peak_bytes,
        "micro_batch_size": plan.micro_batch_size,
        "recording_bytes": plan.recording_bytes,
        "reorthogonalisation": result.reorthogonalisation,
        "execution": origin.execution,
        "num_products": origin.num_products,
        "precision_deviation": origin.precision_deviation,
        "fallback": origin.product_fallback,
        "curve": {"grid": result.density.grid, "values": result.density.values, **ends},
    }


def _curvlinops(task: Task) -> dict[str, Any]:
    """The same density by curvlinops, in the largest micro-batches with which a GPU's memory holds it."""
    curvlinops_density(_small(task).make_problem(), 2, 1)
    meter = Meter(task.torch_device)
    problem = task.make_problem()
    for size in _halves(len(problem.data)):
        meter.reset()
        found = _attempt(problem, task, size, meter=meter)
        if found is not None:
            return found
        gc.collect()
        torch.cuda.empty_cache()
    raise torch.OutOfMemoryError("the GPU's memory does not hold curvlinops' products of single sequences")


def _attempt(problem: Problem, task: Task, micro_batch_size: int, *, meter: Meter) -> dict[str, Any] | None:
    """None where memory ends; what was held is released with this frame."""
    curves: list[Curve] = []

    def job() -> None:
        curves.append(curvlinops_density(problem, task.num_steps, task.num_probes, micro_batch_size=micro_batch_size))

    try:
        seconds = Stopwatch(problem.device).seconds(job)
    except torch.OutOfMemoryError:
        return None
    return {
        "seconds": seconds,
        "peak_bytes": meter.peak(),
        "micro_batch_size": micro_batch_size,
        "num_products": curves[0].num_products,
        "curve": {
            "grid": curves[0].grid.tolist(),
            "values": curves[0].values.tolist(),
            "smallest": curves[0].smallest,
            "largest": curves[0].largest,
        },
    }


def _halves(num_samples: int) -> Iterator[int]:
    """The number, its half and so on, as long as they divide it."""
    yield num_samples
    while num_samples % 2 == 0:
        num_samples //= 2
        yield num_samples


def _small(task: Task) -> Task:
    """A task that loads the same code."""
    return Task(
        task.part,
        WARM_UP,
        task.device,
        num_threads=task.num_threads,
        memory_bytes=task.memory_bytes,
        precision=task.precision,
    )


_PARTS: dict[Part, Callable[[Task], dict[str, Any]]] = {
    "products": _products,
    "memory": _memory,
    "density": _density,
    "curvlinops": _curvlinops,
}


def main() -> None:
    """Print what the task found as JSON."""
    task = Task(**json.loads(sys.argv[1]))
    torch.set_num_threads(task.num_threads)
    print(json.dumps(measured(task)))


if __name__ == "__main__":
    main()
