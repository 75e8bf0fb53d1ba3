"""The union of all results of jobs, discriminated by `kind`."""

from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Field
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.experiments import EXPERIMENTS, ExperimentResult
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, SpectrumResult
from hessian_spectrum.api_schemas.spectrum_results import StoredArrays


class SpectrumSetResult(Message):
    """Spectra of one job: of several attention sinks, of several blocks, or of each block with each sink."""

    kind: Literal["spectrum-set"] = "spectrum-set"
    spectra: list[SpectrumResult] = Field(
        description="Spectra in order: every block of the first sink, then of the next."
    )
    arrays: StoredArrays | None = Field(
        default=None, description="Arrays in the npz file that this document lacks; null if it holds everything."
    )


if TYPE_CHECKING:
    AnyJobResult = AnySpectrumResult | SpectrumSetResult | HessianVsGgnResult | ExperimentResult
    JobResult = AnyJobResult
else:
    _RESULTS = (SpectrumSetResult, HessianVsGgnResult, *(each.result for each in EXPERIMENTS.values()))
    AnyJobResult = Union[(AnySpectrumResult, *_RESULTS)]
    JobResult = TypeAliasType("JobResult", Annotated[Union[(SpectrumResult, *_RESULTS)], Field(discriminator="kind")])
