"""Result of a comparison of Hessian and GGN; eigenvalues are in loss per squared parameter, losses in nats."""

from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.display import DisplayedMessage
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.spectrum_results import Computation, RitzValue, UsedCheckpoint


class TopEigenvalue(RitzValue):
    """The largest eigenvalue, with its sign."""

    converged: bool = Field(
        description="Whether both the residual and the error of the value are within the tolerance; the probability "
        "that a larger eigenvalue was missed is at most 1/1000."
    )


class RelativeError(Message):
    """Relative error |hessian - ggn| / |hessian|, with its uncertainty from the intervals of both eigenvalues."""

    value: float = Field(description="Relative error at the computed eigenvalues.")
    uncertainty: float = Field(
        description="Largest distance from the value that the intervals of both eigenvalues allow."
    )


class ComparisonPoint(Message):
    """A model at one step of its training, measured on sequences drawn for this point."""

    step: int = Field(description="Number of training steps done; 0 without pretraining.")
    learning_rate: float | None = Field(description="Learning rate of the step that follows; null without pretraining.")
    loss: float = Field(description="Mean loss over the targets, in nats.")
    mean_residual_norm: float = Field(
        description="Mean over targets of ||softmax(z) - e_y||, the norm of the derivative of a target's loss with "
        "respect to its logits z."
    )
    hessian: TopEigenvalue = Field(description="Largest eigenvalue of the Hessian, in loss per squared parameter.")
    ggn: TopEigenvalue = Field(
        description="Largest eigenvalue of the Gauss-Newton matrix, in loss per squared parameter."
    )
    relative_error: RelativeError | None = Field(
        description="Relative error of the Gauss-Newton eigenvalue; null if the interval of the Hessian's eigenvalue "
        "contains 0."
    )


class ComparisonRun(Message):
    """Points of one model with one seed."""

    seed: int = Field(description="Seed of the run, from the request.")
    points: list[ComparisonPoint] = Field(description="Points in ascending order of their steps.")
    parameters_sha256: str = Field(description="SHA-256 of the parameters at the last point.")


class MeanCurve(Message):
    """Mean of a curve over seeds, point by point."""

    grid: list[float] = Field(description="Training steps, mean residual norms or losses, ascending.")
    mean: list[float] = Field(description="Mean over seeds at each point of the grid.")
    standard_error: list[float] | None = Field(
        description="Standard error of the mean at each point of the grid; null with a single seed."
    )


class ModelComparison(Message):
    """Runs of one model and their mean curves."""

    label: str = Field(description="Label of the model in the picture.")
    num_parameters: int = Field(description="Number of parameters of the model.")
    checkpoint: UsedCheckpoint | None = Field(
        default=None, description="Checkpoint that the parameters came from; null if they were drawn."
    )
    runs: list[ComparisonRun] = Field(description="Runs in the order of the request's seeds.")
    loss: MeanCurve | None = Field(
        description="Mean loss by training step; null without pretraining, as are all curves."
    )
    relative_error: MeanCurve | None = Field(
        description="Mean relative error by training step, without steps at which some seed has none."
    )
    against_residual: MeanCurve | None = Field(
        description="Mean relative error by mean residual norm: each seed's points are sorted by norm and "
        "interpolated linearly where the norms of all seeds overlap; null if they do not overlap."
    )
    against_loss: MeanCurve | None = Field(
        description="Mean relative error by loss, interpolated linearly where the losses of all seeds overlap; null "
        "if they do not overlap."
    )


class HessianVsGgnResult(DisplayedMessage):
    """Comparison of the largest eigenvalues of the Gauss-Newton matrix and of the Hessian."""

    kind: Literal["hessian-vs-ggn"] = "hessian-vs-ggn"
    curves: list[ModelComparison] = Field(description="Comparison of each model, in the order of the request's models.")
    num_sequences: int = Field(description="Number of sequences of each point.")
    sequence_length: int = Field(description="Number of tokens of each sequence.")
    tolerance: float = Field(
        description="Tolerance of eigenvalues and residuals, relative to the largest |eigenvalue|."
    )
    provenance: Computation = Field(description="Software, hardware and settings that computed the numbers.")
