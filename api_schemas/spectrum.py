"""A spectrum job: what is asked, and what it answers."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from api_schemas.closed_form import Inertia
from api_schemas.consistency import Loss, check_data, check_loss, check_training, loss_of
from api_schemas.data import Data
from api_schemas.message import Message, RequestMessage, Seed, misfit
from api_schemas.models import Model


class ExactMethod(RequestMessage):
    """Every eigenvalue, by assembling the matrix; memory grows as the square of the number of parameters."""

    kind: Literal["exact"]


class LanczosMethod(RequestMessage):
    """Stochastic Lanczos quadrature: the density of eigenvalues and its error, with the extreme Ritz values."""

    kind: Literal["lanczos"]
    num_steps: int = Field(default=80, ge=2, le=4096, description="Lanczos steps per probe")
    num_probes: int = Field(default=4, ge=1, le=1_000, description="random start vectors")
    num_points: int = Field(default=1024, ge=2, le=100_000, description="points of the density's grid")
    kappa: float = Field(default=3.0, gt=1.0, le=1e6, description="larger values make narrower Gaussians")


Method = Annotated[ExactMethod | LanczosMethod, Field(discriminator="kind")]


class PlateauSchedule(RequestMessage):
    """Multiply the learning rate by `factor` when the epoch's loss stops improving; at the smallest rate, stop."""

    kind: Literal["plateau"]
    factor: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=10, ge=0, le=1_000_000, description="epochs without improvement that are borne")
    threshold: float = Field(default=1e-4, ge=0, lt=1, description="relative fall of the loss that is an improvement")
    min_learning_rate: float = Field(default=1e-5, ge=0)


class Training(RequestMessage):
    """Stochastic gradient descent before the spectrum is taken, in the precision of the products."""

    num_steps: int = Field(ge=1, le=10_000_000, description="at most; a schedule may end training before")
    learning_rate: float = Field(gt=0, description="mup multiplies it by a factor for each layer")
    batch_size: int | None = Field(default=None, ge=1, description="null: all samples in every step")
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    schedule: PlateauSchedule | None = Field(default=None, description="null: a constant learning rate")
    seed: Seed = Field(default=0, description="of the order of the samples")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise misfit("nesterov", message="Nesterov's step needs a momentum above 0")
        return self


class SpectrumRequest(RequestMessage):
    """A network, its data and loss, a matrix of second derivatives, and the question about its eigenvalues."""

    kind: Literal["spectrum"]
    model: Model
    data: Data | None = Field(default=None, description="of a quadratic form null, else required")
    loss: Loss | None = Field(
        default=None,
        description="mse: (1/2n) sum |f - y|^2; both are means over targets. Required for mlp, conv and gpt2; of a "
        "quadratic form null; mse is the only one, and the default, of the others",
    )
    matrix: Literal["hessian"] = "hessian"
    method: Method
    train: Training | None = None
    block: None = None
    precision: Literal["float32", "float64"] | None = Field(
        default=None, description="of the products; null: float64 for exact, float32 for lanczos"
    )
    seed: Seed = Field(default=0, description="of the probes")
    tags: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)]] = Field(
        default_factory=dict, max_length=32
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        check_loss(self.model, self.data, self.loss)
        check_data(self.model, self.data, self.loss)
        check_training(self.model, is_trained=self.train is not None)
        return self

    @property
    def effective_loss(self) -> Loss | None:
        """The loss, where it was left out the one that the model has; None: the model's output itself."""
        return loss_of(self.model, self.loss)

    @property
    def product_precision(self) -> Literal["float32", "float64"]:
        """Precision of the matrix-vector products."""
        return self.precision or ("float64" if self.method.kind == "exact" else "float32")


class Density(Message):
    """Smoothed density of eigenvalues; its integral over the grid is 1 but for what few steps smear beyond the ends."""

    grid: list[float] = Field(description="eigenvalues, ascending")
    values: list[float] = Field(description="density at the grid, per unit of eigenvalue")
    standard_error: list[float] | None = Field(description="across probes; null for a single probe")


class Quadrature(Message):
    """Gauss quadrature of one probe: the spectral measure that its Lanczos run saw."""

    nodes: list[float] = Field(description="Ritz values, ascending")
    weights: list[float] = Field(description="sum to 1")


class RitzValue(Message):
    """An approximate eigenvalue; an exact one lies within the residual, which includes the rounding of products."""

    value: float
    residual: float


class Estimate(Message):
    """A number and its standard error; null for a single probe."""

    value: float
    standard_error: float | None


class TrainingReport(Message):
    """What training did; losses and gradient are those of all samples."""

    num_steps: int = Field(description="done")
    initial_loss: float
    final_loss: float
    gradient_norm: float = Field(description="at the end, of all parameters together")
    momentum: float
    final_learning_rate: float
    learning_rate_cuts: int
    stopped: Literal["num-steps", "plateau"] = Field(description="plateau: the loss stood still at the smallest rate")


class Provenance(Message):
    """Where the numbers come from."""

    versions: dict[str, str] = Field(description="of this server, Python, torch and numpy")
    device: str
    num_threads: int
    precision: str
    tf32: bool
    seed: int
    parameters_sha256: str = Field(description="of the parameters at which the matrix is taken")
    data_sha256: str
    num_products: int = Field(description="matrix-vector products done")
    product_fallback: str | None = Field(
        description="why products were not taken from one linearisation, which is faster; null: they were"
    )
    wall_time_seconds: float


class _SpectrumResult(Message):
    kind: Literal["spectrum"] = "spectrum"
    num_parameters: int
    matrix: str
    loss: float = Field(description="at the parameters at which the matrix is taken")
    training: TrainingReport | None
    trace: Estimate
    provenance: Provenance


class ExactResult(_SpectrumResult):
    """Every eigenvalue."""

    method: Literal["exact"] = "exact"
    eigenvalues: list[float] = Field(description="ascending, with repetition")
    inertia: Inertia
    zero_threshold: float = Field(description="an eigenvalue of at most this size counts as zero")


class LanczosResult(_SpectrumResult):
    """Density, quadrature and extremes."""

    method: Literal["lanczos"] = "lanczos"
    density: Density
    quadrature: list[Quadrature]
    largest: RitzValue
    smallest: RitzValue


SpectrumResult = Annotated[ExactResult | LanczosResult, Field(discriminator="method")]
