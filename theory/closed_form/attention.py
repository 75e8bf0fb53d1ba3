"""Single-head softmax self-attention with embedding dimension 1."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.arrays import finite_array, matching_arrays
from theory.closed_form.spectrum import Eigenvalue, Spectrum, Statistic, zero_tolerance

Array = NDArray[np.float64]


BLOCK_ROWS = 256
"""Rows of the attention matrix that are held at once."""


def _softmax(scores: Array) -> Array:
    weights: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _attention_moments(x: Array, score: float, sink_bias: float) -> tuple[Array, Array, Array]:
    """Mean, second and third central moment of x under each row of softmax(score x x^T + sink_bias e_1): three (L,)."""
    moments = np.empty((3, x.size))
    for start in range(0, x.size, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        scores = score * np.outer(x[rows], x)
        scores[:, 0] += sink_bias
        attention = _softmax(scores)
        mean = attention @ x
        centred = x - mean[:, None]
        moments[:, rows] = mean, np.sum(attention * centred**2, axis=1), np.sum(attention * centred**3, axis=1)
    return moments[0], moments[1], moments[2]


@dataclass(frozen=True)
class _Terms:
    """alpha .. zeta of Theorem 3.5 and the geometry of (w_Q, w_K)."""

    alpha: float
    beta: float
    gamma: float
    zeta: float
    mean_loss: float
    norms: float  # |w_K|^2 + |w_Q|^2
    inner: float  # <w_K, w_Q>
    half_sum: float  # |w_K + w_Q| / sqrt(2)
    half_difference: float  # |w_K - w_Q| / sqrt(2)

    @property
    def trace(self) -> float:
        return self.alpha + self.zeta * self.norms

    @property
    def reduced(self) -> Array:
        """The Hessian on span{w_V, (s, s), (a, -a)}, s = w_K + w_Q, a = w_K - w_Q: (3, 3), holding the outliers.

        Elsewhere the Hessian is gamma [[0, I], [I, 0]]. Its characteristic polynomial is the cubic of the theorem.
        """
        coupling = np.array([0.0, self.half_sum, self.half_difference])
        matrix = self.zeta * np.outer(coupling, coupling) + np.diag([self.alpha, self.gamma, -self.gamma])
        matrix[0, 1:] = matrix[1:, 0] = self.beta * coupling[1:]
        return matrix


def _terms(w_v: float, w_q: Array, w_k: Array, x: Array, y: Array, sink_bias: float) -> _Terms:
    root = math.sqrt(w_q.size)
    inner = float(w_q @ w_k)
    rows = [_attention_moments(sequence, inner / root, sink_bias) for sequence in x]
    m1, m2, m3 = (np.stack(moments) for moments in zip(*rows, strict=True))
    delta = w_v * m1 - y
    slope = x * m2
    return _Terms(
        alpha=float(np.mean(m1 * m1)),
        beta=float(np.mean((w_v * m1 + delta) * slope)) / root,
        gamma=w_v * float(np.mean(delta * slope)) / root,
        zeta=float(np.mean((w_v * slope) ** 2 + w_v * delta * x * x * m3)) / w_q.size,
        mean_loss=float(np.mean(delta * delta)) / 2,
        norms=float(w_q @ w_q + w_k @ w_k),
        inner=inner,
        half_sum=float(np.linalg.norm(w_k + w_q)) / math.sqrt(2),
        half_difference=float(np.linalg.norm(w_k - w_q)) / math.sqrt(2),
    )


def _xi(reduced: Array) -> float:
    """xi = 2 sqrt(-p / 3) of the depressed cubic, as sqrt(2/3) times the Frobenius norm of the trace-free part.

    p = -B - T^2/3 cancels when the three outliers lie close together; this form does not.
    """
    return math.sqrt(2 / 3) * float(np.linalg.norm(reduced - np.trace(reduced) / 3 * np.eye(3)))


def _statistics(terms: _Terms, xi: float, scale: float, size: int) -> dict[str, Statistic]:
    slack = terms.beta * terms.beta - terms.alpha * terms.zeta
    lower, upper = terms.trace / 3 + xi / 2, terms.trace / 3 + xi
    has_kappa_bound = size >= 2 and abs(terms.gamma) > zero_tolerance(scale)
    return {
        "alpha": terms.alpha,
        "beta": terms.beta,
        "gamma": terms.gamma,
        "zeta": terms.zeta,
        "T": terms.trace,
        "B": slack * terms.norms + terms.gamma * (2 * terms.zeta * terms.inner + terms.gamma),
        "C": terms.gamma * (2 * slack * terms.inner - terms.alpha * terms.gamma),
        "xi": xi,
        "lambda_max_lower": lower,
        "lambda_max_upper": max(upper, abs(terms.gamma)) if size >= 2 else upper,
        "condition_number_lower": lower / abs(terms.gamma) if has_kappa_bound else None,
        "mean_loss": terms.mean_loss,
    }


def _notes(terms: _Terms, statistics: dict[str, Statistic], xi: float, size: int) -> tuple[str, ...]:
    notes = []
    if statistics["condition_number_lower"] is None:
        reason = "d_K = 1, so there is no bulk" if size == 1 else "gamma is zero to rounding"
        notes.append(f"condition_number_lower is null: {reason}")
    if size >= 2 and abs(terms.gamma) > terms.trace / 3 + xi:
        notes.append("lambda_max_upper is |gamma|: Remark B.4 bounds the outliers only, and here the bulk exceeds them")
    return tuple(notes)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def self_attention_spectrum(
    w_v: float, w_q: ArrayLike, w_k: ArrayLike, x: ArrayLike, y: ArrayLike, sink_bias: float = 0.0
) -> Spectrum:
    """Hessian spectrum of the mean over sequences and positions of (f(x) - y)^2 / 2 for f(x) = w_V A(x) x.

    A = softmax(x <w_Q, w_K> x^T / sqrt(d_K) + sink_bias on the first key). With m1 = A x, m2, m3 the central moments
    of x under each row of A, delta = f(x) - y and means over the batch:
    alpha = |m1|^2 / L, beta = (w_V m1 + delta).(x m2) / (L sqrt(d_K)), gamma = w_V delta.(x m2) / (L sqrt(d_K)),
    zeta = (w_V^2 |x m2|^2 + w_V delta.(x x m3)) / (L d_K), T = alpha + zeta (|w_K|^2 + |w_Q|^2), the trace:
    bulk ±gamma, d_K - 1 times each, and three outliers, the roots of l^3 - T l^2 - B l - C.

    Deviations: the roots are found as eigenvalues of an equivalent symmetric 3 x 3 matrix, since those of the cubic
    lose half their digits where two meet. xi takes squared norms (the print does not). Remark B.4 bounds the largest
    outlier from above, which the bulk |gamma| can exceed, so lambda_max_upper is the larger of the two.

    Args:  w_v scalar; w_q, w_k (d_K,); x, y (batch, L); sink_bias, dimensionless, added to the scores.
    Returns:  2 d_K + 1 eigenvalues in loss per squared parameter. statistics: alpha, beta, gamma, zeta, T, B, C,
        xi = (2/3) sqrt(3B + T^2), lambda_max_lower = T/3 + xi/2, lambda_max_upper = max(T/3 + xi, |gamma|) (without
        |gamma| when d_K = 1), condition_number_lower = lambda_max_lower / |gamma| (None with a note when d_K = 1 or
        gamma is zero to rounding), mean_loss.
    Raises:  TheoryError for empty, unequal, non-finite or overflowing input.
    Source:  Cracking the Hessian, Theorem 3.5, Remarks 3.1 and B.4.
    """
    w_v, sink_bias = (float(finite_array(*named, 0)) for named in (("w_v", w_v), ("sink_bias", sink_bias)))
    w_q, w_k = matching_arrays(("w_q", "w_k"), (w_q, w_k), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 2)
    terms = _terms(w_v, w_q, w_k, x, y, sink_bias)
    reduced = terms.reduced
    finite_array("the reduced Hessian (overflow: rescale the weights or the data)", reduced, 2)
    outliers = np.linalg.eigvalsh(reduced)
    xi = _xi(reduced)
    scale = max(float(np.abs(outliers).max()), abs(terms.gamma))
    statistics = _statistics(terms, xi, scale, w_q.size)
    return Spectrum(
        kind="self-attention",
        num_parameters=2 * w_q.size + 1,
        method="closed-form",
        source="Cracking the Hessian, Theorem 3.5",
        eigenvalues=(
            *(Eigenvalue(float(value), 1, "outlier") for value in outliers),
            *(Eigenvalue(value, w_q.size - 1, "bulk") for value in (terms.gamma, -terms.gamma)),
        ),
        trace=terms.trace,
        statistics=statistics,
        notes=_notes(terms, statistics, xi, w_q.size),
    )
