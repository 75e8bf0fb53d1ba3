"""Models, data and methods of the engine by their names in requests.

A module that is added is found. Modules of `models` list classes as `MODELS`, those of `data` functions as `DATASETS`,
and those of `algorithms` classes or functions as `METHODS`. Losses are listed in `losses.LOSS_CLASSES`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from hessian_spectrum.curvature import algorithms, data, models
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.planning.registry import merged


@cache
def model_classes() -> dict[str, Callable[..., Model]]:
    """Return the constructors of models from keyword arguments, by kind."""
    return merged(models, "MODELS")


@cache
def dataset_functions() -> dict[str, Callable[..., Dataset]]:
    """Return the functions that make data from a `generator` and keyword arguments, on the CPU, reals as float64."""
    return merged(data, "DATASETS")


@cache
def method_classes() -> dict[str, Callable[..., Method[Any, Any]]]:
    """Return the constructors of methods from keyword arguments, by kind."""
    return merged(algorithms, "METHODS")
