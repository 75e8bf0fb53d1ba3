"""The union of all results of jobs, discriminated by `kind`."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.api_schemas.spectrum_results import AnySpectrumResult, SpectrumResult, SpectrumSetResult

AnyJobResult = AnySpectrumResult | SpectrumSetResult | HessianVsGgnResult
JobResult = TypeAliasType(
    "JobResult", Annotated[SpectrumResult | SpectrumSetResult | HessianVsGgnResult, Field(discriminator="kind")]
)
