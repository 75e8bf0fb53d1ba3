"""Where a matrix is taken: model, data and parameters, trained if a request wishes so."""

import math
from dataclasses import dataclass

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import TrainingReport
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.curvature.parameters import Parameters
from hessian_spectrum.curvature.progress import Progress
from hessian_spectrum.curvature.risk import EmpiricalRisk
from hessian_spectrum.curvature.training import train
from hessian_spectrum.quadrature.errors import NonFiniteError
from hessian_spectrum.worker.builders import (
    PRECISIONS,
    build_dataset,
    build_loss,
    build_model,
    build_parameters,
    build_plan,
)
from hessian_spectrum.worker.generators import generator_of
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.resumption import Unit
from hessian_spectrum.worker.sources import Sources


@dataclass(frozen=True)
class Point:
    """Where the matrix is taken."""

    model: Model  # without an attention sink
    data: Dataset
    parameters: Parameters
    training: TrainingReport | None


def reach_point(
    request: SpectrumRequest,
    micro_batch_size: int,
    hardware: Hardware,
    progress: Progress,
    sources: Sources,
    unit: Unit,
) -> Point:
    """The point of a request; `unit` hears how far its training is after every step.

    Raises:
        CurvatureError: And whatever `progress` raises to stop.
        CheckpointError: And whatever `progress` raises to stop.
    """
    dtype = PRECISIONS[request.vector_precision]
    model, loss = build_model(request.model, sources), build_loss(request)
    dataset = build_dataset(request, sources).to(dtype, hardware.device)
    parameters = build_parameters(request.model, model, dtype, hardware.device, sources)
    initial_loss = finite_loss(EmpiricalRisk(model, loss, dataset.split(micro_batch_size)), parameters)
    if request.train is None:
        return Point(model, dataset, parameters, None)
    trained = unit.value
    if trained is None:
        plan, generator = build_plan(request.train, micro_batch_size), generator_of(request.train.seed)
        trained = train(model, loss, dataset, parameters, plan, generator, progress, unit)
        unit.finish(trained)
    report = TrainingReport(
        num_steps=trained.num_steps,
        initial_loss=initial_loss,
        final_loss=trained.loss,
        gradient_norm=trained.gradient_norm,
        optimizer="sgd" if request.train.optimizer is None else request.train.optimizer.kind,
        momentum=request.train.momentum,
        final_learning_rate=trained.learning_rate,
        learning_rate_cuts=trained.learning_rate_cuts,
        stopped=trained.stopped,
    )
    return Point(model, dataset, trained.parameters, report)


def finite_loss(risk: EmpiricalRisk, parameters: Parameters) -> float:
    """The loss.

    Raises:
        NonFiniteError: If it is none.
    """
    loss = float(risk.value(parameters))
    if not math.isfinite(loss):
        raise NonFiniteError(f"the loss is {loss} at these parameters")
    return loss
