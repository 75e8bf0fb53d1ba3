"""Results of spectrum jobs; values are in loss per squared parameter unless stated otherwise."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hessian_spectrum.api_schemas.closed_form import Parameter
from hessian_spectrum.api_schemas.display import DisplayedCurve, DisplayedMessage
from hessian_spectrum.api_schemas.matrices import Matrix
from hessian_spectrum.api_schemas.message import Message


class Band(Message):
    """Pointwise 95 % confidence band of the exact curve."""

    lower: list[float] = Field(description="Lower end of the band at each point of the grid.")
    upper: list[float] = Field(description="Upper end of the band at each point of the grid.")


class Density(DisplayedCurve):
    """Smoothed spectral density; its integral is 1, or slightly less if few Lanczos steps spread mass off the grid."""

    grid: list[float] = Field(description="Eigenvalues at which the density is given, ascending.")
    values: list[float] = Field(description="Density at each point of the grid, per unit of eigenvalue.")
    standard_error: list[float] = Field(description="Standard error of the mean over probes at each point of the grid.")
    band: Band = Field(description="Pointwise 95 % band that covers the errors of probes, quadrature and products.")


class Cumulative(DisplayedCurve):
    """Share of eigenvalues up to each point of the grid, without smoothing."""

    grid: list[float] = Field(description="Eigenvalues at which the share is given, ascending.")
    values: list[float] = Field(description="Share of eigenvalues up to each point, from 0 to 1.")
    standard_error: list[float] = Field(description="Standard error of the mean over probes at each point of the grid.")
    band: Band = Field(description="Pointwise 95 % band that covers the errors of probes, quadrature and products.")


class Quadrature(Message):
    """Gauss quadrature of one probe: nodes and weights of the spectral measure from its Lanczos run."""

    nodes: list[float] = Field(description="Ritz values of the probe, ascending.")
    weights: list[float] = Field(description="Weights of the nodes, which sum to 1.")
    residuals: list[float] | None = Field(
        description="Residuals of the Ritz vectors, signed like their last components; null if unknown."
    )
    node_error: float = Field(
        default=0.0,
        description="Largest displacement of a node by errors of the products; 0 in results of older servers.",
    )


class Deflation(Message):
    """Eigenvalues that two Lanczos runs have found: curves, trace and norm count each of them exactly once."""

    eigenvalues: list[float] = Field(description="The known eigenvalues, from the ends of the spectrum.")
    errors: list[float] = Field(description="Largest error of each of these eigenvalues.")
    weights: list[list[float]] = Field(
        description="For each probe its squared product with the eigenvector of each of these eigenvalues, which is "
        "taken from the weights of the probe's quadrature."
    )


class Smoothing(Message):
    """Settings with which curves were computed from quadratures."""

    num_points: int = Field(description="Number of points of each grid.")
    kappa: float = Field(description="Sharpness of the density's smoothing; larger values make narrower Gaussians.")
    margin: float = Field(description="Extent of the grid beyond the extreme Ritz values, in widths of the spectrum.")


class Interval(Message):
    """A 95 % confidence interval of the exact value."""

    lower: float | None = Field(default=None, description="Lower end of the interval; null for the reason in `why`.")
    upper: float | None = Field(default=None, description="Upper end of the interval; null for the reason in `why`.")
    why: str | None = Field(
        default=None, description="Why an end is null or the pair has not converged; null otherwise."
    )


class RitzValue(Interval):
    """An approximate eigenvalue; some exact eigenvalue differs from it by at most `residual`.

    The interval contains the requested eigenvalue.
    """

    value: float = Field(description="The approximate eigenvalue, in loss per squared parameter.")
    residual: float = Field(description="Norm of A x - value x, including the error of the products.")


class Eigenpair(RitzValue):
    """An eigenvalue, whose vector is in the npz file if the request asked for it."""

    converged: bool = Field(
        description="Whether both the residual and the error of the value are within the tolerance; the probability "
        "that a more extreme or, for `nearest`, a nearer eigenvalue was missed is at most 1/1000. For `nearest` the "
        "error is that of the distance from `target`, for `magnitude` that of |eigenvalue|: the interval extends to "
        "the other side of `target` or of 0 unless the requested eigenvalue cannot be there."
    )


class Estimate(Interval):
    """A number with its standard error and 95 % confidence interval, each null if unknown."""

    value: float = Field(description="The estimate itself, in loss per squared parameter.")
    standard_error: float | None = Field(description="Standard error of the estimate; null if unknown.")


class TraceEstimate(Estimate):
    """A trace, estimated from products with random vectors."""

    num_products: int = Field(description="Number of matrix-vector products used.")
    converged: bool = Field(description="Whether the tolerance was met; true if the request set none.")


class LossCurve(Message):
    """Loss along training, in at most 256 points, which are means over the steps since the point before."""

    steps: list[int] = Field(description="Number of training steps done at each point.")
    losses: list[float] = Field(
        description="Mean loss of the steps since the point before, each over its own batch and before its change of "
        "the parameters."
    )


class TrainingReport(Message):
    """Summary of training; losses and gradient are those of all samples."""

    num_steps: int = Field(description="Number of training steps done.")
    initial_loss: float = Field(description="Loss of all samples before training.")
    final_loss: float = Field(description="Loss of all samples after training.")
    gradient_norm: float = Field(description="Norm of the gradient of all parameters together, after training.")
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd", description="Optimizer that was used: stochastic gradient descent or AdamW."
    )
    momentum: float = Field(description="Momentum of stochastic gradient descent; 0 for AdamW.")
    final_learning_rate: float = Field(description="Learning rate at the end of training.")
    learning_rate_cuts: int = Field(description="Number of times that the schedule reduced the learning rate.")
    stopped: Literal["num-steps", "plateau"] = Field(
        description="Why training ended: all steps were done, or the loss stopped improving at the smallest learning "
        "rate."
    )
    loss_curve: LossCurve | None = Field(
        default=None, description="Loss along training; null in results of releases that did not record it."
    )


class UsedCheckpoint(Message):
    """Checkpoint from which a model's parameters were loaded."""

    name: str = Field(description="Name of the checkpoint, as in the list of models.")
    sha256: str = Field(description="SHA-256 of the checkpoint's files, as in the list of models.")


class Computation(Message):
    """Software, hardware and settings that computed the numbers."""

    versions: dict[str, str] = Field(
        description="Versions of the server, Python, torch, numpy and other software involved, by name."
    )
    device: str = Field(description="Device that computed the numbers, such as `cpu`.")
    num_threads: int = Field(description="Number of CPU threads of torch.")
    precision: str = Field(description="Floating-point precision of the products.")
    tf32: bool = Field(description="Whether float32 matrix products were allowed to use TF32.")
    data_sha256: str = Field(description="SHA-256 of the samples that define the loss.")
    num_products: int = Field(description="Number of matrix-vector products computed.")
    execution: Literal["interpreted", "compiled"] = Field(
        description="How recorded products were executed: interpreted or compiled."
    )
    micro_batch_size: int | None = Field(
        default=None,
        description="Number of samples that passed through the model at once; the matrix does not depend on it.",
    )
    product_fallback: str | None = Field(
        description="Why products were not computed from one linearisation, which is faster; null if they were."
    )
    wall_time_seconds: float = Field(description="Duration of the computation in seconds.")


class Provenance(Computation):
    """Origin of the numbers of one spectrum."""

    matrix: Matrix = Field(description="Matrix of second derivatives, as in the request.")
    preconditioner: str | None = Field(
        default=None,
        description="Id of the uploaded diagonal D of the preconditioned matrix D^-1/2 A D^-1/2; null for none.",
    )
    shift: float = Field(default=0.0, description="Damping that was added to every eigenvalue.")
    block: str | None = Field(
        description="Glob on names of parameters that restricted the matrix; null if nothing did."
    )
    precision_deviation: float | None = Field(
        description="Measured ||(A' - A) V|| / ||A V||, where A' V are products in tf32 or bfloat16 and A V in "
        "float32; null for other precisions."
    )
    seed: int = Field(description="Seed of the random probes; 0 if none are drawn.")
    checkpoint: UsedCheckpoint | None = Field(
        default=None,
        description="Checkpoint that the weights came from; null if they were drawn or part of the request.",
    )
    parameters_sha256: str = Field(description="SHA-256 of the parameters at which the matrix is evaluated.")
    num_shards: int = Field(
        default=1,
        description="Number of shards into which the probes of a long job were divided; it depends on the request "
        "alone.",
    )
    num_workers: int = Field(
        default=1, description="Number of workers that computed shards; the numbers do not depend on it."
    )


class SinkScore(Message):
    """Mean attention of the sink's heads in one block to the first token, over the data and all queries."""

    block: int = Field(description="Index of the transformer block.")
    before: float = Field(description="Mean score without the sink, from 0 to 1.")
    after: float = Field(description="Mean score with the sink, from 0 to 1.")


class SinkReport(Message):
    """The attention sink that was inserted, and its effect."""

    bias: float = Field(
        description="Number added to the pre-softmax scores of the first token, from the request or solved for."
    )
    heads: list[int] = Field(description="Indices of the heads that have the sink.")
    mean_score_before: float = Field(description="Mean over the sink's heads and blocks without the sink, from 0 to 1.")
    mean_score_after: float = Field(description="Mean over the sink's heads and blocks with the sink, from 0 to 1.")
    blocks: list[SinkScore] = Field(description="Mean scores of each block that has the sink.")


class StoredArrays(Message):
    """Arrays that are stored in the npz file only."""

    sha256: str = Field(description="SHA-256 of the npz file.")
    num_bytes: int = Field(description="Size of the npz file in bytes.")
    shapes: dict[str, list[int]] = Field(description="Shapes by name of the arrays that are not in this document.")


class MethodResult(DisplayedMessage):
    """Base of the results of all methods."""

    kind: Literal["spectrum"] = "spectrum"
    if TYPE_CHECKING:
        method: str
    num_parameters: int = Field(
        description="Number of rows of the matrix: parameters of the block if there is one, else of the model."
    )
    parameters: list[Parameter] = Field(
        description="Arrays of parameters to which the rows belong, in order, each array row by row."
    )
    matrix: Matrix = Field(description="Matrix of second derivatives, as in the request.")
    preconditioner: str | None = Field(
        default=None,
        description="Id of the uploaded diagonal D of the preconditioned matrix D^-1/2 A D^-1/2; null for none.",
    )
    shift: float = Field(default=0.0, description="Damping that was added to every eigenvalue.")
    block: str | None = Field(
        description="Glob on names of parameters that restricted the matrix; null if nothing did."
    )
    loss: float = Field(description="Loss at the parameters at which the matrix is evaluated.")
    attention_sink: SinkReport | None = Field(
        default=None, description="The attention sink that was inserted; null if there was none."
    )
    training: TrainingReport | None = Field(
        description="Summary of the training before the spectrum; null if there was none."
    )
    arrays: StoredArrays | None = Field(
        default=None, description="Arrays in the npz file that this document lacks; null if it holds everything."
    )
    provenance: Provenance = Field(
        description="Origin of the numbers: software, hardware, settings and digests of inputs."
    )
