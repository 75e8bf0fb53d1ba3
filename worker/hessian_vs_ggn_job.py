"""A comparison of Hessian and GGN: train if wished, stop at the steps that are measured, take both eigenvalues."""

import time

import numpy as np
import torch

from api_schemas.hessian_vs_ggn import MATRICES, ComparedMatrix, HessianVsGgnRequest
from api_schemas.hessian_vs_ggn_results import ComparisonPoint, ComparisonRun, HessianVsGgnResult, TopEigenvalue
from api_schemas.models import Gpt2
from curvature.algorithms.thick_restart import top_eigenpairs
from curvature.data.base import Dataset
from curvature.data.token_stream import TokenStream
from curvature.losses.cross_entropy import CrossEntropy
from curvature.operators.execution import Execution, Timings
from curvature.parameters import Parameters
from curvature.progress import Progress
from curvature.risk import EmpiricalRisk
from curvature.training import Training
from jobs.hessian_vs_ggn_estimate import point_estimate
from worker.hardware import Hardware
from worker.hessian_vs_ggn_results import labels_of, model_comparison, relative_error
from worker.operators import build_operator
from worker.provenance import computation, digest
from worker.sources import NO_SOURCES, Sources
from worker.spectrum_job import COMPILER_BYTES, UNUSED_PRODUCTS
from worker.translation import (
    PRECISIONS,
    build_model,
    build_parameters,
    build_pretraining_plan,
    build_token_stream,
    generator_of,
)

BATCHES, MEASUREMENTS = 1, 2
"""What a seed's random numbers are for, so that no two purposes share them."""


def run_hessian_vs_ggn_job(
    request: HessianVsGgnRequest, hardware: Hardware, progress: Progress, sources: Sources = NO_SOURCES
) -> HessianVsGgnResult:
    """Compute what the request asks, model by model and seed by seed.

    Raises:  CurvatureError, MemoryError, and whatever `progress` raises to stop.
    """
    started = time.perf_counter()
    stream = build_token_stream(request.data, sources).to(hardware.device)
    tally = _Tally(request, progress)
    models = [_ModelRuns(request, spec, stream, hardware, tally, sources) for spec in request.models]
    curves = [
        model_comparison(
            label,
            model.num_parameters,
            [model.run(seed) for seed in request.seeds],
            with_curves=request.pretrain is not None,
        )
        for label, model in zip(labels_of(request), models, strict=True)
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
            wall_time_seconds=time.perf_counter() - started,
        ),
    )


def measured_windows(stream: TokenStream, num_sequences: int, seed: int, step: int) -> tuple[Dataset, torch.Generator]:
    """The sequences of one point, the same for every model, and the generator of its start vectors."""
    generator = _generator(seed, MEASUREMENTS, step)
    return stream.windows(num_sequences, generator), generator


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

    def note(self, phase: str = "", done: int = 0, total: int = 0) -> None:
        """Something is done within a measurement; a `Progress`."""
        self._progress("measurements", self._num_measurements, self._all_measurements)


class _ModelRuns:
    """The runs of one model, one for each seed."""

    def __init__(
        self,
        request: HessianVsGgnRequest,
        spec: Gpt2,
        stream: TokenStream,
        hardware: Hardware,
        tally: _Tally,
        sources: Sources,
    ) -> None:
        self._request, self._spec, self._stream, self._tally, self._sources = request, spec, stream, tally, sources
        self._model, self._loss = build_model(spec, sources), CrossEntropy()
        self._dtype, self._device = PRECISIONS[request.precision], hardware.device
        self._plans = {matrix: point_estimate(request, spec, matrix, hardware.memory_bytes) for matrix in MATRICES}
        self.num_parameters = self._plans["hessian"].num_parameters
        self.micro_batch_size = min(plan.micro_batch_size for plan in self._plans.values())
        self.num_products = 0
        self.fallback: str | None = None
        allowed = sum(plan.num_products for plan in self._plans.values()) // len(MATRICES)
        num_points = request.num_measurements // len(request.models)
        has_room = hardware.memory_bytes - max(plan.peak_bytes for plan in self._plans.values()) > COMPILER_BYTES
        self.execution = Execution(
            num_points * allowed // UNUSED_PRODUCTS,
            "measured" if has_room else "interpreted",
            Timings(hardware.timings),
        )

    def run(self, seed: int) -> ComparisonRun:
        """Measure the model's own parameters, or train from this seed's and measure on the way."""
        if self._request.pretrain is None:
            parameters = build_parameters(self._spec, self._model, self._dtype, self._device, self._sources)
            points = [self._point(parameters, seed, 0, None)]
            return ComparisonRun(seed=seed, points=points, parameters_sha256=digest(parameters.values()))
        plan = build_pretraining_plan(self._request.pretrain, self.micro_batch_size)
        training = Training(self._model, self._loss, self._stream, plan)
        seeded = self._spec.model_copy(update={"seed": seed})
        state = training.start(
            build_parameters(seeded, self._model, self._dtype, self._device, self._sources), _generator(seed, BATCHES)
        )
        points = []
        for step in self._request.pretrain.measured_steps:
            while state.num_steps < step:
                training.advance(state)
                self._tally.step()
            points.append(self._point(state.parameters, seed, step, plan.planned_rate(step)))
        return ComparisonRun(seed=seed, points=points, parameters_sha256=digest(state.parameters.values()))

    def _point(self, parameters: Parameters, seed: int, step: int, learning_rate: float | None) -> ComparisonPoint:
        windows, generator = measured_windows(self._stream, self._request.data.num_sequences, seed, step)
        risk = EmpiricalRisk(self._model, self._loss, windows.split(self.micro_batch_size))
        hessian = self._top_eigenvalue("hessian", parameters, windows, generator)
        ggn = self._top_eigenvalue("ggn", parameters, windows, generator)
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
        self, matrix: ComparedMatrix, parameters: Parameters, windows: Dataset, generator: torch.Generator
    ) -> TopEigenvalue:
        plan, request = self._plans[matrix], self._request
        risk = EmpiricalRisk(self._model, self._loss, windows.split(plan.micro_batch_size))
        asked = request.spectrum_request(self._spec, matrix)
        operator = build_operator(asked, risk, parameters, self.execution, plan.recording_bytes, self._tally.note)
        options = (generator, self._tally.note, request.max_products, plan.vector_bytes)
        found = top_eigenpairs(operator, 1, "largest", request.tolerance, *options)
        self.num_products += found.num_products
        self.fallback = self.fallback or operator.fallback_reason
        return TopEigenvalue(
            value=float(found.eigenvalues[0]), residual=float(found.residuals[0]), converged=bool(found.converged[0])
        )


def _generator(seed: int, *purpose: int) -> torch.Generator:
    """Of one purpose of a seed, independent of those of the others."""
    return generator_of(int(np.random.SeedSequence((seed, *purpose)).generate_state(1, np.uint64)[0]))
