"""Attention on scalars as a function of its score, with its first two derivatives and their error bounds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.ball import Arithmetic, Ball, Numbers
from hessian_spectrum.theory.closed_form.precision import Number

Array = NDArray[np.float64]
Activation = Literal["softmax", "sigmoid", "linear"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

BLOCK_ROWS = 256
"""Largest number of rows of the attention matrix that are in memory at once."""

_SCORE_ROUNDINGS = 6
"""Roundings of a score: a product of three numbers, plus a bias, minus the largest score of its row."""


@dataclass(frozen=True)
class Response:
    """h = A(s) x and its derivatives h' and h'' with respect to the score s, at every position of every sequence."""

    value: Ball
    slope: Ball
    curvature: Ball


_Moments = tuple[Ball, Ball, Ball]


@dataclass(frozen=True)
class _Rows:
    """Rows of the attention matrix of one sequence, before the activation."""

    arithmetic: Arithmetic
    scores: Numbers  # (rows, L)
    keys: Numbers  # (L,)
    size: Numbers  # (rows,) largest magnitude of the terms of a score

    @property
    def weight_error_bound(self) -> Numbers:
        """Bound on the relative error of each row's weights, (rows,): the absolute error of the scores before exp."""
        bound: Numbers = self.arithmetic.unit * (4 + _SCORE_ROUNDINGS * self.size + int(len(self.keys) ** 0.5))
        return bound

    def softmax(self) -> _Moments:
        """Mean and central moments of the keys under each row's weights."""
        top = self.scores.max(axis=-1)
        weights = self.arithmetic.exp(self.scores - top[:, None])
        weights = weights / weights.sum(axis=-1)[:, None]
        mean = weights @ self.keys
        centred = self.keys - mean[:, None]
        squares = weights * (centred * centred)
        second, third = squares.sum(axis=1), (squares * centred).sum(axis=1)
        off_weight, unit = 2 * self.weight_error_bound, self.arithmetic.unit
        off_mean = off_weight * (weights @ abs(self.keys))
        off_centre = off_mean + unit * (abs(self.keys).max() + abs(mean))
        off_second = off_weight * second + 2 * np.sqrt(second) * off_centre + off_centre**2
        off_third = off_weight * (squares * abs(centred)).sum(axis=1) + 3 * second * off_centre + off_centre**3
        ball = self.arithmetic.ball
        return ball(mean, off_mean), ball(second, off_second), ball(third, off_third)

    def sigmoid(self) -> _Moments:
        """Sums of weight times key, and of the derivatives of the weights times powers of the key."""
        ratio = self.arithmetic.exp(-abs(self.scores))
        weights = np.where(self.scores < 0, ratio, 1) / (1 + ratio)
        slope = ratio / (1 + ratio) ** 2
        curvature = slope * (1 - ratio) / (1 + ratio) * np.where(self.scores < 0, 1, -1)
        ball, keys, off_weight = self.arithmetic.ball, self.keys, 2 * self.weight_error_bound
        return (
            ball(weights @ keys, off_weight * (weights @ abs(keys))),
            ball(slope @ keys**2, off_weight * (slope @ keys**2)),
            ball(curvature @ keys**3, off_weight * (slope @ abs(keys) ** 3)),
        )


_MOMENTS: dict[Activation, Callable[[_Rows], _Moments]] = {"softmax": _Rows.softmax, "sigmoid": _Rows.sigmoid}


def _by_scores(
    arithmetic: Arithmetic, keys: Numbers, *, score: Number, sink: Number, activation: Activation
) -> list[Ball]:
    parts = []
    for start in range(0, keys.size, BLOCK_ROWS):
        queries = keys[start : start + BLOCK_ROWS]
        scores = score * np.outer(queries, keys)
        size = abs(scores).max(axis=-1) + abs(sink)
        scores[:, 0] += sink
        value, slope, curvature = _MOMENTS[activation](_Rows(arithmetic, scores, keys, size))
        query = arithmetic.exact(queries)
        parts.append((value, query * slope, query * query * curvature))
    return [_joined(balls) for balls in zip(*parts, strict=True)]


def _linear(arithmetic: Arithmetic, keys: Numbers, *, score: Number, sink: Number) -> list[Ball]:
    """The scores themselves as weights: h_i = s x_i sum_j x_j^2 + sink x_1, which is linear in s."""
    key, first = arithmetic.exact(keys), arithmetic.exact(keys[:1])
    squares = _total(key * key)
    value = arithmetic.ball(score, arithmetic.unit * abs(score)) * key * squares + arithmetic.exact(sink) * first
    zeros = arithmetic.exact(0 * keys)
    return [value, key * squares, zeros]


def _total(balls: Ball) -> Ball:
    mean = balls.mean()
    return Ball(mean.value * balls.value.size, mean.radius * balls.value.size, mean.unit)


def _joined(balls: tuple[Ball, ...] | list[Ball]) -> Ball:
    values, radii = np.concatenate([ball.value for ball in balls]), np.concatenate([ball.radius for ball in balls])
    return Ball(values, radii, balls[0].unit)


def attention_response(
    arithmetic: Arithmetic, x: Array, *, score: Number, sink_bias: float, activation: Activation
) -> Response:
    """Response at all positions of all sequences, concatenated.

    Args:
        arithmetic: Arithmetic to compute in.
        x: Sequences of shape (batch, L).
        score: s, a number of the arithmetic.
        sink_bias: Number added to the scores of the first key.
        activation: Function that turns scores into weights.

    Returns:
        Balls of shape (batch x L,) for h, h' and h''.
    """
    sink, parts = arithmetic.number(sink_bias), []
    for sequence in x:
        keys = arithmetic.array(sequence)
        if activation == "linear":
            parts.append(_linear(arithmetic, keys, score=score, sink=sink))
        else:
            parts.append(_by_scores(arithmetic, keys, score=score, sink=sink, activation=activation))
    return Response(*(_joined(balls) for balls in zip(*parts, strict=True)))


def num_steps(x: Array, activation: Activation) -> int:
    """Number of entries that the computation visits, a measure of its cost."""
    return int(x.size if activation == "linear" else x.size * x.shape[1])
