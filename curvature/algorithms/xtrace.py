"""XTrace: every random vector is used for the sketch of all the others and as a probe of what it leaves."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from curvature.algorithms.hutchinson import root_estimate, spread_factor
from curvature.algorithms.sketch import Sketch
from curvature.algorithms.vectors import dot, gram, norm
from curvature.results import DiagonalEstimate, Estimate

# The terms share their sketches, so that their mean varies more than their spread says: 1.0 to 1.5 times, measured on
# spectra from flat to geometric.
CORRELATION_FACTOR = 1.4


class ExchangeableEstimates(NamedTuple):
    """Means over the random vectors, each left out of the sketch in turn."""

    trace: float
    trace_error: float
    frobenius: Estimate
    diagonal: DiagonalEstimate | None


def leave_one_out(sketch: Sketch, vectors: Tensor, products: Tensor, diagonal: bool) -> ExchangeableEstimates:
    """tr A = mean of tr Q_i^T A Q_i + (P - n + 1) g_i^T A g_i; ||A||_F and diag A likewise.

    Q_i spans the products of all random vectors but the i-th, w_i, and g_i is the unit vector along w_i in the
    complement of Q_i. With Q of all products, Q_i Q_i^T = Q (I - s_i s_i^T) Q^T, where s_i is orthogonal to all columns
    of the triangle R but the i-th, that is column i of R^-T normalised. The error is the spread of the terms, which are
    exchangeable, widened because they are not independent.

    Args:  vectors, w_i (n, P), uniform on a sphere; products, A w_i (n, P); a sketch of all n, not exhausted, n >= 2.
    Source:  Epperly, Tropp & Webber, SIAM J. Matrix Anal. Appl. 45 (2024) 1-23, with normalised vectors (section 2.3),
        and XDiag there for the diagonal.
    """
    count, dim = vectors.shape
    # columns to unit length: the directions s_i stay, and the solution is as precise as R allows
    triangle = sketch.triangle / torch.linalg.vector_norm(sketch.triangle / sketch.scale, dim=0) / sketch.scale
    left_out = torch.linalg.solve_triangular(triangle.T, torch.eye(count, dtype=torch.float64), upper=False)
    left_out = left_out / torch.linalg.vector_norm(left_out, dim=0)
    overlaps = gram(sketch.basis, vectors)  # Q^T w_i in columns
    projected = sketch.projected
    whole, whole_norm = float(projected.trace()), sketch.product_norm
    traces, squares = [], []
    diagonals = _DiagonalMoments(sketch) if diagonal else None
    for i in range(count):
        s = left_out[:, i]
        inside = overlaps[:, i] - s * (s @ overlaps[:, i])
        coefficients = inside.to(vectors)
        probe = vectors[i] - coefficients @ sketch.basis
        weight = (dim - count + 1) / norm(probe) ** 2
        product = products[i] - coefficients @ sketch.products
        traces.append(whole - float(s @ projected @ s) + weight * dot(probe, product))
        missing = s.to(vectors) @ sketch.products
        squares.append(
            max((whole_norm / sketch.scale) ** 2 - (norm(missing) / sketch.scale) ** 2, 0.0)
            + weight * (norm(product) / sketch.scale) ** 2
        )
        if diagonals is not None:
            diagonals.add(
                weight * probe.double() * product.double() - (s.to(vectors) @ sketch.basis).double() * missing
            )
    found = np.array(traces) / sketch.scale
    factor = CORRELATION_FACTOR * spread_factor(count)
    error = float(found.std(ddof=1)) / math.sqrt(count) * factor * sketch.scale
    frobenius = root_estimate(np.array(squares), sketch.scale, CORRELATION_FACTOR)
    return ExchangeableEstimates(
        float(found.mean()) * sketch.scale, error, frobenius, diagonals.estimate() if diagonals is not None else None
    )


class _DiagonalMoments:
    """Mean and spread (P,) of what the left out vectors change of diag(A Q Q^T)."""

    def __init__(self, sketch: Sketch) -> None:
        self._explained, self._unit = sketch.diagonal, sketch.scale
        self._mean = torch.zeros_like(self._explained)
        self._squares = torch.zeros_like(self._explained)
        self._count = 0

    def add(self, change: Tensor) -> None:
        """By Welford's update: squares of the changes would cancel."""
        self._count += 1
        step = change / self._unit - self._mean
        self._mean += step / self._count
        self._squares += step * (change / self._unit - self._mean)

    def estimate(self) -> DiagonalEstimate:
        factor = CORRELATION_FACTOR * spread_factor(self._count) * self._unit
        errors = (self._squares / (self._count * (self._count - 1))).sqrt() * factor
        return DiagonalEstimate((self._explained + self._mean * self._unit).cpu().numpy(), errors.cpu().numpy())
