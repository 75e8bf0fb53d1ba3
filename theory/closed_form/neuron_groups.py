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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.precision import Matrix, Pair, symmetric_eigenpairs
from theory.closed_form.spectrum import Eigenvalue, zero_tolerance

Array = NDArray[np.float64]
Positions = NDArray[np.intp]

SIGNS = (1, -1)
ZERO = Decimal(0)

_MAX_DECIMAL_SIZE = 6
"""Rows of the largest reduced matrix that is diagonalised in decimal arithmetic; larger ones in float64."""


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


def eigenpairs(matrix: Matrix) -> tuple[list[float], Array]:
    """Eigenvalues (n,) and orthonormal eigenvectors (n, n), one a row, of a reduced matrix."""
    if len(matrix) <= _MAX_DECIMAL_SIZE:
        values, vectors = symmetric_eigenpairs(matrix)
        return [float(value) for value in values], np.array(vectors, dtype=np.float64)
    scale = max(abs(entry) for row in matrix for entry in row) or Decimal(1)
    reduced, columns = np.linalg.eigh(np.array([[float(entry / scale) for entry in row] for row in matrix]))
    return [float(Decimal(value) * scale) for value in reduced.tolist()], columns.T


@dataclass(frozen=True)
class GroupedHessian:
    """The Hessian of the module's docstring: groups, couplings e_G, metric C_{GG'} (symmetric)."""

    groups: Sequence[NeuronGroup]
    couplings: Sequence[Decimal]
    metric: Matrix
    num_parameters: int

    @property
    def trace(self) -> Decimal:
        """sum_G C_GG |b_G|^2."""
        return sum(
            (self.metric[i][i] * (group.moments.norm_w + group.moments.norm_v) for i, group in enumerate(self.groups)),
            Decimal(0),
        )

    def eigenvalues(self) -> list[Eigenvalue]:
        """The whole spectrum. Groups that share no metric entry above rounding answer apart, as pairs of outliers."""
        found: list[Eigenvalue] = []
        for pair, component in enumerate(self._components()):
            found += self._outliers(component, pair if len(component) == 1 else None)
        for group, coupling in zip(self.groups, self.couplings, strict=True):
            found += group.bulk(coupling, self.num_parameters)
        return found

    @property
    def is_coupled(self) -> bool:
        """Whether two groups share outliers."""
        return len(self._components()) < len(self.groups)

    def _components(self) -> list[list[int]]:
        components: list[list[int]] = []
        for i in range(len(self.groups)):
            linked = [component for component in components if any(self._linked(i, j) for j in component)]
            components = [component for component in components if component not in linked]
            components.append(sorted([i, *(j for component in linked for j in component)]))
        return sorted(components)

    def _linked(self, i: int, j: int) -> bool:
        product = self.metric[i][i] * self.metric[j][j]
        return abs(self.metric[i][j]) > Decimal(zero_tolerance(1.0)) * product.sqrt()

    def _outliers(self, component: list[int], pair: int | None) -> list[Eigenvalue]:
        directions = [(i, sign) for i in component for sign in SIGNS]
        squares = [square for i in component for square in self.groups[i].moments.squares]
        matrix = [
            [
                self.metric[i][j] * (square if row == column else (square * squares[column]).sqrt())
                for column, (j, _) in enumerate(directions)
            ]
            for row, ((i, _), square) in enumerate(zip(directions, squares, strict=True))
        ]
        for row, (i, sign) in enumerate(directions):
            matrix[row][row] += sign * self.couplings[i]
        label = self.groups[component[0]].label if len(component) == 1 else None
        values, vectors = eigenpairs(matrix)
        return [
            Eigenvalue(value, 1, "outlier", label, pair, basis=self._outlier_basis(directions, coordinates))
            for value, coordinates in zip(values, vectors, strict=True)
        ]

    def _outlier_basis(self, directions: list[tuple[int, int]], coordinates: Array) -> Callable[[], Array]:
        def basis() -> Array:
            vector = np.zeros(self.num_parameters)
            for (i, sign), coordinate in zip(directions, coordinates, strict=True):
                vector += coordinate * self.groups[i].outlier_direction(sign, self.num_parameters)
            return vector[None]

        return basis
