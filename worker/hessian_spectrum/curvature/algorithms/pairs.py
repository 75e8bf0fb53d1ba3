"""Deviation of products of random probes from orthogonality, which measures the largest eigenvalues."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.vectors import gram
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.quadrature.results import FloatArray


@serializable()
@dataclass
class PairSums:
    """Sums over pairs of probes g, h of one block, of y = (A g)^T (A h) / unit^2 - g^T h and x = g^T h.

    Probes are uniform on the unit sphere of a space of `dim` dimensions; B is the square of A within it.
    """

    unit: float  # ||A g|| of some probe: y is then not much larger than x, and small for a multiple of the identity
    count: int = 0
    squares: float = 0.0  # y^2
    products: float = 0.0  # x y
    overlaps: float = 0.0  # x^2

    def add(self, probes: Tensor, products: Tensor) -> None:
        """Include all pairs of the probes (n, P), with their products with A."""
        first, second = torch.triu_indices(len(probes), len(probes), offset=1)
        overlaps = gram(probes, probes)[first, second]
        scaled = products / self.unit
        values = gram(scaled, scaled)[first, second] - overlaps
        self.count += len(overlaps)
        self.squares += float(values @ values)
        self.products += float(values @ overlaps)
        self.overlaps += float(overlaps @ overlaps)

    def root_square(self, lengths: FloatArray, dim: int) -> float | None:
        """Estimate, in units^2, of the root of tr B^2 - (tr B)^2 / dim.

        The matrix W = dim V^T B V of the probes V is compared with a multiple of V^T V: tr B^2 is the mean square of an
        off-diagonal entry, and half the mean square of a diagonal one.

        Args:
            lengths: ||A g|| of all probes, in units.
            dim: Dimension of the space of the probes.

        Returns:
            The estimate; None for a single probe.
        """
        if not self.freedom(len(lengths)):
            return None
        squares = lengths**2
        mean = float(squares.mean())
        shift = mean - 1
        beside = self.squares - 2 * shift * self.products + shift**2 * self.overlaps
        spread = max(beside, 0.0) + float(((squares - mean) ** 2).sum()) / 2
        return dim * math.sqrt(spread / self.freedom(len(lengths)))

    def freedom(self, num_probes: int) -> int:
        """Degrees of freedom of the estimate."""
        return self.count + num_probes - 1
