"""Every result of a job, told apart by `kind`."""

from typing import Annotated

from pydantic import Field

from api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from api_schemas.spectrum_results import AnySpectrumResult, SpectrumResult

AnyJobResult = AnySpectrumResult | HessianVsGgnResult
JobResult = Annotated[SpectrumResult | HessianVsGgnResult, Field(discriminator="kind")]
