"""A comparison of Hessian and GGN: train if wished, stop at the steps that are measured, take both eigenvalues."""

from dataclasses import asdict
from typing import Any

import torch

from hessian_spectrum.api_schemas.hessian_vs_ggn import MATRICES, ComparedMatrix, HessianVsGgnRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import (
    ComparisonPoint,
    ComparisonRun,
    HessianVsGgnResult,
    TopEigenvalue,
)
from hessian_spectrum.api_schemas.spectrum import TopKMethod
from hessian_spectrum.curvature.algorithms.thick_restart import top_eigenpairs
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.token_stream import TokenStream
from hessian_spectrum.curvature.losses.cross_entropy import CrossEntropy
from hessian_spectrum.curvature.operators.execution import Execution, Timings
from hessian_spectrum.curvature.parameters import Parameters
from hessian_spectrum.curvature.progress import Progress
from hessian_spectrum.curvature.risk import EmpiricalRisk
from hessian_spectrum.curvature.training import Training, checkpoint
from hessian_spectrum.jobs.planner import plan_job
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan
from hessian_spectrum.worker.generators import generator_of
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.hessian_vs_ggn_results import labels_of, model_comparison, relative_error
from hessian_spectrum.worker.operators import build_operator
from hessian_spectrum.worker.provenance import computation, digest, used_checkpoint
from hessian_spectrum.worker.resumption import Resumption, Unit
from hessian_spectrum.worker.sources import NO_SOURCES, Sources
from hessian_spectrum.worker.spectrum_job import COMPILER_BYTES, UNUSED_PRODUCTS
from hessian_spectrum.worker.translation import (
    PRECISIONS,
    build_model,
    build_parameters,
    build_pretraining_plan,
    build_token_stream,
)

BATCHES, MEASUREMENTS, START_VECTORS = 1, 2, 3
"""What a seed's random numbers are for, so that no two purposes share them."""


def run_hessian_vs_ggn_job(
    request: HessianVsGgnRequest,
    hardware: Hardware,
    progress: Progress,
    sources: Sources = NO_SOURCES,
    resumption: Resumption | None = None,
    plan: JobPlan | None = None,
) -> HessianVsGgnResult:
    """Compute what the request asks, model by model and seed by seed; the same numbers whether resumed or not.

    Args:
        request: The request.
        hardware: The hardware to compute on.
        progress: Called with the progress.
        sources: Sources of checkpoints and data.
        resumption: State of earlier attempts.
        plan: For the memory of the hardware; None: it is made here.

    Raises:
        CurvatureError: And whatever `progress` raises to stop.
        MemoryError: And whatever `progress` raises to stop.
    """
    resumption = resumption or Resumption()
    stream = build_token_stream(request.data, sources).to(hardware.device)
    tally = _Tally(request, progress)
    points = (plan or plan_job(request, hardware.memory_bytes)).points
    models = [
        _ModelRuns(request, index, points, stream, hardware, tally, sources, resumption)
        for index in range(len(request.models))
    ]
    curves = [
        model_comparison(
            label,
            model.num_parameters,
            [model.run(seed) for seed in request.seeds],
            with_curves=request.pretrain is not None,
            checkpoint=used_checkpoint(spec),
        )
        for label, spec, model in zip(labels_of(request), request.models, models, strict=True)
    ]
    tally.note()
    compiled = any(model.execution.description == "compiled" for model in models)
    return HessianVsGgnResult(
        curves=curves,
        num_sequences=request.data.num_sequences,
        sequence_length=request.data.sequence_length,
        tolerance=request.tolerance,
        provenance=computation(
            hardware,
            precision=request.precision,
            execution="compiled" if compiled else "interpreted",
            micro_batch_size=min(model.micro_batch_size for model in models),
            data=[torch.from_numpy(stream.tokens.copy())],
            num_products=sum(model.num_products for model in models),
            product_fallback=next((model.fallback for model in models if model.fallback), None),
            wall_time_seconds=resumption.seconds,
        ),
    )


def measured_windows(stream: TokenStream, num_sequences: int, seed: int, step: int) -> Dataset:
    """The sequences of one point, the same for every model."""
    return stream.windows(num_sequences, generator_of(seed, MEASUREMENTS, step))


class _Tally:
    """Progress over the whole job: steps of all runs, and measurements."""

    def __init__(self, request: HessianVsGgnRequest, progress: Progress) -> None:
        self._progress = progress
        self._num_steps, self._num_measurements = 0, 0
        self._all_steps = 0 if request.pretrain is None else request.num_runs * request.pretrain.num_steps
        self._all_measurements = request.num_measurements

    def step(self) -> None:
        """One step of training is done."""
        self._num_steps += 1
        self._progress("training", self._num_steps, self._all_steps)

    def measurement(self) -> None:
        """One point is measured."""
        self._num_measurements += 1
        self.note()

    def skip(self, num_steps: int, num_measurements: int) -> None:
        """An earlier attempt has done so much."""
        self._num_steps += num_steps
        self._num_measurements += num_measurements

    def note(self, phase: str = "", done: int = 0, total: int = 0) -> None:
        """Something is done within a measurement; a `Progress`."""
        self._progress("measurements", self._num_measurements, self._all_measurements)


class _ModelRuns:
    """The runs of one model, one for each seed."""

    def __init__(
        self,
        request: HessianVsGgnRequest,
        index: int,
        points: tuple[ComputationPlan, ...],
        stream: TokenStream,
        hardware: Hardware,
        tally: _Tally,
        sources: Sources,
        resumption: Resumption,
    ) -> None:
        spec = request.models[index]
        self._request, self._spec, self._stream, self._tally, self._sources = request, spec, stream, tally, sources
        self._name, self._resumption = f"model {index}", resumption
        self._spent: dict[str, Any] = resumption.notes.setdefault(self._name, {"num_products": 0, "fallback": None})
        self._model, self._loss = build_model(spec, sources), CrossEntropy()
        self._dtype, self._device = PRECISIONS[request.precision], hardware.device
        own = points[index * len(MATRICES) : (index + 1) * len(MATRICES)]
        self._plans = dict(zip(MATRICES, own, strict=True))
        self.num_parameters = self._plans["hessian"].num_parameters
        self.micro_batch_size = min(plan.micro_batch_size for plan in self._plans.values())
        allowed = sum(plan.num_products for plan in self._plans.values()) // len(MATRICES)
        num_points = request.num_measurements // len(request.models)
        has_room = hardware.memory_bytes - max(plan.peak_bytes for plan in self._plans.values()) > COMPILER_BYTES
        self.execution = Execution(
            num_points * allowed // UNUSED_PRODUCTS,
            "measured" if has_room else "interpreted",
            Timings(hardware.timings),
            resumption.notes.setdefault("compiled", {}),
        )

    @property
    def num_products(self) -> int:
        """Of all runs so far."""
        return int(self._spent["num_products"])

    @property
    def fallback(self) -> str | None:
        """Why products were not recorded, if they were not."""
        found: str | None = self._spent["fallback"]
        return found

    def run(self, seed: int) -> ComparisonRun:
        """Measure the model's own parameters, or train from this seed's and measure on the way."""
        unit = self._resumption.unit(f"{self._name} seed {seed}")
        if unit.value is None:
            parameters, points = self._own_points(seed) if self._request.pretrain is None else self._trained(seed, unit)
            run = ComparisonRun(seed=seed, points=points, parameters_sha256=digest(parameters.values()))
            unit.finish(run.model_dump_json())
            return run
        run = ComparisonRun.model_validate_json(unit.value)
        self._tally.skip(0 if self._request.pretrain is None else self._request.pretrain.num_steps, len(run.points))
        return run

    def _own_points(self, seed: int) -> tuple[Parameters, list[ComparisonPoint]]:
        parameters = build_parameters(self._spec, self._model, self._dtype, self._device, self._sources)
        return parameters, [self._point(parameters, seed, 0, None)]

    def _trained(self, seed: int, unit: Unit) -> tuple[Parameters, list[ComparisonPoint]]:
        """Where a run arrived, and what was measured on its way; `unit` hears how far it is after every step."""
        assert self._request.pretrain is not None
        plan = build_pretraining_plan(self._request.pretrain, self.micro_batch_size)
        training = Training(self._model, self._loss, self._stream, plan)
        points: list[ComparisonPoint] = []
        if unit.state is None:
            seeded = self._spec.model_copy(update={"seed": seed})
            parameters = build_parameters(seeded, self._model, self._dtype, self._device, self._sources)
            state = training.start(parameters, generator_of(seed, BATCHES))
        else:
            state = training.resume(unit.state["training"])
            points = [ComparisonPoint.model_validate_json(each) for each in unit.state["points"]]
            self._tally.skip(state.num_steps, len(points))

        def so_far() -> dict[str, Any]:
            return {"training": checkpoint(state), "points": [point.model_dump_json() for point in points]}

        for step in self._request.pretrain.measured_steps[len(points) :]:
            while state.num_steps < step:
                training.advance(state)
                self._tally.step()
                unit.offer(so_far)
            points.append(self._point(state.parameters, seed, step, plan.planned_rate(step)))
            unit.offer(so_far)
        return state.parameters, points

    def _point(self, parameters: Parameters, seed: int, step: int, learning_rate: float | None) -> ComparisonPoint:
        windows = measured_windows(self._stream, self._request.data.num_sequences, seed, step)
        risk = EmpiricalRisk(self._model, self._loss, windows.split(self.micro_batch_size))
        hessian = self._top_eigenvalue("hessian", parameters, windows, seed, step)
        ggn = self._top_eigenvalue("ggn", parameters, windows, seed, step)
        self._tally.measurement()
        return ComparisonPoint(
            step=step,
            learning_rate=learning_rate,
            loss=float(risk.value(parameters)),
            mean_residual_norm=float(risk.mean_residual_norm(parameters)),
            hessian=hessian,
            ggn=ggn,
            relative_error=relative_error(hessian, ggn),
        )

    def _top_eigenvalue(
        self, matrix: ComparedMatrix, parameters: Parameters, windows: Dataset, seed: int, step: int
    ) -> TopEigenvalue:
        unit = self._resumption.unit(f"{self._name} seed {seed} step {step} {matrix}")
        if unit.value is not None:
            return TopEigenvalue.model_validate_json(unit.value)
        plan, request = self._plans[matrix], self._request
        risk = EmpiricalRisk(self._model, self._loss, windows.split(plan.micro_batch_size))
        asked = request.spectrum_request(self._spec, matrix)
        options = (
            self.execution,
            plan.recording_bytes,
            self._tally.note,
            plan.work.num_columns,
            self._sources.fallback,
        )
        operator = build_operator(asked, risk, parameters, *options)
        generator = generator_of(seed, START_VECTORS, step, MATRICES.index(matrix))
        method = asked.method
        assert isinstance(method, TopKMethod)
        found = top_eigenpairs(
            operator,
            method.k,
            method.which,
            method.tolerance,
            generator,
            self._tally.note,
            method.max_products,
            plan.vector_bytes,
            unit,
            method.absolute_tolerance or 0.0,
        )
        self._spent["num_products"] += found.num_products
        self._spent["fallback"] = self.fallback or operator.fallback_reason
        top = TopEigenvalue(
            value=float(found.eigenvalues[0]),
            residual=float(found.residuals[0]),
            converged=bool(found.converged[0]),
            **asdict(found.intervals[0]),
        )
        unit.finish(top.model_dump_json())
        return top
