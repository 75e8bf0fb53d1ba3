"""Every request that becomes a job, told apart by `kind`."""

from typing import Annotated

from pydantic import ConfigDict, Field, RootModel

from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest

AnyJobRequest = SpectrumRequest | HessianVsGgnRequest

JOB_KINDS = ("spectrum", "hessian-vs-ggn")
"""Values of `kind`."""


class JobRequest(RootModel[Annotated[AnyJobRequest, Field(discriminator="kind")]]):
    """What a job computes, by its `kind`."""

    model_config = ConfigDict(frozen=True, strict=True)
