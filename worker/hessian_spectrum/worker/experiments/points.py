"""Experiments as lists of points, at each of which matrices have spectra, and the one runner for all of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hessian_spectrum.api_schemas.methods import AnySpectrumResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.algorithms.method import Method, Spectrum
from hessian_spectrum.curvature.iteration import Progress, finish
from hessian_spectrum.curvature.linear_algebra import sphere_probe
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.operators.matrices import OPERATORS
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.operators.programs import Execution, MatmulPrecision, Timings
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.registry import method_classes
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.interim import OfferInterim, ignore_interim
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage
from hessian_spectrum.worker.sharding import CALIBRATED, ShardedMethod, Sharding

_REDUCED: dict[str, MatmulPrecision] = {"tf32": "tf32", "bfloat16": "bfloat16"}


UNUSED_PRODUCTS = 10
"""Ratio of allowed products to those that are usually needed, where a tolerance decides."""

COMPILER_BYTES = 2**29
"""Largest memory in bytes that compiling takes; estimates leave it out."""


@dataclass(frozen=True)
class SpectrumTask:
    """A spectrum to compute at a point.

    Attributes:
        index: Position among all spectra of the job.
        request: The request, with at most one block and one attention sink.
        plan: The way in which the spectrum is computed within the worker's memory.
        new_generator: Returns the generator of its random numbers, in its first state.
    """

    index: int
    request: SpectrumRequest
    plan: ComputationPlan
    new_generator: Callable[[], torch.Generator]

    @property
    def stage(self) -> str:
        """Name of its stage among those of the job."""
        return f"spectrum {self.index}"


class Point(ABC):
    """A model at given parameters, with data, at which spectra are computed.

    Nothing is computed before `operator` is called, which a point that an earlier attempt has finished never is.

    Attributes:
        index: Position among all points of the job.
        tasks: The spectra to take, in their order.
        execution: The way in which products are executed.
    """

    index: int
    tasks: Sequence[SpectrumTask]
    execution: Execution

    @abstractmethod
    def report(self, phase: str, done: int, total: int, *, task: SpectrumTask) -> None:
        """Pass on the progress of a task as that of the job."""

    @abstractmethod
    def operator(self, task: SpectrumTask) -> RiskOperator:
        """Return the matrix of a task."""

    @abstractmethod
    def record(self, task: SpectrumTask, spectrum: Spectrum, operator: RiskOperator) -> Any:
        """Return what is saved of a spectrum of `operator`."""

    def interim(self, task: SpectrumTask, spectrum: Spectrum, operator: RiskOperator) -> AnySpectrumResult | None:
        """Return a spectrum that is under way as a message; None if that is shown nowhere, the default."""
        return None

    @abstractmethod
    def summary(self, records: list[Any]) -> Any:
        """Return what is saved of the point instead of the records of its tasks."""


class Experiment(ABC):
    """A list of points, with a rule for making the result of a job from their summaries."""

    @abstractmethod
    def points(self) -> Iterable[Point]:
        """Yield the points in the order in which they are computed."""

    @abstractmethod
    def output(self, summaries: list[Any]) -> JobOutput:
        """Return the result, from the summaries of the points in their order."""


@dataclass(frozen=True)
class PointRunner:
    """Takes the spectra of experiments, from where an earlier attempt ended, with whoever computes shards.

    Args:
        job: The checkpoints of the job.
        sharding: Assignment of shards to workers.
        offer_interim: Takes interim results of spectra.
    """

    job: JobCheckpointer
    sharding: Sharding
    offer_interim: OfferInterim = ignore_interim

    def run(self, experiment: Experiment) -> JobOutput:
        """Compute all points.

        Args:
            experiment: The list of points.

        Returns:
            The result of the experiment.

        Raises:
            CurvatureError: If a spectrum cannot be computed.
        """
        return experiment.output([self._summary(point) for point in experiment.points()])

    def _summary(self, point: Point) -> Any:
        stage = self.job.stage(f"point {point.index}")
        if stage.value is None:
            stage.finish(point.summary([self._record(point, task) for task in point.tasks]))
            self.job.forget(task.stage for task in point.tasks)
        return stage.value

    def _record(self, point: Point, task: SpectrumTask) -> Any:
        stage = self.job.stage(task.stage)
        if stage.value is None:
            operator = point.operator(task)
            progress = self._with_deviations(partial(point.report, task=task), task, operator)
            if task.request.method.method_kind.assembles_matrix:
                # Products of columns are not compared with those in full precision.
                measured_deviation(task.request, operator)
            method = method_of(task.request, task.plan)
            spectrum = self._spectrum(point, task, method=method, operator=operator, progress=progress, stage=stage)
            stage.finish(point.record(task, spectrum, operator))
            if method.may_end_early:
                # Only once the record is kept: whoever hears it may stop the job, and a result overwrites its state.
                progress(method.phase, spectrum.num_products, spectrum.num_products)
        return stage.value

    def _spectrum(
        self,
        point: Point,
        task: SpectrumTask,
        *,
        method: Method[Any, Any],
        operator: RiskOperator,
        progress: Progress,
        stage: Stage,
    ) -> Spectrum:
        plan = task.plan

        def interim(states: Sequence[Any]) -> AnySpectrumResult | None:
            known = method.interim(operator, states)
            return None if known is None else point.interim(task, known, operator)

        sharded = ShardedMethod(
            method=method,
            operator=operator,
            new_generator=task.new_generator,
            num_parts=plan.num_shards,
            sizes=(plan.work.num_columns, plan.micro_batch_size, plan.recording_bytes or 0),
            on_states=lambda states: self.offer_interim(partial(interim, states)),
        )
        states = self.sharding.states(sharded, point.execution, progress=progress, stage=stage)
        spectrum: Spectrum = finish(method, operator, method.join(states), progress=progress, checkpointer=stage)
        return spectrum

    def _with_deviations(self, progress: Progress, task: SpectrumTask, operator: RiskOperator) -> Progress:
        """Return a callback that also saves the measured error of reduced products for later attempts."""
        deviations = self.job.notes.setdefault("precision_deviations", {})
        if task.stage in deviations:
            operator.precision_deviation = deviations[task.stage]

        def report(phase: str, done: int, total: int) -> None:
            if operator.precision_deviation is not None:
                deviations[task.stage] = operator.precision_deviation
            progress(phase, done, total)

        return report


def build_operator(
    request: SpectrumRequest,
    risk: EmpiricalRisk,
    parameters: Parameters,
    *,
    execution: Execution,
    recording_bytes: int | None,
    progress: Progress,
    num_columns: int | None = None,
    fallback: Fallback | None = None,
    preconditioner: Parameters | None = None,
) -> RiskOperator:
    """Return the matrix of the request's block, or of all its blocks together, at these parameters.

    Args:
        request: Names the matrix, its blocks and the precision of products.
        risk: The function whose second derivatives are taken.
        parameters: Where they are taken.
        execution: The way in which recorded products are executed.
        recording_bytes: Memory of recordings; None: all are held.
        progress: Called after each micro-batch that is recorded.
        num_columns: Number of vectors that are multiplied at once.
        fallback: The way of computing products without a recording.
        preconditioner: D by parameter name, where the request has the matrix D^-1/2 A D^-1/2.

    Raises:
        NonFiniteError: If the gradient holds NaN or infinity.
    """
    kind = OPERATORS[request.matrix_kind]
    reduced = _REDUCED.get(request.product_precision)
    block = request.block if request.blocks is None else request.blocks
    operator = kind(
        risk,
        parameters,
        block=block,
        memory_bytes=recording_bytes,
        execution=execution,
        matmul_precision=reduced,
        progress=progress,
        num_columns=num_columns,
        fallback=fallback,
        preconditioner=preconditioner,
        shift=request.shift,
    )
    operator.checked_gradient_norm()  # an error before hours of products, and before recordings take the memory
    return operator


def measured_deviation(request: SpectrumRequest, operator: RiskOperator) -> float | None:
    """||(A' - A) v|| / ||A v|| of reduced products A' from those in float32; None where nothing is reduced."""
    if request.product_precision in _REDUCED and operator.precision_deviation is None:
        # the columns of an exact spectrum are not compared: one product more is
        probe = sphere_probe(operator.dim, generator_of(request.seed))
        operator.matvec(probe.to(dtype=operator.dtype, device=operator.device))
    return operator.precision_deviation


def method_of(request: SpectrumRequest, plan: ComputationPlan) -> Method[Any, Any]:
    """Return the method that a request names, within the memory of its plan."""
    arguments = request.method.method_kind.engine_arguments(request.method)
    if plan.vector_bytes is not None:
        arguments["memory_bytes"] = plan.vector_bytes
    return method_classes()[request.method.kind](**arguments)


def execution_of(hardware: Hardware, job: JobCheckpointer, *, num_runs: int, peak_bytes: int) -> Execution:
    """Return how the products of a job run, as earlier attempts have chosen it.

    Args:
        hardware: Device, threads and memory of the worker.
        job: The checkpoints of the job, which keep the choices.
        num_runs: How often each recorded program will run, at least: compiling must pay.
        peak_bytes: Memory of the job without a compiler.
    """
    has_room = hardware.memory_bytes - peak_bytes > COMPILER_BYTES
    return Execution(
        num_runs,
        mode="measured" if has_room and CALIBRATED not in job.notes else "interpreted",
        timings=Timings(hardware.timings),
        choices=job.notes.setdefault("compiled", {}),
    )
