"""The two-layer linear network with scalar input and output."""

from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.neuron_groups import (
    GroupedHessian,
    NeuronGroup,
    NeuronMoments,
    neuron_products,
)
from hessian_spectrum.theory.closed_form.precision import (
    HAS_EXTENDED_PRECISION,
    ZERO,
    Number,
    inner_products,
    many_digits,
)
from hessian_spectrum.theory.closed_form.spectrum import Parameter, Spectrum, Statistic, matching_arrays

Vector = NDArray[np.float64]

PHASE_ROUNDING = 2**49
"""c counts as equal to theta*, and the phase as late, if this times |d| is at most |c| s2 + |mean(yx)|."""

_CANCELLATION = 256
_SHORT = 256


def learning_phase(*, s2: Number, mean_yx: Number, c: Number, d: Number, turning: Number) -> str | None:
    """Phase of learning: early for `c <= theta*/3`, late to `theta* = mean_yx / s2`, divergent beyond; ties are late.

    Args:
        s2: mean(x^2).
        mean_yx: mean(y x).
        c: Slope <w, v> of the network.
        d: mean(delta x), the derivative of the loss with respect to c.
        turning: d + 2 s2 c, which changes sign at c = theta*/3.

    Returns:
        The phase; None if theta* is 0 or undefined.

    References:
        Cracking the Hessian, appendix C, which treats theta* > 0 only; theta* < 0 is its mirror image here.
    """
    if not s2 or not mean_yx:
        return None
    if mean_yx < 0:
        d, turning = -d, -turning
    if PHASE_ROUNDING * d > abs(c) * s2 + abs(mean_yx):
        return "divergent"
    return "early" if turning < 0 else "late"


class SampleMoments(NamedTuple):
    """Sums over samples."""

    num_samples: int
    sum_xx: Number
    sum_yx: Number

    def residual_sum(self, slope: Number) -> Number:
        """sum(delta x) of the network f(x) = slope x."""
        return slope * self.sum_xx - self.sum_yx


class LinearMoments(NamedTuple):
    """Everything that the spectrum of f(x) = <w, v> x depends on: moments of the neurons and of their samples."""

    neurons: NeuronMoments
    s2: Number  # mean(x^2)
    mean_yx: Number
    d: Number  # mean(delta x)
    turning: Number  # d + 2 s2 <w, v>, which changes sign at theta*/3

    @classmethod
    def of(cls, neurons: NeuronMoments, samples: SampleMoments) -> "LinearMoments":
        """Moments of the neurons, with means over the given samples alone."""
        s2, mean_yx = samples.sum_xx / samples.num_samples, samples.sum_yx / samples.num_samples
        slope = neurons.inner * s2
        return cls(neurons, s2, mean_yx, slope - mean_yx, 3 * slope - mean_yx)

    @property
    def is_cancelling(self) -> bool:
        """Whether one of the quantities is a small difference of large numbers, or not a number."""
        norm_w, norm_v, c = self.neurons
        reached = abs(c) * self.s2 + abs(self.mean_yx)
        return not (
            _CANCELLATION * min(abs(self.d), abs(self.turning)) >= reached
            and _CANCELLATION * min(c * c, norm_w * norm_v - c * c) >= norm_w * norm_v
            and _CANCELLATION * abs(norm_w - norm_v) >= norm_w + norm_v
        )

    @property
    def phase(self) -> str | None:
        """Phase of learning, as in `learning_phase`."""
        return learning_phase(s2=self.s2, mean_yx=self.mean_yx, c=self.neurons.inner, d=self.d, turning=self.turning)

    @property
    def statistics(self) -> dict[str, Statistic]:
        """The quantities of Theorem 3.1 and the three squares of eq. 2."""
        norm_w, norm_v, c = self.neurons
        s2, d = self.s2, self.d
        imbalance = s2 * (norm_w - norm_v)
        target_deviation = 2 * (d + c * s2)
        return {
            "s2": float(s2),
            "c": float(c),
            "d": float(d),
            "mean_yx": float(self.mean_yx),
            "theta_star": float(self.mean_yx / s2) if s2 else None,
            "trace_w": float(s2 * norm_w),
            "trace_v": float(s2 * norm_v),
            "imbalance": float(imbalance * imbalance),
            "non_collinearity": float(4 * s2 * s2 * max(norm_w * norm_v - c * c, 0 * c)),
            "target_deviation": float(target_deviation * target_deviation),
            "phase": self.phase,
        }

    def notes(self, suffix: str = "") -> tuple[str, ...]:
        """Reasons why a statistic is None."""
        if not self.s2:
            return (f"theta_star{suffix} and phase{suffix} are null: every input is 0",)
        if not self.mean_yx:
            return (f"phase{suffix} is null: mean(yx) = 0, so theta* = 0",)
        return ()


STATISTIC_NAMES = tuple(LinearMoments(NeuronMoments(*[ZERO] * 3), *[ZERO] * 4).statistics)


def _linear_moments(w: Vector, v: Vector, *, x: Vector, y: Vector) -> tuple[LinearMoments, Number]:
    """Exact moments and sum(delta^2); to be called under `localcontext(many_digits)`."""
    sum_xx, sum_yx, *neurons = inner_products((x, x), (y, x), *neuron_products(w, v))
    moments = LinearMoments.of(NeuronMoments(*neurons), SampleMoments(x.size, sum_xx, sum_yx))
    return moments, _squared_error(moments.neurons.inner, x, y)


def _quick_moments(w: Vector, v: Vector, *, x: Vector, y: Vector) -> tuple[LinearMoments, Number] | None:
    """Moments and sum(delta^2) in extended precision, also beyond float64's range; None if that is insufficient."""
    if not HAS_EXTENDED_PRECISION or max(w.size, x.size) > _SHORT:
        return None
    wide_w, wide_v, wide_x, wide_y = (values.astype(np.longdouble) for values in (w, v, x, y))
    neurons = NeuronMoments(wide_w.dot(wide_w), wide_v.dot(wide_v), wide_w.dot(wide_v))
    samples = SampleMoments(x.size, wide_x.dot(wide_x), wide_y.dot(wide_x))
    moments = LinearMoments.of(neurons, samples)
    delta = neurons.inner * wide_x - wide_y
    return None if moments.is_cancelling else (moments, delta.dot(delta))


@np.errstate(over="ignore", invalid="ignore")
def _squared_error(slope: Decimal, x: Vector, y: Vector) -> float:
    delta = float(slope) * x - y
    return float(np.dot(delta, delta))


def network_parameters(num_neurons: int) -> tuple[Parameter, Parameter]:
    """Arrays w and v, with one scalar per neuron each."""
    return Parameter("w", (num_neurons,)), Parameter("v", (num_neurons,))


def linear_spectrum(*, w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i (f(x_i) - y_i)^2 for f(x) = <w, v> x.

    With s2 = mean(x^2), c = <w,v>, d = mean(delta x), delta = f(x) - y and t = s2 (|w|^2 + |v|^2), the trace, the
    spectrum is one pair (t ± sqrt(a + b + e)) / 2 and the bulk +d and -d, each m - 1 times, where

        a = s2^2 (|w|^2 - |v|^2)^2, b = 4 s2^2 (|w|^2 |v|^2 - c^2), e = 4 (2 c s2 - mean(yx))^2.

    The Poster omits s2 in e. For m >= 2 the smallest eigenvalue is -|d| whenever d is not 0 (the printed statement says
    -d). The pair is diagonalised in the orthonormal basis of `neuron_groups`, because the vectors (v, w) and (w, v),
    which the printed proof calls orthonormal, are so only by chance. A bulk vector (z at v, s z at w) has s = sgn(l d),
    not sgn(l).

    Args:
        w: Outgoing weights of shape (m,).
        v: Incoming weights of shape (m,).
        x: Inputs of shape (n,).
        y: Targets of shape (n,).

    Returns:
        2m eigenvalues in loss per squared parameter, with parameters in the order w, v. Statistics: s2, c, d, mean_yx,
        theta_star = mean_yx / s2, trace_w = s2 |w|^2 and trace_v = s2 |v|^2 (they sum to the trace), imbalance a,
        non_collinearity b, target_deviation e, phase (early, late or divergent; None with a note when theta* = 0),
        mean_loss.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input.

    References:
        Cracking the Hessian, Theorems 3.1 to 3.3, eq. 2 and appendix C.
    """
    w, v = matching_arrays(("w", "v"), (w, v), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 1)
    if quick := _quick_moments(w, v, x=x, y=y):
        moments, squared_error = quick
        return _linear_answer(w, v, moments, squared_error=squared_error, num_samples=x.size)
    with localcontext(many_digits):
        moments, squared_error = _linear_moments(w, v, x=x, y=y)
        return _linear_answer(w, v, moments, squared_error=squared_error, num_samples=x.size)


def _linear_answer(
    w: Vector, v: Vector, moments: LinearMoments, *, squared_error: Number, num_samples: int
) -> Spectrum:
    group = NeuronGroup(w, v, moments.neurons, slice(w.size), slice(w.size, 2 * w.size))
    hessian = GroupedHessian([group], [moments.d], [moments.s2], None, 2 * w.size)
    statistics = moments.statistics
    statistics["mean_loss"] = float(squared_error) / (2 * num_samples)
    return Spectrum.of(
        kind="linear",
        parameters=network_parameters(w.size),
        method="closed-form",
        source="Cracking the Hessian, Theorem 3.1",
        eigenvalues=tuple(hessian.eigenvalues()),
        trace=float(hessian.trace),
        statistics=statistics,
        notes=moments.notes(),
    )


SPECTRA = {"linear": linear_spectrum}
