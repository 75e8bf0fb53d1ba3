"""Single-head self-attention with embedding dimension 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.arrays import finite_array, matching_arrays
from theory.closed_form.neuron_groups import SIGNS, NeuronGroup, NeuronMoments, eigenpairs, neuron_products
from theory.closed_form.precision import Matrix, Number, exact_decimal, extended_float, inner_products, many_digits
from theory.closed_form.spectrum import Eigenvalue, Parameter, Spectrum, Statistic, zero_tolerance
from theory.errors import TheoryError

Array = NDArray[np.float64]
Extended = NDArray[np.longdouble]
Activation = Literal["softmax", "sigmoid", "linear"]

BLOCK_ROWS = 256
"""Rows of the attention matrix that are held at once."""


def _softmax(scores: Extended, x: Extended) -> tuple[Extended, Extended, Extended]:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mean = weights @ x
    centred = x - mean[:, None]
    return mean, np.sum(weights * centred**2, axis=1), np.sum(weights * centred**3, axis=1)


def _sigmoid(scores: Extended, x: Extended) -> tuple[Extended, Extended, Extended]:
    weights = 1 / (1 + np.exp(-scores))
    slope = weights / (1 + np.exp(scores))
    return weights @ x, slope @ x**2, (slope * (1 - 2 * weights)) @ x**3


def _linear(scores: Extended, x: Extended) -> tuple[Extended, Extended, Extended]:
    return scores @ x, np.full(len(scores), x @ x), np.zeros(len(scores), dtype=np.longdouble)


_MOMENTS: dict[Activation, Callable[[Extended, Extended], tuple[Extended, Extended, Extended]]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "linear": _linear,
}


def _response(x: Array, score: np.longdouble, sink_bias: float, activation: Activation) -> Extended:
    """h = A(s) x and its first two derivatives by the score s, position by position: (3, L).

    The exponential is not algebra, so it is taken in the extended precision that the machine has: a score of 1000
    would otherwise cost the weights three digits.
    """
    keys = x.astype(np.longdouble)
    response = np.empty((3, x.size), dtype=np.longdouble)
    for start in range(0, x.size, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        queries = keys[rows]
        scores = score * np.outer(queries, keys)
        scores[:, 0] += sink_bias
        value, slope, curvature = _MOMENTS[activation](scores, keys)
        response[:, rows] = value, queries * slope, queries**2 * curvature
    return response


@dataclass(frozen=True)
class _Terms:
    """alpha .. zeta of Theorem 3.5, and the group of (w_Q, w_K)."""

    alpha: Decimal
    beta: Decimal
    gamma: Decimal
    zeta: Decimal
    mean_loss: float
    group: NeuronGroup

    @property
    def norms(self) -> Number:
        """|w_K|^2 + |w_Q|^2."""
        return self.group.moments.norm_w + self.group.moments.norm_v

    @property
    def trace(self) -> Number:
        """T."""
        return self.alpha + self.zeta * self.norms

    @property
    def reduced(self) -> Matrix:
        """The Hessian on span{w_V, (s, s), (a, -a)}, s = w_K + w_Q, a = w_K - w_Q: (3, 3), holding the outliers.

        Elsewhere the Hessian is gamma [[0, I], [I, 0]]. Its characteristic polynomial is the cubic of the theorem.
        """
        plus, minus = (square.sqrt() for square in self.group.moments.squares)
        zeta, cross = self.zeta, self.zeta * plus * minus
        return [
            [self.alpha, self.beta * plus, self.beta * minus],
            [self.beta * plus, self.gamma + zeta * plus * plus, cross],
            [self.beta * minus, cross, -self.gamma + zeta * minus * minus],
        ]

    def eigenvalues(self) -> list[Eigenvalue]:
        """The whole spectrum, parameters in the order w_V, w_Q, w_K."""
        num_parameters = 2 * self.group.w.size + 1
        values, vectors = eigenpairs(self.reduced)
        outliers = [
            Eigenvalue(value, 1, "outlier", basis=self._basis(coordinates, num_parameters))
            for value, coordinates in zip(values, vectors, strict=True)
        ]
        return [*outliers, *self.group.bulk(self.gamma, num_parameters)]

    def _basis(self, coordinates: Sequence[Decimal], num_parameters: int) -> Callable[[], Array]:
        def basis() -> Array:
            vector = float(coordinates[0]) * np.eye(1, num_parameters)[0]
            for sign, coordinate in zip(SIGNS, coordinates[1:], strict=True):
                vector += float(coordinate) * self.group.outlier_direction(sign, num_parameters)
            row: Array = vector[None]
            return row

        return basis


def _mean(values: Extended) -> Decimal:
    mean = np.mean(values)
    if not np.isfinite(mean):
        raise TheoryError("attention moments overflow: rescale the weights or the data")
    return exact_decimal(mean)


def _terms(w_v: float, w_q: Array, w_k: Array, x: Array, y: Array, sink_bias: float, activation: Activation) -> _Terms:
    moments = NeuronMoments(*inner_products(*neuron_products(w_q, w_k)))
    root = Decimal(w_q.size).sqrt()
    score = extended_float(moments.inner / root)
    value, slope, curvature = np.stack([_response(sequence, score, sink_bias, activation) for sequence in x], axis=1)
    scale = np.longdouble(w_v)
    delta = scale * value - y
    return _Terms(
        alpha=_mean(value * value),
        beta=_mean((scale * value + delta) * slope) / root,
        gamma=_mean(scale * delta * slope) / root,
        zeta=_mean((scale * slope) ** 2 + scale * delta * curvature) / w_q.size,
        mean_loss=float(np.mean(delta * delta)) / 2,
        group=NeuronGroup(w_q, w_k, moments, slice(1, 1 + w_q.size), slice(1 + w_q.size, None)),
    )


def _xi(reduced: Matrix) -> Decimal:
    """xi = 2 sqrt(-p / 3) of the depressed cubic, as sqrt(2/3) times the Frobenius norm of the trace-free part.

    p = -B - T^2/3 cancels when the three outliers lie close together; this form does not.
    """
    mean = sum((reduced[i][i] for i in range(3)), Decimal(0)) / 3
    squares = ((entry - mean * (i == j)) ** 2 for i, row in enumerate(reduced) for j, entry in enumerate(row))
    return (Decimal(2) / 3 * sum(squares, Decimal(0))).sqrt()


def _statistics(terms: _Terms, xi: Decimal, scale: float) -> dict[str, Statistic]:
    slack = terms.beta * terms.beta - terms.alpha * terms.zeta
    inner, size = terms.group.moments.inner, terms.group.w.size
    lower, upper = terms.trace / 3 + xi / 2, terms.trace / 3 + xi
    gamma = abs(terms.gamma)
    has_kappa_bound = size >= 2 and gamma > Decimal(zero_tolerance(scale))
    return {
        "alpha": float(terms.alpha),
        "beta": float(terms.beta),
        "gamma": float(terms.gamma),
        "zeta": float(terms.zeta),
        "T": float(terms.trace),
        "B": float(slack * terms.norms + terms.gamma * (2 * terms.zeta * inner + terms.gamma)),
        "C": float(terms.gamma * (2 * slack * inner - terms.alpha * terms.gamma)),
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
    if size >= 2 and abs(terms.gamma) > terms.trace / 3 + xi:
        notes.append("lambda_max_upper is |gamma|: Remark B.4 bounds the outliers only, and here the bulk exceeds them")
    return tuple(notes)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def self_attention_spectrum(
    w_v: float,
    w_q: ArrayLike,
    w_k: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    sink_bias: float = 0.0,
    activation: Activation = "softmax",
) -> Spectrum:
    """Hessian spectrum of the mean over sequences and positions of (f(x) - y)^2 / 2 for f(x) = w_V A(x) x.

    A = activation(x s x^T + sink_bias on the first key), s = <w_Q, w_K> / sqrt(d_K): the softmax of each row, or the
    sigmoid of each score, or the score itself. The Hessian depends on A through h = A x and its derivatives h', h'' by
    s alone; for the softmax these are m1, x m2 and x^2 m3, with m1, m2, m3 the mean and the central moments of x under
    each row of A. With delta = f(x) - y and means over positions and batch:
    alpha = mean(h^2), beta = mean((w_V h + delta) h') / sqrt(d_K), gamma = w_V mean(delta h') / sqrt(d_K),
    zeta = mean((w_V h')^2 + w_V delta h'') / d_K, T = alpha + zeta (|w_K|^2 + |w_Q|^2), the trace:
    bulk ±gamma, d_K - 1 times each, and three outliers, the roots of l^3 - T l^2 - B l - C.

    Deviations: the roots are found as eigenvalues of an equivalent symmetric 3 x 3 matrix, since those of the cubic
    lose half their digits where two meet. xi takes squared norms (the print does not). Remark B.4 bounds the largest
    outlier from above, which the bulk |gamma| can exceed, so lambda_max_upper is the larger of the two.

    Args:  w_v scalar; w_q, w_k (d_K,); x, y (batch, L); sink_bias, dimensionless, added to the scores;
        activation: softmax | sigmoid | linear.
    Returns:  2 d_K + 1 eigenvalues in loss per squared parameter, parameters in the order w_V, w_Q, w_K.
        statistics: alpha, beta, gamma, zeta, T, B, C,
        xi = (2/3) sqrt(3B + T^2), lambda_max_lower = T/3 + xi/2, lambda_max_upper = max(T/3 + xi, |gamma|) (without
        |gamma| when d_K = 1), condition_number_lower = lambda_max_lower / |gamma| (None with a note when d_K = 1 or
        gamma is zero to rounding), mean_loss.
    Raises:  TheoryError for empty, unequal, non-finite or overflowing input.
    Source:  Cracking the Hessian, Theorem 3.5, Remarks 3.1 and B.4.
    """
    w_v, sink_bias = (float(finite_array(*named, 0)) for named in (("w_v", w_v), ("sink_bias", sink_bias)))
    w_q, w_k = matching_arrays(("w_q", "w_k"), (w_q, w_k), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 2)
    if activation not in _MOMENTS:
        raise TheoryError(f"activation must be one of {', '.join(_MOMENTS)}", field="activation")
    with localcontext(many_digits):
        terms = _terms(w_v, w_q, w_k, x, y, sink_bias, activation)
        eigenvalues, xi = terms.eigenvalues(), _xi(terms.reduced)
        statistics = _statistics(terms, xi, max(abs(entry.value) for entry in eigenvalues))
        return Spectrum(
            kind="self-attention",
            parameters=(Parameter("w_v", ()), Parameter("w_q", (w_q.size,)), Parameter("w_k", (w_k.size,))),
            method="closed-form",
            source="Cracking the Hessian, Theorem 3.5",
            eigenvalues=tuple(eigenvalues),
            trace=float(terms.trace),
            statistics=statistics,
            notes=_notes(terms, statistics, xi),
        )
