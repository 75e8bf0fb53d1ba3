"""Gauss quadratures of many matrices, and the rules that are compatible with them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.quadrature.error_bands import (
    CONVERGED_SHARE,
    NEIGHBOUR_SHIFTS,
    without_rounding,
)
from hessian_spectrum.quadrature.results import (
    FloatArray,
    Quadrature,
)


@dataclass(frozen=True, eq=False)
class QuadratureBatch:
    """Gauss quadratures of k probes of each of B matrices, all of m nodes.

    Attributes:
        nodes: Ritz values (B, k, m), ascending.
        weights: Weights (B, k, m).
        residuals: Signed residuals (B, k, m), either all zero or zero for no probe.
        node_errors: Errors of the nodes (B, k).
        scales: Largest norm of a product of each probe (B, k).
    """

    nodes: FloatArray
    weights: FloatArray
    residuals: FloatArray
    node_errors: FloatArray
    scales: FloatArray

    @property
    def has_remainder(self) -> bool:
        """Whether the subspaces are not invariant."""
        return bool(self.residuals.any())

    @cached_property
    def rules(self) -> "RuleBatch":
        """The `compatible_rules` of each probe."""
        gauss = RuleBatch(self.nodes[:, :, None], self.weights[:, :, None])
        if not self.has_remainder:
            return gauss
        largest = np.abs(self.residuals).max(axis=-1, keepdims=True)
        scaled = self.residuals / largest
        squares = (scaled**2).sum(axis=-1)
        beta = largest[..., 0] * np.sqrt(squares)
        alpha = (self.nodes * scaled**2).sum(axis=-1) / squares
        coefficients = alpha[..., None] + np.array(NEIGHBOUR_SHIFTS) * beta[..., None]
        shape = coefficients.shape
        owners = np.repeat(np.arange(shape[0] * shape[1]), shape[2])
        nodes, weights = self.bordered(owners, coefficients.reshape(-1))
        # the Gauss rule gets one more node, without weight
        return RuleBatch(
            np.concatenate([gauss.padded.nodes, nodes.reshape(*shape, -1)], axis=2),
            np.concatenate([gauss.padded.weights, weights.reshape(*shape, -1)], axis=2),
        )

    def bordered(self, owners: NDArray[np.intp], coefficients: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return rules (n, m + 1) of T with one more row and column, for each last coefficient (n,).

        Args:
            owners: Index of the probe among all B k, of each rule.
            coefficients: Last coefficients.
        """
        nodes, weights, residuals = (each.reshape(-1, each.shape[-1]) for each in self._arrays)
        largest = np.abs(residuals).max(axis=1, keepdims=True)
        moving = np.where(np.abs(residuals) > CONVERGED_SHARE * largest, residuals, 0.0)
        count = nodes.shape[1]
        matrices = np.zeros((len(owners), count + 1, count + 1))
        matrices[:, np.arange(count), np.arange(count)] = nodes[owners]
        matrices[:, count, :count] = matrices[:, :count, count] = moving[owners]
        matrices[:, count, count] = coefficients
        values, vectors = np.linalg.eigh(matrices)
        starts = np.sqrt(weights)[owners]
        return values, without_rounding((starts[:, None, :] @ vectors[:, :count])[:, 0] ** 2)

    @property
    def _arrays(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        return self.nodes, self.weights, self.residuals

    def part(self, members: slice) -> "QuadratureBatch":
        """Return the quadratures of some matrices."""
        return QuadratureBatch(*(each[members] for each in (*self._arrays, self.node_errors, self.scales)))

    def quadratures(self, member: int) -> tuple[Quadrature, ...]:
        """Return the quadratures of one matrix."""
        rows = zip(*(each[member] for each in self._arrays), self.node_errors[member].tolist(), strict=True)
        return tuple(Quadrature(*row) for row in rows)


@dataclass(frozen=True, eq=False)
class RuleBatch:
    """Rules of each probe: nodes and weights (B, k, r, m)."""

    nodes: FloatArray
    weights: FloatArray

    @property
    def padded(self) -> "RuleBatch":
        """The same rules with one more node each, a copy of the last one without weight."""
        return RuleBatch(
            np.concatenate([self.nodes, self.nodes[..., -1:]], axis=-1),
            np.concatenate([self.weights, np.zeros_like(self.weights[..., -1:])], axis=-1),
        )
