"""A spectrum job: train if wished, linearise, take the spectrum, say where it comes from."""

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.spectrum import ExactMethod, LanczosMethod, SpectrumRequest, TopKMethod, TraceMethod
from hessian_spectrum.api_schemas.spectrum_results import (
    AnySpectrumResult,
    SinkReport,
    SpectrumResult,
    SpectrumSetResult,
)
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.curvature.operators.execution import Execution, Timings
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.operators.submatrix import Submatrix
from hessian_spectrum.curvature.progress import Progress
from hessian_spectrum.curvature.risk import EmpiricalRisk
from hessian_spectrum.jobs.estimate import estimate
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.worker.answer import Answer, SpectrumAnswer
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.operators import build_operator, measured_deviation
from hessian_spectrum.worker.point import finite_loss, reach_point
from hessian_spectrum.worker.provenance import provenance
from hessian_spectrum.worker.resumption import Resumption, Unit
from hessian_spectrum.worker.sharing import Alone, Sharing
from hessian_spectrum.worker.sinks import with_sink
from hessian_spectrum.worker.sources import NO_SOURCES, Sources
from hessian_spectrum.worker.spectra import ProbeShards, take_spectrum
from hessian_spectrum.worker.spectrum_results import Spectrum, result_of, vectors_of
from hessian_spectrum.worker.translation import build_loss

_RESULT: TypeAdapter[AnySpectrumResult] = TypeAdapter(SpectrumResult)

UNUSED_PRODUCTS = 10  # as many are allowed for each that is mostly needed, where a tolerance decides
COMPILER_BYTES = 2**29  # that compiling takes, at most, and estimates leave out


@dataclass(frozen=True)
class _Sunk:
    """The risk of the model with one attention sink, or none."""

    risk: EmpiricalRisk
    loss: float
    sink: SinkReport | None


def run_spectrum_job(
    request: SpectrumRequest,
    hardware: Hardware,
    progress: Progress,
    sources: Sources = NO_SOURCES,
    resumption: Resumption | None = None,
    sharing: Sharing | None = None,
    plan: ComputationPlan | None = None,
) -> Answer:
    """Compute what the request asks; the same request on the same device gives the same numbers, resumed or not.

    Args:
        sharing: Who computes the shards of a job that is long enough; None: this worker.
        plan: For the memory of the hardware; None: it is made here.

    Raises:
        CurvatureError: And whatever `progress` raises to stop.
        CheckpointError: And whatever `progress` raises to stop.
        MemoryError: And whatever `progress` raises to stop.
    """
    resumption = resumption or Resumption()
    plan = plan or estimate(request, hardware.memory_bytes)
    job = _SpectrumJob(request, hardware, progress, sources, resumption, sharing or Alone(resumption), plan)
    answers = job.answers()
    if len(answers) == 1 and request.blocks is None and not request.varies_sink:
        return answers[0]
    spectra = [answer.result for answer in answers]
    vectors = {
        f"spectrum_{index}_{name}": array
        for index, answer in enumerate(answers)
        for name, array in answer.vectors.items()
    }
    return Answer(SpectrumSetResult(spectra=spectra), vectors)


class _SpectrumJob:
    """All spectra of one request, at one point."""

    def __init__(
        self,
        request: SpectrumRequest,
        hardware: Hardware,
        progress: Progress,
        sources: Sources,
        resumption: Resumption,
        sharing: Sharing,
        plan: ComputationPlan,
    ) -> None:
        self._request, self._hardware, self._progress, self._resumption = request, hardware, progress, resumption
        self._sharing, self._fallback = sharing, sources.fallback
        self._num_spectra, self._num_done = len(request.parts), 0
        self._plan = plan
        size = self._plan.micro_batch_size
        self._point = reach_point(request, size, hardware, progress, sources, resumption.unit("training"))
        has_room = hardware.memory_bytes - self._plan.peak_bytes > COMPILER_BYTES
        self._execution = Execution(
            _num_runs(request, self._plan),
            "measured" if has_room and "settled" not in resumption.notes else "interpreted",
            Timings(hardware.timings),
            resumption.notes.setdefault("compiled", {}),
        )

    def answers(self) -> list[SpectrumAnswer]:
        """One for each part of the request, in its order."""
        return [answer for sunk in self._request.sunk for answer in self._answers_with_sink(sunk)]

    def _answers_with_sink(self, request: SpectrumRequest) -> list[SpectrumAnswer]:
        sunk = self._sunk(request)
        if request.blocks is None or isinstance(request.method, ExactMethod):
            # the columns of a dense matrix are recorded group by group: blocks have nothing to share
            return [self._answer(part, self._operator(part, sunk), sunk) for part in request.by_block]
        whole = self._operator(request, sunk)
        return [self._answer(part, whole, sunk) for part in request.by_block]

    def _sunk(self, request: SpectrumRequest) -> _Sunk:
        point, batches = self._point, self._point.data.split(self._plan.micro_batch_size)
        model, report = with_sink(request.model, point.model, point.parameters, batches)
        risk = EmpiricalRisk(model, build_loss(request), batches)
        return _Sunk(risk, finite_loss(risk, point.parameters), report)

    def _operator(self, request: SpectrumRequest, sunk: _Sunk) -> RiskOperator:
        options = (self._execution, self._plan.recording_bytes, self._tell, self._plan.work.num_columns, self._fallback)
        return build_operator(request, sunk.risk, self._point.parameters, *options)

    def _answer(self, part: SpectrumRequest, whole: RiskOperator, sunk: _Sunk) -> SpectrumAnswer:
        unit = self._resumption.unit(f"spectrum {self._num_done}")
        if unit.value is not None:
            self._num_done += 1
            return _kept_answer(unit.value)
        operator = whole if part.dim == whole.dim else Submatrix(whole, part.block)
        deviations = self._resumption.notes.setdefault("precision_deviations", {})
        if unit.name in deviations:
            operator.precision_deviation, whole.precision_deviation = deviations[unit.name]

        def tell(phase: str, done: int, total: int) -> None:
            deviations[unit.name] = [operator.precision_deviation, whole.precision_deviation]
            self._tell(phase, done, total)

        if isinstance(part.method, ExactMethod):
            measured_deviation(part, whole)  # products of columns are not compared with those in full precision
        spectrum = self._spectrum(part, operator, tell, unit)
        origin = provenance(
            part,
            self._hardware,
            whole,
            self._execution,
            self._plan.micro_batch_size,
            self._point.parameters.values(),
            (self._point.data.inputs, self._point.data.targets),
            spectrum.num_products,
            self._seconds(),
            self._plan.num_shards,
            len(self._sharing.workers),
        )
        if isinstance(operator, Submatrix):
            origin = origin.model_copy(update={"precision_deviation": operator.precision_deviation})
        result = result_of(part, spectrum, sunk.loss, self._point.training, origin, sunk.sink)
        answer = SpectrumAnswer(result, vectors_of(part, spectrum))
        unit.finish(_kept(answer))
        if part.method.kind in ("top-k", "trace"):
            # they may end before the products that they were allowed; told once the answer is kept, as whoever hears
            # it may stop the job, and a search that was summarised cannot go on
            tell("products", spectrum.num_products, spectrum.num_products)
        self._num_done += 1
        return answer

    def _spectrum(self, part: SpectrumRequest, operator: SymmetricOperator, tell: Progress, unit: Unit) -> Spectrum:
        if self._plan.num_shards == 1 or not isinstance(part.method, LanczosMethod):
            return take_spectrum(part, operator, self._plan, tell, unit)
        shards = ProbeShards(part.method, part.seed, operator, self._plan)
        return shards.join(self._sharing.sweeps(shards, self._execution, tell))

    def _seconds(self) -> float:
        """Since the last spectrum ended, or the job began."""
        started: float = self._resumption.notes.get("last_spectrum", 0.0)
        self._resumption.notes["last_spectrum"] = self._resumption.seconds
        return self._resumption.seconds - started

    def _tell(self, phase: str, done: int, total: int) -> None:
        """Progress of the spectrum that is computed, as that of all of them."""
        self._progress(phase, self._num_done * total + done, self._num_spectra * total)


def _num_runs(request: SpectrumRequest, plan: ComputationPlan) -> int:
    """How often recordings will run, at least: compiling must pay."""
    match request.method:
        case TopKMethod() | TraceMethod(tolerance=float()):
            return plan.num_products // (UNUSED_PRODUCTS * plan.work.num_columns)
        case _:
            return plan.num_products // plan.work.num_columns


def _kept(answer: SpectrumAnswer) -> dict[str, Any]:
    arrays = {name: torch.from_numpy(array) for name, array in answer.vectors.items()}
    return {"result": answer.result.model_dump_json(), "arrays": arrays}


def _kept_answer(kept: dict[str, Any]) -> SpectrumAnswer:
    arrays = {name: tensor.numpy() for name, tensor in kept["arrays"].items()}
    return SpectrumAnswer(_RESULT.validate_json(kept["result"]), arrays)
