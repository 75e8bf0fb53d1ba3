"""Methods of the engine as requests name them, and their results as messages."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np

from hessian_spectrum.api_schemas.closed_form import Parameter
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, method_kind
from hessian_spectrum.api_schemas.models.kind import fields_of
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import Provenance, SinkReport, TrainingReport
from hessian_spectrum.curvature.algorithms.method import Method, Spectrum
from hessian_spectrum.curvature.registry import method_classes
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.quadrature import results as engine
from hessian_spectrum.serialization.result_arrays import Arrays


def method_of(request: SpectrumRequest, plan: ComputationPlan) -> Method[Any, Any]:
    """Return the method that a request names, within the memory of its plan."""
    arguments = method_kind(request.method).engine_arguments(request.method)
    if plan.vector_bytes is not None:
        arguments["memory_bytes"] = plan.vector_bytes
    return method_classes()[request.method.kind](**arguments)


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
    kind = method_kind(request.method)
    values = fields_of(request.method) | _attributes(spectrum)
    values = {name: _content(value) for name, value in values.items() if name in kind.result.model_fields}
    return kind.result(
        **values | kind.result_fields(request.method, request.dim),
        num_parameters=request.dim,
        parameters=[Parameter(name=name, shape=list(shape)) for name, shape in request.matrix_parameters.items()],
        matrix=request.matrix,
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
    stored = method_kind(request.method).stored_vectors(request.method, request.dim)
    return {} if stored is None else _named_arrays({name: getattr(spectrum, name) for name in stored.arrays})


def _named_arrays(values: Mapping[str, Any]) -> Arrays:
    """Arrays by name; those of a dataclass with its name before theirs, but for its `values`."""
    arrays: Arrays = {}
    for name, value in values.items():
        if is_dataclass(value):
            for part in fields(value):
                arrays[name if part.name == "values" else f"{name}_{part.name}"] = getattr(value, part.name)
        else:
            arrays[name] = value
    return arrays


def _attributes(spectrum: Spectrum) -> dict[str, Any]:
    """Attributes of an engine's result, as fields of messages."""
    values = {each.name: getattr(spectrum, each.name) for each in fields(spectrum)}  # type: ignore[arg-type]
    match spectrum:
        case engine.TopEigenpairs():
            values["eigenpairs"] = _eigenpairs(spectrum)
        case engine.StochasticTrace():
            converged = {"num_products": spectrum.num_products, "converged": spectrum.converged}
            values["trace"] = _content(spectrum.trace) | converged
    return values


def _content(value: Any) -> Any:
    """A value as the field of a message is made from it: intervals are part of what they belong to."""
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
