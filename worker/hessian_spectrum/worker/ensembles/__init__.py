"""Requests that are computed together: networks of one shape, trained and measured as an ensemble."""

from hessian_spectrum.worker.ensembles.measurement import Outcome, measure
from hessian_spectrum.worker.ensembles.preparation import (
    EnsembleStart,
    prepare_ensemble,
    shape_key,
    train_ensemble,
)

__all__ = ["EnsembleStart", "Outcome", "measure", "prepare_ensemble", "shape_key", "train_ensemble"]
