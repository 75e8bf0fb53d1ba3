"""Jobs as callers see them: every kind of request and result, the predicted cost, and the record of a job."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import ConfigDict, Field, RootModel, SkipValidation
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.display import DisplayedMessage
from hessian_spectrum.api_schemas.experiments import EXPERIMENTS, ExperimentRequest, ExperimentResult
from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.api_schemas.message import Message, RequestMessage
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, SpectrumResult
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import StoredArrays

if TYPE_CHECKING:
    AnyJobRequest = SpectrumRequest | HessianVsGgnRequest | ExperimentRequest
else:
    AnyJobRequest = Union[(SpectrumRequest, HessianVsGgnRequest, *(each.message for each in EXPERIMENTS.values()))]

JOB_KINDS = ("spectrum", "hessian-vs-ggn", *EXPERIMENTS)
"""Values of the field `kind` of a request, one for each kind of job."""


class JobRequest(RootModel[Annotated[AnyJobRequest, Field(discriminator="kind")]]):
    """The computation of a job, with its settings; `kind` selects the type of job."""

    model_config = ConfigDict(frozen=True, strict=True)


class SpectrumSetResult(DisplayedMessage):
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


class CostEstimate(Message):
    """Cost of a job, predicted from the request alone; nothing is queued."""

    num_parameters: int = Field(description="Number of rows of the matrix, which is the number of its parameters.")
    num_products: int = Field(
        description="Number of matrix-vector products; an upper bound if a tolerance decides when to stop."
    )
    num_training_passes: float = Field(
        description="Number of forward and backward passes over all data during training."
    )
    peak_bytes: int = Field(description="Peak memory of the worker process, in bytes.")
    micro_batch_size: int = Field(
        description="Number of samples that pass through the model at once, chosen so that the job fits in memory."
    )
    worker_memory_bytes: int | None = Field(
        description="Memory per job, in bytes, of the smallest worker that is online; null if none is, in which case "
        "nothing is split."
    )
    fits: bool | None = Field(description="Whether the job fits in a worker's memory; null if no worker is online.")
    parameter_shapes: dict[str, list[int]] | None = Field(
        default=None,
        description="Length along each axis of the parameters of the matrix, by name and in the order of its rows, to "
        "compare with those of your network; null for a job of several matrices with different parameters.",
    )
    seconds: float | None = Field(
        default=None,
        description="Predicted time of a figure on two cores, in seconds; null for other jobs.",
    )
    summary: str = Field(description="The estimate in one sentence.")


JobState = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired"]
ENDED_STATES: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled", "expired"})


class Progress(Message):
    """Progress of the current phase of a job."""

    phase: str = Field(
        description="Current phase: queued, preparing, training, measurements, linearisation, products, eigenvalues "
        "or storing; cached if an earlier result was reused."
    )
    done: int = Field(description="Number of units finished in this phase.")
    total: int = Field(description="Number of units in this phase.")
    unit: str = Field(description="What `done` and `total` count.")
    estimated_seconds: float | None = Field(
        default=None,
        description="Predicted total duration of this attempt in seconds, from its first products; null while it is "
        "unknown, or if the number of products is.",
    )


class Links(Message):
    """Paths of the requests that concern a job."""

    self: str = Field(description="Path of the job's record.")
    result: str = Field(description="Path of the job's result.")
    events: str = Field(description="Path of the stream of the job's events.")
    cancel: str = Field(description="Path to which a request cancels the job.")


class Job(Message):
    """Record of a job; all times are in UTC."""

    id: str = Field(description="Unique id of the job.")
    kind: str = Field(description="Kind of the job, as in the request.")
    summary: str = Field(
        default="", description="What the job computes, in a few words; empty for jobs of older servers."
    )
    state: JobState = Field(description="Current state of the job.")
    progress: Progress = Field(description="Progress of the current phase.")
    attempt: int = Field(description="Number of times that a worker has started the job.")
    created_at: datetime = Field(description="Time of submission, in UTC.")
    started_at: datetime | None = Field(description="Time at which a worker started the job, in UTC; null before that.")
    finished_at: datetime | None = Field(description="Time at which the job ended, in UTC; null before that.")
    error: Problem | None = Field(description="Why the job failed; null unless it did.")
    tags: dict[str, str] = Field(description="The caller's own labels, from the request.")
    owner: str | None = Field(
        default=None, description="Id of the API key that submitted the job; null if no key was required."
    )
    shared: bool = Field(default=False, description="Whether holders of every API key may read the job.")
    cached: bool = Field(
        default=False, description="Whether the result was reused from an earlier job with an equal request."
    )
    interim: str | None = Field(
        default=None,
        description="Identifies the newest interim result of a running Lanczos job, which `GET` of its result with "
        "`?interim=true` returns; null if there is none.",
    )
    links: Links = Field(description="Paths of the requests that concern this job.")


MAX_BATCH_JOBS = 1000


class JobBatch(RequestMessage):
    """Jobs that are submitted together: all of them are accepted, or none."""

    jobs: list[SkipValidation[JobRequest]] = Field(
        min_length=1, max_length=MAX_BATCH_JOBS, description="Requests, each as for a single job."
    )


class SubmittedJobs(Message):
    """The jobs of a batch."""

    jobs: list[Job] = Field(description="Records of the jobs, in the order of the requests.")


class JobPage(Message):
    """A page of the list of jobs, newest first."""

    jobs: list[Job] = Field(description="Jobs of this page, newest first.")
    next_page_token: str | None = Field(description="Token that requests the next page; null on the last page.")
