"""Results of the engine as messages, with the origin of their numbers."""

import hashlib
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.api_schemas.closed_form import Parameter
from hessian_spectrum.api_schemas.jobs import AnyJobResult
from hessian_spectrum.api_schemas.methods import AnySpectrumResult
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2, Model
from hessian_spectrum.api_schemas.models.kind import fields_of
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import (
    Computation,
    Provenance,
    SinkReport,
    TrainingReport,
    UsedCheckpoint,
)
from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.curvature.algorithms.method import Spectrum
from hessian_spectrum.curvature.data.stored import StoredNumbers
from hessian_spectrum.curvature.operators.programs import Execution
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.quadrature import results as engine
from hessian_spectrum.results.arrays import Arrays
from hessian_spectrum.worker.hardware import Hardware


@dataclass(frozen=True)
class JobOutput:
    """The result of a job, and the arrays that do not go into its document."""

    result: AnyJobResult
    arrays: Arrays = field(default_factory=dict)


def result_of(
    request: SpectrumRequest,
    spectrum: Spectrum,
    *,
    loss: float,
    training: TrainingReport | None,
    provenance: Provenance,
    sink: SinkReport | None = None,
) -> AnySpectrumResult:
    """Return the result as a message, without the arrays that only the npz file holds.

    A field of the message is the attribute of the same name of the engine's result or, where there is none, the field
    of the request's method.

    Args:
        request: Request for one spectrum.
        spectrum: Result of the engine.
        loss: Loss at the parameters.
        training: Summary of the training before; None: there was none.
        provenance: Origin of the numbers.
        sink: The attention sink that was inserted; None: there was none.

    Returns:
        The message.

    Raises:
        ValidationError: If a number is NaN or infinite.
    """
    kind = request.method.method_kind
    values = fields_of(request.method) | _attributes(spectrum)
    values = {name: _content(value) for name, value in values.items() if name in kind.result.model_fields}
    return kind.result(
        **values | kind.result_fields(request.method, request.dim),
        num_parameters=request.dim,
        parameters=[Parameter(name=name, shape=list(shape)) for name, shape in request.matrix_parameters.items()],
        matrix=request.matrix_kind,
        preconditioner=None if request.preconditioner is None else request.preconditioner.id,
        shift=request.shift,
        block=request.block,
        loss=loss,
        attention_sink=sink,
        training=training,
        provenance=provenance,
    )


def vectors_of(request: SpectrumRequest, spectrum: Spectrum) -> Arrays:
    """Return the arrays as long as the parameter vector that only the npz file holds, where the request asks for them.

    exact: eigenvectors (P, P) and residuals (P,); top-k: eigenvectors (k, P); both in rows, in the order of the
    eigenvalues. trace: diagonal, diagonal_standard_error, diagonal_lower and diagonal_upper (P,).

    Args:
        request: Request for one spectrum.
        spectrum: Result of the engine.

    Returns:
        The arrays by name.
    """
    stored_vectors = request.method.method_kind.stored_vectors
    stored = None if stored_vectors is None else stored_vectors(request.method, request.dim)
    return {} if stored is None else _named_arrays({name: getattr(spectrum, name) for name in stored.arrays})


def _named_arrays(values: Mapping[str, Any]) -> Arrays:
    """Return arrays by name; an array of a dataclass is named `<field>_<part>`, or `<field>` for its part `values`."""
    arrays: Arrays = {}
    for name, value in values.items():
        if is_dataclass(value):
            for part in fields(value):
                arrays[name if part.name == "values" else f"{name}_{part.name}"] = getattr(value, part.name)
        else:
            arrays[name] = value
    return arrays


def _attributes(spectrum: Spectrum) -> dict[str, Any]:
    """Return the attributes of an engine's result, as fields of messages."""
    values = {each.name: getattr(spectrum, each.name) for each in fields(spectrum)}  # type: ignore[arg-type]
    match spectrum:
        case engine.TopEigenpairs():
            values["eigenpairs"] = _eigenpairs(spectrum)
        case engine.StochasticTrace():
            converged = {"num_products": spectrum.num_products, "converged": spectrum.converged}
            values["trace"] = _content(spectrum.trace) | converged
    return values


def _content(value: Any) -> Any:
    """Convert a value to the field of a message; an interval becomes part of the value that it belongs to."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_content(each) for each in value]
    if not is_dataclass(value):
        return value
    content = {each.name: _content(getattr(value, each.name)) for each in fields(value)}
    return content | content.pop("interval", {})


def _eigenpairs(pairs: engine.TopEigenpairs) -> list[dict[str, Any]]:
    columns = (
        pairs.eigenvalues.tolist(),
        pairs.residuals.tolist(),
        pairs.converged.tolist(),
        map(asdict, pairs.intervals),
    )
    return [
        {"value": value, "residual": residual, "converged": converged, **interval}
        for value, residual, converged, interval in zip(*columns, strict=True)
    ]


def provenance(
    request: SpectrumRequest,
    *,
    hardware: Hardware,
    operator: RiskOperator | None,
    execution: Execution,
    micro_batch_size: int,
    parameters: Iterable[Tensor],
    data: Iterable[Tensor | StoredNumbers],
    num_products: int,
    wall_time_seconds: float,
    precision_deviation: float | None = None,
    num_shards: int = 1,
    num_workers: int = 1,
) -> Provenance:
    """Return everything that another run must share to give the same numbers, and the resources that this run took.

    Without an operator, products are recorded.
    """
    common = computation(
        hardware,
        precision=request.product_precision,
        execution=execution.description,
        micro_batch_size=micro_batch_size,
        data=data,
        num_products=num_products,
        product_fallback=None if operator is None else operator.fallback_reason,
        wall_time_seconds=wall_time_seconds,
    )
    if isinstance(request.model, CausalLm):
        common.versions["transformers"] = version("transformers")
    return Provenance(
        **common.model_dump(),
        matrix=request.matrix_kind,
        preconditioner=None if request.preconditioner is None else request.preconditioner.id,
        shift=request.shift,
        block=request.block,
        precision_deviation=precision_deviation,
        seed=request.seed,
        checkpoint=used_checkpoint(request.model),
        parameters_sha256=digest(parameters),
        num_shards=num_shards,
        num_workers=num_workers,
    )


def computation(hardware: Hardware, *, data: Iterable[Tensor | StoredNumbers], **fields: Any) -> Computation:
    """Return the fields that all results share; `fields` are those that do not follow from hardware and data."""
    versions = {
        "spectrum-server": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return Computation(
        versions=versions,
        device=_device_name(hardware.device),
        num_threads=hardware.num_threads,
        tf32=torch.backends.cuda.matmul.allow_tf32,
        data_sha256=digest(data),
        **fields,
    )


def used_checkpoint(model: Model) -> UsedCheckpoint | None:
    """Return the checkpoint from which the model's parameters come; None if there is none."""
    match model:
        case (
            Gpt2(checkpoint=str(name), checkpoint_sha256=str(sha256))
            | CausalLm(checkpoint=name, checkpoint_sha256=sha256)
        ):
            return UsedCheckpoint(name=name, sha256=sha256)
        case _:
            return None


def _device_name(device: torch.device) -> str:
    return (
        f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else f"cpu ({platform.machine()})"
    )


def digest(tensors: Iterable[Tensor | StoredNumbers]) -> str:
    """Return the SHA-256 over type, shape and bytes of each tensor in order, wherever its numbers are."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in [tensor] if isinstance(tensor, Tensor) else tensor.pieces():
            digest.update(piece.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
