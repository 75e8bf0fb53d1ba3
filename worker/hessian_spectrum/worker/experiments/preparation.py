"""The matrix of a request: model, data, parameters trained where a request asks for it, attention sink, operator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hessian_spectrum.api_schemas.models import AttentionSink as SinkSpec
from hessian_spectrum.api_schemas.models import Gpt2 as Gpt2Spec
from hessian_spectrum.api_schemas.models import Model as ModelSpec
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import SinkReport, SinkScore, TrainingReport
from hessian_spectrum.curvature.attention_sinks import sink_scores, sink_with_mean_score
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import Progress, run
from hessian_spectrum.curvature.linear_algebra import sphere_probe
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.gpt2 import AttentionSink, Gpt2
from hessian_spectrum.curvature.operators.execution import Execution, MatmulPrecision
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.training import Training, TrainingResult
from hessian_spectrum.quadrature.errors import NonFiniteError
from hessian_spectrum.worker.builders import (
    PRECISIONS,
    Inputs,
    build_dataset,
    build_loss,
    build_model,
    build_parameters,
    build_plan,
    generator_of,
)
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import Stage

_OPERATORS: dict[str, type[RiskOperator]] = {
    "hessian": HessianOperator,
    "ggn": GgnOperator,
    "functional": FunctionalOperator,
}
_REDUCED: dict[str, MatmulPrecision] = {"tf32": "tf32", "bfloat16": "bfloat16"}


@dataclass(frozen=True)
class Preparation:
    """The model, data and parameters whose spectrum is computed."""

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
        request: The request.
        micro_batch_size: Samples whose activations are held at once.
        hardware: Device, threads and memory of the worker.
        progress: Called after every step of training.
        inputs: Checkpoints and uploaded files.
        stage: Saves the states of training.

    Returns:
        Model, data, parameters and the summary of the training.

    Raises:
        CurvatureError: If the loss is not finite, for one.
        CheckpointError: If a checkpoint cannot be loaded.
    """
    dtype = PRECISIONS[request.vector_precision]
    model, loss = build_model(request.model, inputs), build_loss(request)
    dataset = build_dataset(request, inputs).to(dtype, hardware.device)
    parameters = build_parameters(request.model, model, dtype=dtype, device=hardware.device, sources=inputs)
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


def with_sink(
    spec: ModelSpec, model: Model, *, parameters: Parameters, batches: Sequence[Dataset]
) -> tuple[Model, SinkReport | None]:
    """Insert the attention sink of a request into its model, with a bias that is solved for where none is given.

    Args:
        spec: Model of the request, with one sink at most.
        model: The network without a sink.
        parameters: Where scores are measured.
        batches: Data on which scores are measured.

    Returns:
        The model with its sink, and the effect of the sink; without a sink the model itself and None.

    Raises:
        InvalidProblemError: If no bias reaches the mean score.
    """
    if not (isinstance(model, Gpt2) and isinstance(spec, Gpt2Spec) and spec.attention_sink is not None):
        return model, None
    sink = _solved(spec.attention_sink, model, parameters, batches)
    before = sink_scores(model, parameters, batches, sink=replace(sink, bias=0.0))
    after = sink_scores(model, parameters, batches, sink=sink)
    by_block = zip(after.blocks, before.by_block, after.by_block, strict=True)
    report = SinkReport(
        bias=sink.bias,
        heads=list(sink.heads),
        mean_score_before=before.mean,
        mean_score_after=after.mean,
        blocks=[SinkScore(block=block, before=old, after=new) for block, old, new in by_block],
    )
    return replace(model, sink=sink), report


def _solved(spec: SinkSpec, model: Gpt2, parameters: Parameters, batches: Sequence[Dataset]) -> AttentionSink:
    blocks = None if spec.blocks is None else tuple(spec.blocks)
    if isinstance(spec.mean_score, float):
        return sink_with_mean_score(
            model, parameters, batches, sink=AttentionSink(0.0, tuple(spec.heads), blocks), mean_score=spec.mean_score
        )
    assert isinstance(spec.bias, float)
    return AttentionSink(spec.bias, tuple(spec.heads), blocks)


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

    Raises:
        NonFiniteError: If the gradient holds NaN or infinity.
    """
    kind = _OPERATORS[request.matrix]
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
