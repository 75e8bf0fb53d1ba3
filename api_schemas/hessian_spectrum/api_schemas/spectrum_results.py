"""What a spectrum job answers; values are in loss per squared parameter unless they say otherwise."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.closed_form import Inertia, Parameter
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.spectrum import Estimator, Matrix, Reorthogonalisation, Which


class Band(Message):
    """Where the exact curve lies, point by point, with a probability of 95 %."""

    lower: list[float]
    upper: list[float]


class Density(Message):
    """Smoothed density of eigenvalues; its integral over the grid is 1 but for what few steps smear beyond the ends."""

    grid: list[float] = Field(description="eigenvalues, ascending")
    values: list[float] = Field(description="density at the grid, per unit of eigenvalue")
    standard_error: list[float] = Field(description="of the mean over probes")
    band: Band = Field(description="95 % band with the errors of probes, quadrature and products")


class Cumulative(Message):
    """Share of eigenvalues up to each point of the grid; not smoothed."""

    grid: list[float] = Field(description="eigenvalues, ascending")
    values: list[float] = Field(description="0 to 1")
    standard_error: list[float] = Field(description="of the mean over probes")
    band: Band = Field(description="95 % band with the errors of probes, quadrature and products")


class Quadrature(Message):
    """Gauss quadrature of one probe: the spectral measure that its Lanczos run saw."""

    nodes: list[float] = Field(description="Ritz values, ascending")
    weights: list[float] = Field(description="sum to 1")
    residuals: list[float] | None = Field(description="of the Ritz vectors: last components, signed; null: not known")
    node_error: float = Field(
        default=0.0, description="how far errors of the products may move a node; 0 in results of older servers"
    )


class Smoothing(Message):
    """How quadratures became curves."""

    num_points: int = Field(description="of each grid")
    kappa: float = Field(description="of the density; larger values make narrower Gaussians")
    margin: float = Field(description="of the grid beyond the extreme Ritz values, in widths of the spectrum")


class Interval(Message):
    """A 95 % confidence interval of the exact number."""

    lower: float | None = Field(default=None, description="lower end of the interval; null: see `why`")
    upper: float | None = Field(default=None, description="upper end of the interval; null: see `why`")
    why: str | None = Field(default=None, description="why an end is null, or the pair not converged; else null")


class RitzValue(Interval):
    """An approximate eigenvalue; an exact one lies within the residual, the interval is of the one asked for."""

    value: float
    residual: float = Field(description="norm of A x - value x, with the error of the products")


class Eigenpair(RitzValue):
    """An eigenvalue whose vector, if the request asked for it, npz holds."""

    converged: bool = Field(
        description="whether the residual is within the tolerance, and the value within it of the eigenvalue that was "
        "asked for: a better one is missed with a chance of 1/1000 at most"
    )


class Estimate(Interval):
    """A number with its standard error and a 95 % confidence interval; null where nothing is known about them."""

    value: float
    standard_error: float | None


class TraceEstimate(Estimate):
    """A trace from random vectors."""

    num_products: int
    converged: bool = Field(description="the tolerance, if the request gave one, is met")


class TrainingReport(Message):
    """What training did; losses and gradient are those of all samples."""

    num_steps: int = Field(description="done")
    initial_loss: float
    final_loss: float
    gradient_norm: float = Field(description="at the end, of all parameters together")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(description="of sgd")
    final_learning_rate: float
    learning_rate_cuts: int
    stopped: Literal["num-steps", "plateau"] = Field(description="plateau: the loss stood still at the smallest rate")


class UsedCheckpoint(Message):
    """The checkpoint that a model began with."""

    name: str
    sha256: str = Field(description="of its files, as /v1/models has it")


class Computation(Message):
    """What computed the numbers, and in what way."""

    versions: dict[str, str] = Field(description="of this server, Python, torch, numpy, and what else computed")
    device: str
    num_threads: int
    precision: str = Field(description="of the products")
    tf32: bool
    data_sha256: str
    num_products: int = Field(description="matrix-vector products done")
    execution: Literal["interpreted", "compiled"] = Field(description="of products, once they are recorded")
    micro_batch_size: int | None = Field(
        default=None, description="samples that went through the model at once; the matrix does not depend on it"
    )
    product_fallback: str | None = Field(
        description="why products were not taken from one linearisation, which is faster; null: they were"
    )
    wall_time_seconds: float


class Provenance(Computation):
    """Where the numbers of one spectrum come from."""

    matrix: Matrix
    block: str | None
    precision_deviation: float | None = Field(
        description="measured ||(A' - A) V|| / ||A V|| of tf32 and bfloat16 products A' V from those in float32"
    )
    seed: int = Field(description="seed of the probes; 0 where none are drawn")
    checkpoint: UsedCheckpoint | None = Field(default=None, description="null: weights were drawn, or in the request")
    parameters_sha256: str = Field(description="of the parameters at which the matrix is taken")
    num_shards: int = Field(default=1, description="that the probes of a long job were cut into; the request decides")
    num_workers: int = Field(default=1, description="that computed shards; the numbers do not depend on it")


class SinkScore(Message):
    """Mean attention that the sink's heads of one block give the first token, over the data and all queries."""

    block: int
    before: float = Field(description="0 to 1, without the sink")
    after: float = Field(description="0 to 1, with it")


class SinkReport(Message):
    """The attention sink that was put in."""

    bias: float = Field(description="added to the pre-softmax scores of the first token; given, or solved for")
    heads: list[int]
    mean_score_before: float = Field(description="over the sink's heads and blocks, 0 to 1")
    mean_score_after: float = Field(description="over the sink's heads and blocks, 0 to 1")
    blocks: list[SinkScore]


class StoredArrays(Message):
    """What only npz holds."""

    sha256: str = Field(description="of the npz file")
    num_bytes: int = Field(description="of the npz file")
    shapes: dict[str, list[int]] = Field(description="by name, of what is not in this document")


class _SpectrumResult(Message):
    kind: Literal["spectrum"] = "spectrum"
    num_parameters: int = Field(description="rows of the matrix: parameters of the block, if there is one")
    parameters: list[Parameter] = Field(description="to which the rows belong, in order, each array row by row")
    matrix: Matrix
    block: str | None
    loss: float = Field(description="at the parameters at which the matrix is taken")
    attention_sink: SinkReport | None = Field(default=None, description="null: none was put in")
    training: TrainingReport | None
    arrays: StoredArrays | None = Field(default=None, description="null: this document holds everything")
    provenance: Provenance


class ExactResult(_SpectrumResult):
    """Every eigenvalue."""

    method: Literal["exact"] = "exact"
    trace: Estimate
    eigenvalues: list[float] = Field(description="ascending, with repetition")
    inertia: Inertia
    zero_threshold: float = Field(
        description="an eigenvalue of at most this size counts as zero; every eigenvalue is known to within this"
    )


class LanczosResult(_SpectrumResult):
    """Density, quadrature and extremes."""

    method: Literal["lanczos"] = "lanczos"
    density: Density
    log_density: Density = Field(description="of |eigenvalue| + 1e-5, smoothed in the logarithm, on a geometric grid")
    cumulative: Cumulative
    quadrature: list[Quadrature] = Field(description="one for each probe")
    largest: RitzValue
    smallest: RitzValue
    trace: Estimate
    frobenius: Estimate = Field(description="root of the sum of squares of the eigenvalues")
    reorthogonalisation: Reorthogonalisation
    num_steps: int = Field(description="per probe, at most; where a subspace was invariant a probe did fewer")
    smoothing: Smoothing = Field(description="of these curves; `?kappa=&margin=&num_points=` gives others")


class TopKResult(_SpectrumResult):
    """Eigenpairs from the ends of the spectrum."""

    method: Literal["top-k"] = "top-k"
    which: Which
    tolerance: float = Field(
        description="of residuals and values, relative to the largest |eigenvalue| that was asked for at the same end"
    )
    absolute_tolerance: float | None = Field(
        default=None, description="of residuals and values, in loss per squared parameter, where it is the larger one"
    )
    eigenpairs: list[Eigenpair] = Field(description="descending; for `magnitude` by descending magnitude")


class TraceResult(_SpectrumResult):
    """The trace."""

    method: Literal["trace"] = "trace"
    estimator: Estimator
    trace: TraceEstimate
    frobenius: Estimate = Field(description="root of the sum of squares of the eigenvalues")


AnySpectrumResult = ExactResult | LanczosResult | TopKResult | TraceResult
SpectrumResult = TypeAliasType("SpectrumResult", Annotated[AnySpectrumResult, Field(discriminator="method")])


class SpectrumSetResult(Message):
    """Spectra of one job: of several attention sinks, of several blocks, or of each block with each sink."""

    kind: Literal["spectrum-set"] = "spectrum-set"
    spectra: list[SpectrumResult] = Field(description="for every sink in its order, every block in its order")
    arrays: StoredArrays | None = Field(default=None, description="null: this document holds everything")
