"""What a job would take."""

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message


class CostEstimate(Message):
    """Predicted from the request alone; nothing is queued."""

    num_parameters: int = Field(description="of the matrix")
    num_products: int = Field(description="matrix-vector products; at most, where a tolerance decides")
    num_training_passes: float = Field(description="over all data, forward and back")
    peak_bytes: int = Field(description="of a worker's memory")
    micro_batch_size: int = Field(description="samples that go through the model at once, so that the job fits")
    worker_memory_bytes: int | None = Field(
        description="of the smallest worker that is there, for one job; null: there is none, and nothing is split"
    )
    fits: bool | None = Field(description="whether a worker takes the job; null: no worker is there")
    summary: str = Field(description="the same as a sentence")
