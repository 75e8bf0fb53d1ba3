"""Spectra of self-attention against the norms of its weights and the strength of an attention sink."""

from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from hessian_spectrum.api_schemas.figures.attention_spectra import AttentionLayerSpectrum, ScalarAttention
from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.losses import LOSS_CLASSES, EmpiricalRisk
from hessian_spectrum.curvature.models.attention_layer import AttentionLayer
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.theory.closed_form.spectrum import Spectrum
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.closed_forms import number, statistic
from hessian_spectrum.worker.figures.measurement import Context, Measured

Array = NDArray[np.float64]

WEIGHTS, DATA = 1, 2
"""Purposes of random numbers."""

REPEATED = 1e-12
"""Distance, relative to the largest eigenvalue, up to which two eigenvalues count as one that is repeated."""

LEAST_MULTIPLICITY = 3
"""Multiplicity from which an eigenvalue counts as bulk."""


class AttentionMoments(NamedTuple):
    """Attention to the first token (batch, L), and moments of the tokens under each row of the attention matrix."""

    first: Array
    mean: Array  # m1
    second: Array  # m2, central
    third: Array  # m3, central


def moments_of(weights: Array, tokens: Array) -> AttentionMoments:
    """Moments of each coordinate of tokens under the rows of attention matrices.

    Args:
        weights: Attention matrices of shape (batch, L, L).
        tokens: Sequences of shape (batch, L, d).

    Returns:
        The moments, of shape (batch, L, d).

    References:
        Cracking the Hessian, definition B.1, where d = 1.
    """
    mean = weights @ tokens
    centred = tokens[:, None] - mean[:, :, None]
    second, third = (np.einsum("bij,bijd->bid", weights, centred**power) for power in (2, 3))
    return AttentionMoments(weights[:, :, 0], mean, second, third)


def attention_moments(x: Array, score: float, sink_bias: float = 0.0) -> AttentionMoments:
    """Moments of sequences of scalars under A = softmax(x score x^T + sink_bias on the first key).

    Args:
        x: Sequences of shape (batch, L).
        score: <w_Q, w_K> / sqrt(d_K).
        sink_bias: Number added to the scores of the first key.

    Returns:
        The moments, of shape (batch, L).
    """
    # in numpy, since torch would take most of the time of a run of gradient descent for these small arrays
    scores = x[:, :, None] * x[:, None, :] * score
    scores[:, :, 0] += sink_bias
    first, *moments = moments_of(softmax(scores, axis=-1), x[:, :, None])
    return AttentionMoments(first, *(moment[:, :, 0] for moment in moments))


def printed_bounds(spectrum: Spectrum, *, norm_q: float, norm_k: float) -> tuple[float, float]:
    """Bounds of eq. (121) on the largest eigenvalue with xi as printed, whose norms are not squared; NaN for no root.

    Args:
        spectrum: Closed form of self-attention.
        norm_q: |w_Q|.
        norm_k: |w_K|.

    Returns:
        T/3 + xi/2 and T/3 + xi.
    """
    alpha, zeta, b, trace = (number(spectrum, name) for name in ("alpha", "zeta", "B", "T"))
    square = 3 * b + (zeta * norm_k + zeta * norm_q + alpha) ** 2
    xi = 2 / 3 * sqrt(square) if square >= 0 else np.nan
    return trace / 3 + xi / 2, trace / 3 + xi


def _unit(size: int, generator: torch.Generator) -> Array:
    vector = torch.randn(size, generator=generator, dtype=torch.float64).numpy()
    unit: Array = vector / np.linalg.norm(vector)
    return unit


def _scalar_data(m: ScalarAttention) -> tuple[Array, Array]:
    shape = (m.batch_size, m.length)
    x = torch.randn(shape, generator=generator_of(m.seed, DATA), dtype=torch.float64).numpy()
    if m.massive_value is not None:
        x[:, 0] = m.massive_value
    if m.targets == "reversal":
        return x, x[:, ::-1].copy()
    return x, torch.randn(shape, generator=generator_of(m.seed, DATA, 1), dtype=torch.float64).numpy()


def measure_scalar_attention(measurement: ScalarAttention, context: Context) -> Measured:
    """Compute closed-form spectra of self-attention on scalars, where one quantity varies and others have norm 1.

    Args:
        measurement: The network, its data, and what varies.
        context: Progress.

    Returns:
        Arrays over the values: `outliers` (values, 3), descending; `bulk`, |gamma|; `condition`, NaN where it is not
        determined, and `condition_lower`, its bound of Remark 3.1; `lower` and `upper`, the bounds of eq. (121) on the
        largest outlier, and `printed_upper`, the upper one as printed; `first_attention`, the mean attention to the
        first token; `mean_norm`, `second_norm` and `third_norm`, of the moment vectors.
    """
    m, (x, y) = measurement, _scalar_data(measurement)
    generator = generator_of(m.seed, WEIGHTS)
    w_q, w_k = (_unit(m.key_dim, generator) for _ in range(2))
    if m.is_aligned:
        w_k = w_q
    rows = []
    for index, value in enumerate(m.values):
        norm = value if m.varied == "query-key" else 1.0
        bias = value if m.varied == "sink" else 0.0
        w_v = value if m.varied == "value" else 1.0
        spectrum = self_attention_spectrum(w_v=w_v, w_q=norm * w_q, w_k=norm * w_k, x=x, y=y, sink_bias=bias)
        moments = attention_moments(x, norm * norm * float(w_q @ w_k) / sqrt(m.key_dim), bias)
        rows.append(_attention_numbers(spectrum, moments, norm))
        context.progress("spectra", index + 1, len(m.values))
    return Measured({}, {name: np.array([row[name] for row in rows]) for name in rows[0]})


def _attention_numbers(spectrum: Spectrum, moments: AttentionMoments, norm: float) -> dict[str, float | list[float]]:
    lower_kappa = statistic(spectrum, "condition_number_lower")
    return {
        "outliers": [entry.value for entry in spectrum.eigenvalues if entry.role == "outlier"],
        "bulk": abs(number(spectrum, "gamma")),
        "condition": np.nan if spectrum.condition_number is None else spectrum.condition_number,
        "condition_lower": np.nan if lower_kappa is None else lower_kappa,
        "lower": number(spectrum, "lambda_max_lower"),
        "upper": spectrum.trace / 3 + number(spectrum, "xi"),
        "printed_upper": printed_bounds(spectrum, norm_q=norm, norm_k=norm)[1],
        **_moment_numbers(moments),
    }


def _moment_numbers(moments: AttentionMoments) -> dict[str, float]:
    """Mean attention to the first token, and norms of the moments."""
    named = {"mean_norm": moments.mean, "second_norm": moments.second, "third_norm": moments.third}
    norms = {name: float(np.linalg.norm(moment)) for name, moment in named.items()}
    return {"first_attention": float(moments.first.mean()), **norms}


def measure_attention_layer(measurement: AttentionLayerSpectrum, context: Context) -> Measured:
    """Compute every Hessian eigenvalue of a self-attention layer on vectors.

    Args:
        measurement: The layer, its data and the bias of the first token.
        context: Progress and checkpoints of the dense matrix.

    Returns:
        The array `eigenvalues`, ascending. Values: `first_attention`, the mean attention to the first token, and
        `mean_norm`, `second_norm` and `third_norm`, of the moments of all coordinates together.
    """
    m = measurement
    layer = AttentionLayer(
        m.embedding_dim, m.key_dim, m.embedding_dim, sink_bias=m.sink_bias, initial_std=m.initial_std
    )
    parameters = layer.initial_parameters(generator_of(m.seed, WEIGHTS), torch.float64, torch.device("cpu"))
    shape = (m.batch_size, m.length, m.embedding_dim)
    x = torch.randn(shape, generator=generator_of(m.seed, DATA), dtype=torch.float64)
    if m.massive_value is not None:
        x[:, 0] = m.massive_value
    noise = torch.randn(shape, generator=generator_of(m.seed, DATA, 1), dtype=torch.float64)
    risk = EmpiricalRisk(
        layer, LOSS_CLASSES["mse"](), Dataset(x, x.flip(1) if m.targets == "reversal" else noise).split(None)
    )
    operator = HessianOperator(risk, parameters)
    result = run(
        DenseEigensolver(), operator, generator=torch.Generator(), progress=context.progress, checkpointer=context.stage
    )
    moments = moments_of(layer.attention(parameters, x).numpy(), x.numpy())
    return Measured(_moment_numbers(moments), {"eigenvalues": result.eigenvalues})


class Parts(NamedTuple):
    """Eigenvalues of a layer: those that repeat, each as often as it occurs, and the others, both ascending."""

    bulk: Array
    others: Array


def repeated_pairs(eigenvalues: Array) -> Parts:
    """Part the eigenvalues that are repeated in signed pairs from the others.

    An eigenvalue is bulk if it occurs `LEAST_MULTIPLICITY` times or more, up to rounding, and its negative occurs
    equally often. The second condition excludes outliers that nearly coincide: in a strong attention sink all outputs
    are one token's, and the large eigenvalues of the value matrix are equal up to what remains of the other tokens.

    Args:
        eigenvalues: Eigenvalues of shape (P,), ascending.

    Returns:
        The parts.
    """
    tolerance = REPEATED * float(np.abs(eigenvalues).max())
    groups = np.split(eigenvalues, np.flatnonzero(np.diff(eigenvalues) > tolerance) + 1)
    means, sizes = np.array([group.mean() for group in groups]), np.array([len(group) for group in groups])
    is_opposite = (np.abs(means[:, None] + means) <= 2 * tolerance) & (sizes[:, None] == sizes)
    is_bulk = (sizes >= LEAST_MULTIPLICITY) & is_opposite.any(axis=1)
    mask = np.repeat(is_bulk, sizes)
    return Parts(eigenvalues[mask], eigenvalues[~mask])


MEASUREMENTS = {ScalarAttention: measure_scalar_attention, AttentionLayerSpectrum: measure_attention_layer}
