"""From a closed-form request to `theory` and back."""

import numpy as np

from api_schemas.closed_form import (
    ClosedFormRequest,
    ClosedFormSpectrum,
    Eigenvalue,
    Inertia,
    LinearNetwork,
    QuadraticForm,
    ReluNetwork,
    SelfAttention,
)
from theory.closed_form.attention import self_attention_spectrum
from theory.closed_form.homogeneous import linear_spectrum, relu_spectrum
from theory.closed_form.quadratic import quadratic_spectrum
from theory.closed_form.spectrum import Spectrum

SMALL_REQUEST_NUMBERS = 10_000
"""A request of so few numbers is answered faster than a thread is started."""


def num_numbers(request: ClosedFormRequest) -> int:
    """Numbers in the request, roughly: decides whether the answer blocks other requests for long."""
    model = request.model
    size = len(model.matrix) ** 2 if isinstance(model, QuadraticForm) else request.num_scores
    for values in (request.data.x, request.data.y, getattr(model, "w", None), getattr(model, "w_q", None)):
        if values is not None:
            size += len(values) * (len(values[0]) if isinstance(values[0], list) else 1)
    return size


def answer(request: ClosedFormRequest) -> ClosedFormSpectrum:
    """The whole spectrum of the request's Hessian.

    Raises:  TheoryError if the numbers lead out of the range of floating point.
    """
    return _message(_spectrum(request))


def _spectrum(request: ClosedFormRequest) -> Spectrum:
    x, y = np.asarray(request.data.x, dtype=np.float64), np.asarray(request.data.y, dtype=np.float64)
    match request.model:
        case LinearNetwork(w=w, v=v):
            return linear_spectrum(np.asarray(w, dtype=np.float64), np.asarray(v, dtype=np.float64), x, y)
        case ReluNetwork(w=w, v=v):
            return relu_spectrum(np.asarray(w, dtype=np.float64), np.asarray(v, dtype=np.float64), x, y)
        case SelfAttention(w_v=w_v, w_q=w_q, w_k=w_k, sink_bias=sink_bias):
            query, key = np.asarray(w_q, dtype=np.float64), np.asarray(w_k, dtype=np.float64)
            return self_attention_spectrum(w_v, query, key, x, y, sink_bias=sink_bias)
        case QuadraticForm(matrix=matrix):
            return quadratic_spectrum(np.asarray(matrix, dtype=np.float64))


def _message(spectrum: Spectrum) -> ClosedFormSpectrum:
    inertia = spectrum.inertia
    return ClosedFormSpectrum(
        kind=spectrum.kind,
        num_parameters=spectrum.num_parameters,
        method=spectrum.method,
        source=spectrum.source,
        eigenvalues=[
            Eigenvalue(value=e.value, multiplicity=e.multiplicity, role=e.role, group=e.group, pair=e.pair)
            for e in spectrum.eigenvalues
        ],
        trace=spectrum.trace,
        sharpness=spectrum.sharpness,
        smallest=spectrum.smallest,
        condition_number=spectrum.condition_number,
        inertia=Inertia(negative=inertia.negative, zero=inertia.zero, positive=inertia.positive),
        critical_point=spectrum.critical_point,
        statistics=dict(spectrum.statistics),
        notes=list(spectrum.notes),
    )
