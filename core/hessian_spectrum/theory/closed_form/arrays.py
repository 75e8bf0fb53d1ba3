"""Checked float64 arrays, through which all numbers enter the closed forms."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.errors import TheoryError


def finite_array(name: str, values: ArrayLike, num_dimensions: int) -> NDArray[np.float64]:
    """Float64 copy or view of `values` with the given number of dimensions, nonempty and finite.

    Args:
        name: Name of the argument, for the error.
        values: Array or nested lists of real numbers.
        num_dimensions: Required number of dimensions.

    Returns:
        The array, which shares memory with `values` if that is a float64 array.

    Raises:
        TheoryError: If the values are ragged, not real, empty, of another dimension, NaN or infinite; it names `name`.
    """
    if getattr(values, "dtype", None) is not None and np.iscomplexobj(values):
        raise TheoryError(f"{name} must be real")
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TheoryError(f"{name} must be a rectangular array of real numbers") from error
    if array.ndim != num_dimensions:
        raise TheoryError(f"{name} must have {num_dimensions} dimension(s), not {array.ndim}")
    if array.size == 0:
        raise TheoryError(f"{name} must not be empty")
    if not math.isfinite(np.vdot(array, array)) and not np.isfinite(array).all():  # the squares alone may overflow
        raise TheoryError(f"{name} must be finite")
    return array


def matching_arrays(
    names: tuple[str, str], values: tuple[ArrayLike, ArrayLike], num_dimensions: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two checked arrays of equal shape.

    Args:
        names: Names of the two arguments, for the error.
        values: The two arrays.
        num_dimensions: Required number of dimensions.

    Returns:
        Both as float64 arrays.

    Raises:
        TheoryError: If either fails `finite_array` or their shapes differ.
    """
    first = finite_array(names[0], values[0], num_dimensions)
    second = finite_array(names[1], values[1], num_dimensions)
    if first.shape != second.shape:
        raise TheoryError(f"{names[0]} and {names[1]} must have one shape, not {first.shape} and {second.shape}")
    return first, second
