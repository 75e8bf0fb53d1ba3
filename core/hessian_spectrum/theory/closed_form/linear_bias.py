"""Two-layer linear network with a bias in the first layer and scalar input and output."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.spectrum import (
    FLOAT64_RESOLUTION,
    Parameter,
    Spectrum,
    Statistic,
    finite_array,
    matching_arrays,
)
from hessian_spectrum.theory.closed_form.two_layer_linear import (
    KnownEigenvalue,
    TwoLayerHessian,
    mean_loss,
    two_layer_hessian,
)

Array = NDArray[np.float64]

ASSUMPTION_TOLERANCE = 1e-13
"""Largest relative deviation with which an assumption of Theorem B.1 counts as satisfied."""


@dataclass(frozen=True)
class _BiasTheorem:
    """Quantities of Theorem B.1 if its assumptions hold: N = |v|^2 + |w|^2, S = <w, v>^2 + <w, b>^2."""

    N: float
    S: float
    norm_w: float  # |w|^2

    @property
    def pair(self) -> tuple[float, float]:
        """N/2 ± sqrt(N^2 + 12 S)/2; the smaller one comes from the product -3 S, since the difference cancels."""
        large = (self.N + math.hypot(self.N, math.sqrt(12 * self.S))) / 2
        return (large, -3 * self.S / large) if large else (0.0, 0.0)

    @property
    def triple(self) -> tuple[float, ...]:
        """Roots of l^3 - N l^2 - S l + |w|^2 S by Viete, l = N/3 + t, refined by Newton steps.

        t^3 + p t + q = 0 with p = -S - N^2/3 and q = -2/27 N^3 - N S/3 + |w|^2 S, the q of the printed proof.

        Returns:
            The three roots, in loss per squared parameter.
        """
        if self.N == 0.0:
            return 0.0, 0.0, 0.0
        S, w = self.S / self.N**2, self.norm_w / self.N  # scaled so that N = 1
        p, q = -S - 1 / 3, -2 / 27 - S / 3 + w * S
        cosine = max(-1.0, min(1.0, 3 * q / (2 * p) * math.sqrt(-3 / p)))
        angle = math.acos(cosine) / 3
        roots = (1 / 3 + 2 * math.sqrt(-p / 3) * math.cos(angle - 2 * math.pi * k / 3) for k in range(3))
        return tuple(self.N * _polished(root, S, w) for root in roots)


def _polished(root: float, S: float, w: float) -> float:
    for _ in range(4):
        slope = (3 * root - 2) * root - S
        step = (((root - 1) * root - S) * root + w * S) / slope if slope else 0.0
        if abs(step) > 1e-6 * abs(root):
            break
        root -= step
    return root


def _broken_assumptions(w: Array, v: Array, b: Array, *, x: Array, y: Array) -> list[str]:
    norm_v, norm_b, mean_yy = float(v @ v), float(b @ b), float(np.mean(y * y))
    deviations = {
        "<v, b> = 0": (float(v @ b), math.sqrt(norm_v * norm_b)),
        "|v| = |b|": (norm_v - norm_b, norm_v + norm_b),
        "mean(x) = 0": (float(np.mean(x)), 1.0),
        "mean(x^2) = 1": (float(np.mean(x * x)) - 1, 1.0),
        "mean(y) = 0": (float(np.mean(y)), math.sqrt(mean_yy)),
        "mean(yx) = 0": (float(np.mean(y * x)), math.sqrt(mean_yy)),
    }
    broken = [name for name, (value, size) in deviations.items() if not abs(value) <= ASSUMPTION_TOLERANCE * size]
    return broken if w.size >= 2 else [*broken, "m >= 2"]


def _theorem_eigenvalues(hessian: TwoLayerHessian, theorem: _BiasTheorem) -> list[KnownEigenvalue]:
    pair = [KnownEigenvalue(value, "outlier", 1, pair=0) for value in theorem.pair]
    return [*pair, *(KnownEigenvalue(value, "outlier", 1) for value in theorem.triple)]


def _flatten(first: Array, second: Array) -> Array:
    return np.concatenate((second[0], first[:, 0], first[:, 1]))


@np.errstate(over="ignore", invalid="ignore")
def linear_bias_spectrum(*, w: ArrayLike, v: ArrayLike, b: ArrayLike, x: ArrayLike, y: ArrayLike) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i (f(x_i) - y_i)^2 for f(x) = <w, v x + b>.

    The bias is an input coordinate fixed at 1, so that `two_layer_linear_spectrum` with D = 2 and K = 1 applies to any
    weights and data. Under the assumptions of Theorem B.1 - <v, b> = 0, |v| = |b|, mean(x) = mean(y) = mean(yx) = 0,
    mean(x^2) = 1, m >= 2 - with N = |v|^2 + |w|^2 and S = <w, v>^2 + <w, b>^2 the outliers are the pair N/2 ± sqrt(N^2
    + 12 S)/2 and the three roots of l^3 - N l^2 - S l + |w|^2 S. The bulk is ±sqrt(S), m - 2 times each, and 0 occurs m
    - 1 times; the printed theorem does not state these multiplicities.

    Args:
        w: Outgoing weights of shape (m,).
        v: Incoming weights of shape (m,).
        b: Biases of shape (m,).
        x: Inputs of shape (n,).
        y: Targets of shape (n,).

    Returns:
        3m eigenvalues in loss per squared parameter, with parameters in the order w, v, b. Statistics: mean_loss, N and
        S (None with a note if the assumptions do not hold).

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input.

    References:
        Cracking the Hessian, Theorem B.1; the general case goes beyond.
    """
    w, v = matching_arrays(("w", "v"), (w, v), 1)
    w, b = matching_arrays(("w", "b"), (w, b), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 1)
    W1, W2 = np.stack((v, b), axis=1), w[None]
    inputs, targets = np.stack((x, np.ones_like(x)), axis=1), y[:, None]
    hessian = two_layer_hessian(W1, W2, x=inputs, y=targets, flatten=_flatten)
    finite_array("the residual covariance (overflow: rescale the weights or the data)", hessian.Omega, 2)
    known = [*hessian.bulk(), hessian.zeros()]
    notes: tuple[str, ...] = ()
    theorem: _BiasTheorem | None = None
    if broken := _broken_assumptions(w, v, b, x=x, y=y):
        reason = f"Theorem B.1 does not apply ({', '.join(broken)} does not hold)"
        notes = (f"{reason}: the two-layer linear reduction answered, the bias as an input fixed at 1; N, S are null",)
    else:
        theorem = _BiasTheorem(float(v @ v + w @ w), float((w @ v) ** 2 + (w @ b) ** 2), float(w @ w))
        known += _theorem_eigenvalues(hessian, theorem)
    statistics: dict[str, Statistic] = {
        "N": theorem.N if theorem else None,
        "S": theorem.S if theorem else None,
        "mean_loss": mean_loss(W1, W2, x=inputs, y=targets),
    }
    return Spectrum.of(
        kind="linear-bias",
        parameters=tuple(Parameter(name, (w.size,)) for name in ("w", "v", "b")),
        method="closed-form" if theorem else "exact-reduction",
        source="Cracking the Hessian, Theorem B.1" if theorem else "exact reduction to range[v, b, w]",
        eigenvalues=tuple(hessian.eigenvalues(known)),
        trace=hessian.trace,
        statistics=statistics,
        notes=notes,
        resolution=FLOAT64_RESOLUTION,
    )


SPECTRA = {"linear-bias": linear_bias_spectrum}
