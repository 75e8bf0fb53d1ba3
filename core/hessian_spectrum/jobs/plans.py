"""Plans of jobs: micro-batches, memory and shards, decided by the service at admission and followed by workers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

from hessian_spectrum.api_schemas.data import UploadedSamples, num_samples, sequence_length
from hessian_spectrum.api_schemas.data import kind_of as data_kind_of
from hessian_spectrum.api_schemas.data.targets import class_axis
from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.api_schemas.experiments.kind import PointRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn import MATRICES, ComparedMatrix, HessianVsGgnRequest
from hessian_spectrum.api_schemas.jobs import AnyJobRequest
from hessian_spectrum.api_schemas.losses import LOSSES, kind_of_loss
from hessian_spectrum.api_schemas.matrices import DECAYED, GAUSS_NEWTON, OF_GRADIENTS
from hessian_spectrum.api_schemas.methods import LanczosMethod, TopKMethod
from hessian_spectrum.api_schemas.methods.kind import MatrixProperties
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2, kind_of
from hessian_spectrum.api_schemas.models.exported import Exported
from hessian_spectrum.api_schemas.models.kind import parameter_shapes
from hessian_spectrum.api_schemas.problem import FieldError
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.fingerprints import protocol_version
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan, MicroBatches, micro_batches, num_shards
from hessian_spectrum.planning.memory_coefficients import OVERHEAD_BYTES
from hessian_spectrum.planning.size import Size
from hessian_spectrum.planning.work import (
    Reorthogonalisation,
    Work,
    lanczos_work,
    probe_bytes,
    top_k_least_rows,
    top_k_rows,
    top_k_work,
    training_passes,
)


def spectrum_variants(request: SpectrumRequest) -> list[SpectrumRequest]:
    """Return a request for each spectrum: for every attention sink, if there are several, one for every block."""
    return [variant for with_sink in sink_variants(request) for variant in block_variants(with_sink)]


def sink_variants(request: SpectrumRequest) -> list[SpectrumRequest]:
    """Return a request for each attention sink, in their order; the request itself where there are not several."""
    sink = request.model.attention_sink if isinstance(request.model, Gpt2) else None
    if sink is None or not request.varies_sink:
        return [request]
    models = [request.model.model_copy(update={"attention_sink": each}) for each in sink.variants]
    return [request.model_copy(update={"model": model}) for model in models]


def block_variants(request: SpectrumRequest) -> list[SpectrumRequest]:
    """Return a request for each block, in their order; the request itself where there are not several."""
    if request.blocks is None:
        return [request]
    variants = [request.model_copy(update={"block": block, "blocks": None}) for block in request.blocks]
    for variant, dim in zip(variants, request.block_dims, strict=True):
        variant.__dict__["dims"] = (dim,)  # names are not looked through again for each of them
    return variants


def eigenvalue_request(request: HessianVsGgnRequest, model: Gpt2, matrix: ComparedMatrix) -> SpectrumRequest:
    """Return the request that finds one eigenvalue of one point of a comparison."""
    method = TopKMethod(
        kind="top-k",
        k=1,
        tolerance=request.tolerance,
        absolute_tolerance=request.absolute_tolerance,
        max_products=request.max_products,
        eigenvectors=False,
    )
    return SpectrumRequest(
        kind="spectrum",
        model=model,
        data=request.data,
        loss=request.loss,
        matrix=matrix,
        method=method,
        precision=request.precision,
    )


ITEM_BYTES = {"float32": 4, "float64": 8}
_DATA_COPIES = 3  # as drawn in float64 with temporaries, as used
_STREAMED_BYTES = 2**24  # of a piece of data that is read from disk: as stored, in float64 and as used
_RESULT_NUMBER_BYTES = 100  # of a number as a Python object and as text


def estimate(request: SpectrumRequest, available_bytes: int | None = None) -> ComputationPlan:
    """Plan the spectra of a request, which are computed one after the other.

    Lanczos with probes in lockstep takes at most half of the memory that one probe leaves.

    Args:
        request: The request.
        available_bytes: Memory of one job at a worker; None: without a limit.

    Returns:
        The plan, with the peak of memory over all spectra.
    """
    parts = spectrum_variants(request)
    # a dense matrix of a smaller block may take more, where that of the largest has a Gram form
    assembled = request.method.method_kind.assembles_matrix
    planned = parts if assembled else [max(parts, key=lambda part: part.dim)]
    plans = (_estimate(part, available_bytes, num_spectra=len(parts)) for part in planned)
    plan = max(plans, key=lambda each: each.peak_bytes)
    return replace(
        plan,
        num_parameters=request.dim,
        num_products=sum(_work(part).num_products for part in parts),
        peak_bytes=plan.peak_bytes + sum(map(_kept_bytes, parts)) - _kept_bytes(parts[0]),
    )


def _estimate(request: SpectrumRequest, available_bytes: int | None, *, num_spectra: int) -> ComputationPlan:
    """Plan one spectrum.

    Probes are not split into shards where there are several spectra, as the shards of a job belong to one spectrum, or
    where all probes share recordings that are not held in memory.

    Args:
        request: The request for this spectrum alone.
        available_bytes: Memory of one job at a worker; None: without a limit.
        num_spectra: Number of spectra of the job.

    Returns:
        The plan.
    """
    method = request.method
    if isinstance(method, TopKMethod):
        return _top_k_estimate(request, method, available_bytes=available_bytes)
    least = _planned(request, _work(request), available_bytes)
    if not isinstance(method, LanczosMethod):
        return least

    def planned(probes: int, mode: Reorthogonalisation) -> ComputationPlan:
        work = lanczos_work(
            request.dim,
            method.num_steps,
            method.num_probes,
            num_points=method.num_points,
            reorthogonalisation=mode,
            group=probes,
        )
        return _planned(request, work, available_bytes)

    shards = 1 if num_spectra > 1 or least.recording_bytes is not None else _num_shards(request, method, least)
    most = -(-method.num_probes // shards)
    if available_bytes is None:
        return replace(planned(most, "full"), num_shards=shards)
    needed = _probe_bytes(request, method, method.reorthogonalisation or "none")
    vectors = needed + max(0, available_bytes - least.peak_bytes) // 2
    mode = method.reorthogonalisation or ("full" if _probe_bytes(request, method, "full") <= vectors else "none")
    group = min(most, vectors // _probe_bytes(request, method, mode))
    whole = planned(group, mode)
    if whole.peak_bytes > available_bytes:
        return replace(least, vector_bytes=needed, num_shards=shards)
    return replace(whole, vector_bytes=vectors, num_shards=shards)


def _num_shards(request: SpectrumRequest, method: LanczosMethod, plan: ComputationPlan) -> int:
    size = _size(request)
    reads_sequences = kind_of(request.model).samples in ("sequences", "tokens")
    inputs = size.num_samples * (sequence_length(request.data) if reads_sequences else 1)
    operations = size.num_parameters * inputs
    return num_shards(
        num_probes=method.num_probes,
        num_steps=min(method.num_steps, request.dim),
        product_operations=operations,
        moved_numbers=plan.work.moved_numbers,
    )


def _top_k_estimate(request: SpectrumRequest, method: TopKMethod, *, available_bytes: int | None) -> ComputationPlan:
    """Plan a top-k spectrum: the longest basis if recordings fit beside it, else half of what a short one leaves."""

    def planned(rows: int) -> ComputationPlan:
        work = top_k_work(
            request.dim,
            method.k,
            method.max_products,
            rows=rows,
            reduced=_is_reduced(request),
            folded=method.which == "nearest",
        )
        return _planned(request, work, available_bytes)

    most, fewest = top_k_rows(request.dim, method.k), top_k_least_rows(request.dim, method.k)
    whole = planned(most)
    if available_bytes is None or (whole.peak_bytes <= available_bytes and whole.recording_bytes is None):
        return whole
    least, vector = planned(fewest), ITEM_BYTES[request.vector_precision] * request.dim
    rows = fewest + max(0, available_bytes - least.peak_bytes) // (2 * vector)
    rows = min(rows, most)
    plan = planned(rows)
    if plan.peak_bytes > available_bytes:
        plan, rows = least, fewest
    return replace(plan, vector_bytes=(rows + plan.work.num_columns) * vector)


def _kept_bytes(part: SpectrumRequest) -> int:
    """Bytes of the vectors of one spectrum that are held until the results of all spectra are stored."""
    stored_vectors = part.method.method_kind.stored_vectors
    vectors = None if stored_vectors is None else stored_vectors(part.method, part.dim)
    if vectors is None:
        return 0
    return (vectors.itemsize or ITEM_BYTES[part.vector_precision]) * vectors.number * part.dim


def culprit(request: SpectrumRequest, available_bytes: int) -> Literal["model", "data", "method"]:
    """Name the field at fault where a job does not fit: data or method if it fits without them, else the model."""
    size = _size(request)
    without_data = replace(size, num_samples=1, activations=(0,) * len(size.activations))
    work, spare = _work(request), available_bytes - _result_bytes(request)
    if _split(request, work, without_data, available_bytes=spare).peak_bytes <= spare:
        return "data"
    if not request.method.method_kind.assembles_matrix:
        spare = available_bytes - _data_bytes(request)
        if _split(request, lanczos_work(request.dim, 2, 1), size, available_bytes=spare).peak_bytes <= spare:
            return "method"
    return "model"


def _planned(request: SpectrumRequest, work: Work, available_bytes: int | None) -> ComputationPlan:
    beside = _data_bytes(request) + _result_bytes(request) + _correction_bytes(request)
    spare = None if available_bytes is None else available_bytes - beside
    split = _split(request, work, _size(request), available_bytes=spare)
    return ComputationPlan(
        num_parameters=request.dim,
        num_products=work.num_products,
        num_training_passes=_training_passes(request),
        peak_bytes=split.peak_bytes + beside,
        micro_batch_size=split.num_samples,
        recording_bytes=split.recording_bytes,
        vector_bytes=None,
        work=work,
        num_batches=split.num_batches,
    )


def _split(request: SpectrumRequest, work: Work, size: Size, *, available_bytes: int | None) -> MicroBatches:
    """Choose micro-batches; `size` is that of the whole model, of which the request may ask for a block."""
    loss = request.effective_loss
    size = size.with_logits() if loss is not None and LOSSES[loss].outputs_cost_like == "logits" else size
    part = replace(size, num_parameters=request.dim, num_other_parameters=size.num_parameters - request.dim)
    return micro_batches(
        part,
        work,
        request.matrix_kind,
        itemsize=ITEM_BYTES[request.vector_precision],
        memory_bytes=available_bytes,
        samples_at_once=kind_of(request.model).samples_at_once(request.model),
    )


def _work(request: SpectrumRequest) -> Work:
    is_layered = kind_of(request.model).is_layered and request.preconditioner is None
    matrix = MatrixProperties(request.dim, _is_reduced(request), is_layered, _gram_order(request))
    return request.method.method_kind.work(request.method, matrix)


def _gram_order(request: SpectrumRequest) -> int | None:
    """Return the number of rows of B for a matrix B^T B + c I, as the engine counts them; None if it has none."""
    loss, matrix = request.loss_with_options, request.matrix_kind
    if loss is None or matrix not in GAUSS_NEWTON or _is_reduced(request):
        return None
    is_scaled = request.preconditioner is not None and request.weight_decay and matrix in DECAYED
    if is_scaled or (matrix == "ggn" and not kind_of_loss(loss).is_convex):
        return None
    axes = _output_axes(request)
    if axes is None:
        return None
    if matrix in OF_GRADIENTS:
        axis = class_axis(loss)
        del axes[-1 if axis is None else axis - 1]
    return num_samples(request.data) * prod(axes)


def _output_axes(request: SpectrumRequest) -> list[int] | None:
    """Return the axes of the outputs of one sample; None if they are not known before the model runs."""
    kind, model = kind_of(request.model), request.model
    if kind.samples == "tokens":
        assert isinstance(model, Gpt2 | CausalLm)
        return [sequence_length(request.data), model.vocab_size]
    if isinstance(model, Exported):
        axes = [each for each in model.output.shape[1:] if each is not None]
        return (axes or [1]) if len(axes) == len(model.output.shape[1:]) else None
    if kind.widths is None:
        return None
    positions = [sequence_length(request.data)] if kind.samples == "sequences" else []
    return [*positions, kind.widths(model)[1]]


def _is_reduced(request: SpectrumRequest) -> bool:
    return request.product_precision != request.vector_precision


def _probe_bytes(request: SpectrumRequest, method: LanczosMethod, mode: Reorthogonalisation) -> int:
    return probe_bytes(
        request.dim, method.num_steps, itemsize=ITEM_BYTES[request.vector_precision], reorthogonalisation=mode
    )


def _training_passes(request: SpectrumRequest) -> float:
    plan = request.train
    return 0.0 if plan is None else training_passes(plan.num_steps, plan.batch_size, num_samples(request.data))


def _result_bytes(request: SpectrumRequest) -> int:
    return _RESULT_NUMBER_BYTES * request.method.method_kind.num_result_numbers(request.method, request.dim)


def _correction_bytes(request: SpectrumRequest) -> int:
    """Return the bytes of the vectors of a preconditioner, as loaded and as used, and of a mean gradient."""
    num_vectors = 3 * (request.preconditioner is not None) + (request.matrix_kind == "gradient-covariance")
    return 8 * request.dim * num_vectors


def _size(request: SpectrumRequest) -> Size:
    samples, length = num_samples(request.data), sequence_length(request.data)
    size = kind_of(request.model).size(request.model, samples, length)
    return size.with_streamed_inputs() if is_streamed(request) else size


def _data_bytes(request: SpectrumRequest) -> int:
    if request.data is None:
        return 8 * _DATA_COPIES * kind_of(request.model).num_matrix_entries(request.model)
    if is_streamed(request):
        return _STREAMED_BYTES
    kind = data_kind_of(request.data)
    return 8 * _DATA_COPIES * kind.num_numbers(request.data) + kind.extra_bytes(request.data)


def is_streamed(request: SpectrumRequest) -> bool:
    """Return whether the data stay on disk, of which a worker reads one micro-batch at a time."""
    return isinstance(request.data, UploadedSamples) and kind_of(request.model).samples == "arrays"


def gibibytes(count: int) -> str:
    """A number of bytes in GiB, for readers."""
    return f"{count / 2**30:.3g} GiB"


_MOMENTS = 2  # vectors that AdamW keeps beside the parameters; its gradient is dropped before a measurement
_TOKEN_BYTES = 8


def plan_job(request: AnyJobRequest, memory_bytes: int | None = None) -> JobPlan:
    """Plan a job for a worker.

    Args:
        request: The request, in its canonical form where the plan is stored, since workers compute that.
        memory_bytes: Memory of one job at the worker; None: without a limit.

    Returns:
        The plan of the whole job and of each of its points.
    """
    if isinstance(request, SpectrumRequest):
        return JobPlan(memory_bytes, estimate(request, memory_bytes))
    if isinstance(request, ExperimentRequest):
        plans = _computation_plans(request.computations, memory_bytes)
        return JobPlan(memory_bytes, _experiment_plan(plans), plans)
    points = tuple(_point_plan(request, model, matrix, memory_bytes=memory_bytes) for model, matrix in _points(request))
    return JobPlan(memory_bytes, _comparison_plan(request, points), points)


def stored_plan(plan: JobPlan) -> str:
    """A plan as it is stored with its job."""
    return plan.to_json(protocol_version())


def plan_for_worker(request: AnyJobRequest, memory_bytes: int, stored: str | None) -> JobPlan:
    """Choose the plan that a worker follows.

    Args:
        request: The request in its canonical form.
        memory_bytes: Memory of one job at this worker.
        stored: The plan that is stored with the job; None: none, as in jobs of earlier versions.

    Returns:
        The stored plan; a new one if that was made for other memory or by another version.
    """
    plan = None if stored is None else JobPlan.from_json(stored, protocol_version())
    return plan if plan is not None and plan.memory_bytes == memory_bytes else plan_job(request, memory_bytes)


def memory_error(request: AnyJobRequest, plan: JobPlan) -> FieldError | None:
    """The field at fault if a job does not fit into memory even with micro-batches of one sample; None if it fits."""
    if plan.memory_bytes is None or plan.fits:
        return None
    if isinstance(request, SpectrumRequest):
        message = (
            f"{plan.whole.num_parameters:,} parameters with these data and method {request.method.kind} take about "
            f"{gibibytes(plan.whole.peak_bytes)}, a worker has {gibibytes(plan.memory_bytes)}"
        )
        return FieldError(loc=["body", culprit(request, plan.memory_bytes)], msg=message)
    if isinstance(request, ExperimentRequest):
        return _experiment_error(request, plan, plan.memory_bytes)
    return _comparison_error(request, plan.points, plan.memory_bytes)


def _experiment_error(request: ExperimentRequest, plan: JobPlan, memory_bytes: int) -> FieldError:
    """Return the field that makes the largest point of an experiment too large."""
    index = max(range(len(plan.points)), key=lambda number: plan.points[number].peak_bytes)
    computation = request.computations[index]
    location: list[str | int] = list(request.location_of_sizes)
    if isinstance(computation, SpectrumRequest):
        location.append(culprit(computation, memory_bytes))
    sizes = gibibytes(plan.whole.peak_bytes), gibibytes(memory_bytes)
    return FieldError(loc=["body", *location], msg=f"point {index} takes about {sizes[0]}, a worker has {sizes[1]}")


def _experiment_plan(plans: tuple[ComputationPlan, ...]) -> ComputationPlan:
    """Return the plan of an experiment, whose spectra are computed one after the other."""
    return replace(
        max(plans, key=lambda plan: plan.peak_bytes),
        num_parameters=max(plan.num_parameters for plan in plans),
        num_products=sum(plan.num_products for plan in plans),
        num_training_passes=sum(plan.num_training_passes for plan in plans),
        num_shards=1,
    )


_SEEDS: Mapping[str, Any] = {"seed": True, "model": {"seed"}, "data": {"seed"}, "train": {"seed"}}


def _computation_plans(computations: Sequence[PointRequest], memory_bytes: int | None) -> tuple[ComputationPlan, ...]:
    """Plan the points of an experiment; spectra that differ in seeds alone have one plan."""
    known: dict[str, ComputationPlan] = {}
    plans = []
    for each in computations:
        if isinstance(each, SpectrumRequest):
            key = each.model_dump_json(exclude=dict(_SEEDS))
            if key not in known:
                known[key] = _computation_plan(each, memory_bytes)
            plans.append(known[key])
        else:
            plans.append(_computation_plan(each, memory_bytes))
    return tuple(plans)


def _computation_plan(computation: PointRequest, memory_bytes: int | None) -> ComputationPlan:
    """Plan one point of an experiment."""
    if isinstance(computation, SpectrumRequest):
        return estimate(computation, memory_bytes)
    request = computation.job_request
    if request is not None:
        return plan_job(request, memory_bytes).whole
    cost = computation.cost
    return ComputationPlan(
        num_parameters=cost.num_parameters,
        num_products=cost.num_products,
        num_training_passes=cost.num_training_passes,
        peak_bytes=cost.peak_bytes + OVERHEAD_BYTES,
        micro_batch_size=1,
        recording_bytes=None,
        vector_bytes=None,
        work=Work(cost.num_products),
        num_batches=1,
    )


def _points(request: HessianVsGgnRequest) -> Iterator[tuple[Gpt2, ComparedMatrix]]:
    for model in request.models:
        for matrix in MATRICES:
            yield model, matrix


def _point_plan(
    request: HessianVsGgnRequest, model: Gpt2, matrix: ComparedMatrix, *, memory_bytes: int | None
) -> ComputationPlan:
    """Plan one eigenvalue of one model, in the memory that training leaves."""
    beside = _training_bytes(request, model)
    spare = None if memory_bytes is None else memory_bytes - beside
    alone = estimate(eigenvalue_request(request, model, matrix), spare)
    return replace(alone, peak_bytes=alone.peak_bytes + beside)


def _comparison_plan(request: HessianVsGgnRequest, points: tuple[ComputationPlan, ...]) -> ComputationPlan:
    """Plan all points, one after the other; a training pass counts as many sequences as a point has."""
    num_points = request.num_measurements // len(request.models)
    training = request.pretrain
    num_sequences = 0 if training is None else request.num_runs * training.num_steps * training.batch_size
    return replace(
        max(points, key=lambda point: point.peak_bytes),
        num_products=num_points * sum(point.num_products for point in points),
        num_training_passes=num_sequences / request.data.num_sequences,
    )


def _comparison_error(
    request: HessianVsGgnRequest, points: tuple[ComputationPlan, ...], memory_bytes: int
) -> FieldError | None:
    """The field that makes the first point that does not fit too large."""
    for number, ((model, matrix), point) in enumerate(zip(_points(request), points, strict=True)):
        if point.peak_bytes > memory_bytes:
            spare = memory_bytes - _training_bytes(request, model)
            is_data = culprit(eigenvalue_request(request, model, matrix), spare) == "data"
            location = ["data"] if is_data else ["models", number // len(MATRICES)]
            message = (
                f"{point.num_parameters:,} parameters with these data take about "
                f"{gibibytes(point.peak_bytes)}, a worker has {gibibytes(memory_bytes)}"
            )
            return FieldError(loc=["body", *location], msg=message)
    return None


def _training_bytes(request: HessianVsGgnRequest, model: Gpt2) -> int:
    """Bytes that training holds beside a measurement: moments, and the tokens of a batch with one copy."""
    plan = request.pretrain
    if plan is None:
        return 0
    num_parameters = sum(prod(shape) for shape in parameter_shapes(model).values())
    tokens = 2 * plan.batch_size * (request.data.sequence_length + 1)
    return _MOMENTS * ITEM_BYTES[request.precision] * num_parameters + _TOKEN_BYTES * tokens
