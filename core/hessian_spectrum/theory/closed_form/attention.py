"""Single-head self-attention with embedding dimension 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.attention_response import (
    ACTIVATIONS,
    Activation,
    attention_response,
    num_steps,
)
from hessian_spectrum.theory.closed_form.ball import DECIMAL, EXTENDED, Arithmetic
from hessian_spectrum.theory.closed_form.neuron_groups import SIGNS, NeuronGroup, NeuronMoments, neuron_products
from hessian_spectrum.theory.closed_form.precision import (
    ZERO,
    Matrix,
    Number,
    inner_products,
    many_digits,
    symmetric_eigenpairs,
)
from hessian_spectrum.theory.closed_form.spectrum import (
    Eigenvalue,
    Parameter,
    Spectrum,
    Statistic,
    finite_array,
    matching_arrays,
    zero_tolerance,
)
from hessian_spectrum.theory.exceptions import TheoryError

Array = NDArray[np.float64]

MAX_DECIMAL_STEPS = 2**12
"""Largest number of attention scores for which decimal arithmetic is used if extended precision is insufficient."""

_VANISHING = Decimal("1e-60")
"""Eigenvalues that may be 0 and whose magnitude, relative to the largest, is below this are set to 0."""

_RESOLVED = Decimal(2) ** -54
"""Relative error of an eigenvalue that keeps its rounded value within one unit in the last place."""


class _Moments(NamedTuple):
    """Moments alpha, beta, gamma and zeta of Theorem 3.5, or bounds on their errors."""

    alpha: Decimal
    beta: Decimal
    gamma: Decimal
    zeta: Decimal


@dataclass(frozen=True)
class _Terms:
    """Moments alpha to zeta with bounds on their errors, and the group of (w_Q, w_K)."""

    moments: _Moments
    errors: _Moments
    mean_loss: float
    group: NeuronGroup

    @property
    def norms(self) -> Number:
        """|w_K|^2 + |w_Q|^2."""
        return self.group.moments.norm_w + self.group.moments.norm_v

    @property
    def trace(self) -> Number:
        """Trace T of the Hessian."""
        return self.moments.alpha + self.moments.zeta * self.norms

    @property
    def reduced(self) -> Matrix:
        """The Hessian on span{w_V, (s, s), (a, -a)} with s = w_K + w_Q and a = w_K - w_Q: (3, 3); it has the outliers.

        Elsewhere the Hessian is gamma [[0, I], [I, 0]]. Its characteristic polynomial is the cubic of the theorem.
        """
        return self._reduced(self.moments, SIGNS)

    def _reduced(self, moments: _Moments, signs: tuple[int, int]) -> Matrix:
        plus, minus = (square.sqrt() for square in self.group.moments.squares)
        (alpha, beta, gamma, zeta), cross = moments, moments.zeta * plus * minus
        return [
            [alpha, beta * plus, beta * minus],
            [beta * plus, signs[0] * gamma + zeta * plus * plus, cross],
            [beta * minus, cross, signs[1] * gamma + zeta * minus * minus],
        ]

    @cached_property
    def outliers(self) -> tuple[list[Decimal], Matrix]:
        """Eigenvalues and eigenvectors, one per row, of the reduced matrix."""
        return symmetric_eigenpairs(self.reduced)

    @cached_property
    def outlier_errors(self) -> list[Decimal]:
        """Bounds on the errors of the outliers: to first order |v|^T E |v|, where E bounds the errors of the matrix."""
        errors = self._reduced(self.errors, (1, 1))
        norm = sum((entry * entry for row in errors for entry in row), ZERO).sqrt()
        values, vectors = self.outliers
        bounds = []
        for i, vector in enumerate(vectors):
            gap = min(abs(values[i] - value) for j, value in enumerate(values) if j != i)
            first = sum((abs(u * v) * errors[j][k] for j, u in enumerate(vector) for k, v in enumerate(vector)), ZERO)
            bounds.append(min(norm, first + norm * norm / gap) if gap else norm)
        return bounds

    @cached_property
    def values(self) -> list[Decimal]:
        """The three outliers and gamma, where values that decimals cannot distinguish from 0 are 0."""
        values = [*self.outliers[0], self.moments.gamma]
        nothing = _VANISHING * max(map(abs, values))
        return [
            ZERO if abs(value) <= min(error, nothing) else value
            for value, error in zip(values, self.value_errors, strict=True)
        ]

    @property
    def value_errors(self) -> list[Decimal]:
        """Bounds on the errors of `values`."""
        return [*self.outlier_errors, self.errors.gamma]

    @property
    def error(self) -> Decimal:
        """Largest error bound among eigenvalues that are not known to their last place; 0 if there are none."""
        known = list(zip(self.values, self.value_errors, strict=True))[: 3 + (self.group.w.size > 1)]
        return max((error for value, error in known if value and error > _RESOLVED * abs(value)), default=ZERO)

    def eigenvalues(self) -> list[Eigenvalue]:
        """The whole spectrum, with parameters in the order w_V, w_Q, w_K."""
        num_parameters = 2 * self.group.w.size + 1
        outliers = [
            Eigenvalue(float(value), 1, "outlier", basis=self._basis(coordinates, num_parameters))
            for value, coordinates in zip(self.values, self.outliers[1], strict=False)
        ]
        return [*outliers, *self.group.bulk(self.values[-1], num_parameters)]

    def _basis(self, coordinates: Sequence[Decimal], num_parameters: int) -> Callable[[], Array]:
        def basis() -> Array:
            vector = float(coordinates[0]) * np.eye(1, num_parameters)[0]
            for sign, coordinate in zip(SIGNS, coordinates[1:], strict=True):
                vector += float(coordinate) * self.group.outlier_direction(sign, num_parameters)
            row: Array = vector[None]
            return row

        return basis


def _terms(
    arithmetic: Arithmetic,
    *,
    w_v: float,
    w_q: Array,
    w_k: Array,
    x: Array,
    y: Array,
    sink_bias: float,
    activation: Activation,
) -> _Terms | None:
    """The moments in this arithmetic; None if they leave its range."""
    moments = NeuronMoments(*inner_products(*neuron_products(w_q, w_k)))
    root = Decimal(w_q.size).sqrt()
    score = arithmetic.number(moments.inner / root)
    response = attention_response(arithmetic, x, score=score, sink_bias=sink_bias, activation=activation)
    scale, target = arithmetic.exact(arithmetic.number(w_v)), arithmetic.exact(arithmetic.array(y.ravel()))
    value, slope = scale * response.value, scale * response.slope
    delta = value - target
    means = [
        (response.value * response.value).mean(),
        ((value + delta) * response.slope).mean(),
        (delta * slope).mean(),
        (slope * slope + scale * delta * response.curvature).mean(),
    ]
    loss = (delta * delta).mean()
    if arithmetic is EXTENDED and not all(np.isfinite([(ball.value, ball.radius) for ball in means]).ravel()):
        return None
    divisors = (1, root, root, w_q.size)
    values, errors = zip(*(ball.decimals() for ball in means), strict=True)
    return _Terms(
        moments=_Moments(*(number / divisor for number, divisor in zip(values, divisors, strict=True))),
        errors=_Moments(*(number / divisor for number, divisor in zip(errors, divisors, strict=True))),
        mean_loss=float(loss.value) / 2,
        group=NeuronGroup(w_q, w_k, moments, slice(1, 1 + w_q.size), slice(1 + w_q.size, None)),
    )


def _known_terms(
    *, w_v: float, w_q: Array, w_k: Array, x: Array, y: Array, sink_bias: float, activation: Activation
) -> _Terms:
    """The moments in extended precision or, if that leaves the last place of an eigenvalue uncertain, in decimals."""
    terms_in = partial(_terms, w_v=w_v, w_q=w_q, w_k=w_k, x=x, y=y, sink_bias=sink_bias, activation=activation)
    quick = terms_in(EXTENDED)
    if quick is not None and not quick.error:
        return quick
    if num_steps(x, activation) <= MAX_DECIMAL_STEPS:
        exact = terms_in(DECIMAL)
        assert exact is not None
        return exact
    if quick is None:
        raise TheoryError("attention moments overflow: rescale the weights or the data")
    return quick


def _xi(reduced: Matrix) -> Decimal:
    """Spread xi = 2 sqrt(-p / 3) of the depressed cubic, from the Frobenius norm of the trace-free part.

    xi is sqrt(2/3) times that norm. p = -B - T^2/3 cancels when the three outliers are close together; the norm does
    not.

    Args:
        reduced: Symmetric 3 x 3 matrix of the outliers.

    Returns:
        xi, in loss per squared parameter.
    """
    mean = sum((reduced[i][i] for i in range(3)), Decimal(0)) / 3
    squares = ((entry - mean * (i == j)) ** 2 for i, row in enumerate(reduced) for j, entry in enumerate(row))
    return (Decimal(2) / 3 * sum(squares, Decimal(0))).sqrt()


def _statistics(terms: _Terms, xi: Decimal, scale: float) -> dict[str, Statistic]:
    slack = terms.moments.beta * terms.moments.beta - terms.moments.alpha * terms.moments.zeta
    inner, size = terms.group.moments.inner, terms.group.w.size
    lower, upper = terms.trace / 3 + xi / 2, terms.trace / 3 + xi
    gamma = abs(terms.moments.gamma)
    has_kappa_bound = size >= 2 and gamma > Decimal(zero_tolerance(scale))
    return {
        "alpha": float(terms.moments.alpha),
        "beta": float(terms.moments.beta),
        "gamma": float(terms.moments.gamma),
        "zeta": float(terms.moments.zeta),
        "T": float(terms.trace),
        "B": float(slack * terms.norms + terms.moments.gamma * (2 * terms.moments.zeta * inner + terms.moments.gamma)),
        "C": float(terms.moments.gamma * (2 * slack * inner - terms.moments.alpha * terms.moments.gamma)),
        "xi": float(xi),
        "lambda_max_lower": float(lower),
        "lambda_max_upper": float(max(upper, gamma) if size >= 2 else upper),
        "condition_number_lower": float(lower / gamma) if has_kappa_bound else None,
        "mean_loss": terms.mean_loss,
    }


def _notes(terms: _Terms, statistics: dict[str, Statistic], xi: Decimal) -> tuple[str, ...]:
    notes, size = [], terms.group.w.size
    if statistics["condition_number_lower"] is None:
        reason = "d_K = 1, so there is no bulk" if size == 1 else "gamma is zero to rounding"
        notes.append(f"condition_number_lower is null: {reason}")
    if size >= 2 and abs(terms.moments.gamma) > terms.trace / 3 + xi:
        notes.append("lambda_max_upper is |gamma|: Remark B.4 bounds the outliers only, and here the bulk exceeds them")
    if error := terms.error:
        notes.append(
            f"an eigenvalue may be off by up to {error:.1e}: more than {MAX_DECIMAL_STEPS:,} attention scores are "
            "taken in the processor's precision alone"
        )
    return tuple(notes)


def _spectrum_of(terms: _Terms) -> Spectrum:
    eigenvalues, xi, size = terms.eigenvalues(), _xi(terms.reduced), terms.group.w.size
    statistics = _statistics(terms, xi, max(abs(entry.value) for entry in eigenvalues))
    return Spectrum.of(
        kind="self-attention",
        parameters=(Parameter("w_v", ()), Parameter("w_q", (size,)), Parameter("w_k", (size,))),
        method="closed-form",
        source="Cracking the Hessian, Theorem 3.5",
        eigenvalues=tuple(eigenvalues),
        trace=float(terms.trace),
        statistics=statistics,
        notes=_notes(terms, statistics, xi),
        resolution=float(terms.error / max(map(abs, terms.values))) if terms.error else None,
    )


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def self_attention_spectrum(
    *,
    w_v: float,
    w_q: ArrayLike,
    w_k: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    sink_bias: float = 0.0,
    activation: Activation = "softmax",
) -> Spectrum:
    """Hessian spectrum of the mean over sequences and positions of (f(x) - y)^2 / 2 for f(x) = w_V A(x) x.

    A = activation(x s x^T + sink_bias on the first key), s = <w_Q, w_K> / sqrt(d_K): the softmax of each row, the
    sigmoid of each score, or the score itself. The Hessian depends on A through h = A x and its derivatives h', h'' by
    s alone; for the softmax these are m1, x m2 and x^2 m3, where m1, m2, m3 are the mean and the central moments of x
    under each row of A. With delta = f(x) - y and means over positions and batch,

        alpha = mean(h^2), beta = mean((w_V h + delta) h') / sqrt(d_K), gamma = w_V mean(delta h') / sqrt(d_K),
        zeta = mean((w_V h')^2 + w_V delta h'') / d_K, T = alpha + zeta (|w_K|^2 + |w_Q|^2), the trace.

    The spectrum is the bulk ±gamma, d_K - 1 times each, and three outliers, the roots of l^3 - T l^2 - B l - C.

    Deviations: the roots are computed as eigenvalues of an equivalent symmetric 3 x 3 matrix, because roots of the
    cubic lose half their digits where two of them meet. xi takes squared norms, which the printed formula does not.
    Remark B.4 bounds the largest outlier from above, which the bulk |gamma| can exceed, so lambda_max_upper is the
    larger of the two.

    Args:
        w_v: Value weight w_V, a scalar.
        w_q: Query weights of shape (d_K,).
        w_k: Key weights of shape (d_K,).
        x: Input sequences of shape (batch, L).
        y: Target sequences of shape (batch, L).
        sink_bias: Dimensionless number added to the scores of the first key.
        activation: Function that turns scores into weights: softmax, sigmoid or linear.

    Returns:
        2 d_K + 1 eigenvalues in loss per squared parameter, with parameters in the order w_V, w_Q, w_K. Statistics:
        alpha, beta, gamma, zeta, T, B, C, xi = (2/3) sqrt(3B + T^2), lambda_max_lower = T/3 + xi/2, lambda_max_upper =
        max(T/3 + xi, |gamma|) (without |gamma| when d_K = 1), condition_number_lower = lambda_max_lower / |gamma| (None
        with a note when d_K = 1 or gamma is zero up to rounding), mean_loss.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input, or an unknown activation.

    References:
        Cracking the Hessian, Theorem 3.5, Remarks 3.1 and B.4.
    """
    w_v, sink_bias = (float(finite_array(*named, 0)) for named in (("w_v", w_v), ("sink_bias", sink_bias)))
    w_q, w_k = matching_arrays(("w_q", "w_k"), (w_q, w_k), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 2)
    if activation not in ACTIVATIONS:
        raise TheoryError(f"activation must be one of {', '.join(ACTIVATIONS)}", field="activation")
    with localcontext(many_digits):
        return _spectrum_of(
            _known_terms(w_v=w_v, w_q=w_q, w_k=w_k, x=x, y=y, sink_bias=sink_bias, activation=activation)
        )


SPECTRA = {"self-attention": self_attention_spectrum}
