"""Training to the point at which a spectrum is computed, one step at a time."""

from hessian_spectrum.curvature.training.descent import Training
from hessian_spectrum.curvature.training.loss_curve import LossCurve
from hessian_spectrum.curvature.training.plan import AdamW, Plateau, Sgd, TrainingPlan, WarmupCosine
from hessian_spectrum.curvature.training.state import (
    TrainingCheckpoint,
    TrainingResult,
    TrainingState,
    checkpoint,
    summarise_training,
)

__all__ = [
    "AdamW",
    "LossCurve",
    "Plateau",
    "Sgd",
    "Training",
    "TrainingCheckpoint",
    "TrainingPlan",
    "TrainingResult",
    "TrainingState",
    "WarmupCosine",
    "checkpoint",
    "summarise_training",
]
