"""The union of all requests that become jobs, discriminated by `kind`."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import ConfigDict, Field, RootModel

from hessian_spectrum.api_schemas.experiments import EXPERIMENTS, ExperimentRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest

if TYPE_CHECKING:
    AnyJobRequest = SpectrumRequest | HessianVsGgnRequest | ExperimentRequest
else:
    AnyJobRequest = Union[(SpectrumRequest, HessianVsGgnRequest, *(each.message for each in EXPERIMENTS.values()))]

JOB_KINDS = ("spectrum", "hessian-vs-ggn", *EXPERIMENTS)
"""All values of `kind`."""


class JobRequest(RootModel[Annotated[AnyJobRequest, Field(discriminator="kind")]]):
    """What a job computes, with its settings; `kind` selects the type of job."""

    model_config = ConfigDict(frozen=True, strict=True)
