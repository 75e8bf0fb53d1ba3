"""What a comparison of Hessian and GGN answers; eigenvalues are in loss per squared parameter, losses in nats."""

from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.spectrum_results import Computation, RitzValue, UsedCheckpoint


class TopEigenvalue(RitzValue):
    """The largest eigenvalue, signed."""

    converged: bool = Field(
        description="whether the residual is within the tolerance, and the value within it of the largest eigenvalue: "
        "a larger one is missed with a chance of 1/1000 at most"
    )


class RelativeError(Message):
    """|hessian - ggn| / |hessian|, and how far the intervals of both leave it open."""

    value: float
    uncertainty: float


class ComparisonPoint(Message):
    """A model at one step of its training, on sequences drawn for this point."""

    step: int = Field(description="steps done; 0 where nothing is trained")
    learning_rate: float | None = Field(description="of the step that follows; null where nothing is trained")
    loss: float
    mean_residual_norm: float = Field(
        description="mean over targets of ||softmax(z) - e_y||, the derivative of the target's loss by its logits z"
    )
    hessian: TopEigenvalue
    ggn: TopEigenvalue
    relative_error: RelativeError | None = Field(description="null: the Hessian's eigenvalue may be 0, by its interval")


class ComparisonRun(Message):
    """One seed of one model."""

    seed: int
    points: list[ComparisonPoint]
    parameters_sha256: str = Field(description="at the last point")


class MeanCurve(Message):
    """A mean over seeds, point by point."""

    grid: list[float] = Field(description="steps, mean residual norms or losses, ascending")
    mean: list[float]
    standard_error: list[float] | None = Field(description="null: of one seed it is not known")


class ModelComparison(Message):
    """One model."""

    label: str
    num_parameters: int
    checkpoint: UsedCheckpoint | None = Field(default=None, description="that the parameters came from")
    runs: list[ComparisonRun]
    loss: MeanCurve | None = Field(description="by step; null where nothing is trained, as all curves")
    relative_error: MeanCurve | None = Field(description="by step, without steps at which a seed has none")
    against_residual: MeanCurve | None = Field(
        description="relative error by mean residual norm: each seed's points in the order of their norms, "
        "interpolated linearly where the norms of all seeds overlap; null: they do not"
    )
    against_loss: MeanCurve | None = Field(description="relative error by loss, likewise")


class HessianVsGgnResult(Message):
    """How well the largest eigenvalue of the Gauss-Newton matrix stands for that of the Hessian."""

    kind: Literal["hessian-vs-ggn"] = "hessian-vs-ggn"
    curves: list[ModelComparison] = Field(description="in the order of the request's models")
    num_sequences: int = Field(description="of each point")
    sequence_length: int
    tolerance: float = Field(description="of residuals, relative to the largest |eigenvalue|")
    provenance: Computation
