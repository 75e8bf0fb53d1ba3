"""Models and data of the engine by the names that requests have for them; a module that is added is found.

Modules of `models` list classes as `MODELS`, those of `data` functions as `DATASETS`. Losses are
listed in `losses.LOSS_CLASSES`.
"""

from collections.abc import Callable
from functools import cache

from hessian_spectrum.curvature import data, models
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.planning.registry import merged


@cache
def model_classes() -> dict[str, Callable[..., Model]]:
    """What makes the model of a kind from keyword arguments."""
    return merged(models, "MODELS")


@cache
def dataset_functions() -> dict[str, Callable[..., Dataset]]:
    """What makes the data of a kind from a `generator` and keyword arguments, on the CPU, real numbers as float64."""
    return merged(data, "DATASETS")
