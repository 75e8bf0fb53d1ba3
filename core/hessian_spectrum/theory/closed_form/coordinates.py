"""Linear networks made of one scalar network per input coordinate, or per output coordinate."""

from decimal import localcontext

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.neuron_groups import (
    GroupedHessian,
    NeuronGroup,
    NeuronMoments,
    neuron_products,
)
from hessian_spectrum.theory.closed_form.precision import inner_products, many_digits
from hessian_spectrum.theory.closed_form.spectrum import (
    FLOAT64_RESOLUTION,
    Parameter,
    Spectrum,
    Statistic,
    finite_array,
    matching_arrays,
)
from hessian_spectrum.theory.exceptions import TheoryError

Array = NDArray[np.float64]


def _groups(w: Array, v: Array) -> list[NeuronGroup]:
    """Return a group of neurons for each coordinate, from w and v (number of coordinates, m)."""
    num_coordinates, size = w.shape
    products = inner_products(*(pair for rows in zip(w, v, strict=True) for pair in neuron_products(*rows)))
    places = np.arange(w.size).reshape(w.shape)
    return [
        NeuronGroup(w[i], v[i], NeuronMoments(*products[3 * i : 3 * i + 3]), places[i], w.size + places[i], str(i))
        for i in range(num_coordinates)
        if size
    ]


def _parameters(shape: tuple[int, ...]) -> tuple[Parameter, Parameter]:
    return Parameter("w", shape), Parameter("v", shape)


def _statistics(hessian: GroupedHessian, delta: Array) -> dict[str, Statistic]:
    """Statistics s2, c and d of each coordinate, and the mean loss."""
    return {
        "s2": [float(entry) for entry in hessian.diagonal],
        "c": [float(group.moments.inner) for group in hessian.groups],
        "d": [float(coupling) for coupling in hessian.couplings],
        "mean_loss": float(np.sum(delta * delta)) / (2 * len(delta)),
    }


def _check_samples(x: Array, y: Array) -> None:
    if len(x) != len(y):
        raise TheoryError(f"x and y must have one number of samples, not {len(x)} and {len(y)}")


@np.errstate(over="ignore", invalid="ignore")
def multi_input_spectrum(*, w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i (f(x_i) - y_i)^2 for f(x) = sum_d <w_d, v_d> x_d, x in R^D.

    With d_d = mean(delta x_d) every coordinate has the bulk ±d_d, m - 1 times each. If the inputs are uncorrelated,
    mean(x_d x_e) = 0, each coordinate has a pair of outliers as in `linear_spectrum`, and the Hessian is block
    diagonal. Otherwise the blocks couple through mean(x_d x_e) and the 2D outliers solve one symmetric problem
    (`neuron_groups`). Diagonal linear networks are m = 1.

    Args:
        w: Outgoing weights of shape (D, m).
        v: Incoming weights of shape (D, m).
        x: Inputs of shape (n, D).
        y: Targets of shape (n,).

    Returns:
        2 D m eigenvalues in loss per squared parameter, with group = coordinate if an eigenvalue belongs to one, and
        parameters in the order w, v. Statistics per coordinate: s2 = mean(x_d^2), c = <w_d, v_d>, d; and mean_loss.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input.

    References:
        Cracking the Hessian, Corollaries B.1 and B.3; the coupled case goes beyond.
    """
    w, v = matching_arrays(("w", "v"), (w, v), 2)
    x, y = finite_array("x", x, 2), finite_array("y", y, 1)
    _check_samples(x, y)
    if x.shape[1] != len(w):
        raise TheoryError(f"x has {x.shape[1]} coordinates, w has {len(w)}")
    with localcontext(many_digits):
        groups = _groups(w, v)
        delta = x @ np.array([float(group.moments.inner) for group in groups]) - y
        columns = np.ascontiguousarray(x.T)
        sums = inner_products(*((column, column) for column in columns), *((delta, column) for column in columns))
        diagonal, couplings = ([total / len(x) for total in half] for half in (sums[: len(w)], sums[len(w) :]))
        hessian = GroupedHessian(groups, couplings, diagonal, x.T @ x / len(x), 2 * w.size)
        reduced = "the inputs are correlated: one symmetric problem couples the coordinates' outliers"
        return Spectrum.of(
            kind="multi-input",
            parameters=_parameters(w.shape),
            method="exact-reduction" if hessian.is_coupled else "closed-form",
            source="Cracking the Hessian, Corollary B.1",
            eigenvalues=tuple(hessian.eigenvalues()),
            trace=float(hessian.trace),
            statistics=_statistics(hessian, delta),
            notes=(reduced,) if hessian.is_coupled else (),
            resolution=FLOAT64_RESOLUTION,
        )


@np.errstate(over="ignore", invalid="ignore")
def multi_output_spectrum(*, w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i |f(x_i) - y_i|^2 for f^k(x) = <w_k, v_k> x, scalar x.

    Every output has its own neurons, so the Hessian is block diagonal, and each block is that of `linear_spectrum`.

    Args:
        w: Outgoing weights of shape (K, m).
        v: Incoming weights of shape (K, m).
        x: Inputs of shape (n,).
        y: Targets of shape (n, K).

    Returns:
        2 K m eigenvalues in loss per squared parameter, with group = output, one pair of outliers each, and parameters
        in the order w, v. Statistics per output: s2 = mean(x^2), c = <w_k, v_k>, d = mean(delta_k x); and mean_loss.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input.

    References:
        Cracking the Hessian, Corollary B.2.
    """
    w, v = matching_arrays(("w", "v"), (w, v), 2)
    x, y = finite_array("x", x, 1), finite_array("y", y, 2)
    _check_samples(x, y)
    if y.shape[1] != len(w):
        raise TheoryError(f"y has {y.shape[1]} coordinates, w has {len(w)}")
    with localcontext(many_digits):
        groups = _groups(w, v)
        targets = np.ascontiguousarray(y.T)
        sum_xx, *sums_yx = inner_products((x, x), *((target, x) for target in targets))
        s2 = sum_xx / len(x)
        slopes = [group.moments.inner for group in groups]
        couplings = [slope * s2 - total / len(x) for slope, total in zip(slopes, sums_yx, strict=True)]
        hessian = GroupedHessian(groups, couplings, [s2] * len(w), None, 2 * w.size)
        return Spectrum.of(
            kind="multi-output",
            parameters=_parameters(w.shape),
            method="closed-form",
            source="Cracking the Hessian, Corollary B.2",
            eigenvalues=tuple(hessian.eigenvalues()),
            trace=float(hessian.trace),
            statistics=_statistics(hessian, x[:, None] * np.array([float(slope) for slope in slopes]) - y),
        )


SPECTRA = {"multi-input": multi_input_spectrum, "multi-output": multi_output_spectrum}
