"""A comparison of Hessian and Gauss-Newton matrix: their largest eigenvalues at points of training runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import count
from typing import Any

import torch

from hessian_spectrum.api_schemas.hessian_vs_ggn import MATRICES, ComparedMatrix, HessianVsGgnRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import (
    ComparisonPoint,
    ComparisonRun,
    HessianVsGgnResult,
    TopEigenvalue,
)
from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.algorithms.method import Spectrum
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.text import TokenStream
from hessian_spectrum.curvature.iteration import Progress, iterates
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.operators.programs import Execution
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.training import Training, TrainingPlan, TrainingState
from hessian_spectrum.jobs.plans import eigenvalue_request, plan_job
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan
from hessian_spectrum.quadrature.results import TopEigenpairs
from hessian_spectrum.worker.builders import (
    NO_INPUTS,
    PRECISIONS,
    Inputs,
    build_model,
    build_parameters,
    build_pretraining_plan,
    build_token_stream,
    generator_of,
)
from hessian_spectrum.worker.experiments.comparison_curves import labels_of, model_comparison, relative_error
from hessian_spectrum.worker.experiments.points import (
    UNUSED_PRODUCTS,
    Experiment,
    Point,
    PointRunner,
    SpectrumTask,
    build_operator,
    execution_of,
)
from hessian_spectrum.worker.experiments.results import JobOutput, computation, digest, used_checkpoint
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage
from hessian_spectrum.worker.sharding import LocalSharding

BATCHES, MEASUREMENTS, START_VECTORS = 1, 2, 3
"""Identifiers of the purposes of a seed's random numbers, so that no two purposes share them."""


def run_hessian_vs_ggn_job(
    request: HessianVsGgnRequest,
    hardware: Hardware,
    progress: Progress,
    *,
    inputs: Inputs = NO_INPUTS,
    job: JobCheckpointer | None = None,
    plan: JobPlan | None = None,
) -> JobOutput:
    """Compute what the request asks, model by model and seed by seed; the same numbers whether resumed or not.

    Args:
        request: The request of the job.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step; what it raises ends the job.
        inputs: Checkpoints and uploaded files.
        job: The job's checkpoints; None: nothing is saved.
        plan: How each eigenvalue is computed within the worker's memory; None: it is made here.

    Returns:
        The result.

    Raises:
        CurvatureError: If an eigenvalue cannot be computed.
        MemoryError: If memory does not suffice.
    """
    job = job or JobCheckpointer()
    experiment = HessianVsGgnExperiment(
        request=request,
        plan=plan or plan_job(request, hardware.memory_bytes),
        hardware=hardware,
        progress=progress,
        inputs=inputs,
        job=job,
    )
    return PointRunner(job, LocalSharding(job)).run(experiment)


def measured_windows(stream: TokenStream, num_sequences: int, *, seed: int, step: int) -> Dataset:
    """Return the sequences of one point, which are the same for every model."""
    return stream.windows(num_sequences, generator_of(seed, MEASUREMENTS, step))


@dataclass(frozen=True)
class HessianVsGgnExperiment(Experiment):
    """Points of the runs of all models, each with two spectra: of the Hessian and of the Gauss-Newton matrix."""

    request: HessianVsGgnRequest
    plan: JobPlan
    hardware: Hardware
    progress: Progress
    inputs: Inputs
    job: JobCheckpointer

    @cached_property
    def stream(self) -> TokenStream:
        """The tokens that models are trained and measured on."""
        return build_token_stream(self.request.data, self.inputs).to(self.hardware.device)

    @cached_property
    def models(self) -> list["ComparedModel"]:
        """The models to compare."""
        points, num_matrices = self.plan.points, len(MATRICES)
        return [
            ComparedModel(self, spec, dict(zip(MATRICES, points[index * num_matrices :], strict=False)))
            for index, spec in enumerate(self.request.models)
        ]

    @property
    def steps(self) -> list[int]:
        """The steps of each run at which it is measured."""
        return [0] if self.request.pretrain is None else self.request.pretrain.measured_steps

    def points(self) -> Iterator["ComparedPoint"]:
        """Yield the points of one run after the other, model by model and seed by seed."""
        indices, runs = count(), count()
        for model in self.models:
            for seed in self.request.seeds:
                run = TrainingRun(model, seed, next(runs))
                for step in self.steps:
                    index = next(indices)
                    yield ComparedPoint(index, model.tasks(index, seed, step), model.execution, run, step)
                    self.report_measurements(index + 1)
                run.finish()

    def output(self, summaries: list[Any]) -> JobOutput:
        """Return the runs of all models, and the means over their seeds."""
        request, rest, digests = self.request, iter(summaries), iter(range(self.request.num_runs))
        curves = []
        for label, model in zip(labels_of(request), self.models, strict=True):
            runs = [
                ComparisonRun(
                    seed=seed,
                    points=[ComparisonPoint.model_validate_json(next(rest)["point"]) for _ in self.steps],
                    parameters_sha256=self.job.stage(run_stage(next(digests))).value,
                )
                for seed in request.seeds
            ]
            curve = model_comparison(
                label,
                model.plans["hessian"].num_parameters,
                runs,
                with_curves=request.pretrain is not None,
                checkpoint=used_checkpoint(model.spec),
            )
            curves.append(curve)
        compiled = any(model.execution.description == "compiled" for model in self.models)
        provenance = computation(
            self.hardware,
            precision=request.precision,
            execution="compiled" if compiled else "interpreted",
            micro_batch_size=min(model.micro_batch_size for model in self.models),
            data=[torch.from_numpy(self.stream.tokens.copy())],
            num_products=sum(summary["num_products"] for summary in summaries),
            product_fallback=next((each["fallback"] for each in summaries if each["fallback"]), None),
            wall_time_seconds=self.job.seconds,
        )
        result = HessianVsGgnResult(
            curves=curves,
            num_sequences=request.data.num_sequences,
            sequence_length=request.data.sequence_length,
            tolerance=request.tolerance,
            provenance=provenance,
        )
        return JobOutput(result)

    def report_training(self, run: int, num_steps: int) -> None:
        """Report the steps of one run as those of all runs."""
        assert self.request.pretrain is not None
        own = self.request.pretrain.num_steps
        self.progress("training", run * own + num_steps, self.request.num_runs * own)

    def report_measurements(self, num_points: int) -> None:
        """Report that so many points are measured."""
        self.progress("measurements", num_points, self.request.num_measurements)


@dataclass(frozen=True)
class ComparedModel:
    """A compared model, with the settings for computing its points."""

    experiment: HessianVsGgnExperiment
    spec: Gpt2
    plans: Mapping[ComparedMatrix, ComputationPlan]

    @cached_property
    def model(self) -> Model:
        """The model itself."""
        return build_model(self.spec, self.experiment.inputs)

    @cached_property
    def _requests(self) -> Mapping[ComparedMatrix, SpectrumRequest]:
        return {matrix: eigenvalue_request(self.experiment.request, self.spec, matrix) for matrix in MATRICES}

    @property
    def micro_batch_size(self) -> int:
        """Number of sequences whose activations are in memory at once."""
        return min(plan.micro_batch_size for plan in self.plans.values())

    @cached_property
    def execution(self) -> Execution:
        """The way in which products are executed."""
        request, plans = self.experiment.request, self.plans.values()
        allowed = sum(plan.num_products for plan in plans) // len(plans)
        num_points = request.num_measurements // len(request.models)
        return execution_of(
            self.experiment.hardware,
            self.experiment.job,
            num_runs=num_points * allowed // UNUSED_PRODUCTS,
            peak_bytes=max(plan.peak_bytes for plan in plans),
        )

    def parameters(self, seed: int | None) -> Parameters:
        """Return the model's own parameters, or initial ones from a seed."""
        spec = self.spec if seed is None else self.spec.model_copy(update={"seed": seed})
        dtype, device = PRECISIONS[self.experiment.request.precision], self.experiment.hardware.device
        return build_parameters(spec, self.model, dtype=dtype, device=device, sources=self.experiment.inputs)

    def tasks(self, point: int, seed: int, step: int) -> list[SpectrumTask]:
        """Return the two spectra of a point."""
        return [
            SpectrumTask(
                index=point * len(MATRICES) + index,
                request=self._requests[matrix],
                plan=self.plans[matrix],
                new_generator=partial(generator_of, seed, START_VECTORS, step, index),
            )
            for index, matrix in enumerate(MATRICES)
        ]


def run_stage(index: int) -> str:
    """Return the name of the stage of a run; its value is the digest of the parameters where it ended."""
    return f"run {index}"


@dataclass
class TrainingRun:
    """The parameters of one model from one seed, trained up to one measured step after the other if it is pretrained.

    Args:
        model: The model that has the parameters.
        seed: Seed of initial parameters and batches.
        index: Position among all runs of the job.
    """

    model: ComparedModel
    seed: int
    index: int

    def parameters_at(self, step: int) -> Parameters:
        """Return the parameters after so many steps, no fewer than at the call before."""
        if self._training_plan is None:
            return self._own_parameters
        while self._state.num_steps < step:
            self._state = next(self._states)
        return self._state.parameters

    def learning_rate_at(self, step: int) -> float | None:
        """Return the learning rate of the step after so many steps, if there is training."""
        return None if self._training_plan is None else self._training_plan.planned_rate(step)

    def finish(self) -> None:
        """Save the digest of the parameters at the last measured step, and nothing else."""
        if self._stage.value is None:
            parameters = self.parameters_at(self.model.experiment.steps[-1])
            self._stage.finish(digest(parameters.values()))

    @cached_property
    def _stage(self) -> Stage:
        return self.model.experiment.job.stage(run_stage(self.index))

    @cached_property
    def _own_parameters(self) -> Parameters:
        return self.model.parameters(None)

    @cached_property
    def _training_plan(self) -> TrainingPlan | None:
        pretraining = self.model.experiment.request.pretrain
        return None if pretraining is None else build_pretraining_plan(pretraining, self.model.micro_batch_size)

    @cached_property
    def _states(self) -> Iterator[TrainingState]:
        assert self._training_plan is not None
        training = Training(self.model.model, CrossEntropy(), self.model.experiment.stream, plan=self._training_plan)
        return iterates(
            training,
            self.model.parameters(self.seed),
            generator=generator_of(self.seed, BATCHES),
            progress=self._report,
            checkpointer=self._stage,
        )

    @cached_property
    def _state(self) -> TrainingState:
        return next(self._states)

    def _report(self, phase: str, done: int, total: int) -> None:
        self.model.experiment.report_training(self.index, done)


@dataclass
class ComparedPoint(Point):
    """A point of a comparison: one step of one run.

    Args:
        index: Position among all points of the job.
        tasks: The largest eigenvalues of both matrices.
        execution: The way in which products are executed.
        run: The run of which this is a point.
        step: Steps of training before it.
    """

    index: int
    tasks: Sequence[SpectrumTask]
    execution: Execution
    run: TrainingRun
    step: int

    def report(self, phase: str, done: int, total: int, *, task: SpectrumTask) -> None:
        """Report the measured points: the duration of a point is not known beforehand."""
        self.run.model.experiment.report_measurements(self.index)

    def operator(self, task: SpectrumTask) -> RiskOperator:
        """Return the matrix of a task, on the sequences of this point."""
        return build_operator(
            task.request,
            self._risk(task.plan.micro_batch_size),
            self._parameters,
            execution=self.execution,
            recording_bytes=task.plan.recording_bytes,
            progress=partial(self.report, task=task),
            num_columns=task.plan.work.num_columns,
            fallback=self.run.model.experiment.inputs.fallback,
        )

    def record(self, task: SpectrumTask, spectrum: Spectrum, operator: RiskOperator) -> dict[str, Any]:
        """Return the largest eigenvalue as JSON, and what it took."""
        assert isinstance(spectrum, TopEigenpairs)
        top = TopEigenvalue(
            value=float(spectrum.eigenvalues[0]),
            residual=float(spectrum.residuals[0]),
            converged=bool(spectrum.converged[0]),
            **asdict(spectrum.intervals[0]),
        )
        return {
            "top": top.model_dump_json(),
            "num_products": spectrum.num_products,
            "fallback": operator.fallback_reason,
        }

    def summary(self, records: list[Any]) -> dict[str, Any]:
        """Return the point as JSON, and what both eigenvalues took."""
        hessian, ggn = (TopEigenvalue.model_validate_json(record["top"]) for record in records)
        risk = self._risk(self.run.model.micro_batch_size)
        point = ComparisonPoint(
            step=self.step,
            learning_rate=self.run.learning_rate_at(self.step),
            loss=float(risk.value(self._parameters)),
            mean_residual_norm=float(risk.mean_residual_norm(self._parameters)),
            hessian=hessian,
            ggn=ggn,
            relative_error=relative_error(hessian, ggn),
        )
        return {
            "point": point.model_dump_json(),
            "num_products": sum(record["num_products"] for record in records),
            "fallback": next((record["fallback"] for record in records if record["fallback"]), None),
        }

    @property
    def _parameters(self) -> Parameters:
        return self.run.parameters_at(self.step)

    def _risk(self, micro_batch_size: int) -> EmpiricalRisk:
        return EmpiricalRisk(self.run.model.model, CrossEntropy(), self._windows.split(micro_batch_size))

    @cached_property
    def _windows(self) -> Dataset:
        experiment = self.run.model.experiment
        return measured_windows(
            experiment.stream, experiment.request.data.num_sequences, seed=self.run.seed, step=self.step
        )
