"""Predicted cost of a job."""

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message


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
    summary: str = Field(description="The estimate in one sentence.")
