"""From a closed-form request to `theory` and back."""

from dataclasses import dataclass
from typing import Any

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest, EigenvectorChoice
from hessian_spectrum.service.problems import invalid_field
from hessian_spectrum.theory.closed_form.descent import Descent, linear_descent
from hessian_spectrum.theory.closed_form.families import spectra
from hessian_spectrum.theory.closed_form.spectrum import Eigenvectors, Spectrum

SMALL_BODY_BYTES = 20_000
"""A body of so few bytes, a thousand doubles, is answered faster than a thread is started, if not much is derived."""

SMALL_DERIVED_NUMBERS = 10_000
"""So many attention scores, or entries of a matrix to diagonalise, take about as long."""


@dataclass(frozen=True)
class Answer:
    """What theory says of a request; eigenvectors and descent are None where it did not ask."""

    spectrum: Spectrum
    which: EigenvectorChoice
    eigenvectors: Eigenvectors | None
    descent: Descent | None


def is_small(request: ClosedFormRequest, num_bytes: int) -> bool:
    """Whether a request in so many bytes is answered before others notice that they wait."""
    return (
        num_bytes <= SMALL_BODY_BYTES
        and request.eigenvectors == "none"
        and request.descent is None
        and request.num_derived <= SMALL_DERIVED_NUMBERS
    )


def answer(request: ClosedFormRequest, max_vector_numbers: int) -> Answer:
    """The whole spectrum of the request's Hessian, and what else it asks for.

    Raises:
        TheoryError: If the numbers lead out of the range of floating point.
        ProblemError: 422 for eigenvectors of more numbers than the answer carries.
    """
    spectrum = _spectrum(request)
    found = _eigenvectors(spectrum, request.eigenvectors, max_vector_numbers)
    return Answer(spectrum, request.eigenvectors, found, _descent(request))


def _spectrum(request: ClosedFormRequest) -> Spectrum:
    model, data = request.model, request.data
    arguments = {name: getattr(model, name) for name in type(model).model_fields if name != "kind"}
    samples = {} if data.x is None else {"x": data.x, "y": data.y}
    return spectra()[model.kind](**arguments, **samples)


def _eigenvectors(spectrum: Spectrum, which: EigenvectorChoice, max_numbers: int) -> Eigenvectors | None:
    if which == "none":
        return None
    num_vectors, num_parameters = spectrum.num_eigenvectors(which), spectrum.num_parameters
    if num_vectors * num_parameters > max_numbers:
        message = (
            f"{num_vectors} eigenvectors of {num_parameters} numbers are more than the {max_numbers} that this answer "
            "carries: ask for outliers instead of all, for npz (Accept: application/x-npz), or for none"
        )
        raise invalid_field(["eigenvectors"], message)
    return spectrum.eigenvectors(which)


def _descent(request: ClosedFormRequest) -> Descent | None:
    model: Any = request.model
    data: Any = request.data
    wanted = request.descent
    if wanted is None:
        return None
    return linear_descent(
        w=model.w, v=model.v, x=data.x, y=data.y, learning_rate=wanted.learning_rate, num_steps=wanted.num_steps
    )


def document(answer: Answer) -> dict[str, Any]:
    """The fields of a `ClosedFormSpectrum`, made by hand: building and checking the message takes twice the time."""
    spectrum, inertia, conditioning = answer.spectrum, answer.spectrum.inertia, answer.spectrum.conditioning
    return {
        "kind": spectrum.kind,
        "num_parameters": spectrum.num_parameters,
        "method": spectrum.method,
        "source": spectrum.source,
        "eigenvalues": [
            {"value": e.value, "multiplicity": e.multiplicity, "role": e.role, "group": e.group, "pair": e.pair}
            for e in spectrum.eigenvalues
        ],
        "trace": spectrum.trace,
        "sharpness": spectrum.sharpness,
        "smallest": spectrum.smallest,
        "condition_number": conditioning.value,
        "condition_number_lower": conditioning.lower,
        "condition_number_upper": conditioning.upper,
        "inertia": {"negative": inertia.negative, "zero": inertia.zero, "positive": inertia.positive},
        "critical_point": inertia.critical_point,
        "statistics": spectrum.statistics,
        "eigenvectors": _eigenvector_fields(answer),
        "descent": _descent_fields(answer.descent),
        "notes": spectrum.notes,
    }


def _eigenvector_fields(answer: Answer) -> dict[str, Any] | None:
    found = answer.eigenvectors
    if found is None:
        return None
    return {
        "which": answer.which,
        "parameters": [{"name": p.name, "shape": p.shape} for p in answer.spectrum.parameters],
        "eigenvalues": found.eigenvalues.tolist(),
        "vectors": found.vectors.tolist(),
    }


def _descent_fields(descent: Descent | None) -> dict[str, Any] | None:
    if descent is None:
        return None
    return {
        "loss": descent.loss.tolist(),
        "outliers": descent.outliers.tolist(),
        "bulk": descent.bulk.tolist(),
        "c": descent.c.tolist(),
        "phase": descent.phase,
        "fixed_dimensions": descent.fixed_dimensions,
        "diverged_at": descent.diverged_at,
        "notes": descent.notes,
    }
