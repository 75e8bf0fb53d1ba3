"""Hessians made of groups of neurons, each coupling its two layers by one number: exact, at any width.

A neuron j has an incoming weight v_j and an outgoing weight w_j. For a group G of neurons let b_G be the vector with w
at the places of v and v at the places of w: the gradient of the output, up to a factor. The Hessians here are

    H = sum_G e_G [[0, I], [I, 0]]_G + sum_{G, G'} C_{GG'} b_G b_{G'}^T.

With h = (w + s v) / |w + s v|, s = +1 or -1, the vectors (h at v, s h at w) / sqrt(2) span a space that H maps to
itself, two dimensions per group; there H is the matrix s e_G on the diagonal plus C_{GG'} a_{G,s} a_{G',s'} with
a_{G,s} = |w + s v| / sqrt(2). Everywhere else (z, s z), z orthogonal to w + s v, is an eigenvector of s e_G.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.precision import Matrix, Pair, symmetric_eigenpairs
from theory.closed_form.spectrum import Eigenvalue, zero_tolerance
from theory.errors import TheoryError

Array = NDArray[np.float64]
Positions = NDArray[np.intp]

SIGNS = (1, -1)
ZERO = Decimal(0)

MAX_DECIMAL_GROUPS = 3
"""As many linked groups are diagonalised in decimal arithmetic; more in float64."""


class NeuronMoments(NamedTuple):
    """What a group's weights come to."""

    norm_w: Decimal  # |w|^2
    norm_v: Decimal  # |v|^2
    inner: Decimal  # <w, v>

    @property
    def squares(self) -> tuple[Decimal, Decimal]:
        """a_{G,s}^2 = |w + s v|^2 / 2 for s = +1, -1."""
        half = (self.norm_w + self.norm_v) / 2
        return max(half + self.inner, ZERO), max(half - self.inner, ZERO)


def neuron_products(w: Array, v: Array) -> list[Pair]:
    """The inner products that make the NeuronMoments of these weights."""
    return [(w, w), (v, v), (w, v)]


@dataclass(frozen=True)
class NeuronGroup:
    """Neurons of one coupling: w, v (k,), their moments, and where their scalars stand among all parameters."""

    w: Array
    v: Array
    moments: NeuronMoments
    w_positions: Positions
    v_positions: Positions
    label: str | None = None

    def _direction(self, sign: int) -> Array:
        """h; where w + s v = 0 any unit vector serves."""
        total = self.w + sign * self.v
        largest = np.abs(total).max()
        if largest == 0.0:
            first: Array = np.eye(1, total.size)[0]
            return first
        total = total / largest
        unit: Array = total / np.linalg.norm(total)
        return unit

    def _placed(self, rows: Array, sign: int, num_parameters: int) -> Array:
        vectors = np.zeros((len(rows), num_parameters))
        vectors[:, self.v_positions] = rows / np.sqrt(2)
        vectors[:, self.w_positions] = sign * rows / np.sqrt(2)
        return vectors

    def outlier_direction(self, sign: int, num_parameters: int) -> Array:
        """(h, s h) / sqrt(2) among all parameters: (num_parameters,)."""
        vector: Array = self._placed(self._direction(sign)[None], sign, num_parameters)[0]
        return vector

    def bulk(self, coupling: Decimal, num_parameters: int) -> list[Eigenvalue]:
        """±coupling, k - 1 times each, with their eigenvectors."""
        return [
            Eigenvalue(
                float(sign * coupling),
                self.w.size - 1,
                "bulk",
                self.label,
                basis=self._bulk_basis(sign, num_parameters),
            )
            for sign in SIGNS
        ]

    def _bulk_basis(self, sign: int, num_parameters: int) -> Callable[[], Array]:
        return lambda: self._placed(complement(self._direction(sign)), sign, num_parameters)

    def zeros(self, num_parameters: int) -> Eigenvalue:
        """2k zeros: neurons that no sample reaches."""
        positions = np.concatenate((self.w_positions, self.v_positions))
        return Eigenvalue(0.0, positions.size, "zero", self.label, basis=lambda: np.eye(num_parameters)[positions])


def complement(direction: Array) -> Array:
    """Orthonormal rows (k - 1, k) orthogonal to a unit vector (k,): a Householder reflection without its first row."""
    normal = direction.copy()
    normal[0] += np.copysign(1.0, normal[0])
    reflection: Array = np.eye(normal.size) - np.outer(normal, normal) / abs(normal[0])
    return reflection[1:]


def eigenpairs(matrix: Matrix) -> tuple[list[float], Matrix]:
    """Eigenvalues (n,) and orthonormal eigenvectors (n, n), one a row, of a small reduced matrix."""
    values, vectors = symmetric_eigenpairs(matrix)
    return [float(value) for value in values], vectors


@dataclass(frozen=True)
class GroupedHessian:
    """The Hessian of the module's docstring: groups, couplings e_G, and the metric C_{GG'}.

    The metric's entries beside the diagonal are None where all are 0, decimal for up to MAX_DECIMAL_GROUPS groups and
    float64 (number of groups, number of groups) beyond; their own diagonal is not read.
    """

    groups: Sequence[NeuronGroup]
    couplings: Sequence[Decimal]
    diagonal: Sequence[Decimal]
    off_diagonal: Matrix | Array | None
    num_parameters: int

    @property
    def trace(self) -> Decimal:
        """sum_G C_GG |b_G|^2."""
        norms = (group.moments.norm_w + group.moments.norm_v for group in self.groups)
        return sum((entry * norm for entry, norm in zip(self.diagonal, norms, strict=True)), ZERO)

    def eigenvalues(self) -> list[Eigenvalue]:
        """The whole spectrum. Groups that share no metric entry above rounding answer apart, as pairs of outliers."""
        found: list[Eigenvalue] = []
        for pair, component in enumerate(self.components):
            found += self._outliers(component, pair if len(component) == 1 else None)
        for group, coupling in zip(self.groups, self.couplings, strict=True):
            found += group.bulk(coupling, self.num_parameters)
        return found

    @property
    def is_coupled(self) -> bool:
        """Whether two groups share outliers."""
        return len(self.components) < len(self.groups)

    @cached_property
    def components(self) -> list[list[int]]:
        """Groups that the metric links, directly or through others: each list answers by itself."""
        if self.off_diagonal is None:
            return [[i] for i in range(len(self.groups))]
        sizes = np.sqrt(np.array([float(entry) for entry in self.diagonal]))
        linked = np.abs(np.array(self.off_diagonal, dtype=np.float64)) > zero_tolerance(1.0) * np.outer(sizes, sizes)
        found, waiting = [], set(range(len(self.groups)))
        while waiting:
            component, border = set(), {min(waiting)}
            while border:
                component |= border
                neighbours = np.flatnonzero(linked[sorted(border)].any(axis=0)).tolist()
                border = set(neighbours) - component
            waiting -= component
            found.append(sorted(component))
        return found

    def _outliers(self, component: list[int], pair: int | None) -> list[Eigenvalue]:
        label = self.groups[component[0]].label if len(component) == 1 else None
        solve = self._decimal_pairs if len(component) <= MAX_DECIMAL_GROUPS else self._float_pairs
        values, vectors = solve(component)
        return [
            Eigenvalue(value, 1, "outlier", label, pair, basis=self._outlier_basis(component, coordinates))
            for value, coordinates in zip(values, vectors, strict=True)
        ]

    def _decimal_pairs(self, component: list[int]) -> tuple[list[float], Matrix]:
        directions = [(i, sign) for i in component for sign in SIGNS]
        squares = [square for i in component for square in self.groups[i].moments.squares]
        matrix = [
            [
                self._metric(i, j) * (square if row == column else (square * squares[column]).sqrt())
                for column, (j, _) in enumerate(directions)
            ]
            for row, ((i, _), square) in enumerate(zip(directions, squares, strict=True))
        ]
        for row, (i, sign) in enumerate(directions):
            matrix[row][row] += sign * self.couplings[i]
        return eigenpairs(matrix)

    def _metric(self, i: int, j: int) -> Decimal:
        if i == j or self.off_diagonal is None:
            return self.diagonal[i] if i == j else ZERO
        return Decimal(self.off_diagonal[i][j])

    def _float_pairs(self, component: list[int]) -> tuple[list[float], Array]:
        amplitudes = np.array([float(square.sqrt()) for i in component for square in self.groups[i].moments.squares])
        metric = np.array(self.off_diagonal, dtype=np.float64)[np.ix_(component, component)]
        np.fill_diagonal(metric, [float(self.diagonal[i]) for i in component])
        matrix = np.kron(metric, np.ones((2, 2))) * np.outer(amplitudes, amplitudes)
        matrix += np.diag([sign * float(self.couplings[i]) for i in component for sign in SIGNS])
        if not np.isfinite(matrix).all():
            raise TheoryError("the Hessian overflows float64: rescale the weights or the data")
        values, columns = np.linalg.eigh(matrix)
        return values.tolist(), columns.T

    def _outlier_basis(self, component: list[int], coordinates: Sequence[Decimal] | Array) -> Callable[[], Array]:
        def basis() -> Array:
            vector = np.zeros(self.num_parameters)
            directions = ((i, sign) for i in component for sign in SIGNS)
            for (i, sign), coordinate in zip(directions, coordinates, strict=True):
                vector += float(coordinate) * self.groups[i].outlier_direction(sign, self.num_parameters)
            return vector[None]

        return basis
