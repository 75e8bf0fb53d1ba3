"""The results of many requests for spectra of networks of one shape, computed together."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import isfinite
from typing import Any, TypeAlias

import torch
from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.methods import AnySpectrumResult, LanczosMethod, SpectrumResult
from hessian_spectrum.api_schemas.methods.exact import ExactMethod
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import TrainingReport
from hessian_spectrum.curvature.algorithms.exact import exact_spectrum
from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature, lockstep
from hessian_spectrum.curvature.algorithms.method import Spectrum
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.ensembles.eigenvalues import dense_spectra
from hessian_spectrum.curvature.ensembles.lanczos import EnsembleLanczos, LanczosSummaries
from hessian_spectrum.curvature.ensembles.operators import EnsembleOperator, MemberOperator
from hessian_spectrum.curvature.ensembles.training import TrainedEnsemble, final_losses
from hessian_spectrum.curvature.iteration import Progress, run
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.operators.gram import has_gram_form
from hessian_spectrum.curvature.operators.programs import Execution
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.planning.memory_coefficients import OVERHEAD_BYTES
from hessian_spectrum.planning.work import probe_bytes
from hessian_spectrum.quadrature.exceptions import CurvatureError, InvalidProblemError, NonFiniteError
from hessian_spectrum.worker.builders import NO_INPUTS, PRECISIONS, Inputs, generator_of
from hessian_spectrum.worker.ensembles.preparation import EnsembleStart, prepare_ensemble, train_ensemble
from hessian_spectrum.worker.experiments.points import PointRunner, method_of
from hessian_spectrum.worker.experiments.results import JobOutput, provenance, result_of
from hessian_spectrum.worker.experiments.spectrum import (
    Preparation,
    SpectrumExperiment,
    loss_curve_report,
    run_spectrum_job,
)
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.sharding import LocalSharding

Outcome: TypeAlias = JobOutput | CurvatureError
"""The result of a request, or the reason why it has none."""

MAX_MEMBERS = 1024
"""Largest number of networks that are computed together."""

MAX_DENSE_DIM = 256
"""Largest number of parameters of dense matrices of all members; larger ones are assembled one after the other."""

_RESULT: TypeAdapter[AnySpectrumResult] = TypeAdapter(SpectrumResult)


def measure(
    requests: Sequence[SpectrumRequest],
    hardware: Hardware,
    progress: Progress,
    *,
    plan: ComputationPlan | None = None,
    inputs: Inputs = NO_INPUTS,
    job: JobCheckpointer | None = None,
    name: str = "ensemble",
) -> list[Outcome]:
    """Compute what requests with one `shape_key` ask: the numbers of single jobs up to rounding.

    Args:
        requests: The requests.
        hardware: Device, threads and memory of the worker; the members that fit in it are computed together.
        progress: Called after every step; what it raises ends the computation.
        plan: How one of the networks is computed within the worker's memory; None: it is made here.
        inputs: Uploaded files.
        job: Checkpoints; None: nothing is saved.
        name: Prefix of the names of the stages of `job`.

    Returns:
        An outcome for each request; where a network diverges or cannot be measured, the error of a single job.

    Raises:
        MemoryError: If the memory does not suffice for one network.
    """
    checkpointer = job or JobCheckpointer()
    plan = plan or estimate(requests[0], hardware.memory_bytes)
    width = num_members(requests[0], plan, hardware.memory_bytes)
    outcomes: list[Outcome] = []
    starts = range(0, len(requests), width)
    for index, first in enumerate(starts):
        own = requests[first : first + width]
        stage = checkpointer.stage(f"{name} {index}")
        if stage.value is None:
            chunk = _Chunk(
                requests=own,
                plan=plan,
                hardware=hardware,
                progress=_scaled(progress, index, len(starts)),
                inputs=inputs,
                job=checkpointer,
                name=f"{name} {index}",
            )
            found = chunk.outcomes()
            outcomes += found
            if job is not None:
                stage.finish([_saved(each) for each in found])
                checkpointer.forget(chunk.stages)
        else:
            outcomes += [_restored(each) for each in stage.value]
    return outcomes


def num_members(request: SpectrumRequest, plan: ComputationPlan, memory_bytes: int) -> int:
    """Return how many networks of this request's shape are computed together.

    Args:
        request: One of the requests.
        plan: Its plan, with its memory.
        memory_bytes: Memory of the worker.
    """
    each = max(1, plan.peak_bytes - OVERHEAD_BYTES)
    if isinstance(request.method, LanczosMethod):
        mode = _reorthogonalisation(request, plan)
        itemsize = PRECISIONS[request.vector_precision].itemsize
        own = probe_bytes(request.dim, request.method.num_steps, itemsize=itemsize, reorthogonalisation=mode)
        each += (request.method.num_probes - 1) * own
    return max(1, min(MAX_MEMBERS, (memory_bytes - OVERHEAD_BYTES) // each))


def _reorthogonalisation(request: SpectrumRequest, plan: ComputationPlan) -> Any:
    assert isinstance(request.method, LanczosMethod)
    mode, _ = lockstep(
        request.dim,
        min(request.method.num_steps, request.dim),
        request.method.num_probes,
        itemsize=PRECISIONS[request.vector_precision].itemsize,
        reorthogonalisation=request.method.reorthogonalisation,
        memory_bytes=plan.vector_bytes,
    )
    return mode


def _is_reorthogonalised(request: SpectrumRequest, plan: ComputationPlan) -> bool:
    return isinstance(request.method, LanczosMethod) and _reorthogonalisation(request, plan) == "full"


def _scaled(progress: Progress, index: int, count: int) -> Progress:
    """Return a callback for one of several parts of equal work."""

    def report(phase: str, done: int, total: int) -> None:
        progress(phase, index * total + done, count * total)

    return report


def _saved(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, CurvatureError):
        return {"error": type(outcome).__name__, "message": str(outcome)}
    return {"result": outcome.result.model_dump_json(), "arrays": dict(outcome.arrays)}


def _restored(saved: dict[str, Any]) -> Outcome:
    if "error" in saved:
        kinds = {each.__name__: each for each in (NonFiniteError, InvalidProblemError)}
        return kinds.get(saved["error"], CurvatureError)(saved["message"])
    return JobOutput(_RESULT.validate_json(saved["result"]), saved["arrays"])


@dataclass(frozen=True)
class _MemberExperiment(SpectrumExperiment):
    """The spectrum of a network that was trained as a member of an ensemble."""

    prepared: Preparation | None = field(default=None, kw_only=True)

    @cached_property
    def preparation(self) -> Preparation:
        """Model, data and trained parameters."""
        assert self.prepared is not None
        return self.prepared


@dataclass(eq=False, kw_only=True)
class _Chunk:
    """Requests whose networks are in memory together.

    Attributes:
        requests: The requests.
        plan: The plan of each of them.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step.
        inputs: Uploaded files.
        job: Checkpoints.
        name: Prefix of the names of stages.
    """

    requests: Sequence[SpectrumRequest]
    plan: ComputationPlan
    hardware: Hardware
    progress: Progress
    inputs: Inputs
    job: JobCheckpointer
    name: str

    @property
    def stages(self) -> list[str]:
        """Names of the stages that are finished when all outcomes are known."""
        return [f"{self.name} training", f"{self.name} products"]

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of all requests."""
        started = time.monotonic()
        if len(self.requests) == 1 or self.plan.num_batches > 1:
            return [self._alone(request) for request in self.requests]
        try:
            start = prepare_ensemble(self.requests, device=self.hardware.device, inputs=self.inputs)
        except InvalidProblemError:
            return [self._alone(request) for request in self.requests]  # some cannot be stacked, others may
        outcomes: list[Outcome | None] = [None] * len(self.requests)
        before = start.ensemble.losses(start.parameters)
        for member, loss in enumerate(before.tolist()):
            if not isfinite(loss):
                outcomes[member] = NonFiniteError(f"the loss is {loss} at these parameters")
        parameters, reports = self._trained(start, before.tolist(), outcomes)
        self._check_gradients(start, parameters, outcomes)
        going = [member for member, outcome in enumerate(outcomes) if outcome is None]
        members = _Members(
            chunk=self, start=start, all_parameters=parameters, reports=reports, members=going, started=started
        )
        for member, outcome in zip(going, members.outcomes(), strict=True):
            outcomes[member] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _alone(self, request: SpectrumRequest) -> Outcome:
        try:
            return run_spectrum_job(request, self.hardware, self.progress, inputs=self.inputs, plan=self.plan)
        except CurvatureError as error:
            return error

    def _trained(
        self, start: EnsembleStart, before: list[float], outcomes: list[Outcome | None]
    ) -> tuple[Parameters, list[TrainingReport | None]]:
        """Return the trained parameters and what is reported of each training; failures go to the outcomes."""
        train = self.requests[0].train
        if train is None:
            return start.parameters, [None] * len(self.requests)
        stage = self.job.stage(f"{self.name} training")
        if stage.value is None:
            stage.finish(train_ensemble(self.requests, start, progress=self.progress, checkpointer=stage))
        trained: TrainedEnsemble = stage.value
        for member, message in trained.failures.items():
            outcomes[member] = outcomes[member] or NonFiniteError(message)
        rows = zip(
            before,
            trained.num_steps.tolist(),
            trained.losses.tolist(),
            trained.gradient_norms.tolist(),
            trained.learning_rates.tolist(),
            trained.learning_rate_cuts.tolist(),
            trained.has_plateaued.tolist(),
            strict=True,
        )
        reports = [
            None
            if outcomes[member] is not None
            else TrainingReport(
                num_steps=num_steps,
                initial_loss=initial,
                final_loss=loss,
                gradient_norm=norm,
                optimizer="sgd" if train.optimizer is None else train.optimizer.kind,
                momentum=train.momentum,
                final_learning_rate=rate,
                learning_rate_cuts=cuts,
                stopped="plateau" if has_plateaued else "num-steps",
                loss_curve=loss_curve_report(trained.loss_curve.of_run(member, num_steps)),
            )
            for member, (initial, num_steps, loss, norm, rate, cuts, has_plateaued) in enumerate(rows)
        ]
        return trained.parameters, reports

    def _check_gradients(self, start: EnsembleStart, parameters: Parameters, outcomes: list[Outcome | None]) -> None:
        _, norms = final_losses(start.ensemble, parameters)
        for member, norm in enumerate(norms.tolist()):
            if outcomes[member] is None and not isfinite(norm):
                outcomes[member] = NonFiniteError("the gradient holds NaN or infinity at these parameters")


@dataclass(eq=False, kw_only=True)
class _Members:
    """The members of a chunk that are measured.

    Attributes:
        chunk: The chunk.
        start: Networks and data of all of its requests.
        all_parameters: Parameters of all.
        reports: Reports of the trainings of all.
        members: Which are measured.
        started: Time at which the chunk began.
    """

    chunk: _Chunk
    start: EnsembleStart
    all_parameters: Parameters
    reports: Sequence[TrainingReport | None]
    members: Sequence[int]
    started: float

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of each member that is measured."""
        if not self.members:
            return []
        request = self.chunk.requests[0]
        spectra: Callable[[], list[Spectrum | CurvatureError]] | None = None
        if not request.weight_decay and not request.shift and request.matrix_kind != "gradient-covariance":
            method = method_of(request, self.chunk.plan)
            # without reorthogonalisation, rounding decides when ghosts appear: single jobs would have other numbers
            has_basis = _is_reorthogonalised(request, self.chunk.plan)
            if isinstance(method, StochasticLanczosQuadrature) and has_basis:
                spectra = partial(self._lanczos, method)
            elif self._is_dense:
                spectra = self._dense
        if spectra is None:
            return [self._alone(member) for member in self.members]
        found = spectra()
        seconds = (time.monotonic() - self.started) / len(self.chunk.requests)
        pairs = zip(self.members, found, strict=True)
        return [
            each if isinstance(each, CurvatureError) else self._output(member, each, seconds) for member, each in pairs
        ]

    @cached_property
    def operator(self) -> EnsembleOperator:
        """The matrices of the members that are measured."""
        request, members = self.chunk.requests[0], torch.tensor(self.members)
        return EnsembleOperator(
            self.start.ensemble.take(members),
            {name: values[members] for name, values in self.all_parameters.items()},
            matrix=request.matrix_kind,
            block=request.block,
        )

    @property
    def _requests(self) -> Iterator[SpectrumRequest]:
        return (self.chunk.requests[member] for member in self.members)

    @property
    def _is_dense(self) -> bool:
        """Whether dense matrices of all members are the fastest way to every eigenvalue."""
        request = self.chunk.requests[0]
        is_exact = isinstance(request.method, ExactMethod) and not request.method.eigenvectors
        if not is_exact or request.dim > MAX_DENSE_DIM:
            return False
        return not has_gram_form(request.matrix_kind, self.start.ensemble.risk())

    def _lanczos(self, method: StochasticLanczosQuadrature) -> list[Spectrum | CurvatureError]:
        stage = self.chunk.job.stage(f"{self.chunk.name} products")
        iteration = EnsembleLanczos(
            method.num_steps,
            method.num_probes,
            [generator_of(request.seed) for request in self._requests],
            _reorthogonalisation(self.chunk.requests[0], self.chunk.plan),
        )
        state = run(
            iteration, self.operator, generator=torch.Generator(), progress=self.chunk.progress, checkpointer=stage
        )
        return list(LanczosSummaries(self.operator, method.smoothing).spectra(state))

    def _dense(self) -> list[Spectrum | CurvatureError]:
        values = dense_spectra(self.operator)
        return [exact_spectrum(MemberOperator(self.operator, row), own) for row, own in enumerate(values)]

    def _output(self, member: int, spectrum: Spectrum, seconds: float) -> JobOutput:
        request, ensemble = self.chunk.requests[member], self.start.ensemble
        origin = provenance(
            request,
            hardware=self.chunk.hardware,
            operator=None,
            execution=Execution(mode="interpreted"),
            micro_batch_size=self.chunk.plan.micro_batch_size,
            parameters=[values[member] for values in self.all_parameters.values()],
            data=[ensemble.inputs[member], ensemble.targets[member]],
            num_products=spectrum.num_products,
            wall_time_seconds=seconds,
        )
        return JobOutput(
            result_of(
                request,
                spectrum,
                loss=self._losses[self.members.index(member)],
                training=self.reports[member],
                provenance=origin,
            )
        )

    @cached_property
    def _losses(self) -> list[float]:
        losses: list[float] = self.operator.ensemble.losses(self.operator.parameters).tolist()
        return losses

    def _alone(self, member: int) -> Outcome:
        """Return the outcome of a member whose spectrum is computed as that of a single job."""
        chunk, ensemble = self.chunk, self.start.ensemble
        preparation = Preparation(
            ensemble.model,
            Dataset(ensemble.inputs[member], ensemble.targets[member]),
            {name: values[member] for name, values in self.all_parameters.items()},
            self.reports[member],
        )
        job = JobCheckpointer()
        experiment = _MemberExperiment(
            request=chunk.requests[member],
            plan=replace(chunk.plan, num_shards=1),
            hardware=chunk.hardware,
            progress=chunk.progress,
            inputs=chunk.inputs,
            job=job,
            sharding=LocalSharding(job),
            prepared=preparation,
        )
        try:
            return PointRunner(job, experiment.sharding).run(experiment)
        except CurvatureError as error:
            return error
