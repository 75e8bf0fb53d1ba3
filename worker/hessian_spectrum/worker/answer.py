"""What a computation gives."""

from dataclasses import dataclass, field

from hessian_spectrum.api_schemas.job_results import AnyJobResult
from hessian_spectrum.api_schemas.spectrum_results import AnySpectrumResult
from hessian_spectrum.serialization.result_arrays import Arrays


@dataclass(frozen=True)
class Answer:
    """The result, and the arrays that do not go into its document."""

    result: AnyJobResult
    vectors: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class SpectrumAnswer(Answer):
    """One spectrum."""

    result: AnySpectrumResult
