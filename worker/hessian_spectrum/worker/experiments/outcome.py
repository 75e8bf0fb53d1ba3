"""What a job returns."""

from dataclasses import dataclass, field

from hessian_spectrum.api_schemas.jobs import AnyJobResult
from hessian_spectrum.serialization.result_arrays import Arrays


@dataclass(frozen=True)
class JobOutput:
    """The result of a job, and the arrays that do not go into its document."""

    result: AnyJobResult
    arrays: Arrays = field(default_factory=dict)
