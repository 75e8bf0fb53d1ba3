"""The model, data and parameters of a spectrum, with the parameters trained where a request asks for it."""

import math
from dataclasses import dataclass

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import TrainingReport
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import Progress, run
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.training import Training, TrainingResult
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
from hessian_spectrum.worker.inputs import Inputs
from hessian_spectrum.worker.job_state import Stage


@dataclass(frozen=True)
class Preparation:
    """What a spectrum is taken of."""

    model: Model  # without an attention sink
    data: Dataset
    parameters: Parameters
    training: TrainingReport | None


def prepare(
    request: SpectrumRequest,
    *,
    micro_batch_size: int,
    hardware: Hardware,
    progress: Progress,
    inputs: Inputs,
    stage: Stage,
) -> Preparation:
    """Build model and data, and train the parameters if the request says so.

    Args:
        request: What to build.
        micro_batch_size: Samples whose activations are held at once.
        hardware: What the worker computes on.
        progress: Called after every step of training.
        inputs: Checkpoints and uploaded files.
        stage: Saves the states of training.

    Raises:
        CurvatureError: If the loss is not finite, for one.
        CheckpointError: If a checkpoint cannot be loaded.
    """
    dtype = PRECISIONS[request.vector_precision]
    model, loss = build_model(request.model, inputs), build_loss(request)
    dataset = build_dataset(request, inputs).to(dtype, hardware.device)
    parameters = build_parameters(request.model, model, dtype, hardware.device, inputs)
    initial_loss = finite_loss(EmpiricalRisk(model, loss, dataset.split(micro_batch_size)), parameters)
    if request.train is None:
        return Preparation(model, dataset, parameters, None)
    if stage.value is None:
        training = Training(model, loss, dataset, plan=build_plan(request.train, micro_batch_size))
        generator = generator_of(request.train.seed)
        stage.finish(run(training, parameters, generator=generator, progress=progress, checkpointer=stage))
    trained: TrainingResult = stage.value
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
    return Preparation(model, dataset, trained.parameters, report)


def finite_loss(risk: EmpiricalRisk, parameters: Parameters) -> float:
    """Return the loss.

    Raises:
        NonFiniteError: If it is NaN or infinite.
    """
    loss = float(risk.value(parameters))
    if not math.isfinite(loss):
        raise NonFiniteError(f"the loss is {loss} at these parameters")
    return loss
